"""Every error that q9gent raises on purpose: whose fault it is, and the HTTP status it becomes.

::

    Q9gentError
    ├── RequestError            the caller's fault
    │   ├── InvalidRequest      400  a body, a field or a path that is not what it must be
    │   ├── SessionNotFound     404  no such session, or a malformed id
    │   ├── RunNotFound         404  nothing to terminate under that id
    │   ├── BodyTimeout         408  the body came too slowly
    │   ├── SessionBusy         409  the session has a live run
    │   ├── TooLarge            413  a body, or a field that no process can be given
    │   ├── UnsupportedMedia    415  not application/json
    │   └── MisdirectedRequest  421  a Host header that is not ours
    └── ServerError             not the caller's fault
        ├── ProcessSpawnFailed  500  the CLI cannot start
        ├── SessionStoreFailed  500  the session folder cannot be read or written
        ├── SurvivorsLeft       500  something could not be killed in time
        ├── AtCapacity          503  as many runs as allowed; carries Retry-After
        └── ShuttingDown        503  the server is stopping

Callers branch on the class and its attributes, never on the text.
"""

from __future__ import annotations

from typing import ClassVar


class Q9gentError(Exception):
    """Base of all; ``str(error)`` is the text for the client.

    Attributes:
        status: The HTTP status this error is answered with.
        facts: Further members of the JSON answer, beside ``error``.
        headers: Further headers of the answer.
    """

    status: ClassVar[int] = 500
    facts: dict[str, object]
    headers: dict[str, str]

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.facts = {}
        self.headers = {}


class RequestError(Q9gentError):
    """The caller's fault: sent again unchanged, it fails again."""

    status = 400


class InvalidRequest(RequestError):
    """A body, a field or a path that is not what it must be."""


class SessionNotFound(RequestError):
    """No session has this id (a malformed id names none)."""

    status = 404

    def __init__(self, session_id: str) -> None:
        super().__init__(f"Session not found: {session_id}")


class RunNotFound(RequestError):
    """No live run has this id, as a run or as a session."""

    status = 404

    def __init__(self, run_or_session_id: str) -> None:
        super().__init__(f"No running process for: {run_or_session_id}")


class BodyTimeout(RequestError):
    """The body did not arrive in time."""

    status = 408

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The request body did not arrive within {seconds:g} s")


class SessionBusy(RequestError):
    """One session, one live run: two turns at once would lose one of them from the history."""

    status = 409

    def __init__(self, session_id: str) -> None:
        super().__init__(f"Session has a running process: {session_id}")


class TooLarge(RequestError):
    """More than a limit allows; the text names the limit or the field."""

    status = 413


class UnsupportedMedia(RequestError):
    """The body is not declared as ``application/json``."""

    status = 415

    def __init__(self, content_type: str | None) -> None:
        got = "none" if content_type is None else repr(content_type)
        super().__init__(f"Content-Type must be application/json, got {got}")


class MisdirectedRequest(RequestError):
    """The Host header names somebody else: a rebound DNS name, or a proxy that needs the flag."""

    status = 421

    def __init__(self, host: str) -> None:
        super().__init__(f"Host {host!r} is not served here: start q9gent with --allowed-host to allow it")


class ServerError(Q9gentError):
    """Not the caller's fault."""


class ProcessSpawnFailed(ServerError):
    """The CLI cannot start."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Process spawn failed: {reason}")


class SessionStoreFailed(ServerError):
    """The session store cannot be read or written."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Session storage failed: {reason}")


class SurvivorsLeft(ServerError):
    """Processes that could not be killed in time; they may live, and the answer says so."""

    def __init__(self, pids: tuple[int, ...] | None) -> None:
        if pids is None:
            super().__init__("Containment was lost: whether any process of the run lives is not known")
        else:
            super().__init__(f"Processes could not be killed: {', '.join(map(str, pids))}")
        self.facts["survivors"] = None if pids is None else list(pids)


class AtCapacity(ServerError):
    """As many runs as allowed are live, and none ended while the request waited."""

    status = 503

    def __init__(self, reason: str, *, retry_after_seconds: int) -> None:
        super().__init__(f"At capacity: {reason}")
        self.headers["retry-after"] = str(retry_after_seconds)


class ShuttingDown(ServerError):
    """The server is stopping and starts nothing new."""

    status = 503

    def __init__(self) -> None:
        super().__init__("The server is shutting down")
        self.headers["retry-after"] = "1"
