"""A pump that rides on the hub: it gets off for a disk, for a failure and for the end, and loses nothing."""

from __future__ import annotations

import errno
import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.contextvars import bound_contextvars, get_contextvars

from q9gent.output import pump as pump_module
from q9gent.output.outbox import Outbox
from q9gent.output.pump import StderrPump, StdoutPump
from q9gent.output.spool import Spool, SpoolFull
from q9gent.wire.lines import LineTooLong

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

DEADLINE_SECONDS = 60
FD = 77


class Pipe:
    """A pipe in memory, open until it is closed."""

    def __init__(self) -> None:
        self.waiting = b""
        self.closed = False
        self._news = trio.Event()

    def write(self, data: bytes) -> None:
        self.waiting += data
        self._news.set()

    def close(self) -> None:
        self.closed = True
        self._news.set()

    def fileno(self) -> int:
        return FD

    async def receive(self, max_bytes: int) -> bytes:
        while not self.waiting and not self.closed:
            self._news = trio.Event()
            await self._news.wait()
        return self.receive_nowait(max_bytes)

    def receive_nowait(self, max_bytes: int) -> bytes:
        data, self.waiting = self.waiting[:max_bytes], self.waiting[max_bytes:]
        return data


class FakeHub:
    """Reads when the test says so.

    Attributes:
        handler: Whose pipe it reads; `None` while nobody rides.
        hand_on: Called after it.
        full: Whether the system allows no more.
        rides: How often somebody got on.
    """

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self.handler: Callable[[bytes], None] | None = None
        self.full = False
        self.rides = 0

    def add(self, fd: int, handler: Callable[[bytes], None], hand_on: Callable[[], None]) -> None:
        assert fd == FD
        assert self.handler is None, "added twice"
        if self.full:
            raise OSError(errno.ENOSPC, "full")
        self.rides += 1
        self.handler = handler
        self.hand_on = hand_on

    def forget(self, fd: int) -> None:
        assert fd == FD
        self.handler = None

    def serve(self) -> None:
        """Hand over what waits, and the end."""
        while self.handler is not None and self._pipe.waiting:
            self.handler(self._pipe.receive_nowait(1 << 16))
            self.hand_on()
        if self.handler is not None and self._pipe.closed:
            handler, self.handler = self.handler, None  # forgotten before it is told, as the real one does
            handler(b"")
            self.hand_on()


class Ride:
    """A stdout pump, its hub and its pipe, driven as a run drives them.

    Attributes:
        tasks: How often the pump asked for a task.
        failures: What ended it.
    """

    def __init__(self, *, memory_bytes: int = 1 << 20, spool_bytes: int = 1 << 20, line_bytes: int = 1 << 20):
        self.stdout = self.stderr = Pipe()
        self.hub = FakeHub(self.stdout)
        self.outbox = Outbox(memory_bytes, Spool(spool_bytes, None))
        self.pump = StdoutPump(self, self.outbox, line_bytes=line_bytes, hub=self.hub)  # type: ignore[arg-type]
        self.tasks = 0
        self.failures: list[Exception] = []

    @asynccontextmanager
    async def begun(self) -> AsyncIterator[trio.Nursery]:
        """Start it; when the test fails, its task, which is shielded, is stopped."""
        async with trio.open_nursery() as self._nursery:
            self.pump.start(self._need_task)
            try:
                yield self._nursery
            except BaseException:
                self.pump.stop()
                raise

    def _need_task(self) -> None:
        self.tasks += 1
        self._nursery.start_soon(self.run)

    async def run(self) -> None:
        try:
            await self.pump.run()
        except (LineTooLong, SpoolFull) as error:
            self.failures.append(error)

    async def stop(self) -> None:
        if self.pump.stop():
            await self.run()

    async def lines(self) -> list[str]:
        """What is in the outbox."""
        self.outbox.finish(b"")
        stream = b""
        while data := await self.outbox.take():
            stream += data
        self.outbox.close()
        return [json.loads(frame.removeprefix(b"data: "))["data"] for frame in stream.split(b"\n\n") if frame]


