"""What a run tells whoever measures, as it happens; nobody listens unless asked to (``metrics`` does)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from q9gent.ending import Ending
    from q9gent.errors import Q9gentError
    from q9gent.run import Run


class RunObserver(Protocol):
    """Takes notes. Called in the event loop: returns at once, and never raises."""

    def prepared(self, run: Run) -> None:
        """A run was asked for; it holds nothing yet."""
        ...

    def spawned(self, seconds: float) -> None:
        """A process runs; starting it took so long."""
        ...

    def died(self, ending: Ending, seconds: float) -> None:
        """A tree is dead, so long after its end was begun: by a cause, or by its leader's exit."""
        ...

    def stalled(self) -> None:
        """A client took nothing for too long: of a live run, or of what a dead one has left."""
        ...

    def failed(self, error: Q9gentError) -> None:
        """A run did not start."""
        ...

    def ended(self, run: Run) -> None:
        """A run is not live any more, from this moment on; ``run.ending`` is ``None`` if it never started."""
        ...
