"""How a run ended, and what its client is told: pure.

The first cause wins over the exit status that it brings about: a run that was terminated and exits with
143 for that reason has the code ``terminated``, with ``exit_code`` 143 beside it. Two things outrank a
cause, as hiding them would be a lie: survivors, and a containment that was lost.
"""

from __future__ import annotations

import contextlib
import signal

import msgspec

from q9gent.containment.protocol import Death, ExitStatus
from q9gent.wire.events import CONTAINMENT_LOST, FAILED, Code, Completed, Failed

CAUSES: dict[Code, str] = {
    "terminated": "terminated on request",
    "disconnected": "the client disconnected",
    "timeout": "the time limit was reached",
    "stalled": "the client took no output for too long",
    "overflow": "too much output",
    "shutdown": "the server is shutting down",
    "internal": "an internal error",
}
"""What can end a run from outside, in words; the other codes come from the process itself."""


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of a run's end.

    Attributes:
        cause: What ended it from outside; ``None`` if the process ended by itself.
        detail: More about the cause, in words.
        status: The leader's exit status; ``None`` if there was no process, or it is not known.
        death: What its end took; ``None`` if it could not be seen (``ContainmentLost``).
        duration_ms: From the request to the death of the last process.
    """

    cause: Code | None
    detail: str
    status: ExitStatus | None
    death: Death | None
    duration_ms: int

    @property
    def code(self) -> Code | None:
        """The code of the terminal event; ``None`` for ``completed``."""
        if self.death is None:
            return "internal"
        if self.death.survivors:
            return "survivors"
        if self.cause is not None:
            return self.cause
        if self.status is None:
            return "internal"
        if self.status.signal is not None:
            return "signal"
        return "exit" if self.status.code else None

    def facts(self) -> dict[str, object]:
        """Return the members that the terminal event, ``/terminate`` and the log share."""
        facts: dict[str, object] = {"code": self.code or "completed"}
        if self.status is not None and self.status.signal is not None:
            facts["signal"] = self.status.signal
        elif self.status is not None:
            facts["exit_code"] = self.status.code
        facts["killed"] = self.death.killed if self.death else 0
        if self.death and self.death.survivors:
            facts["survivors"] = list(self.death.survivors)
        facts["duration_ms"] = self.duration_ms
        return facts

    def terminal_event(self) -> Completed | Failed:
        """Return the last event of the stream."""
        killed = self.death.killed if self.death else 0
        if self.code is None:
            return Completed(duration_ms=self.duration_ms, killed=killed)
        return Failed(
            error=FAILED + self._reason(),
            code=self.code,
            duration_ms=self.duration_ms,
            killed=killed,
            exit_code=self.status.code if self.status else None,
            signal=self.status.signal if self.status else None,
            survivors=self.death.survivors or None if self.death else None,
        )

    def _reason(self) -> str:
        if self.death is None:
            return f"{CONTAINMENT_LOST}whether any of its processes lives is not known"
        if self.death.survivors:
            pids = ", ".join(map(str, self.death.survivors))
            return f"processes could not be killed: {pids}"
        if self.cause is not None:
            return f"{CAUSES[self.cause]}: {self.detail}" if self.detail else CAUSES[self.cause]
        if self.status is None:
            return CAUSES["internal"]
        if self.status.signal is not None:
            return f"killed by signal {_signal_name(self.status.signal)}"
        return f"exit status {self.status.code}"


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return f"{number} ({signal.Signals(number).name})"
    return str(number)
