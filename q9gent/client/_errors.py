"""What a client raises: one tree, shown here.

::

    ClientError
    ├── ServerUnreachable         nobody answers at that address, or not in time
    ├── UnexpectedAnswer          what answers is no q9gent, or a proxy stands in between
    ├── RequestFailed             an HTTP status of 400 or more: status, message, facts
    │   ├── InvalidRequest        400
    │   ├── SessionNotFound       404
    │   ├── RunNotFound           404
    │   ├── BodyTimeout           408
    │   ├── SessionBusy           409
    │   ├── TooLarge              413
    │   ├── UnsupportedMedia      415
    │   ├── MisdirectedRequest    421
    │   ├── ProcessSpawnFailed    500
    │   ├── SessionStoreFailed    500
    │   ├── SurvivorsLeft         500  survivors
    │   ├── AtCapacity            503  retry_after_seconds
    │   └── ShuttingDown          503  retry_after_seconds
    ├── StreamBroken              the stream ended without a terminal event
    ├── RunFailed                 the terminal event is ``error``: code, exit_code, signal, survivors, …
    └── TurnFailed                the run completed, its turn did not: no ``result`` line, or an error in it

The names are those of ``q9gent.errors``, the server's own; a test compares the two. Branch on the class and
its attributes, never on the text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from q9gent.client._types import Result
    from q9gent.wire.events import Code, Failed


class ClientError(Exception):
    """Base of all."""


class ServerUnreachable(ClientError):
    """Nobody answers at that address, or not in time. Whether a request was carried out is not known."""


class UnexpectedAnswer(ClientError):
    """The answer is none of q9gent's: another server, or a proxy in between."""


class StreamBroken(ClientError):
    """The stream ended without a terminal event: the connection or the server is gone.

    The server ends a run whose client is gone. On leaving a run's context: the run has ended, but the rest of
    its stream could not be read, which tells whether all of its processes are dead.
    """


class RequestFailed(ClientError):
    """The server refused a request, or could not carry it out.

    Attributes:
        status: The HTTP status.
        message: The server's text, for people.
        facts: Further members of its JSON answer.
        retry_after_seconds: When to try again, if the server said so.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        facts: Mapping[str, object],
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.facts = dict(facts)
        self.retry_after_seconds = retry_after_seconds


class InvalidRequest(RequestFailed):
    """A body, a field or an address that is not what it must be; the text names the field."""


class SessionNotFound(RequestFailed):
    """No session has this id."""


class RunNotFound(RequestFailed):
    """No live run has this id: there is nothing to terminate.

    What may have survived a run that has ended, its terminal event tells, and nothing else.
    """


class BodyTimeout(RequestFailed):
    """The request's body did not arrive in time."""


class SessionBusy(RequestFailed):
    """The session has a live run."""


class TooLarge(RequestFailed):
    """The body, or a field of it, is more than a limit allows."""


class UnsupportedMedia(RequestFailed):
    """The body did not arrive as JSON."""


class MisdirectedRequest(RequestFailed):
    """The server does not answer to this host name: it needs ``--allowed-host``."""


class ProcessSpawnFailed(RequestFailed):
    """The Claude CLI cannot start."""


class SessionStoreFailed(RequestFailed):
    """The session folder cannot be read or written."""


class SurvivorsLeft(RequestFailed):
    """Processes of the run could not be killed, and may live: the answer of ``POST /terminate``.

    On leaving a run's context also what a terminal event says that was not read, as if it were that answer.

    Attributes:
        survivors: Their pids; ``None`` if they cannot be known.
    """

    @property
    def survivors(self) -> tuple[int, ...] | None:
        """Return the pids."""
        pids = self.facts.get("survivors")
        return tuple(pids) if isinstance(pids, list) else None


class AtCapacity(RequestFailed):
    """As many runs as allowed are live; ``retry_after_seconds`` tells when to try again."""


class ShuttingDown(RequestFailed):
    """The server is stopping."""


class RunFailed(ClientError):
    """The run ended with an ``error`` event; the attributes are its members.

    Attributes:
        event: The event itself.
        code: Why: one of the documented codes.
        exit_code: The exit status, if the process exited.
        signal: The number of the signal that ended it, if one did.
        survivors: Pids that could not be killed; empty if all processes are dead.
        killed: How many processes had to be killed.
        duration_ms: Milliseconds from the request to the death of the last process.
    """

    def __init__(self, event: Failed) -> None:
        super().__init__(event.error)
        self.event = event
        self.code: Code = event.code
        self.exit_code = event.exit_code
        self.signal = event.signal
        self.survivors = event.survivors or ()
        self.killed = event.killed
        self.duration_ms = event.duration_ms


class TurnFailed(ClientError):
    """The process exited with status 0, and yet the turn has no good answer.

    Attributes:
        result: The turn's result, which tells an error; ``None`` if there was no ``result`` line.
    """

    def __init__(self, result: Result | None) -> None:
        if result is None:
            super().__init__("the run completed without a result")
        else:
            super().__init__(f"the agent failed: {result.text or result.subtype}")
        self.result = result
