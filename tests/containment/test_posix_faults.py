"""The POSIX strategy where its readings of the process table fail it."""

from __future__ import annotations

import operator
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import trio
from process_scan import everyone, still_alive, wait_for
from stage import Stage, on_stage

from q9gent.containment import ContainmentLost

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the POSIX strategy")

if sys.platform != "win32":
    from q9gent.containment import _posix_search, _posix_table
    from q9gent.containment._posix_table import Reading

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Read = Callable[[float], Awaitable[Reading]]

STRATEGIES = ("posix",)
FEW_SECONDS = 30.0


def read(before: Reading | None = None) -> Reading:
    """One reading of the table."""
    *pauses, reading = _posix_table._read(before or Reading({}, missed=False), ())
    assert not any(pauses)
    assert reading is not None
    return reading


def read_by(actor: Any, instead: Callable[[Read, float], Awaitable[Reading]]) -> None:
    """Have an actor's strategy read the table by another function, which is given the one that it had."""
    table = actor.tree._search._table
    actual = table.read
    table.read = lambda since: instead(actual, since)


def at_first(actor: Any, times: int, answer: Callable[[], Reading]) -> list[float]:
    """Have an actor's first readings answered otherwise; return when each was asked for, as they come."""
    asked: list[float] = []

    async def instead(read: Read, since: float) -> Reading:
        asked.append(since)
        return answer() if len(asked) <= times else await read(since)

    read_by(actor, instead)
    return asked


def out_of_descriptors() -> Reading:
    """A reading when there is no descriptor for it."""
    raise OSError(24, "Too many open files")


@pytest.mark.parametrize(("blind", "missed"), [(1, False), (2, True)])
@on_stage
async def test_a_blind_reading_proves_nothing(stage: Stage, blind: int, missed: bool) -> None:
    """Who was just being born is found by the next; who was gone before being read may have been its parent."""
    async with stage.actor("!child daemon\n!wait") as actor:
        await actor.children(1)
        asked = at_first(actor, blind, lambda: Reading({}, missed=missed))
        stage.assert_gone(actor, await actor.tree.end(0))
        assert len(asked) >= blind + 3


@on_stage
async def test_two_clean_readings_are_two(stage: Stage) -> None:
    """The same reading, kept for others, is no second one."""
    async with stage.actor("!wait") as actor:
        await actor.waiting()
        readings: list[Reading] = []

        async def note(read: Read, since: float) -> Reading:
            readings.append(await read(since))
            return readings[-1]

        read_by(actor, note)
        stage.assert_gone(actor, await actor.tree.end(0))
        assert len({id(reading) for reading in readings}) == len(readings) >= 3


@on_stage
async def test_strangers_that_come_and_go_do_not_hold_up_the_end(stage: Stage) -> None:
    """Where every reading misses somebody it is not waited for one that does not."""
    async with stage.actor("!wait") as actor:
        await actor.waiting()

        async def always_miss(read: Read, since: float) -> Reading:
            return Reading((await read(since)).rows, missed=True)

        read_by(actor, always_miss)
        with trio.fail_after(FEW_SECONDS):
            death = await actor.tree.end(0)
        stage.assert_gone(actor, death)
        assert death.killed == 1


@pytest.mark.parametrize("is_new", [True, False])
def test_who_is_gone_before_being_read_is_told_if_new(monkeypatch: pytest.MonkeyPatch, is_new: bool) -> None:
    """One who was there the time before is known already."""
    gone = psutil.Popen([sys.executable, "-I", "-S", "-c", ""])
    gone.wait(FEW_SECONDS)
    before = read()
    pids = [*before.rows, gone.pid]
    monkeypatch.setattr(psutil, "pids", lambda: pids)
    if not is_new:
        before.rows[gone.pid] = before.rows[os.getpid()]
    # Among all others of the system some may go meanwhile, but they were there before.
    assert read(before).missed is is_new


@pytest.mark.parametrize("dies", [False, True])
def test_who_shows_no_environment_may_live(monkeypatch: pytest.MonkeyPatch, dies: bool) -> None:
    """Kernel threads show none, as if they were gone; were they taken for that, no reading would prove anything."""

    def refuse(process: psutil.Process) -> None:
        raise psutil.NoSuchProcess(process.pid)

    statuses = [psutil.STATUS_RUNNING, psutil.STATUS_ZOMBIE if dies else psutil.STATUS_RUNNING]
    monkeypatch.setattr(psutil, "pids", lambda: [os.getpid()])
    monkeypatch.setattr(psutil.Process, "environ", refuse)
    monkeypatch.setattr(psutil.Process, "status", lambda _process: statuses.pop(0))
    monkeypatch.setattr(psutil.Process, "num_threads", lambda _process: 1)
    reading = read()
    assert reading.missed is dies
    assert (os.getpid() in reading.rows) is not dies


