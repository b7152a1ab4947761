"""Hypercorn's HTTP/1.1 protocol with what q9gent must not have taken out, and its traps closed.

Taken out: the upgrade to HTTP/2 in clear text (it cannot be configured away, and its back-pressure is
broken) and websockets (there are none here, and a bad upgrade request can end the server). Closed: a
request that is followed by more bytes no longer hides its client's disconnect, because reading goes on,
into a bounded buffer; and the last answer of a connection says that it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11
import msgspec
from hypercorn.events import Closed, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request, Response
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercorn.events import Event
    from hypercorn.protocol.events import Event as StreamEvent

READ_AHEAD_BYTES = 64 * 1024
"""What a client may send behind a request that is being answered. Pipelining is rare, and a client that
sends more than this unasked is not worth the memory: its connection is closed."""

ERROR_TEXTS = {
    400: "The request is not valid HTTP/1.1",
    431: "The request's headers are too large",
    501: "The transfer encoding is not supported",
}

SENDING_STATES = (h11.IDLE, h11.SEND_BODY)
"""A client in another state has sent its request, and what comes is not part of it."""


class Stream(HTTPStream):
    """One request's stream, answered from the moment in which the end of its answer is being sent.

    To hypercorn it is so only afterwards: a client that goes as soon as it has everything gets a second line
    in the access log, as one that went without an answer.
    """

    async def _send_closed(self) -> None:
        self.state = ASGIHTTPState.CLOSED
        await super()._send_closed()


class Http1(H11Protocol):
    """One connection's protocol.

    Attributes:
        wake_reader: Called when a request that came early can now be read.
        on_stream_closed: Called when the request in progress has been answered, or its client is gone.
    """

    connection: h11.Connection
    wake_reader: Callable[[], None]
    on_stream_closed: Callable[[], None] | None = None

    async def handle(self, event: Event) -> None:
        """Take what the connection read, or its end."""
        if not isinstance(event, RawData):
            await super().handle(event)
            return
        self.connection.receive_data(event.data)
        if self.stream is not None and self.connection.their_state not in SENDING_STATES:
            # Our own answer being complete, the client may go on as it likes: we are about to read it.
            answering = self.connection.our_state is not h11.DONE
            if answering and len(self.connection.trailing_data[0]) > READ_AHEAD_BYTES:
                await self.send(Closed())
            return
        await self._handle_events()

    async def read_ahead(self) -> None:
        """Go on with what came behind the last request."""
        await self._handle_events()

    @property
    def has_read_ahead(self) -> bool:
        """Whether a further request, or a part of one, waits."""
        return self.stream is None and bool(self.connection.trailing_data[0])

    async def _handle_events(self) -> None:
        while True:
            if self.connection.they_are_waiting_for_100_continue:
                await self._send_h11_event(
                    h11.InformationalResponse(status_code=100, headers=self.config.response_headers("h11"))
                )
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                    await self._send_error_response(error.error_status_hint)
                await self.send(Closed())
                return
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.Request):
                await self._begin(event)
            elif isinstance(event, h11.ConnectionClosed) or self.stream is None:
                return
            elif isinstance(event, h11.Data):
                await self.stream.handle(Body(stream_id=STREAM_ID, data=bytes(event.data)))
            elif isinstance(event, h11.EndOfMessage):
                await self.stream.handle(EndBody(stream_id=STREAM_ID))

    async def _begin(self, request: h11.Request) -> None:
        """Start answering a request, whatever it would like to upgrade to."""
        await self.send(Updated(idle=False))
        stream = self.stream = Stream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1
        await self.context.mark_request()

    async def stream_send(self, event: StreamEvent) -> None:
        """Send a part of the answer.

        An answer that comes before its request is complete, or while the server stops, is the connection's
        last: it says so, or the client would send its next request to a connection that is being closed.
        """
        if isinstance(event, Response) and (
            self.connection.their_state is h11.SEND_BODY or self.context.terminated.is_set()
        ):
            self.keep_alive_requests = self.config.keep_alive_max_requests  # hypercorn says so of the last
        await super().stream_send(event)

    async def _send_error_response(self, status_code: int) -> None:
        text = ERROR_TEXTS.get(status_code, ERROR_TEXTS[400])
        body = msgspec.json.encode({"error": text})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())

    async def _close_stream(self) -> None:
        if self.on_stream_closed is not None:
            self.on_stream_closed()
            self.on_stream_closed = None
        await super()._close_stream()

    async def _maybe_recycle(self) -> None:
        await super()._maybe_recycle()
        if self.has_read_ahead:
            self.wake_reader()
