"""One client's connection: hypercorn's ``TCPServer``, with its life bounded at every step.

What differs from hypercorn, and why:

* Sending is not shielded but bounded: a client that stops reading cannot hold a time-out, a cancellation
  or a shutdown up. A send that is cancelled has left the protocol in between, so the connection goes too.
* Whatever goes wrong ends this connection alone: hypercorn lets all but ``OSError`` end the server.
* HTTP/1.1 only; see ``http1``.
* Reading never pauses while a run is streamed, so its client's going is always seen, on every system (what
  does pause it is a body that nobody reads; see ``inbox``). A half-close (``nc -N``) counts as
  a disconnect: the two look the same, and a client that will never send again can at most be waiting for an
  answer that it had better hold the connection open for.
* An idle connection's descriptor is closed when its client closes it, not when the idle time is over.
"""

from __future__ import annotations

import contextlib
import math
import socket as stdlib_socket
from contextvars import ContextVar
from typing import TYPE_CHECKING

import trio
from hypercorn.events import Closed, RawData, Updated
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from q9gent.http.http1 import Http1
from q9gent.http.inbox import InboxTaskGroup
from q9gent.http.socket_stream import SocketStream
from q9gent.log import get_logger

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from hypercorn.config import Config
    from hypercorn.events import Event
    from hypercorn.trio.worker_context import WorkerContext
    from hypercorn.typing import AppWrapper

HANDSHAKE_SECONDS = 10.0
"""For a TLS handshake: a few round trips, even across the world."""

LINGER_SECONDS = 0.5
"""How long a finished connection is read on before it is closed: closing a socket with unread bytes makes
the client's system throw away the answer that it has not read yet."""

CLIENT_FAILURES = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)
"""A client's doing: it is gone, or speaks no TLS."""

logger = get_logger("q9gent.http")

current_connection: ContextVar[Connection] = ContextVar("q9gent-connection")
"""The connection that a request came by; unset under another server than q9gent's own."""


