"""What every containment strategy must do: one behaviour a test, on each strategy of this system.

The suite knows a strategy by its protocol alone (``q9gent.containment.protocol``). Death is proven by
the system's process table, after ``end`` or the block has returned and without waiting any longer;
``stage`` proves besides, after each test, that neither a process nor a descriptor nor a helper is left. What a
strategy says that it cannot do is in ``stage.LIMITS``: the test then proves that it is so, and that it is told.
The docstrings are the rows of the table that ``--conformance-table`` writes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from process_scan import Found, still_alive, wait_for
from stage import LINE_SECONDS, Actor, Clock, Stage, everyone, on_stage, shown

from q9gent.containment import Death, ExitStatus, Launch, SpawnError

if TYPE_CHECKING:
    from collections.abc import Iterator

posix_only = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has no such signals, sessions or modes"
)

KILLED = ExitStatus(code=1) if sys.platform == "win32" else ExitStatus(signal=9)
ASKED = ExitStatus(code=143)  # what the simulated agent makes of SIGTERM
LONG_SECONDS = 60.0  # a grace that no test waits for
CROWD = 20
MOMENTS = (0.0, 0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.04, 0.08)


async def end(stage: Stage, actor: Actor, grace_seconds: float = 0, behaviour: str = "") -> Death:
    """End a tree and prove that it is gone."""
    death = await actor.tree.end(grace_seconds)
    stage.assert_gone(actor, death, behaviour)
    assert actor.tree.count_processes() == 0
    return death


def state_of(pid: int) -> str:
    """A process's state, by its letter."""
    return next((one.state for one in everyone() if one.pid == pid), "gone")


# How a run may try to stay.


@on_stage
async def test_plain_child(stage: Stage) -> None:
    """A child dies with the run."""
    async with stage.actor("!child plain\n!wait") as actor:
        await actor.children(1)
        await actor.waiting()
        death = await end(stage, actor)
        assert death.killed == 2
        assert await actor.tree.wait_exited() == KILLED


@on_stage
async def test_three_levels_deep(stage: Stage) -> None:
    """A tree three levels deep dies to its leaves."""
    async with stage.actor("!child deep 3\n!wait") as actor:
        await actor.children(3)
        await actor.waiting()
        assert (await end(stage, actor)).killed == 4


@on_stage
async def test_own_session(stage: Stage) -> None:
    """A child in a session of its own (`setsid`) dies with the run."""
    async with stage.actor("!child setsid\n!wait") as actor:
        await actor.children(1)
        await end(stage, actor)


@on_stage
async def test_daemon(stage: Stage) -> None:
    """A daemon that forked twice and lost its parents dies with the run."""
    async with stage.actor("!child daemon 3\n!wait") as actor:
        await actor.children(3)
        await end(stage, actor)


@on_stage
async def test_scrubbed_environment(stage: Stage) -> None:
    """A daemon that also scrubbed its environment (`env -i setsid -f`) dies with the run."""
    async with stage.actor("!child scrubbed\n!wait") as actor:
        await actor.children(1)
        await end(stage, actor, behaviour="scrubbed")


@on_stage
async def test_scrubbed_child(stage: Stage) -> None:
    """A child that left the session and scrubbed its environment, but has its parent, dies with the run."""
    program = (
        "import subprocess, sys\n"
        "code = 'import os, time; print(os.getpid(), flush=True); time.sleep(600)'\n"
        "child = [sys.executable, '-I', '-S', '-c', code, sys.argv[1]]\n"
        "known = {name: value for name, value in __import__('os').environ.items() if name == 'SYSTEMROOT'}\n"
        "subprocess.Popen(child, env=known, stdout=sys.stdout, start_new_session=True).wait()"
    )
    async with stage.python(program) as actor:
        assert int(await actor.raw()) in [one.pid for one in actor.note()]
        assert (await end(stage, actor)).killed == 2


