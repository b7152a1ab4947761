"""The client for event loops, on trio and on asyncio, against a real server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from process_scan import descendants, still_alive, wait_for
from scripted_server import COMPLETED, OUTPUT, Scripted, Stream

from q9gent.client import (
    AsyncClient,
    Completed,
    Failed,
    Output,
    RunFailed,
    RunNotFound,
    ServerUnreachable,
    SessionCreated,
    SessionNotFound,
    StreamBroken,
    TurnFailed,
)
from q9gent.client import _async as asynchronous
from q9gent.client import _protocol as protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from process_scan import Found
    from server_process import LiveServer

    from q9gent.client import AsyncRun

STUBBORN = "!ignore-term\n!child daemon\n!wait"
SECONDS = 30.0


@pytest.fixture(params=["trio", "asyncio"])
def loop(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Run a function in each world, with a deadline."""

    def run(work: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            with anyio.fail_after(SECONDS):
                await work()

        anyio.run(bounded, backend=request.param)

    return run


@pytest.fixture(scope="module")
def shared(start_shared: Callable[..., LiveServer]) -> LiveServer:
    """A server that does not leave its runs much time."""
    return start_shared("--simulate", "--grace-seconds", "0.5")


def connect(server: LiveServer) -> AsyncClient:
    return AsyncClient(f"http://{server.host}:{server.port}")


async def wait_until_waiting(run: AsyncRun, server: LiveServer) -> list[Found]:
    """Read until the agent waits; the processes that it told of, which are there."""
    pids = []
    async for event in run:
        line = event.json() if isinstance(event, Output) else None
        if line and "pid" in line:
            pids.append(line["pid"])
        if line and line.get("subtype") == "waiting":
            break
    found = [process for process in descendants(server.process.pid) if process.pid in pids]
    assert len(found) == len(pids) >= 1
    return found


async def until_runs_are(client: AsyncClient, count: int) -> None:
    """Ask until so many runs are live; the deadline is the caller's."""
    while True:
        if len(await client.runs()) == count:
            return
        await anyio.sleep(0.02)


def test_events_come_typed_and_in_order(loop: Any, shared: LiveServer) -> None:
    """The session first, lines of the CLI, then the terminal event."""

    async def work() -> None:
        async with connect(shared) as client, client.spawn("hello", create_session=True) as run:
            events = [event async for event in run]
        assert isinstance(events[0], SessionCreated)
        assert run.session_id == events[0].session_id
        assert [type(event) for event in events[1:]] == [Output, Output, Output, Completed]
        assert run.ending is events[-1]

    loop(work)


def test_a_session_goes_on(loop: Any, shared: LiveServer) -> None:
    """The next turn knows the one before; lists are typed."""

    async def work() -> None:
        async with connect(shared) as client:
            async with client.spawn("first", create_session=True) as run:
                assert (await run.text()).endswith("first")
            assert run.session_id is not None
            async with client.message(run.session_id, "second") as run:
                assert "You asked me before: first." in (await run.result()).text
            assert run.session_id in [session.session_id for session in await client.sessions()]
            await client.delete_session(run.session_id)
            with pytest.raises(SessionNotFound):
                await client.message(run.session_id, "third").__aenter__()
            assert (await client.health()).status == "ok"
            with pytest.raises(RunNotFound):
                await client.terminate(run.run_id)

    loop(work)


def test_leaving_the_context_means_every_process_is_dead(loop: Any, shared: LiveServer) -> None:
    """At that very moment; what was undelivered does not matter."""

    async def work() -> None:
        async with connect(shared) as client:
            async with client.spawn(STUBBORN) as run:
                processes = await wait_until_waiting(run, shared)
                assert len(processes) == 2
            assert still_alive(processes) == []
            assert isinstance(run.ending, Failed) or run.ending is None
            assert await client.runs() == []

    loop(work)


def test_an_exception_ends_the_run_and_passes(loop: Any, shared: LiveServer) -> None:
    """It is the caller's own that arrives."""

    async def work() -> None:
        processes: list[Found] = []
        async with connect(shared) as client:
            with pytest.raises(ZeroDivisionError):
                async with client.spawn(STUBBORN) as run:
                    processes = await wait_until_waiting(run, shared)
                    _ = 1 / 0
            assert processes
            assert still_alive(processes) == []

    loop(work)


@pytest.mark.parametrize("reading", [True, False])
def test_cancellation_ends_the_run(loop: Any, shared: LiveServer, reading: bool) -> None:
    """Whether it hits a read or the caller's own waiting: when the block is left, every process is dead."""

    async def work() -> None:
        processes: list[Found] = []
        async with connect(shared) as client:
            with anyio.CancelScope() as scope:
                async with client.spawn(STUBBORN) as run:
                    processes = await wait_until_waiting(run, shared)
                    scope.cancel()
                    if reading:
                        await anext(run)
                    await anyio.sleep_forever()
            assert scope.cancelled_caught
            assert processes
            assert still_alive(processes) == []

    loop(work)


def test_cancelling_a_task_of_asyncio_ends_the_run(shared: LiveServer) -> None:
    """Its own cancellation, which knows no scopes."""
    processes: list[Found] = []

    async def work(client: AsyncClient, waiting: asyncio.Event) -> None:
        async with client.spawn(STUBBORN) as run:
            processes.extend(await wait_until_waiting(run, shared))
            waiting.set()
            async for _event in run:
                pass

    async def main() -> None:
        async with asyncio.timeout(SECONDS), connect(shared) as client:
            waiting = asyncio.Event()
            task = asyncio.create_task(work(client, waiting))
            await waiting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert still_alive(processes) == []

    asyncio.run(main())
    assert len(processes) == 2


def test_cancelled_while_it_waits_for_a_place_nothing_is_started(
    loop: Any, start_server: Callable[..., LiveServer]
) -> None:
    """The connection is closed, and the server forgets the request."""
    server = start_server("--simulate", "--max-runs", "1", "--queue-seconds", "600")

    async def work() -> None:
        async with connect(server) as client:
            async with client.spawn("!wait") as run:
                await wait_until_waiting(run, server)
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(client.spawn("!wait").__aenter__)
                        await until_runs_are(client, 2)
                        scope.cancel()
                await until_runs_are(client, 1)
            assert await client.runs() == []

    loop(work)


def test_many_runs_at_once_have_a_connection_each(loop: Any, shared: LiveServer) -> None:
    """More than httpx's own limit would let through; all are ended when the group is cancelled."""

    async def follow(client: AsyncClient, barrier: list[anyio.Event]) -> None:
        async with client.spawn("!wait") as run:
            await wait_until_waiting(run, shared)
            barrier.pop().set()
            await anyio.sleep_forever()

    async def work() -> None:
        events = [anyio.Event() for _ in range(12)]
        barrier = events[:]
        async with connect(shared) as client:
            async with anyio.create_task_group() as tasks:
                for _ in events:
                    tasks.start_soon(follow, client, barrier)
                for event in events:
                    await event.wait()
                assert len(await client.runs()) == 12
                tasks.cancel_scope.cancel()
            assert await client.runs() == []

    loop(work)


def test_failures_carry_the_fields(loop: Any, shared: LiveServer) -> None:
    """As for the other client."""

    async def work() -> None:
        async with connect(shared) as client:
            async with client.spawn("!exit 3") as run:
                with pytest.raises(RunFailed) as caught:
                    await run.text()
            assert (caught.value.code, caught.value.exit_code) == ("exit", 3)
            async with client.spawn("!no-result\nx") as run:
                with pytest.raises(TurnFailed):
                    await run.text()

    loop(work)


def test_another_task_may_terminate(loop: Any, shared: LiveServer) -> None:
    """Who reads sees why it ended."""

    async def work() -> None:
        async with connect(shared) as client, client.spawn(STUBBORN) as run:
            await wait_until_waiting(run, shared)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run.terminate)
                events = [event async for event in run]
        assert isinstance(events[-1], Failed)
        assert (events[-1].code, events[-1].killed) == ("terminated", 2)

    loop(work)


