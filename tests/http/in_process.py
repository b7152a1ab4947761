"""Servers inside the test's process, in a thread: where one method of the server has to be replaced."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as plain_serve
from process_scan import wait_for
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
    """Run the same application under a plain hypercorn."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.graceful_timeout = 0.1
    config.loglevel = "CRITICAL"
    sockets = config.create_sockets()
    config.create_sockets = lambda: sockets  # type: ignore[method-assign]
    (sock,) = sockets.insecure_sockets
    sock.listen(config.backlog)
    app = create_app(settings)
    running = Running(app, None, sock.getsockname())
    stop = trio.Event()

    async def serve(*, task_status: trio.TaskStatus[list[str]]) -> None:
        wrapped: Any = app
        await plain_serve(wrapped, config, shutdown_trigger=stop.wait, task_status=task_status)

    with sock, _in_thread(running, serve, stop.set):
        yield running


@contextmanager
def _in_thread(
    running: Running, serve: Callable[..., Awaitable[object]], stop: Callable[[], None]
) -> Iterator[None]:
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
        if not failures:
            yield
    finally:
        if not running.ended.is_set():
            running.call(stop)
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive(), "the server does not stop"
    if failures:
        raise failures[0]


def live_runs(server: Running) -> list[Any]:
    found = server.call(lambda: server.app.runs.live())
    assert isinstance(found, list)
    return found


def wait_until_no_run(server: Running, seconds: float = DEADLINE_SECONDS) -> None:
    assert wait_for(lambda: live_runs(server), lambda found: not found, seconds) == []