def test_a_reading_goes_on_until_nobody_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is born while others are read is read, too."""
    lists = [[1], [1, os.getpid()], [1, os.getpid()]]
    monkeypatch.setattr(psutil, "pids", lambda: lists.pop(0))
    assert os.getpid() in read().rows
    assert not lists


@on_stage
async def test_a_reading_serves_every_run(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight runs that are counted at once have the table read once."""
    readings = 0
    actual = _posix_table._read

    def counted(*arguments: Any) -> Iterator[Reading | None]:
        nonlocal readings
        readings += 1
        return actual(*arguments)

    monkeypatch.setattr(_posix_table, "_read", counted)
    # One reading can take longer than it is good for, on a busy machine.
    monkeypatch.setattr(_posix_search, "SCAN_SECONDS", FEW_SECONDS)
    async with AsyncExitStack() as stack:
        actors = [await stack.enter_async_context(stage.actor("!wait")) for _ in range(8)]
        for actor in actors:
            await actor.waiting()
        assert [actor.tree.count_processes() for actor in actors] == [1] * 8
        assert readings == 1
        monkeypatch.undo()


@on_stage
async def test_a_pid_that_has_a_new_bearer_is_no_hiding_place(stage: Stage) -> None:
    """What psutil remembers of the earlier one must not have readings pass over it."""
    async with stage.actor("!wait") as actor:
        await actor.waiting()
        earlier = psutil.Process(actor.tree.pid)
        earlier._ident = (actor.tree.pid, 1.0)  # type: ignore[attr-defined]
        earlier._create_time = 1.0  # type: ignore[attr-defined]
        psutil._pmap[actor.tree.pid] = earlier  # type: ignore[attr-defined]
        death = await actor.tree.end(0)
        stage.assert_gone(actor, death)
        assert death.killed == 1


@on_stage
async def test_a_stranger_with_the_leaders_pid_is_spared(stage: Stage) -> None:
    """The pid is free when the leader is reaped and its session and group are empty."""
    async with stage.actor("!wait") as actor:
        await actor.waiting()
        search: Any = actor.tree._search  # type: ignore[attr-defined]
        earlier = psutil.Process(actor.tree.pid)
        earlier._ident = (actor.tree.pid, 1.0)  # type: ignore[attr-defined]
        search._leader, search._mark = earlier, "another"
        assert search.count() == 0
        search._leader = psutil.Process(actor.tree.pid)
        assert search.count() == 1


