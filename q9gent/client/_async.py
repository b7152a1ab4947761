"""The client for trio and for asyncio: httpx and anyio know both."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import anyio
import httpx

from q9gent.client import _protocol as protocol
from q9gent.client._base import BaseClient, BaseRun, not_in_time, report_cleanup
from q9gent.client._errors import ClientError, RunNotFound, StreamBroken
from q9gent.client._types import Health, Result, RunInfo, Session, Termination

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from types import TracebackType
    from typing import Self

    from q9gent.wire.events import Event

_AnswerT = TypeVar("_AnswerT")

CLOSE_SECONDS = 2.0
"""For the last bytes of a stream whose run is dead; a backlog that takes longer is not read."""


class AsyncClient(BaseClient["AsyncRun"]):
    """As ``Client``, for trio and asyncio. Its methods may be cancelled at any time.

    Args:
        base_url: Where the server is; default: the variable ``Q9GENT_URL``, then
            ``http://127.0.0.1:8080``.
        transport: Another transport, for instance a Unix socket: ``httpx.AsyncHTTPTransport(uds="…")``.
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
        transport: httpx.AsyncBaseTransport | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: httpx.Timeout | float | None = None,
    ) -> None:
        self.url = protocol.server_url(base_url)
        options = protocol.httpx_options(self.url, headers=headers, timeout=timeout)
        self._http = httpx.AsyncClient(transport=transport, **options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections; runs that are still live end, as their client is gone.

        Cancellation: shielded from it, and bounded by 2 s.
        """
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            await self._http.aclose()

    def _make_run(self, path: str, body: dict[str, object], session_id: str | None) -> AsyncRun:
        return AsyncRun(self._http, path, body, session_id)

    async def terminate(self, run_or_session_id: str) -> Termination:
        """End a run, and return once every process of it is dead.

        Cancellation: the server ends the run all the same, only nobody waits for it.

        Raises:
            RunNotFound: No live run has this id.
            SurvivorsLeft: Something could not be killed.
            ClientError: See ``q9gent.client._errors``.
        """
        return await self._ask("POST", protocol.path_to("terminate", run_or_session_id), Termination)

    async def sessions(self) -> list[Session]:
        """Return the stored sessions, the oldest first."""
        return (await self._ask("GET", "/sessions", protocol.SessionList)).sessions

    async def delete_session(self, session_id: str) -> None:
        """Forget a session.

        Raises:
            SessionNotFound: No session has this id.
            SessionBusy: It has a live run.
            ClientError: See ``q9gent.client._errors``.
        """
        await self._ask("DELETE", protocol.path_to("sessions", session_id), dict)

    async def runs(self) -> list[RunInfo]:
        """Return the live runs, the oldest first."""
        return (await self._ask("GET", "/runs", protocol.RunList)).runs

    async def health(self) -> Health:
        """Return what the server says of itself."""
        return await self._ask("GET", "/health", Health)

    async def _ask(self, method: str, path: str, kind: type[_AnswerT]) -> _AnswerT:
        with protocol.translated(self.url):
            return protocol.decode_answer(await self._http.request(method, path), kind)


class AsyncRun(BaseRun):
    """One turn: an asynchronous context manager, and an iterator over its events, the terminal one too.

    Leaving the context ends the run if it has not ended: the server is asked to terminate it, and answers
    when every process of it is dead; then the stream is closed, which would end it as well. A run that has
    ended needs no request.

    Cancellation: leaving is shielded from it (under asyncio: from the one that is on its way), and takes
    30 s for the termination and 2 s for the stream at most. If the server lists the run no more, the rest of
    its stream is read for what survived it, 5 s long. Cancelled while it is being entered, the connection is
    closed, which ends what the server may have started.
    """

    def __init__(
        self, http: httpx.AsyncClient, path: str, body: dict[str, object], session_id: str | None
    ) -> None:
        super().__init__(path, body, session_id)
        self._http = http
        self._response: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None

    async def __aenter__(self) -> Self:
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
            response = await self._http.send(request, stream=True)
            try:
                if response.status_code != 200:
                    await response.aread()
                self._begin(response)
            except BaseException:
                with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                    await response.aclose()
                raise
        self._response = response
        self._chunks = response.aiter_bytes()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._response is not None
        try:
            failure = self._unread_failure()
            if self.ending is None:
                failure = not_in_time(self.run_id)
                with anyio.move_on_after(protocol.CLEANUP_SECONDS, shield=True):
                    failure = await self._terminate()
            report_cleanup(failure, error)
        finally:
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await self._drain()
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await self._response.aclose()

    async def _drain(self) -> None:
        """Read what is left, so that no generator of httpx's is left suspended, which trio warns of."""
        assert self._chunks is not None
        try:
            async for _chunk in self._chunks:
                pass
        except (httpx.RequestError, RuntimeError):  # the latter is httpx's, or another task reads it
            return

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Return the next event.

        Cancellation: nothing can be read afterwards; leaving the context ends the run.

        Raises:
            StreamBroken: The stream ended without a terminal event.
        """
        if self._chunks is None:
            raise RuntimeError("a run is started by entering it: async with client.spawn(…) as run")
        while not self._events:
            try:
                chunk = await anext(self._chunks)
            except (StopAsyncIteration, httpx.RequestError) as error:
                if self._was_read:
                    raise StopAsyncIteration from None
                raise self._broken(None if isinstance(error, StopAsyncIteration) else error) from error
            self._feed(chunk)
        return self._next_event()

    async def result(self) -> Result:
        """Read to the end, and return what the turn came to.

        Raises:
            RunFailed: The run ended with an ``error`` event.
            TurnFailed: It completed, but the CLI told no result, or an error.
            StreamBroken: The stream ended without a terminal event.
        """
        async for _event in self:
            pass
        return self._make_result()

    async def text(self) -> str:
        """Read to the end, and return the agent's answer; raises as ``result`` does."""
        return (await self.result()).text

    async def terminate(self) -> Termination:
        """End the run, and return once every process of it is dead; another task may call it.

        Cancellation: the server ends the run all the same, only nobody waits for it.

        Raises:
            RunNotFound: It has ended; its terminal event tells how.
            SurvivorsLeft: Something could not be killed.
            ClientError: See ``q9gent.client._errors``.
        """
        with protocol.translated(str(self._http.base_url)):
            response = await self._http.post(protocol.path_to("terminate", self.run_id))
        return protocol.decode_answer(response, Termination)

    async def _terminate(self) -> ClientError | None:
        try:
            await self.terminate()
        except RunNotFound:
            return await self._read_rest()
        except ClientError as error:
            return error
        except RuntimeError:  # httpx's; closing the client ends the run as well, and waits for nothing
            if not self._http.is_closed:
                raise
        return None

    async def _read_rest(self) -> ClientError | None:
        assert self._chunks is not None
        why = f"its stream did not tell within {protocol.REST_SECONDS:g} s"
        try:
            with anyio.move_on_after(protocol.REST_SECONDS):
                while self.ending is None:
                    self._pass_over(await anext(self._chunks))
        except StopAsyncIteration:
            why = "its stream ended without a terminal event"
        except (httpx.RequestError, httpx.StreamError, StreamBroken) as error:
            why = protocol.reason_of(error)
        except RuntimeError:  # a generator's
            why = "another task reads its stream"
        return self._rest_failure(why)