@on_stage
async def test_deaf_leader(stage: Stage) -> None:
    """A leader that ignores SIGTERM is killed when its grace is over, and not before."""
    async with stage.actor("!ignore-term\n!wait") as actor:
        await actor.waiting()
        clock = Clock()
        death = await actor.tree.end(0.3)
        seconds = clock.seconds
        stage.assert_gone(actor, death)
        if sys.platform == "win32" and seconds < 0.3:
            stage.note_limit("without a console nobody can be asked, and there is no grace")
        else:
            assert 0.3 <= seconds < 30
        assert await actor.tree.wait_exited() == KILLED


@posix_only
@on_stage
async def test_deaf_child(stage: Stage) -> None:
    """A child that ignores SIGTERM is killed, though its leader heeded it."""
    async with stage.actor("!child ignore-term\n!wait") as actor:
        await actor.children(1)
        await actor.waiting()
        await end(stage, actor, LONG_SECONDS)


@posix_only
@on_stage
async def test_stopped_child(stage: Stage) -> None:
    """A child that is stopped (SIGSTOP), in a session of its own, dies with the run."""
    async with stage.actor("!child stopped\n!wait") as actor:
        await actor.children(1)
        await end(stage, actor)


@posix_only
@on_stage
async def test_stopped_leader(stage: Stage) -> None:
    """A leader that is stopped is continued when it is asked to end, and so can heed it."""
    async with stage.actor("!child plain\n!signal 19\n!wait") as actor:
        await actor.children(1)
        leader = actor.tree.pid
        stopped = wait_for(lambda: state_of(leader), lambda state: state == "T", LINE_SECONDS)
        assert stopped == "T"
        clock = Clock()
        await end(stage, actor, LONG_SECONDS)
        assert clock.seconds < 10
        assert await actor.tree.wait_exited() == ASKED


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows such a process as a zombie")
@on_stage
async def test_no_main_thread(stage: Stage) -> None:
    """A leader and a child whose main threads have ended, while other threads go on, die with the run."""
    program = (
        "import ctypes, os, threading, time\n"
        "os.fork()\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "print(os.getpid(), flush=True)\n"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    async with stage.python(program) as actor:
        pids = {int(await actor.raw()), int(await actor.raw())}

        def headless() -> list[Found]:  # with the main thread goes the command line
            return [one for one in everyone() if one.pid in pids and not one.command]

        found = wait_for(headless, lambda seen: len(seen) == 2, LINE_SECONDS)
        assert len(found) == 2
        death = await end(stage, actor)
        left = still_alive(found)
        for one in left:
            os.kill(one.pid, signal.SIGKILL)
        assert not left, shown(left)
        assert death.killed == 2
        assert await actor.tree.wait_exited() == KILLED


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork; test_windows_jobs has its storm")
@on_stage
async def test_fork_storm(stage: Stage) -> None:
    """A hundred lineages of processes, each forking the next and exiting, die with the run."""
    async with stage.actor("!child storm\n!wait") as actor:
        await actor.children(1)
        await actor.waiting()
        await end(stage, actor)
        calm = wait_for(actor.living, len, 0.3)  # a successor would show itself within 50 ms
        assert not calm, shown(calm)


@on_stage
async def test_stdout_held(stage: Stage) -> None:
    """A survivor of the leader that holds its stdout delays neither the leader's status nor the end."""
    async with stage.actor("!child hold-stdout\n!say last words") as actor:
        await actor.children(1)
        with trio.fail_after(LINE_SECONDS):
            assert await actor.tree.wait_exited() == ExitStatus(code=0)
            await end(stage, actor, LONG_SECONDS)
        assert b"last words" in actor.rest()


@on_stage
async def test_child_left_behind(stage: Stage) -> None:
    """What a leader that exits well leaves in the background is killed without grace."""
    async with stage.actor("!child setsid 2\n!child daemon") as actor:
        await actor.children(3)
        assert await actor.tree.wait_exited() == ExitStatus(code=0)
        clock = Clock()
        await end(stage, actor, LONG_SECONDS)
        assert clock.seconds < 10


@posix_only
@on_stage
async def test_crashed_leader(stage: Stage) -> None:
    """The signal that killed a leader is told, and what it left is killed."""
    async with stage.actor("!child daemon\n!signal 11") as actor:
        await actor.children(1)
        assert await actor.tree.wait_exited() == ExitStatus(signal=signal.SIGSEGV)
        await end(stage, actor)


@on_stage
async def test_everything_at_once(stage: Stage) -> None:
    """A run that tries all ways of staying at once has none left."""
    modes = ("plain", "setsid", "daemon 2", "hold-stdout", "ignore-term", "deep 3")
    prompt = "".join(f"!child {mode}\n" for mode in modes)
    async with stage.actor(f"{prompt}!ignore-term\n!wait") as actor:
        await actor.children(9)
        await actor.waiting()
        assert (await end(stage, actor)).killed == 10


# How a run may end.


@on_stage
async def test_exit_by_itself(stage: Stage) -> None:
    """A run that exits by itself has its status told and needs no killing."""
    async with stage.actor("!exit 7") as actor:
        assert await actor.tree.wait_exited() == ExitStatus(code=7)
        assert (await end(stage, actor)).killed == 0


@posix_only
@on_stage
async def test_polite_end(stage: Stage) -> None:
    """A run that heeds SIGTERM ends at once, is not killed, and has its own status told."""
    async with stage.actor("!wait") as actor:
        await actor.waiting()
        clock = Clock()
        assert (await end(stage, actor, LONG_SECONDS)).killed == 0
        assert clock.seconds < 10
        assert await actor.tree.wait_exited() == ASKED


@on_stage
async def test_block_left(stage: Stage) -> None:
    """Leaving the block ends the tree."""
    async with stage.actor("!child daemon\n!wait") as actor:
        await actor.children(1)
    stage.assert_gone(actor, None)


@on_stage
async def test_block_cancelled(stage: Stage) -> None:
    """Cancelling the block ends the tree before the cancellation goes on."""
    with trio.CancelScope() as scope:
        async with stage.actor("!child daemon\n!wait") as actor:
            await actor.children(1)
            scope.cancel()
            await trio.sleep_forever()
    stage.assert_gone(actor, None)


@on_stage
async def test_block_failed(stage: Stage) -> None:
    """An exception in the block ends the tree and comes out as it was."""
    with pytest.raises(ZeroDivisionError):
        async with stage.actor("!child daemon\n!wait") as actor:
            await actor.children(1)
            raise ZeroDivisionError
    stage.assert_gone(actor, None)


@on_stage
async def test_cancelled_while_starting(stage: Stage) -> None:
    """A start that is cancelled, at whatever moment, leaves nothing."""
    for seconds in MOMENTS:
        launch, session = stage.launch("!child daemon\n!wait")
        with trio.move_on_after(seconds):
            async with stage.play(launch, session):
                await trio.sleep_forever()
        left = [one for one in everyone() if session in one.command]
        assert not left, f"after {seconds} s: {shown(left)}"


@on_stage
async def test_end_twice_at_once(stage: Stage) -> None:
    """Two ends at once both return when all is dead, and say the same."""
    deaths: list[Death] = []

    async def one_of_two(actor: Actor) -> None:
        deaths.append(await end(stage, actor, 0.1))

    async with stage.actor("!child daemon\n!ignore-term\n!wait") as actor:
        await actor.waiting()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one_of_two, actor)
            nursery.start_soon(one_of_two, actor)
        assert deaths[0] == deaths[1] == await end(stage, actor)


