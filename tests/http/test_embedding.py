"""`q9gent.serve` in a program's own process: what it raises, and how it stops."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from raw_client import DEADLINE_SECONDS, request_bytes

import q9gent
from q9gent import Settings, create_app

LOCAL = {"port": 0, "simulate": True}


def run(app: object) -> None:
    """Serve until it raises, or for too long."""

    async def main() -> None:
        with trio.fail_after(DEADLINE_SECONDS):
            await q9gent.serve(app)  # type: ignore[arg-type]

    trio.run(main)


def test_a_strategy_that_does_not_work_here_is_a_start_error(tmp_path: Path) -> None:
    """With its reason; and what listened is closed."""
    settings = Settings(**LOCAL, containment="windows", session_dir=str(tmp_path))
    with pytest.raises(q9gent.StartError, match="windows"):
        run(create_app(settings))


def test_a_hook_that_fails_is_a_start_error(tmp_path: Path) -> None:
    """The application's own start-up is part of the start."""
    app = create_app(Settings(**LOCAL, session_dir=str(tmp_path)))

    @app.before_serving
    async def fail() -> None:
        raise RuntimeError("no database")

    with pytest.raises(q9gent.StartError, match="no database"):
        run(app)


def test_a_certificate_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    """As from `open`."""
    config = tmp_path / "hypercorn.toml"
    config.write_text('bind = ["127.0.0.1:0"]\ncertfile = "missing.pem"\nkeyfile = "missing.pem"\n')
    settings = Settings(**LOCAL, hypercorn_config=str(config), session_dir=str(tmp_path))
    with pytest.raises(FileNotFoundError):
        run(create_app(settings))


@pytest.mark.parametrize("how", ["triggered", "cancelled"])
def test_it_returns_when_stopped_and_has_closed_its_port(how: str, tmp_path: Path) -> None:
    """In order or at once, with the hooks of the application called."""
    app = create_app(Settings(**LOCAL, session_dir=str(tmp_path)))
    called: list[str] = []

    @app.before_serving
    async def begin() -> None:
        called.append("begin")

    @app.after_serving
    async def end() -> None:
        called.append("end")

    async def main() -> None:
        stop = trio.Event()

        async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
            await q9gent.serve(app, shutdown_trigger=stop.wait, task_status=task_status)

        with trio.fail_after(DEADLINE_SECONDS):
            async with trio.open_nursery() as nursery:
                (url,) = await nursery.start(serve)
                port = int(url.rpartition(":")[2])
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                stop.set() if how == "triggered" else nursery.cancel_scope.cancel()
            with pytest.raises(OSError, match="all attempts to connect"):
                await trio.open_tcp_stream("127.0.0.1", port)

    trio.run(main)
    assert called == (["begin", "end"] if how == "triggered" else ["begin"])


def test_an_added_route_streams_and_is_cancelled_with_its_client(tmp_path: Path) -> None:
    """Each part is sent when it is made; who goes ends what the route waits for."""
    app = create_app(Settings(**LOCAL, session_dir=str(tmp_path)))
    ended = trio.Event()

    @app.get("/ticks")
    async def ticks() -> AsyncIterator[bytes]:
        async def parts() -> AsyncIterator[bytes]:
            try:
                yield b"first"
                await trio.sleep_forever()
            finally:
                ended.set()

        return parts()

    async def main() -> None:
        stop = trio.Event()

        async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
            await q9gent.serve(app, shutdown_trigger=stop.wait, task_status=task_status)

        with trio.fail_after(DEADLINE_SECONDS):
            async with trio.open_nursery() as nursery:
                (url,) = await nursery.start(serve)
                stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
                async with stream:
                    await stream.send_all(request_bytes("GET", "/ticks"))
                    received = b""
                    while b"first" not in received:
                        received += await stream.receive_some()
                    assert not ended.is_set()
                await ended.wait()
                stop.set()

    trio.run(main)