def run(main: Callable[..., Awaitable[None]], *args: object) -> None:
    async def bounded() -> None:
        with trio.fail_after(DEADLINE_SECONDS):
            await main(*args)

    trio.run(bounded)


def test_a_client_that_keeps_up_needs_no_task() -> None:
    """From the first line to the end of file, and the last line without its end."""

    async def main() -> None:
        ride = Ride()
        async with ride.begun():
            for data in (b"one\ntw", b"o\nla", b"st"):
                ride.stdout.write(data)
                ride.hub.serve()
            ride.stdout.close()
            ride.hub.serve()
            assert ride.hub.handler is None
            assert ride.pump.stop() is False
        assert ride.tasks == 0
        assert await ride.lines() == ["one", "two", "last"]

    run(main)


def test_what_must_wait_for_the_disk_is_put_by_a_task_and_then_it_rides_again() -> None:
    """Refused by the outbox; read by its task until the client has caught up."""

    async def main() -> None:
        ride = Ride(memory_bytes=100)
        async with ride.begun() as nursery:
            ride.stdout.write(b"one " + b"x" * 120 + b"\n")
            ride.hub.serve()
            assert (ride.tasks, ride.hub.handler) == (1, None)
            while not ride.outbox.waiting_bytes:  # the disk's thread
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            ride.stdout.write(b"two\n")
            while ride.pump.lines < 2:
                await trio.lowlevel.checkpoint()
            assert ride.hub.handler is None
            taken = b""
            while ride.outbox.waiting_bytes or ride.outbox.is_spooling:
                with trio.move_on_after(0.01):
                    taken += await ride.outbox.take()
            ride.stdout.write(b"three\n")
            while ride.hub.handler is None:
                await trio.lowlevel.checkpoint()
            assert (ride.hub.rides, ride.tasks) == (2, 1)
            assert not nursery.child_tasks
            ride.stdout.write(b"four\n")
            ride.hub.serve()
            assert ride.tasks == 1
            await ride.stop()
        assert taken.count(b"data: ") == 2
        assert await ride.lines() == ["three", "four"]

    run(main)


@pytest.mark.parametrize("end", ["with the output", "after it"])
def test_the_end_of_file_may_find_the_disk_busy(end: str) -> None:
    """The refused rest is put, and nothing is waited for after it."""

    async def main() -> None:
        ride = Ride(memory_bytes=0)
        async with ride.begun():
            ride.stdout.write(b"one" if end == "with the output" else b"one\n")
            ride.hub.serve()
            ride.stdout.close()
            ride.hub.serve()
        assert ride.tasks == 1
        assert await ride.lines() == ["one"]

    run(main)


def test_a_hub_that_is_full_leaves_the_pump_to_its_task() -> None:
    """It is not asked again."""

    async def main() -> None:
        ride = Ride()
        ride.hub.full = True
        async with ride.begun():
            ride.stdout.write(b"one\n")
            while ride.pump.lines < 1:
                await trio.lowlevel.checkpoint()
            ride.hub.full = False
            ride.stdout.write(b"two\n")
            ride.stdout.close()
        assert (ride.tasks, ride.hub.rides) == (1, 0)
        assert await ride.lines() == ["one", "two"]

    run(main)


def test_stopped_while_it_rides_it_takes_what_is_in_the_pipe() -> None:
    """What the hub has not read yet is often the result; somebody else holds the pipe open."""

    async def main() -> None:
        ride = Ride()
        async with ride.begun():
            ride.stdout.write(b"one\n")
            ride.hub.serve()
            ride.stdout.write(b"two\nlast")
            await ride.stop()
            assert ride.hub.handler is None
        assert ride.tasks == 0
        assert await ride.lines() == ["one", "two", "last"]

    run(main)


