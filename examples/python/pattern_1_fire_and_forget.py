"""Pattern 1: fire and forget. The connection stays open, as a client that goes ends its run."""

import threading

from turn import turn


def drain():
    """Read the run to its end and throw the output away."""
    for _ in turn(
        "/spawn", agent_type="docs", prompt="Generate documentation", tools_allowed=["Read", "Write"]
    ):
        pass


threading.Thread(target=drain).start()  # no daemon: the program stays until the run has ended
print("started")