@on_stage
async def test_where_no_session_is_told_the_mark_is(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenBSD answers EPERM to who asks for the session of a process in another one."""

    def refuse(_pid: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "getsid", refuse)
    async with stage.actor("!child daemon\n!child setsid\n!wait") as actor:
        await actor.children(2)
        death = await actor.tree.end(0)
        stage.assert_gone(actor, death)
        assert death.killed == 3


@on_stage
async def test_what_is_gone_with_its_group_counts_as_killed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An orphan may be reaped by init before its own pid is killed."""
    async with stage.actor("!child plain\n!wait") as actor:
        await actor.children(1)
        kill_group, members = _posix_search._kill_group, actor.note()

        def kill_group_and_see_it_reaped(group: int) -> bool:
            is_killed = kill_group(group)
            orphans = {one.pid for one in members if one.pid != actor.tree.pid}
            wait_for(lambda: orphans & {one.pid for one in everyone()}, operator.not_, 2)
            return is_killed

        monkeypatch.setattr(_posix_search, "_kill_group", kill_group_and_see_it_reaped)
        death = await actor.tree.end(0)
        stage.assert_gone(actor, death)
        assert death.killed == len(members)


RESTLESS = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    print("on", flush=True)
    while True:
        if os.fork():
            os._exit(0)
        EACH
os.wait()
time.sleep(600)
"""


@pytest.mark.parametrize("each", ["pass", "os.setpgid(0, 0)"])
@on_stage
async def test_a_lineage_that_never_rests_is_not_said_to_be_dead(stage: Stage, each: str) -> None:
    """Each process forks the next and exits, in a daemon's group or each in a group of its own.

    One lineage alone: more would leave the system without pids, for other tests, too.
    """
    async with stage.python(RESTLESS.replace("EACH", each)) as actor:
        assert await actor.raw() == b"on"
        death = await actor.tree.end(0)
        calm = wait_for(actor.living, len, 0.3)  # a successor would show itself within milliseconds
        assert bool(calm) == bool(death.survivors), (calm, death)
        assert not calm


@on_stage
async def test_out_of_descriptors_the_end_waits_for_one(stage: Stage) -> None:
    """A table that cannot be read proves nobody dead; the leader's group dies all the same."""
    async with stage.actor("!child plain\n!child daemon\n!wait") as actor:
        await actor.children(2)
        asked = at_first(actor, 3, out_of_descriptors)
        stage.assert_gone(actor, await actor.tree.end(0))
        assert len(asked) >= 6


@pytest.mark.parametrize("has_looked", [True, False])
@on_stage
async def test_out_of_descriptors_for_long_nothing_is_claimed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, has_looked: bool
) -> None:
    """Neither dead nor alive is said of whom nobody could look at."""
    monkeypatch.setattr(_posix_search, "KILL_TIMEOUT_SECONDS", 0.1)
    async with stage.actor("!wait") as actor:
        await actor.waiting()
        if has_looked:
            assert actor.tree.count_processes() == 1
        is_out = True

        async def fail(read: Read, since: float) -> Reading:
            return out_of_descriptors() if is_out else await read(since)

        read_by(actor, fail)
        if has_looked:
            death = await actor.tree.end(0)
            assert death.survivors == (actor.tree.pid,)
        else:
            with pytest.raises(ContainmentLost):
                await actor.tree.end(0)
        is_out = False


@on_stage
async def test_an_error_within_the_end_takes_the_leaders_group_along(stage: Stage) -> None:
    """Whatever else is wrong, a run does not outlive it."""
    with pytest.raises(ZeroDivisionError):
        async with stage.actor("!child plain\n!wait") as actor:
            await actor.children(1)
            members = actor.note()

            async def fail(_read: Read, _since: float) -> Reading:
                raise ZeroDivisionError

            read_by(actor, fail)
    left = wait_for(lambda: still_alive(members), operator.not_, FEW_SECONDS)
    assert not left


@pytest.mark.parametrize("group", [0, 1, -1])
def test_no_group_but_a_runs_is_killed(monkeypatch: pytest.MonkeyPatch, group: int) -> None:
    """0 would be the server's own, 1 everybody."""

    def refuse(group: int, number: int) -> None:
        pytest.fail(f"killpg({group}, {number})")

    monkeypatch.setattr(os, "killpg", refuse)
    assert not _posix_search._kill_group(group)
    assert not _posix_search._kill_group(os.getpgrp())


def test_a_groups_number_that_is_anothers_by_now_is_spared() -> None:
    """Between reading and killing the run's group may have ended."""
    sleeps = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
    stranger = psutil.Popen(sleeps, start_new_session=True)
    gone = psutil.Popen(sleeps)
    gone.kill()
    gone.wait(FEW_SECONDS)
    row = _posix_table.Row(psutil.Process(os.getpid()), 1, stranger.pid, stranger.pid, None, lives=True)
    row.process._ident = gone._ident  # type: ignore[attr-defined]
    row.process._pid = gone.pid  # type: ignore[attr-defined]
    try:
        assert _posix_search._kill([row]) == set()
        assert stranger.is_running()
    finally:
        stranger.kill()
    assert stranger.wait(FEW_SECONDS) == -9


def test_a_member_brings_its_whole_group_down() -> None:
    """Also those whom no reading has seen."""
    program = "import os, time; print(os.fork(), flush=True); time.sleep(600)"
    command = [sys.executable, "-I", "-S", "-c", program]
    with psutil.Popen(command, start_new_session=True, stdout=subprocess.PIPE) as leader:
        child = max(int(leader.stdout.readline()), int(leader.stdout.readline()))
        row = read().rows[child]
        assert _posix_search._kill([row]) == {row.process}
        assert leader.wait(FEW_SECONDS) == -9


def test_a_group_that_is_gone_is_not_killed() -> None:
    """Nobody is counted who was not there."""
    child = psutil.Popen([sys.executable, "-I", "-S", "-c", ""], start_new_session=True)
    child.wait(FEW_SECONDS)
    assert not _posix_search._kill_group(child.pid)