def test_a_line_that_is_too_long_ends_the_run_from_a_task_of_its_own() -> None:
    """The hub's task hears nothing of it, and reads this pipe no more."""

    async def main() -> None:
        ride = Ride(line_bytes=100_000)
        async with ride.begun():
            ride.stdout.write(b"one\n" + b"x" * 200_000)
            ride.hub.serve()
            assert ride.hub.handler is None
            await trio.testing.wait_all_tasks_blocked()
            assert [type(one) for one in ride.failures] == [LineTooLong]
            await ride.stop()
        assert ride.tasks == 1

    run(main)


def test_a_full_spool_ends_the_run() -> None:
    """Found by the task that the refusal called for."""

    async def main() -> None:
        ride = Ride(memory_bytes=10, spool_bytes=10)
        async with ride.begun():
            ride.stdout.write(b"x" * 100 + b"\n")
            ride.hub.serve()
        assert [type(one) for one in ride.failures] == [SpoolFull]

    run(main)


MOMENTS = st.one_of(
    st.binary(min_size=1, max_size=12).map(lambda data: data.replace(b"a", b"\n")),
    st.sampled_from(["serve", "serve", "take", "wait"]),
)


@settings(max_examples=150)
@given(
    moments=st.lists(MOMENTS, max_size=14),
    memory_bytes=st.sampled_from([0, 40, 80, 1 << 20]),
    closes=st.booleans(),
)
def test_nothing_is_lost_whoever_reads_when_it_is_stopped(
    moments: list[bytes | str], memory_bytes: int, closes: bool
) -> None:
    """On the hub, by its task or while the disk is being written; content and order."""

    async def main() -> None:
        ride = Ride(memory_bytes=memory_bytes)
        taken = b""
        async with ride.begun() as nursery:
            for moment in moments:
                if isinstance(moment, bytes):
                    ride.stdout.write(moment)
                elif moment == "serve":
                    ride.hub.serve()
                elif moment == "take":
                    with trio.move_on_after(0):
                        taken += await ride.outbox.take()
                else:
                    await trio.lowlevel.checkpoint()
            if closes:
                ride.stdout.close()
            nursery.cancel_scope.cancel()  # as the end of a run does: the pumps are shielded
            with trio.CancelScope(shield=True):
                await ride.stop()
        assert ride.hub.handler is None
        assert not ride.failures
        ride.outbox.finish(b"")
        while data := await ride.outbox.take():
            taken += data
        ride.outbox.close()
        got = [json.loads(frame.removeprefix(b"data: "))["data"] for frame in taken.split(b"\n\n") if frame]
        *ended, last = b"".join(one for one in moments if isinstance(one, bytes)).split(b"\n")
        lines = [*(line.removesuffix(b"\r") for line in ended), last]
        assert got == [line.decode("utf-8", "replace") for line in lines if line]

    run(main)


def test_stderr_is_logged_with_its_run_though_the_hub_reads_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's task belongs to no run; also what says how much is missing has the run's id."""
    monkeypatch.setattr(pump_module, "STDERR_LOG_BYTES", 8)
    seen: list[tuple[str, Any]] = []
    monkeypatch.setattr(
        pump_module.logger,
        "warning",
        lambda event, **_: seen.append((event, get_contextvars().get("run_id"))),
        raising=False,
    )

    async def main() -> None:
        ride = Ride()
        with bound_contextvars(run_id="mine"):
            pump = StderrPump(ride, hub=ride.hub)  # type: ignore[arg-type]
        pump.start(lambda: pytest.fail("it needs no task"))
        assert get_contextvars() == {}
        ride.stdout.write(b"one\ntoo much\nlast")
        ride.hub.serve()
        ride.stdout.close()
        ride.hub.serve()
        assert pump.stop() is False
        ride.outbox.close()

    with caplog.at_level(logging.WARNING, "q9gent.run"):
        run(main)
    assert seen == [("agent stderr", "mine"), ("agent stderr", "mine"), ("more stderr, not logged", "mine")]
