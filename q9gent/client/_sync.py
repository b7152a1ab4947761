"""The client for programs without an event loop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import httpx

from q9gent.client import _protocol as protocol
from q9gent.client._base import BaseClient, BaseRun, report_cleanup
from q9gent.client._errors import ClientError, RunNotFound, StreamBroken
from q9gent.client._types import Health, Result, RunInfo, Session, Termination

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from q9gent.wire.events import Event

_AnswerT = TypeVar("_AnswerT")


class Client(BaseClient["Run"]):
    """A connection pool to one server; to be closed, or used in a ``with`` block.

    Threads may share it: each run has a connection of its own.

    Args:
        base_url: Where the server is; default: the variable ``Q9GENT_URL``, then
            ``http://127.0.0.1:8080``.
        transport: Another transport, for instance a Unix socket: ``httpx.HTTPTransport(uds="…")``.
        headers: Sent with each request, for instance what a reverse proxy wants for authentication.
        timeout: Seconds for each operation on the network; default: 5 s to connect, and 60 s, which is
            four heartbeats, for the others. Not a limit for a run.

    Raises:
        ValueError: ``base_url`` is no address.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: httpx.Timeout | float | None = None,
    ) -> None:
        self.url = protocol.server_url(base_url)
        options = protocol.httpx_options(self.url, headers=headers, timeout=timeout)
        self._http = httpx.Client(transport=transport, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; runs that are still live end, as their client is gone."""
        self._http.close()

    def _make_run(self, path: str, body: dict[str, object], session_id: str | None) -> Run:
        return Run(self._http, path, body, session_id)

    def terminate(self, run_or_session_id: str) -> Termination:
        """End a run, and return once every process of it is dead.

        Raises:
            RunNotFound: No live run has this id.
            SurvivorsLeft: Something could not be killed.
            ClientError: See ``q9gent.client._errors``.
        """
        return self._ask("POST", protocol.path_to("terminate", run_or_session_id), Termination)

    def sessions(self) -> list[Session]:
        """Return the stored sessions, the oldest first."""
        return self._ask("GET", "/sessions", protocol.SessionList).sessions

    def delete_session(self, session_id: str) -> None:
        """Forget a session.

        Raises:
            SessionNotFound: No session has this id.
            SessionBusy: It has a live run.
            ClientError: See ``q9gent.client._errors``.
        """
        self._ask("DELETE", protocol.path_to("sessions", session_id), dict)

    def runs(self) -> list[RunInfo]:
        """Return the live runs, the oldest first."""
        return self._ask("GET", "/runs", protocol.RunList).runs

    def health(self) -> Health:
        """Return what the server says of itself."""
        return self._ask("GET", "/health", Health)

    def _ask(self, method: str, path: str, kind: type[_AnswerT]) -> _AnswerT:
        with protocol.translated(self.url):
            return protocol.decode_answer(self._http.request(method, path), kind)


class Run(BaseRun):
    """One turn: a context manager, and an iterator over its events, the terminal one too.

    Leaving the context ends the run if it has not ended: the server is asked to terminate it, and answers
    when every process of it is dead; then the stream is closed, which would end it as well. That holds for
    exceptions and ^C too, and takes at most about 30 s. A run that has ended needs no request. If the server
    lists it no more, the rest of its stream is read for what survived it, 5 s long, and a silence at its end
    may take as long as the client's ``timeout`` for reads allows.
    """

    def __init__(
        self, http: httpx.Client, path: str, body: dict[str, object], session_id: str | None
    ) -> None:
        super().__init__(path, body, session_id)
        self._http = http
        self._response: httpx.Response | None = None
        self._chunks: Iterator[bytes] = iter(())

    def __enter__(self) -> Self:
        """Start the run.

        Raises:
            RequestFailed: The server did not start it; the class says why.
            ServerUnreachable: Nobody answers.
            ValueError: A text is no Unicode.
        """
        if self.run_id:
            raise RuntimeError("this run was started already")
        request = self._http.build_request("POST", self._path, **protocol.stream_request(self._body))
        with protocol.translated(str(self._http.base_url)):
            response = self._http.send(request, stream=True)
            try:
                if response.status_code != 200:
                    response.read()
                self._begin(response)
            except BaseException:
                response.close()
                raise
        self._response = response
        self._chunks = response.iter_bytes()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._response is not None
        try:
            report_cleanup(self._terminate() if self.ending is None else self._unread_failure(), error)
        finally:
            self._chunks = iter(())
            self._response.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        """Return the next event.

        Raises:
            StreamBroken: The stream ended without a terminal event.
        """
        if self._response is None:
            raise RuntimeError("a run is started by entering it: with client.spawn(…) as run")
        while not self._events:
            try:
                chunk = next(self._chunks)
            except (StopIteration, httpx.RequestError) as error:
                if self._was_read:
                    raise StopIteration from None
                raise self._broken(None if isinstance(error, StopIteration) else error) from error
            self._feed(chunk)
        return self._next_event()

    def result(self) -> Result:
        """Read to the end, and return what the turn came to.

        Raises:
            RunFailed: The run ended with an ``error`` event.
            TurnFailed: It completed, but the CLI told no result, or an error.
            StreamBroken: The stream ended without a terminal event.
        """
        for _event in self:
            pass
        return self._make_result()

    def text(self) -> str:
        """Read to the end, and return the agent's answer; raises as ``result`` does."""
        return self.result().text

    def terminate(self) -> Termination:
        """End the run, and return once every process of it is dead; another thread may call it.

        Raises:
            RunNotFound: It has ended; its terminal event tells how.
            SurvivorsLeft: Something could not be killed.
            ClientError: See ``q9gent.client._errors``.
        """
        with protocol.translated(str(self._http.base_url)):
            response = self._http.post(protocol.path_to("terminate", self.run_id))
        return protocol.decode_answer(response, Termination)

    def _terminate(self) -> ClientError | None:
        timeout = httpx.Timeout(protocol.CLEANUP_SECONDS, connect=5.0)
        try:
            with protocol.translated(str(self._http.base_url)):
                response = self._http.post(protocol.path_to("terminate", self.run_id), timeout=timeout)
            protocol.decode_answer(response, Termination)
        except RunNotFound:
            return self._read_rest()
        except ClientError as error:
            return error
        except RuntimeError:  # httpx's; closing the client ends the run as well, and waits for nothing
            if not self._http.is_closed:
                raise
        return None

    def _read_rest(self) -> ClientError | None:
        why = f"its stream did not tell within {protocol.REST_SECONDS:g} s"
        give_up_at = time.monotonic() + protocol.REST_SECONDS
        try:
            while self.ending is None and time.monotonic() < give_up_at:
                self._pass_over(next(self._chunks))
        except StopIteration:
            why = "its stream ended without a terminal event"
        except ValueError:  # a generator's
            why = "another thread reads its stream"
        except (httpx.RequestError, httpx.StreamError, StreamBroken) as error:
            why = protocol.reason_of(error)
        return self._rest_failure(why)