@on_stage
async def test_end_races_exit(stage: Stage) -> None:
    """An end at the moment of the exit, or shortly before or after it, has one truthful outcome."""
    for moment in MOMENTS:
        async with stage.actor("!child setsid\n!sleep 0.01\n!exit 0") as actor:
            await actor.children(1)
            await trio.sleep(moment)
            await end(stage, actor)
            assert await actor.tree.wait_exited() in (ExitStatus(code=0), KILLED)


@posix_only
@on_stage
async def test_shorter_grace(stage: Stage) -> None:
    """A later end with a shorter grace shortens the earlier one's."""
    async with stage.actor("!ignore-term\n!wait") as actor:
        await actor.waiting()
        clock = Clock()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(actor.tree.end, LONG_SECONDS)
            await trio.testing.wait_all_tasks_blocked()
            await end(stage, actor, 0)
        assert clock.seconds < 10


@on_stage
async def test_cancelled_end(stage: Stage) -> None:
    """An end whose wait is cancelled is finished by the next."""
    async with stage.actor("!child daemon\n!ignore-term\n!wait") as actor:
        await actor.waiting()
        with trio.move_on_after(0.05) as scope:
            await actor.tree.end(LONG_SECONDS)
        assert scope.cancelled_caught or sys.platform == "win32"
        await end(stage, actor)


