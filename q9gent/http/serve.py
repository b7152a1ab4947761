"""Listen, serve, and stop in order.

The order of a stop: no new connections; every run ended, its stream told ``shutdown``; idle connections
closed; what is still being delivered given the rest of ``shutdown_seconds``; then everything cancelled.
Every tree is dead before this returns, as the runs live in their connections' tasks and those in ours.
"""

from __future__ import annotations

import logging
import socket
import sys
from typing import TYPE_CHECKING

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.utils import repr_socket_addr

from q9gent.http.access_log import AccessLogger
from q9gent.http.connection import Connection
from q9gent.http.guards import is_loopback
from q9gent.log import get_logger

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from hypercorn.typing import ASGISendEvent

    from q9gent.http.app import Q9gentApp
    from q9gent.settings import Settings

SHUTDOWN_STALL_SECONDS = 2.0
"""How long a client may take nothing once the server is stopping."""

KILLING_SECONDS = 1.0
"""How much of a stop's time is kept for killing, however long the runs' grace is: it takes milliseconds."""

BACKLOG = 1024
"""Connections that the system holds for us until they are accepted: a burst must not be refused."""

logger = get_logger("q9gent")


class BindError(Exception):
    """The server cannot listen where it shall."""


def make_config(settings: Settings) -> Config:
    """Return hypercorn's configuration: its file, if there is one, under what q9gent decides.

    Raises:
        OSError, ValueError: The file cannot be read, or is no TOML.
    """
    config = Config()
    config.bind = [_bind_of(settings)]
    config.include_server_header = False
    config.keep_alive_timeout = settings.header_seconds
    config.backlog = BACKLOG
    if settings.hypercorn_config is not None:
        given = Config.from_toml(settings.hypercorn_config)
        for name, value in vars(given).items():
            setattr(config, name, value)
        for name in ("workers", "quic_bind", "worker_class", "use_reloader", "max_requests"):
            if name in vars(given) or f"_{name}" in vars(given):
                logger.warning("not used from the hypercorn configuration", setting=name)
    config.alpn_protocols = ["http/1.1"]
    config.quic_bind = []
    config.logger_class = AccessLogger
    config.errorlog = logging.getLogger("hypercorn.error")
    return config


