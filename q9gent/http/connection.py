"""One client's connection: hypercorn's ``TCPServer``, with its life bounded at every step.

What differs from hypercorn, and why:

* Sending is not shielded but bounded: a client that stops reading cannot hold a time-out, a cancellation
  or a shutdown up. A send that is cancelled has left the protocol in between, so the connection goes too.
* Whatever goes wrong ends this connection alone: hypercorn lets all but ``OSError`` end the server.
* HTTP/1.1 only; see ``http1``.
* Reading never pauses, so a disconnect is always seen, on every system. A half-close (``nc -N``) counts as
  a disconnect: the two look the same, and a client that will never send again can at most be waiting for an
  answer that it had better hold the connection open for.
* An idle connection's descriptor is closed when its client closes it, not when the idle time is over.
"""

from __future__ import annotations

import contextlib
import socket as stdlib_socket
from contextvars import ContextVar
from typing import TYPE_CHECKING

import trio
from hypercorn.events import Closed, RawData, Updated
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from q9gent.http.http1 import Http1
from q9gent.http.socket_stream import SocketStream
from q9gent.log import get_logger

if TYPE_CHECKING:
    import ssl

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
        self._reading: trio.CancelScope | None = None
        self._finished = False

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
                with trio.fail_after(HANDSHAKE_SECONDS):
                    await self._tls.do_handshake()
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
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._transport)

    async def _serve(self) -> None:
        raw = self._transport.socket
        if raw.family != getattr(stdlib_socket, "AF_UNIX", None):
            raw.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
        client = parse_socket_addr(raw.family, raw.getpeername())  # fails for one that is gone already
        server = parse_socket_addr(raw.family, raw.getsockname())
        async with TaskGroup() as task_group:
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
            await self.idle_task.restart(task_group, self._idle_timeout)
            try:
                await self._read_data()
            finally:
                with trio.CancelScope(shield=True):  # neither waits
                    await self.idle_task.stop()
        if self._tls is not None and not self._transport.stalled:
            with trio.move_on_after(LINGER_SECONDS):
                await self._tls.aclose()

    async def protocol_send(self, event: Event) -> None:
        """Send bytes, or end the connection.

        Cancellation: closes the connection.
        """
        if isinstance(event, RawData):
            async with self.send_lock:
                try:
                    await self.stream.send_all(event.data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    await trio.aclose_forcefully(self._transport)
                    await self.protocol.handle(Closed())
                except trio.Cancelled:
                    await trio.aclose_forcefully(self._transport)
                    raise
        elif isinstance(event, Closed):
            await self._finish()
            await self.protocol.handle(Closed())
        elif isinstance(event, Updated):
            if event.idle and not self._finished:  # an answer may end after its client has gone
                await self.idle_task.restart(self._task_group, self._idle_timeout)
            elif not event.idle:
                await self.idle_task.stop()

    async def _read_data(self) -> None:
        try:
            while not self._finished:
                with trio.CancelScope() as self._reading:
                    data = await self.stream.receive_some(MAX_RECV)
                if self._reading.cancelled_caught:
                    await self.protocol.read_ahead()
                elif data:
                    await self.protocol.handle(RawData(bytes(data)))
                else:
                    return
            await self._linger()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return
        finally:
            self._finished = True
            self._reading = None
            await self.protocol.handle(Closed())

    def _wake_reader(self) -> None:
        """Have the reader look at what it has, from another task."""
        if self._reading is not None:
            self._reading.cancel()

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

    async def _initiate_server_close(self) -> None:
        await self._finish()
        await self.protocol.handle(Closed())
