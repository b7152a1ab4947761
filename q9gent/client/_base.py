"""Clients and runs without their input and output: what both worlds share."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from q9gent.client._errors import (
    ClientError,
    RunFailed,
    ServerUnreachable,
    StreamBroken,
    SurvivorsLeft,
    TurnFailed,
    UnexpectedAnswer,
)
from q9gent.client._protocol import (
    CLEANUP_SECONDS,
    REST_BYTES,
    RUN_ID_HEADER,
    make_error,
    message_body,
    path_to,
    reason_of,
    spawn_body,
)
from q9gent.client._types import Result, make_result
from q9gent.wire.event_stream import EventDecoder, MalformedStream
from q9gent.wire.events import CONTAINMENT_LOST, FAILED, Completed, Event, Failed, Output, SessionCreated

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx

_RunT = TypeVar("_RunT", bound="BaseRun")


class BaseClient(Generic[_RunT]):
    """What a client asks for runs with: nothing is sent before one is entered.

    Attributes:
        url: Where the server is.
    """

    url: str

    def spawn(
        self,
        prompt: str,
        *,
        agent_type: str = "assistant",
        tools_allowed: Sequence[str] = (),
        flags: Sequence[str] = (),
        system_append: str | None = None,
        create_session: bool = False,
        resume_id: str | None = None,
    ) -> _RunT:
        """Return a run, which starts when its context is entered: ``with client.spawn("…") as run``.

        Args:
            prompt: Passed on unchanged.
            agent_type: A label, shown in lists.
            tools_allowed: Tools approved beforehand; no fence.
            flags: Raw arguments for the CLI.
            system_append: Appended to the system prompt.
            create_session: Start a conversation that ``message`` continues.
            resume_id: Continue the session of this id; with ``create_session``, branch off from it.
        """
        body = spawn_body(
            prompt,
            agent_type=agent_type,
            tools_allowed=tools_allowed,
            flags=flags,
            system_append=system_append,
            create_session=create_session,
            resume_id=resume_id,
        )
        return self._make_run("/spawn", body, None if create_session else resume_id)

    def message(
        self,
        session_id: str,
        prompt: str,
        *,
        tools_allowed: Sequence[str] = (),
        flags: Sequence[str] = (),
        system_append: str | None = None,
    ) -> _RunT:
        """Return a run that continues a session; arguments, and its start, as with ``spawn``."""
        body = message_body(prompt, tools_allowed=tools_allowed, flags=flags, system_append=system_append)
        return self._make_run(path_to("message", session_id), body, session_id)

    def _make_run(self, path: str, body: dict[str, object], session_id: str | None) -> _RunT:
        raise NotImplementedError


class BaseRun:
    """What is known of a run.

    Attributes:
        run_id: The run's id; ``""`` before the context is entered.
        session_id: The session that it belongs to; ``None`` if there is none, or the event that tells it
            was not read yet.
    """

    def __init__(self, path: str, body: dict[str, object], session_id: str | None) -> None:
        self.run_id = ""
        self.session_id = session_id
        self._path = path
        self._body = body
        self._decoder = EventDecoder()
        self._events: deque[Event] = deque()
        self._message: dict[str, Any] | None = None
        self._passed_over = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.run_id or 'not started'} {self.ending or 'live'}>"

    @property
    def ending(self) -> Completed | Failed | None:
        """Return the terminal event; ``None`` as long as it has not arrived."""
        return self._decoder.ending

    def raise_for_failure(self) -> None:
        """Raise if the run has ended with an ``error`` event; do nothing if it completed, or is live.

        Raises:
            RunFailed: It carries what the event says.
        """
        if isinstance(self.ending, Failed):
            raise RunFailed(self.ending)

    def _begin(self, response: httpx.Response) -> None:
        if response.status_code != 200:
            raise make_error(response)
        kind = response.headers.get("content-type", "none")
        if not kind.startswith("text/event-stream"):
            raise UnexpectedAnswer(f"{response.url} answered {kind}, not an event stream")
        if RUN_ID_HEADER not in response.headers:
            raise UnexpectedAnswer(f"{response.url} answered without {RUN_ID_HEADER}")
        self.run_id = response.headers[RUN_ID_HEADER]

    def _feed(self, chunk: bytes) -> None:
        try:
            self._events.extend(self._decoder.feed(chunk))
        except MalformedStream as error:
            raise StreamBroken(f"the stream of run {self.run_id} is broken: {error}") from error

    def _next_event(self) -> Event:
        event = self._events.popleft()
        if isinstance(event, SessionCreated):
            self.session_id = event.session_id
        elif isinstance(event, Output) and '"result"' in event.data:  # most lines need no decoding
            message = event.json()
            if message is not None and message.get("type") == "result":
                self._message = message
        return event

    @property
    def _was_read(self) -> bool:
        """Whether the stream was read to its terminal event, and nothing of it passed over."""
        return self.ending is not None and not self._passed_over

    def _broken(self, error: Exception | None) -> StreamBroken:
        if self._passed_over:
            return StreamBroken(f"the rest of the stream of run {self.run_id} was dropped on leaving it")
        why = f": {reason_of(error)}" if error else ""
        return StreamBroken(f"the stream of run {self.run_id} ended without a terminal event{why}")

    def _pass_over(self, chunk: bytes) -> None:
        """Take what nobody will be given: of the rest of a stream, the terminal event alone is wanted.

        Raises:
            StreamBroken: It is not the rest of one.
        """
        self._passed_over += len(chunk)
        if self._passed_over > REST_BYTES:
            raise StreamBroken(f"more than {REST_BYTES} bytes are left of the stream of run {self.run_id}")
        self._feed(chunk)
        self._events.clear()

    def _unread_failure(self) -> ClientError | None:
        """Return what a terminal event that nobody was given tells of processes that may live."""
        return survivors_of(self.ending) if self.ending is not None and self._events else None

    def _rest_failure(self, why: str) -> ClientError | None:
        """Return what the rest of the stream has told of a run that the server lists no more.

        Args:
            why: Should it have told nothing: why.
        """
        if self.ending is not None:
            return survivors_of(self.ending)
        return StreamBroken(
            f"run {self.run_id} has ended, and whether all of its processes are dead is not known: {why}"
        )

    def _make_result(self) -> Result:
        self.raise_for_failure()
        assert isinstance(self.ending, Completed)
        result = make_result(self._message, self.session_id, self.ending) if self._message else None
        if result is None or result.is_error:
            raise TurnFailed(result)
        return result


def report_cleanup(failure: ClientError | None, in_flight: BaseException | None) -> None:
    """Tell that a run may not be dead: as a note where another exception is on its way already."""
    if failure is None:
        return
    if in_flight is None:
        raise failure
    in_flight.add_note(f"terminating the run: {failure}")


def survivors_of(ending: Completed | Failed) -> SurvivorsLeft | None:
    """Return what ``POST /terminate`` would have answered, if processes may have survived this ending."""
    if isinstance(ending, Failed) and (
        ending.survivors or ending.error.startswith(FAILED + CONTAINMENT_LOST)
    ):
        pids = list(ending.survivors) if ending.survivors else None
        return SurvivorsLeft(ending.error, status=500, facts={"survivors": pids})
    return None


def not_in_time(run_id: str) -> ServerUnreachable:
    """Return the failure of a server that does not say in time that a run is dead."""
    return ServerUnreachable(f"the server did not say within {CLEANUP_SECONDS:g} s that run {run_id} is dead")
