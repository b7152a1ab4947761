"""``python -m q9gent``."""

from q9gent.cli import main

if __name__ == "__main__":
    main()