@on_stage
async def test_crowd(stage: Stage) -> None:
    """Twenty trees ended at once are gone, each of them."""

    async def one(ready: trio.Event, go: trio.Event) -> None:
        async with stage.actor("!child daemon\n!wait") as actor:
            await actor.waiting()
            ready.set()
            await go.wait()
            await end(stage, actor)

    go = trio.Event()
    async with trio.open_nursery() as nursery:
        readies = [trio.Event() for _ in range(CROWD)]
        for ready in readies:
            nursery.start_soon(one, ready, go)
        for ready in readies:
            await ready.wait()
        go.set()


@on_stage
async def test_neighbour(stage: Stage) -> None:
    """Ending one tree does not touch another."""
    async with stage.actor("!child setsid\n!wait") as neighbour:
        await neighbour.waiting()
        async with stage.actor("!child setsid\n!wait") as actor:
            await actor.waiting()
            await end(stage, actor)
        assert len(neighbour.living()) == 2
        await end(stage, neighbour)


@on_stage
async def test_one_after_another(stage: Stage) -> None:
    """What held a tree holds the next just as well."""
    for _ in range(5):
        async with stage.actor("!child daemon\n!child setsid") as actor:
            assert await actor.tree.wait_exited() == ExitStatus(code=0)
            assert (await end(stage, actor)).killed == 2


# How a run starts, and what it is given.


@on_stage
async def test_missing_program(stage: Stage) -> None:
    """A program that does not exist is an error that says so, and leaves nothing."""
    missing = os.path.join(os.path.dirname(sys.executable), "no-such-program")
    with pytest.raises(SpawnError) as caught:
        async with stage.play(Launch(argv=(missing,)), missing):
            pass
    assert caught.value.errno == 2
    assert missing not in caught.value.reason


@posix_only
@on_stage
async def test_program_that_is_none(stage: Stage) -> None:
    """A program that may not be executed is an error that says so."""
    with pytest.raises(SpawnError) as caught:
        async with stage.play(Launch(argv=(__file__,)), __file__):
            pass
    assert caught.value.errno == 13


@on_stage
async def test_start_after_failure(stage: Stage) -> None:
    """A start that failed does not spoil the next one."""
    for _ in range(3):
        with pytest.raises(SpawnError):
            async with stage.play(Launch(argv=(os.path.join(os.path.dirname(__file__), "none"),)), "none"):
                pass
        async with stage.actor("!exit 3") as actor:
            assert await actor.tree.wait_exited() == ExitStatus(code=3)


@on_stage
async def test_arguments(stage: Stage) -> None:
    """Arguments arrive as they are: quotes, blanks, line ends, an empty one, any script, a long one."""
    given = ['"', "a b", "$HOME `id` %PATH% ^&|<>", "\\", 'c:\\"x\\\\" y\\', "", "ü€😀", "x" * 20_000]
    if sys.platform != "win32":
        given += ["two\nlines", "y" * 100_000]
    async with stage.actor("!report", *given) as actor:
        told = await actor.line("report")
        assert told["argv"][-len(given) :] == given
        await end(stage, actor)


@on_stage
async def test_standard_input(stage: Stage) -> None:
    """What is given as standard input is read to its end, however large."""
    size = 1_000_000
    launch, session = stage.launch("", stdin=b"!report\n" + b"z" * size)
    argv = tuple(word for word in launch.argv if word)
    async with stage.play(Launch(argv=argv, stdin=launch.stdin), session) as actor:
        assert (await actor.line("report"))["stdin_null"] is False
        said = json.loads(await actor.raw())
        assert said["message"]["content"][0]["text"].endswith("z" * size)
        while await actor.raw():  # the result line is as long
            pass
        assert await actor.tree.wait_exited() == ExitStatus(code=0)


