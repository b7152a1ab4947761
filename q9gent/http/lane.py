"""The direct lane: a stream's chunks written straight to its connection's socket.

Hypercorn's way to the socket (an ASGI message, a stream event, h11, a lock, a wait) costs about 100 µs a
piece, several times what the system takes to send it. Once the head of a chunked answer is out, h11's writer
keeps no state: a chunk is its size, a line end, its bytes, a line end. So the lane writes the chunks itself,
and the head and the end of the stream still go through hypercorn, each together with what is sent next to it.

What the client's socket does not take at once is kept here and sent by whoever owns the lane, which waits as
long as the client may. The bytes are the same as on the ordinary lane; a plain hypercorn, TLS, HTTP/1.0 and
middleware that stands between take that one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from hypercorn.events import RawData

from q9gent.http.connection import Connection, current_connection
from q9gent.http.socket_stream import HAS_PLAIN_IO

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hypercorn.typing import ASGISendCallable, HTTPScope


def direct_connection(send: ASGISendCallable) -> Connection | None:
    """Return the connection whose own sending function this is, if it is q9gent's.

    Args:
        send: As the application got it. Middleware that wraps it wants to see what is sent.
    """
    connection = current_connection.get(None)
    if connection is None:
        return None
    stream = connection.protocol.stream
    return connection if stream is not None and getattr(send, "__self__", None) is stream else None


def can_be_direct(connection: Connection, scope: HTTPScope) -> bool:
    """Tell whether an answer without a length to this request is sent in chunks that we may write."""
    return (
        HAS_PLAIN_IO and connection.is_plain and scope["http_version"] == "1.1" and scope["method"] != "HEAD"
    )


def chunk(data: bytes) -> bytes:
    """Return bytes as a chunk (RFC 9112, 7.1); nothing for nothing, as an empty chunk is the last."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


class DirectLane:
    """See the module, and ``q9gent.http.delivery.Lane``.

    Args:
        connection: Where it leads.
        send_start: Sends the head.
        send_end: Sends the end of the stream, and no bytes of it.
    """

    def __init__(
        self,
        connection: Connection,
        send_start: Callable[[], Awaitable[None]],
        send_end: Callable[[], Awaitable[None]],
    ) -> None:
        self._connection = connection
        self._send_start = send_start
        self._send_end = send_end
        self._held = b""
        self._clock = trio.lowlevel.current_clock().current_time
        self._send_nowait = connection.send_nowait
        self.sent_at = self._clock()

    def express(self, events: bytes) -> bool:
        """Write without waiting; False if some of it is held back."""
        self.sent_at = self._clock()
        data = chunk(events)
        sent = self._send_nowait(data)
        if sent == len(data):
            return True
        self._held = data[sent:]
        return False

    async def start(self, events: bytes) -> None:
        """See ``Lane.start``."""
        self._connection.enclose_next(after=chunk(events))
        try:
            await self._send_start()
        finally:
            self._connection.enclose_next()  # a client that has gone gets no head

    async def send(self, events: bytes) -> None:
        """See ``Lane.send``."""
        data = self._take_held() + chunk(events)
        await self._connection.protocol_send(RawData(data))
        self.sent_at = self._clock()

    async def finish(self, events: bytes) -> None:
        """See ``Lane.finish``."""
        self._connection.enclose_next(before=self._take_held() + chunk(events))
        await self._send_end()

    def _take_held(self) -> bytes:
        held, self._held = self._held, b""
        return held
