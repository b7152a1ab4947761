"""`python -m q9gent` as where there is neither a hub nor a direct lane: as on other systems, for the tests.

The environment variable `Q9_TEST_LANE=ordinary` makes the fixtures start servers with it.
"""

from __future__ import annotations

import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

COMMAND = (
    (sys.executable, os.path.abspath(__file__))
    if os.environ.get("Q9_TEST_LANE") == "ordinary"
    else (sys.executable, "-m", "q9gent")
)
"""What starts a server here."""


@asynccontextmanager
async def no_hub() -> AsyncIterator[None]:
    yield None


def main() -> None:
    """Take both away before anybody has imported them."""
    import q9gent.http.socket_stream  # noqa: PLC0415
    import q9gent.hub  # noqa: PLC0415

    assert "q9gent.http.app" not in sys.modules
    assert "q9gent.http.lane" not in sys.modules
    q9gent.http.socket_stream.HAS_PLAIN_IO = False
    q9gent.hub.open_hub = no_hub  # type: ignore[assignment]

    from q9gent.cli import main as q9gent_main  # noqa: PLC0415

    q9gent_main()


if __name__ == "__main__":
    main()