@on_stage
async def test_no_standard_input(stage: Stage) -> None:
    """Without any, standard input is the null device, not the server's."""
    async with stage.actor("!report") as actor:
        assert (await actor.line("report"))["stdin_null"] is True


@on_stage
async def test_working_directory(stage: Stage) -> None:
    """A run has the server's working directory."""
    async with stage.actor("!report") as actor:
        assert os.path.samefile((await actor.line("report"))["cwd"], os.getcwd())


def test_environment(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run has the server's environment, less what is the server's own."""
    monkeypatch.setenv("Q9GENT_PORT", "1")
    monkeypatch.setenv("KEPT_FOR_THE_RUN", "two words")

    async def scenario() -> None:
        async with stage.actor("!report") as actor:
            given = (await actor.line("report"))["env"]
            assert given["KEPT_FOR_THE_RUN"] == "two words"
            assert not [name for name in given if name.startswith("Q9GENT_")]

    stage.perform(scenario)


@posix_only
@on_stage
async def test_session_leader(stage: Stage) -> None:
    """A run leads a session and a process group of its own: no terminal's signal reaches it."""
    async with stage.actor("!report") as actor:
        told = await actor.line("report")
        assert told["pid"] == told["sid"] == told["pgid"] == actor.tree.pid


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@on_stage
async def test_descriptors(stage: Stage) -> None:
    """A run inherits its three standard descriptors, and no other."""
    async with stage.actor("!wait") as neighbour, stage.actor("!report") as actor:
        await neighbour.waiting()
        told = (await actor.line("report"))["fds"]
        assert [number for number, _ in told] == [0, 1, 2]
        assert [kind.partition(":")[0] for _, kind in told] == ["/dev/null", "pipe", "pipe"]


@pytest.fixture
def started_with_nohup() -> Iterator[None]:
    """What `nohup` and a shell's `&` have this process ignore."""
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.usefixtures("started_with_nohup")
@on_stage
async def test_signals(stage: Stage) -> None:
    """A run starts with no signal blocked and none ignored, whatever the server ignores."""
    async with stage.actor("!report") as actor:
        told = await actor.line("report")
        assert told["blocked_signals"] == []
        ignored = {
            number for number in told["ignored_signals"] if number < 32
        }  # the C library has those above
        assert ignored <= {signal.SIGPIPE, signal.SIGXFSZ}, "Python's own"


# What is seen of it.


@on_stage
async def test_count(stage: Stage) -> None:
    """Living processes are counted, and none is counted afterwards."""
    async with stage.actor("!child plain 2\n!child setsid\n!wait") as actor:
        await actor.waiting()
        assert actor.tree.count_processes() == 4
        await end(stage, actor)


@on_stage
async def test_output(stage: Stage) -> None:
    """Everything that a run prints is there, to the last byte, however fast it exits."""
    async with stage.actor("!lines 20000 100\n!no-result") as actor:
        read = 0
        while line := await actor.raw():
            read += b'"type":"line"' in line
        assert read == 20_000
        assert await actor.tree.wait_exited() == ExitStatus(code=0)


@on_stage
async def test_output_after_death(stage: Stage) -> None:
    """What a killed run had printed can still be read, without waiting."""
    async with stage.actor("!say one last thing\n!stderr printed\n!wait") as actor:
        with trio.fail_after(LINE_SECONDS):
            assert (await actor.tree.stderr.receive(100)).strip() == b"printed"
        await end(stage, actor)
        assert b"one last thing" in actor.rest()


@on_stage
async def test_complaints(stage: Stage) -> None:
    """Standard error is apart from standard output."""
    async with stage.actor("!stderr oh no") as actor:
        with trio.fail_after(LINE_SECONDS):
            assert (await actor.tree.stderr.receive(100)).strip() == b"oh no"
        assert await actor.tree.wait_exited() == ExitStatus(code=0)
        assert b"oh no" not in await actor.raw()