def _bind_of(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{host}:{settings.port}"


class Sockets:
    """The listening sockets, bound.

    Raises:
        BindError: One cannot be bound.
    """

    def __init__(self, config: Config) -> None:
        try:
            sockets = config.create_sockets()
            self.secure = [_alone(sock) for sock in sockets.secure_sockets]
            self.insecure = [_alone(sock) for sock in sockets.insecure_sockets]
            for sock in self.all:
                sock.set_inheritable(False)  # hypercorn passes them to workers; a run must not get one
                sock.listen(config.backlog)
        except (OSError, OverflowError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise BindError(f"cannot listen on {', '.join(config.bind)}: {reason}") from error

    @property
    def all(self) -> list[socket.socket]:
        """Return all of them."""
        return [*self.secure, *self.insecure]

    @property
    def urls(self) -> list[str]:
        """Return where they listen, in the order of the configuration."""
        return [
            f"{'https' if sock in self.secure else 'http'}://"
            + repr_socket_addr(sock.family, sock.getsockname())
            for sock in self.all
        ]

    @property
    def are_loopback_only(self) -> bool:
        """Tell whether no other machine can reach them."""
        return all(_is_on_loopback(sock) or not isinstance(sock.getsockname(), tuple) for sock in self.all)


def _alone(sock: socket.socket) -> socket.socket:
    """Return a bound socket whose port nobody else can bind.

    Hypercorn sets SO_REUSEADDR. On Windows that does not mean a port just left, but one in use: a second
    server would start, and each connection would go to either.
    """
    if sys.platform == "win32":
        address = sock.getsockname()
        sock.close()
        sock = socket.socket(sock.family, sock.type, sock.proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        sock.bind(address)
        sock.setblocking(False)
    return sock


def _is_on_loopback(sock: socket.socket) -> bool:
    """Tell whether a socket has a loopback address.

    A Unix socket has none: it is out of a browser's reach, and its clients may name any host.
    """
    name = sock.getsockname()
    return isinstance(name, tuple) and is_loopback(name[0])


class CheckedLifespan(Lifespan):
    """Hypercorn's, which wakes who waits for the start-up also when it has failed."""

    failed = False

    async def asgi_send(self, message: ASGISendEvent) -> None:
        """Take the application's word."""
        self.failed = self.failed or message["type"] == "lifespan.startup.failed"
        await super().asgi_send(message)


class Server:
    """q9gent's own server around the application."""

    def __init__(self, app: Q9gentApp, config: Config, sockets: Sockets) -> None:
        self._app = app
        self._config = config
        self._sockets = sockets
        self._wrapped = ASGIWrapper(app)
        self._context = WorkerContext(None)
        self._connections: set[Connection] = set()
        self._places = trio.Semaphore(app.settings.max_connections)
        self._stop = trio.Event()
        self._hurry = trio.Event()

    def stop(self) -> None:
        """Stop in order; a second call cuts the runs' grace short."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until ``stop`` is called.

        Raises:
            LifespanFailureError: The application could not start.
            OSError: The certificate cannot be read.

        Cancellation: like a stop without ``shutdown_seconds``; every tree is dead when it returns.
        """
        ssl_context = self._config.create_ssl_context() if self._sockets.secure else None
        lifespan = CheckedLifespan(self._wrapped, self._config, {})
        async with trio.open_nursery() as lifespan_nursery:
            await lifespan_nursery.start(lifespan.handle_lifespan)
            await lifespan.wait_for_startup()
            if lifespan.failed:
                await trio.sleep_forever()  # its task is about to raise, and nothing may be accepted
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as accepting:
                    for sock in self._sockets.all:
                        context = ssl_context if sock in self._sockets.secure else None
                        accepting.start_soon(self._accept, sock, context, nursery)
                    task_status.started()
                    await self._stop.wait()
                    accepting.cancel_scope.cancel()
                await self._wind_down(nursery)
            await lifespan.wait_for_shutdown()
            lifespan_nursery.cancel_scope.cancel()

    async def _accept(
        self,
        sock: socket.socket,
        ssl_context: ssl.SSLContext | None,
        nursery: trio.Nursery,
    ) -> None:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        loopback = _is_on_loopback(sock)

        async def handle(stream: trio.SocketStream) -> None:
            connection = Connection(
                self._wrapped,
                self._config,
                self._context,
                stream,
                ssl_context=ssl_context,
                loopback=loopback,
                stall_seconds=self._app.settings.client_stall_seconds,
            )
            self._connections.add(connection)
            try:
                await connection.run()
            finally:
                self._connections.discard(connection)
                self._places.release()

        limited = LimitedListener(listener, self._places)
        await trio.serve_listeners(handle, [limited], handler_nursery=nursery)

    async def _wind_down(self, nursery: trio.Nursery) -> None:
        logger.info("stopping", live_runs=len(self._app.runs.live()))
        nursery.cancel_scope.deadline = trio.current_time() + self._app.settings.shutdown_seconds
        await self._context.terminated.set()
        for connection in list(self._connections):
            connection.set_stall_seconds(SHUTDOWN_STALL_SECONDS)
            await connection.stop()
        async with trio.open_nursery() as closing:
            closing.start_soon(self._cut_grace)
            await self._app.runs.close()
            closing.cancel_scope.cancel()

    async def _cut_grace(self) -> None:
        """Kill what lives when a second signal comes, or when the time for stopping is nearly over."""
        seconds = self._app.settings.shutdown_seconds
        with trio.move_on_after(max(seconds / 2, seconds - KILLING_SECONDS)):
            await self._hurry.wait()
        logger.warning("stopping: killing what has not ended yet")
        await self._app.runs.kill_now()


class LimitedListener(trio.abc.Listener[trio.SocketStream]):
    """Accepts only while there are places; the others wait in the system's backlog."""

    def __init__(self, listener: trio.SocketListener, places: trio.Semaphore) -> None:
        self._listener = listener
        self._places = places

    async def accept(self) -> trio.SocketStream:
        """See ``trio.abc.Listener``; whoever gets the stream gives the place back."""
        await self._places.acquire()
        try:
            return await self._listener.accept()
        except BaseException:
            self._places.release()
            raise

    async def aclose(self) -> None:
        """See ``trio.abc.AsyncResource``."""
        await self._listener.aclose()


async def serve_until(
    server: Server,
    wait_for_stop: Callable[[Callable[[], None]], Awaitable[None]],
    *,
    on_started: Callable[[], None],
) -> None:
    """Serve, and stop as told.

    Args:
        server: The server.
        wait_for_stop: Runs beside it and calls its argument for each signal to stop.
        on_started: Called once connections are accepted.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_stop, server.stop)
        async with trio.open_nursery() as serving:
            await serving.start(server.serve)
            on_started()
        nursery.cancel_scope.cancel()