@pytest.mark.parametrize("error", [None, httpx.ReadError("reset")])
def test_a_stream_without_an_ending_is_broken(loop: Any, error: Exception | None) -> None:
    """What came is given, then it is told; the run is ended, should it live."""
    gone = httpx.Response(404, json={"error": "No running process for: r1"})
    stream = Stream(OUTPUT, error=error)
    transport = Scripted(stream, terminate=lambda: gone)

    async def work() -> None:
        async with AsyncClient(transport=transport) as client:
            with pytest.raises(StreamBroken):
                async with client.spawn("x") as run:
                    await run.result()

    loop(work)
    assert transport.asked == ["POST /spawn", "POST /terminate/r1"]
    assert stream.closed


def test_a_run_that_has_ended_needs_no_request(loop: Any) -> None:
    """Left at its last event."""
    transport = Scripted(Stream(OUTPUT, COMPLETED, forever=True))

    async def work() -> None:
        async with AsyncClient(transport=transport) as client, client.spawn("x") as run:
            async for event in run:
                if isinstance(event, Completed):
                    break

    loop(work)
    assert transport.asked == ["POST /spawn"]


@pytest.mark.parametrize("cancelled", [True, False])
def test_leaving_is_bounded(loop: Any, monkeypatch: pytest.MonkeyPatch, cancelled: bool) -> None:
    """A server that does not answer holds nobody up for ever, and it is not taken for success."""
    monkeypatch.setattr(protocol, "CLEANUP_SECONDS", 0.1)
    monkeypatch.setattr(asynchronous, "CLOSE_SECONDS", 0.1)
    stream = Stream(OUTPUT, forever=True)
    transport = Scripted(stream)

    async def work() -> None:
        async with AsyncClient(transport=transport) as client:
            with anyio.CancelScope() as scope:
                try:
                    async with client.spawn("x") as run:
                        await anext(run)
                        if cancelled:
                            scope.cancel()
                            await anyio.sleep_forever()
                except ServerUnreachable:
                    assert not cancelled
                    return
            assert cancelled

    loop(work)
    assert transport.asked == ["POST /spawn", "POST /terminate/r1"]
    assert stream.closed


def test_a_cancelled_loop_leaves_no_run(shared: LiveServer) -> None:
    """Not even when the whole program is cancelled from outside."""

    async def work() -> None:
        async with connect(shared) as client, client.spawn(STUBBORN) as run:
            await wait_until_waiting(run, shared)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(work())
    assert wait_for(lambda: shared.client.get("/runs").json()["runs"], lambda runs: not runs, SECONDS) == []


def test_a_client_that_is_closed_inside_a_run_hides_no_exception(loop: Any, shared: LiveServer) -> None:
    """The caller's own arrives, and without one none does: whoever closes the client has ended its runs."""

    async def work() -> None:
        with pytest.raises(ZeroDivisionError):
            async with connect(shared) as client, client.spawn("!wait") as run:
                await wait_until_waiting(run, shared)
                await client.aclose()
                _ = 1 / 0
        async with connect(shared) as client, client.spawn("!wait") as run:
            await wait_until_waiting(run, shared)
            await client.aclose()
        async with connect(shared) as client:
            await until_runs_are(client, 0)

    loop(work)