class Connection(TCPServer):
    """A connection, from its acceptance to its close.

    Args:
        app: The application, wrapped for hypercorn.
        config: Hypercorn's configuration.
        context: The worker's; its ``terminated`` closes idle connections.
        stream: The accepted socket.
        ssl_context: For TLS.
        loopback: Whether it came to a loopback address, which only this machine's clients can name.
        stall_seconds: How long the client may take nothing.
    """

    protocol: Http1  # type: ignore[assignment]

    send_nowait: Callable[[bytes], int]
    """See ``SocketStream.send_nowait``; for who has the connection's only stream, and no TLS."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        stream: trio.SocketStream,
        *,
        ssl_context: ssl.SSLContext | None,
        loopback: bool,
        stall_seconds: float,
    ) -> None:
        self.loopback = loopback
        self._transport = SocketStream(stream, stall_seconds)
        self._tls: trio.SSLStream[SocketStream] | None = None
        if ssl_context is not None:
            self._tls = trio.SSLStream(self._transport, ssl_context, server_side=True, https_compatible=True)
        super().__init__(app, config, context, ConnectionState({}), self._tls or self._transport)  # type: ignore[arg-type]
        self.send_nowait = self._transport.send_nowait
        self._shaking_hands: trio.CancelScope | None = None
        self._reading: trio.CancelScope | None = None
        self._is_waiting = False  # for bytes, and so may be woken
        self._look_again = False
        self._idle_until = trio.current_time() + config.keep_alive_timeout
        self._is_idle = True
        self._finished = False
        self._before = b""
        self._after = b""

    @property
    def stalled(self) -> bool:
        """Whether it ended because the client took nothing for too long."""
        return self._transport.stalled

    def set_stall_seconds(self, seconds: float) -> None:
        """Change how long the client may take nothing."""
        self._transport.set_stall_seconds(seconds)

    async def run(self) -> None:
        """Serve until the client is gone or the connection done with.

        Never raises but for cancellation, which closes the connection at once and ends its runs.
        """
        current_connection.set(self)
        try:
            if self._tls is not None:
                with trio.fail_after(HANDSHAKE_SECONDS) as self._shaking_hands:
                    await self._tls.do_handshake()
                self._shaking_hands = None
            await self._serve()
        except CLIENT_FAILURES:
            pass
        except ExceptionGroup as group:
            _expected, defects = group.split(CLIENT_FAILURES)
            if defects is not None:
                logger.error("connection failed", exc_info=defects)
        except Exception:
            logger.exception("connection failed")
        finally:
            self._finished = True
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._transport)
            vars(self).pop("protocol", None)  # each holds the other, and all that a request was

    async def _serve(self) -> None:
        raw = self._transport.socket
        if raw.family != getattr(stdlib_socket, "AF_UNIX", None):
            raw.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
        client = parse_socket_addr(raw.family, raw.getpeername())  # fails for one that is gone already
        server = parse_socket_addr(raw.family, raw.getsockname())
        async with InboxTaskGroup() as task_group:
            self._task_group = task_group
            self.protocol = Http1(
                self.app,
                self.config,
                self.context,
                task_group,
                ConnectionState({}),
                self._tls is not None,
                client,
                server,
                self.protocol_send,
            )
            self.protocol.wake_reader = self._wake_reader
            await self._read_data()
        if self._tls is not None and not self._transport.stalled:
            with trio.move_on_after(LINGER_SECONDS):
                await self._tls.aclose()

    @property
    def is_plain(self) -> bool:
        """Whether what is written to the socket is what the client reads: there is no TLS in between."""
        return self._tls is None

    def enclose_next(self, *, before: bytes = b"", after: bytes = b"") -> None:
        """Have bytes sent together with the next that the protocol sends."""
        self._before, self._after = before, after

    async def protocol_send(self, event: Event) -> None:
        """Send bytes, or end the connection.

        Cancellation: closes the connection.
        """
        if isinstance(event, RawData):
            await self._send(event.data)
        elif isinstance(event, Closed):
            await self._finish()
            await self.protocol.handle(Closed())
        elif isinstance(event, Updated):
            self._set_idle(event.idle)

    async def _send(self, data: bytes) -> None:
        if self._before or self._after:
            data = self._before + data + self._after
            self._before = self._after = b""
        if self.is_plain and not self.send_lock.locked():
            data = data[self.send_nowait(data) :]
            if not data:
                return
        try:
            async with self.send_lock:
                await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.aclose_forcefully(self._transport)
            await self.protocol.handle(Closed())
        except trio.Cancelled:  # also while it waits for the lock: a part has perhaps been sent
            await trio.aclose_forcefully(self._transport)
            raise

    def _set_idle(self, idle: bool) -> None:  # noqa: FBT001 (the protocol's own word)
        """Between requests, and until a request's headers are whole, the client's time is short."""
        self._is_idle = idle
        self._idle_until = trio.current_time() + self.config.keep_alive_timeout if idle else math.inf
        if self._reading is not None:
            self._reading.deadline = self._idle_until

    async def _read_data(self) -> None:
        try:
            if self.context.terminated.is_set():
                await self._finish()
            while not self._finished:
                data: bytes | None = None
                with trio.CancelScope(deadline=self._idle_until) as self._reading:
                    data = await self._read()
                if data == b"":
                    return
                await self._go_on(data)
            await self._linger()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return
        finally:
            self._finished = True
            self._reading = None
            await self.protocol.handle(Closed())

    async def _read(self) -> bytes | None:
        """Handle what comes until we are woken, finished or at the end.

        Returns:
            What was read and not handled: ``b""`` is the end.
        """
        assert self._reading is not None
        while True:
            self._is_waiting = True
            try:
                data = await self.stream.receive_some(MAX_RECV)
            finally:
                self._is_waiting = False
            # Handling must not be cancelled: a wake-up may have come together with the data.
            if not data or self._reading.cancel_called:
                return bytes(data)
            await self._handle(bytes(data))
            if self._finished:
                return None

    async def _go_on(self, data: bytes | None) -> None:
        """Handle what has come, or what we were woken for."""
        if self._finished:
            return
        if data is not None:
            await self._handle(data)
        elif trio.current_time() >= self._idle_until:
            await self._finish()
        else:
            await self.protocol.read_ahead()

    async def _handle(self, data: bytes) -> None:
        await self.protocol.handle(RawData(data))
        if self._look_again and not self._finished:
            self._look_again = False
            await self.protocol.read_ahead()

    def _wake_reader(self) -> None:
        """Have the reader look at what it has, from another task."""
        if self._reading is not None and self._is_waiting:
            self._reading.cancel()
        else:
            self._look_again = True

    async def _finish(self) -> None:
        """Say that we are done; the reader then reads on for a moment, and closes."""
        self._finished = True
        if self._tls is None:
            with contextlib.suppress(
                trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError
            ):
                await self._transport.send_eof()
        self._wake_reader()

    async def _linger(self) -> None:
        with trio.move_on_after(LINGER_SECONDS):
            while await self._transport.receive_some(MAX_RECV):
                pass

    async def stop(self) -> None:
        """Close it, now if it is idle, or after the answer that it owes (see ``Http1``)."""
        if self._shaking_hands is not None:
            self._shaking_hands.cancel()
        elif self._is_idle and not self._finished:
            await self._finish()
            await self.protocol.handle(Closed())
