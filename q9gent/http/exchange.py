"""One request and its response, and the nursery that owns whatever the request starts.

The nursery is opened around the whole ASGI call, not inside a handler or a body generator: one that never
starts never runs its ``finally``, and what it was to end would go on. The call's own task answers; a run is a
second, started by a route. When the client goes, the nursery is cancelled, and with it the run; the call
returns when its tree is dead. q9gent's own connection says so itself; under another server a third task
listens for it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

import trio
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioResponse
from werkzeug.exceptions import HTTPException

from q9gent.errors import Q9gentError
from q9gent.http import guards
from q9gent.http.connection import current_connection
from q9gent.http.delivery import STREAM_HEADERS, OrdinaryLane, deliver
from q9gent.http.lane import DirectLane, can_be_direct, direct_connection
from q9gent.http.problems import framework_response, problem_response, unexpected_response
from q9gent.log import get_logger

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
    from quart.wrappers import Response

    from q9gent.http.app import Q9gentApp
    from q9gent.http.body import BodyRequest
    from q9gent.http.connection import Connection
    from q9gent.http.delivery import Lane
    from q9gent.run import Run
    from q9gent.runs import Order

EXCHANGE_KEY = "q9gent.exchange"
"""Where a request's scope holds its exchange."""

RUN_ID_HEADER = "x-q9gent-run-id"

DRAIN_SECONDS = 5.0
"""How long an answer waits for the rest of a body that nobody wants: answered before it has sent all, a
client sees a reset in place of the answer."""

logger = get_logger("q9gent.http")


class RunResponse(TrioResponse):
    """The answer that streams a run."""

    run: Run


class Exchange(TrioASGIHTTPConnection):
    """The ASGI call of one request."""

    app: Q9gentApp
    _run: Run | None = None
    _connection: Connection | None = None

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer one request.

        Cancellation: ends what the request started; shielded and bounded (see ``Run.execute``).
        """
        self._answered = self._listening = False
        self.scope[EXCHANGE_KEY] = self  # type: ignore[literal-required]
        try:
            self.scope["path"] = guards.path_of_target(self.scope["path"])
            request = cast("BodyRequest", self._create_request_from_scope(send))
        except Q9gentError as error:
            await self._send(send, problem_response(error))
            return
        request.body.receive = self._receive = receive
        self._connection = direct_connection(send)
        if self._connection is not None:
            self._connection.protocol.on_stream_closed = self._on_closed
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                response = await self._respond(request)
                if not request.body.is_complete:
                    with trio.move_on_after(DRAIN_SECONDS):
                        await request.body.read()
                self._listen()
                await self._send(send, response)
                nursery.cancel_scope.cancel()
        finally:
            if self._run is not None:
                self._run.outbox.close()
            # Nothing may refer to itself in a circle: collecting garbage stops every stream.
            del self.scope[EXCHANGE_KEY]  # type: ignore[misc]
            request.routing_exception = None

    async def start_run(self, order: Order) -> RunResponse:
        """Start a run that this exchange owns, and return the answer that streams it.

        Raises:
            Q9gentError: See ``Runs.execute``.

        Cancellation: ends the run.
        """
        self._listen()
        run = self._run = self.app.runs.prepare(order)  # owned before the first await
        start = _Start()
        self._nursery.start_soon(self._execute, order, run, start)
        await start.decided.wait()
        if start.failure is not None:
            raise start.failure
        response = RunResponse(b"", headers={**STREAM_HEADERS, RUN_ID_HEADER: run.run_id})
        del response.headers["content-length"]
        response.run = run
        return response

    async def _execute(self, order: Order, run: Run, start: _Start) -> None:
        try:
            await self.app.runs.execute(order, run, task_status=start)
        except Exception as error:
            if start.decided.is_set():
                raise
            start.failure = error
            start.decided.set()

    def _listen(self) -> None:
        """Learn of the client's going from now on: its request is complete."""
        if self._connection is None and not self._listening:
            self._listening = True
            self._nursery.start_soon(self._wait_disconnected)

    async def _wait_disconnected(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._on_closed()

    def _on_closed(self) -> None:
        # Said after every answer, too, while the answering task is still recycling the connection: cancelled
        # then, the connection would never be closed.
        if self._answered:
            return
        if self._run is not None:
            stalled = self._connection is not None and self._connection.stalled
            self._run.end("stalled" if stalled else "disconnected")
            self._run.outbox.discard()
        self._nursery.cancel_scope.cancel()

    async def _respond(self, request: BodyRequest) -> Response:
        settings = self.app.settings
        origin = guards.header(self.scope["headers"], b"origin")
        wanted = guards.header(self.scope["headers"], b"access-control-request-method")
        preflight = self.scope["method"] == "OPTIONS" and origin is not None and wanted is not None
        response: Response
        try:
            guards.check_host(
                guards.header(self.scope["headers"], b"host"),
                loopback_only=self._came_to_loopback(),
                allowed=settings.allowed_host,
            )
            if preflight and settings.cors_origin:
                response = TrioResponse(b"", status=204)
            else:
                response = cast("Response", await self.app.handle_request(request))
        except Q9gentError as error:
            response = problem_response(error)
        except HTTPException as error:  # raised by the framework before it is the application's turn
            response = framework_response(error, settings)
        except Exception:
            logger.exception("request failed")
            response = unexpected_response()
        response.headers.update(guards.cors_headers(origin, settings.cors_origin, preflight=preflight))
        return response

    def _came_to_loopback(self) -> bool:
        connection = current_connection.get(None)
        if connection is not None:
            return connection.loopback
        server = self.scope.get("server")  # another server than ours: only the connection can tell
        return server is not None and guards.is_loopback(server[0])

    async def _send(self, send: ASGISendCallable, response: Response) -> None:
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers
        ]

        async def send_start() -> None:
            await send(
                cast(
                    "Any",
                    {"type": "http.response.start", "status": response.status_code, "headers": headers},
                )
            )

        async def send_part(data: bytes) -> None:
            await send(cast("Any", {"type": "http.response.body", "body": data, "more_body": True}))

        async def send_last(data: bytes) -> None:
            self._answered = True
            await send(cast("Any", {"type": "http.response.body", "body": data, "more_body": False}))

        if isinstance(response, RunResponse):
            lane: Lane = OrdinaryLane(send_start, send_part, send_last)
            if self._connection is not None and can_be_direct(self._connection, self.scope):
                lane = DirectLane(self._connection, send_start, functools.partial(send_last, b""))
            await deliver(
                response.run.outbox,
                lane,
                heartbeat_seconds=self.app.settings.heartbeat_seconds,
                lose_output=response.run.lose_output,
            )
            return
        await send_start()
        whole = "content-length" in response.headers
        body = b""
        async with response.response as parts:
            async for part in parts:
                data = part.encode() if isinstance(part, str) else part
                if whole:
                    body += data
                else:
                    await send_part(data)
        await send_last(body)


class _Start:
    """Where a run that is being started says how that went: a ``trio.TaskStatus``."""

    def __init__(self) -> None:
        self.decided = trio.Event()
        self.failure: Exception | None = None

    def started(self, _run: Run | None = None) -> None:
        """The run's process runs, or it has ended before it could."""
        self.decided.set()
