"""Leaving a run that has ended, although nobody has read that: what may have survived it is told."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from process_scan import wait_for
from scripted_server import COMPLETED, OUTPUT, Scripted, Stream

from q9gent.client import AsyncClient, AsyncRun, Client, Run, StreamBroken, SurvivorsLeft
from q9gent.client import _base as base
from q9gent.client import _protocol as protocol
from q9gent.containment.protocol import Death, ExitStatus
from q9gent.ending import Ending
from q9gent.wire.events import Code, encode_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from server_process import LiveServer

    Leave = Callable[..., Run | AsyncRun]

SECONDS = 60.0


def ends(cause: Code | None, death: Death | None) -> bytes:
    """The terminal event of such an end, as the server writes it."""
    status = ExitStatus(code=0)
    ending = Ending(cause=cause, detail="", status=status, death=death, duration_ms=1)
    return encode_event(ending.terminal_event())


SURVIVED = ends("terminated", Death(killed=1, survivors=(7, 8)))
LOST = ends(None, None)
DEAD = ends("timeout", Death(killed=2))


def gone() -> httpx.Response:
    """What the server answers to who would terminate a run that has ended."""
    return httpx.Response(404, json={"error": "No running process for: r1"})


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy system can hold a process for longer than the rest of a stream is given."""
    monkeypatch.setattr(protocol, "REST_SECONDS", SECONDS)


@pytest.fixture(params=["sync", "trio", "asyncio"])
def leave(request: pytest.FixtureRequest) -> Leave:
    """With each client: enter a run, read so many events, do something, and leave it."""

    def leave_one(url: str = "", *, reads: int, transport: Any = None, do: Any = lambda: None) -> Run:
        with Client(url, transport=transport) as client, client.spawn("!lines 200000 100") as run:
            for _ in range(reads):
                next(run)
            do()
        return run

    async def leave_other(url: str = "", *, reads: int, transport: Any = None, do: Any = lambda: None) -> Any:
        with anyio.fail_after(SECONDS):
            async with (
                AsyncClient(url, transport=transport) as client,
                client.spawn("!lines 200000 100") as run,
            ):
                for _ in range(reads):
                    await anext(run)
                do()
        return run

    if request.param == "sync":
        return leave_one
    return lambda *of, **more: anyio.run(lambda: leave_other(*of, **more), backend=request.param)


@pytest.mark.parametrize(("event", "pids"), [(SURVIVED, (7, 8)), (LOST, None)])
def test_survivors_in_the_rest_of_a_stream_are_raised(
    leave: Leave, event: bytes, pids: tuple[int, ...] | None
) -> None:
    """The server answers that there is no such run any more: that is no word on its processes."""
    stream = Stream(OUTPUT, OUTPUT, event)
    transport = Scripted(stream, terminate=gone)
    with pytest.raises(SurvivorsLeft) as caught:
        leave(transport=transport, reads=1)
    assert caught.value.survivors == pids
    assert transport.asked == ["POST /spawn", "POST /terminate/r1"]
    assert stream.closed


@pytest.mark.parametrize(("event", "pids"), [(SURVIVED, (7, 8)), (LOST, None)])
def test_survivors_in_what_has_arrived_are_raised(
    leave: Leave, event: bytes, pids: tuple[int, ...] | None
) -> None:
    """The terminal event was there, and nobody was given it."""
    transport = Scripted(Stream(OUTPUT + event))
    with pytest.raises(SurvivorsLeft) as caught:
        leave(transport=transport, reads=1)
    assert caught.value.survivors == pids
    assert transport.asked == ["POST /spawn"]


def test_survivors_that_were_read_are_known(leave: Leave) -> None:
    """Whoever was given the event needs no exception."""
    leave(transport=Scripted(Stream(OUTPUT + SURVIVED)), reads=2)


def test_unread_survivors_are_a_note_on_another_exception(leave: Leave) -> None:
    """The caller's own exception arrives, and tells both."""
    with pytest.raises(ZeroDivisionError) as caught:
        leave(transport=Scripted(Stream(OUTPUT, SURVIVED), terminate=gone), reads=1, do=lambda: divmod(1, 0))
    (note,) = caught.value.__notes__
    assert "processes could not be killed: 7, 8" in note


