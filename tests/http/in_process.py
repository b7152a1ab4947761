"""Servers inside the test's process, in a thread: where one method of the server has to be replaced."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as plain_serve
from raw_client import DEADLINE_SECONDS

from q9gent import Settings, create_app
from q9gent.http.serve import Server, Sockets, make_config

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from q9gent.http.app import Q9gentApp


class Running:
    """A server in a thread.

    Attributes:
        app: Its application.
        server: q9gent's own server, unless it is a plain hypercorn.
        address: Where it listens.
        ended: Set once its thread has ended.
    """

    def __init__(self, app: Q9gentApp, server: Server | None, address: tuple[str, int]) -> None:
        self.app = app
        self.server = server
        self.address = address
        self.ended = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None

    def call(self, function: Callable[[], object]) -> object:
        """Call something in the server's thread and return what it returns."""
        assert self._token is not None
        return trio.from_thread.run_sync(function, trio_token=self._token)


@contextmanager
def q9gent_server(settings: Settings) -> Iterator[Running]:
    """Run q9gent's own server; it must stop when told."""
    config = make_config(settings)
    sockets = Sockets(config)
    app = create_app(settings)
    server = Server(app, config, sockets)
    running = Running(app, server, sockets.all[0].getsockname())
    with _in_thread(running, server.serve, server.stop):
        yield running


@contextmanager
def plain_server(settings: Settings) -> Iterator[Running]:
    """Run the same application under a plain hypercorn, on a socket of ours so that the port is known."""
    config = make_config(settings)
    sockets = config.create_sockets()
    (sock,) = sockets.insecure_sockets
    plain = Config()
    plain.bind = [f"fd://{sock.detach()}"]
    plain.graceful_timeout = 0.1
    plain.loglevel = "CRITICAL"
    stop = trio.Event()
    app = create_app(settings)
    address = _address_of(plain.bind[0])

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        await plain_serve(
            app,  # type: ignore[arg-type]
            plain,
            shutdown_trigger=stop.wait,
            task_status=task_status,  # type: ignore[arg-type]
        )

    with _in_thread(Running(app, None, address), serve, stop.set) as running:
        yield running


def _address_of(bind: str) -> tuple[str, int]:
    import socket  # noqa: PLC0415

    probe = socket.socket(fileno=int(bind.removeprefix("fd://")))
    host, port = probe.getsockname()
    probe.detach()
    return host, port


@contextmanager
def _in_thread(
    running: Running, serve: Callable[..., Awaitable[object]], stop: Callable[[], None]
) -> Iterator[Running]:
    started = threading.Event()
    failures: list[BaseException] = []

    async def main() -> None:
        running._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            started.set()

    def work() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            failures.append(error)
        finally:
            running.ended.set()
            started.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert started.wait(DEADLINE_SECONDS)
    try:
        yield running
    finally:
        if not running.ended.is_set():
            running.call(stop)
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive(), "the server does not stop"
    if failures:
        raise failures[0]