@pytest.mark.parametrize("event", [COMPLETED, DEAD])
def test_a_rest_that_tells_of_no_survivors_is_left_in_silence(leave: Leave, event: bytes) -> None:
    """Every process is dead, however the run ended; what was dropped is not taken for the whole stream."""
    run = leave(transport=Scripted(Stream(OUTPUT, OUTPUT, event), terminate=gone), reads=1)
    assert run.ending is not None
    if isinstance(run, Run):
        with pytest.raises(StreamBroken, match="dropped"):
            run.result()
    else:
        with pytest.raises(StreamBroken, match="dropped"):
            anyio.run(run.result)


@pytest.mark.parametrize(
    ("rest", "error", "why"),
    [
        (b"", None, "without a terminal event"),
        (b"", httpx.ReadError("reset"), "reset"),
        (b"data: nonsense\n\n", None, "not JSON"),
        (OUTPUT * 100, None, "more than 200 bytes"),
    ],
)
def test_a_rest_that_cannot_be_read_is_no_word_on_survivors(
    leave: Leave, rest: bytes, error: Exception | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is one that does not end."""
    monkeypatch.setattr(base, "REST_BYTES", 200)
    stream = Stream(OUTPUT, rest, error=error)
    with pytest.raises(StreamBroken, match=f"is not known: .*{why}"):
        leave(transport=Scripted(stream, terminate=gone), reads=1)
    assert stream.closed


class Endless(Stream):
    """Output for as long as it is read."""

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield OUTPUT

    async def __aiter__(self) -> Any:
        while True:
            yield OUTPUT
            await anyio.lowlevel.checkpoint()


def test_reading_the_rest_takes_its_time_and_no_more(leave: Leave, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server's 404, say, while the run lives on: closing the stream ends it."""
    monkeypatch.setattr(protocol, "REST_SECONDS", 0.1)
    monkeypatch.setattr("q9gent.client._async.CLOSE_SECONDS", 0.1)
    stream = Endless()
    with pytest.raises(StreamBroken, match=r"did not tell within 0\.1 s"):
        leave(transport=Scripted(stream, terminate=gone), reads=1)
    assert stream.closed


class Held(Stream):
    """Holds its reader until it is let go, and then has ended; `event` is threading's or anyio's."""

    def __init__(self, event: Callable[[], Any]) -> None:
        super().__init__()
        self.reading, self.let_go = event(), event()

    def __iter__(self) -> Iterator[bytes]:
        self.reading.set()
        assert self.let_go.wait(SECONDS)
        yield from ()

    async def __aiter__(self) -> Any:
        self.reading.set()
        await self.let_go.wait()
        for nothing in ():
            yield nothing


def test_a_rest_that_another_thread_reads_is_no_word_on_survivors() -> None:
    """Two cannot read one stream; the other is told that it ended."""
    stream = Held(threading.Event)
    told: list[BaseException] = []

    def read(run: Run) -> None:
        try:
            next(run)
        except StreamBroken as error:
            told.append(error)

    with Client(transport=Scripted(stream, terminate=gone)) as client:
        run = client.spawn("x").__enter__()
        thread = threading.Thread(target=read, args=[run])
        thread.start()
        assert stream.reading.wait(SECONDS)
        with pytest.raises(StreamBroken, match="another thread reads"):
            run.__exit__(None, None, None)
        stream.let_go.set()
        thread.join(SECONDS)
    assert len(told) == 1


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_rest_that_another_task_reads_is_no_word_on_survivors(backend: str) -> None:
    """As with threads."""
    told: list[BaseException] = []

    async def read(run: AsyncRun) -> None:
        try:
            await anext(run)
        except StreamBroken as error:
            told.append(error)

    async def work() -> None:
        stream = Held(anyio.Event)
        with anyio.fail_after(SECONDS):
            async with (
                AsyncClient(transport=Scripted(stream, terminate=gone)) as client,
                anyio.create_task_group() as tasks,
            ):
                run = await client.spawn("x").__aenter__()
                tasks.start_soon(read, run)
                await stream.reading.wait()
                with pytest.raises(StreamBroken, match="another task reads"):
                    await run.__aexit__(None, None, None)
                stream.let_go.set()

    anyio.run(work, backend=backend)
    assert len(told) == 1


def test_a_backlog_is_read_to_its_end(leave: Leave, start_server: Callable[..., LiveServer]) -> None:
    """Much more than the system's buffers hold, of a run that a real server lists no more."""
    server = start_server("--simulate")

    def wait_until_ended() -> None:
        assert (
            wait_for(lambda: server.client.get("/runs").json()["runs"], lambda runs: not runs, SECONDS) == []
        )

    run = leave(f"http://{server.host}:{server.port}", reads=1, do=wait_until_ended)
    assert run.ending is not None
