"""The Linux strategy when its own helpers are killed, stopped, flooded or starved.

Directly on the containment, with real processes: a run can reach its supervisor and the fork server, as
they are the same user's. What becomes of it over HTTP is in ``test_server_faults``.
"""

from __future__ import annotations

import errno
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.testing
from process_scan import stop, wait_for
from stage import Actor, Clock, Stage, everyone, on_stage, shown

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the Linux strategy")

if sys.platform == "linux":
    import resource

    import helpers_of

    from q9gent.containment import (
        ContainmentLost,
        ContainmentUnavailable,
        Death,
        ExitStatus,
        Launch,
        SpawnError,
        _linux_fork_server,
        _linux_tree,
        linux,
        open_containment,
    )
    from q9gent.containment._linux_supervisor import Supervisor
    from q9gent.containment.helper import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STRATEGIES = ("linux",)
PROMPT_SECONDS = 30.0  # what needs no time-out takes milliseconds; the shortest time-out is 60 s
TREE = "!child daemon\n!child setsid\n!child scrubbed\n"
STORM = 1000
QUIET_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD)


@pytest.fixture(autouse=True)
def far_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may need a time-out, but for what a test says does; so they are far away."""
    for module in (_linux_tree, _linux_fork_server):
        monkeypatch.setattr(module, "KILL_TIMEOUT_SECONDS", 60.0)
    monkeypatch.setattr(_linux_fork_server, "START_TIMEOUT_SECONDS", 60.0)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """As many descriptors as the system allows, as the server takes too."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def crowd(stage: Stage, count: int, scenario: Callable[[list[Actor]], object]) -> None:
    """Have ``count`` runs waiting, and do something to all of them."""

    async def one(nursery_done: trio.Event, *, task_status: trio.TaskStatus[Actor]) -> None:
        async with stage.actor("!child daemon\n!wait") as actor:
            await actor.waiting()
            task_status.started(actor)
            await nursery_done.wait()

    done = trio.Event()
    async with trio.open_nursery() as nursery:
        actors: list[Actor] = [await nursery.start(one, done) for _ in range(count)]
        await scenario(actors)  # type: ignore[misc]
        done.set()


async def nothing(actors: list[Actor]) -> None:
    """Do nothing to them."""
    assert all(actor.living() for actor in actors)


async def assert_runs(stage: Stage) -> None:
    """Prove that a run can be had."""
    with trio.fail_after(PROMPT_SECONDS):
        async with stage.actor("!exit 4") as actor:
            assert await actor.tree.wait_exited() == ExitStatus(code=4)


# A supervisor.


@on_stage
async def test_supervisor_killed_by_its_run(stage: Stage) -> None:
    """A run that kills its supervisor loses its status; the tree dies with it, provably."""
    async with stage.actor(f"{TREE}!kill-parent\n!wait") as actor:
        await actor.children(3)
        with trio.fail_after(PROMPT_SECONDS):
            with pytest.raises(ContainmentLost):
                await actor.tree.wait_exited()
            stage.assert_gone(actor, await actor.tree.end(0))
    await assert_runs(stage)


@on_stage
async def test_supervisor_killed_then_ended_twice_at_once(stage: Stage) -> None:
    """Without its supervisor a tree is dead for everyone who asks, at the same time or again."""
    deaths: list[Death] = []

    async def end(actor: Actor) -> None:
        deaths.append(await actor.tree.end(0))

    async with stage.actor(f"{TREE}!wait") as actor:
        await actor.children(3)
        stop(helpers_of.fork_server())  # it tells only when both are waiting for it
        os.kill(helpers_of.supervisor_of(actor.tree.pid), signal.SIGKILL)
        with trio.fail_after(PROMPT_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(end, actor)
                nursery.start_soon(end, actor)
            await end(actor)
    assert [death.survivors for death in deaths] == [(), (), ()]
    assert len(set(deaths)) == 1


@on_stage
async def test_supervisor_stopped_by_its_run(stage: Stage) -> None:
    """A run that stops its supervisor and exits is told of at once: the fork server continues it."""
    async with stage.actor(f"{TREE}!stop-parent\n!exit 9") as actor:
        await actor.children(3)
        with trio.fail_after(PROMPT_SECONDS):
            assert await actor.tree.wait_exited() == ExitStatus(code=9)
            stage.assert_gone(actor, await actor.tree.end(0))


@on_stage
async def test_both_stopped(stage: Stage) -> None:
    """A run whose supervisor and fork server are stopped can be ended all the same."""
    stop(helpers_of.fork_server())
    async with stage.actor(f"{TREE}!stop-parent\n!wait") as actor:
        await actor.waiting()
        helpers_of.wait_state(helpers_of.supervisor_of(actor.tree.pid), "T")
        with trio.fail_after(PROMPT_SECONDS):
            stage.assert_gone(actor, await actor.tree.end(0))


def test_both_stopped_then_exit(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """If such a run exits by itself, that is seen when the fork server is next looked after."""
    monkeypatch.setattr(linux, "IDLE_SECONDS", 0.2)

    async def scenario() -> None:
        stop(helpers_of.fork_server())
        async with stage.actor("!stop-parent\n!exit 9") as actor:
            with trio.fail_after(PROMPT_SECONDS):
                assert await actor.tree.wait_exited() == ExitStatus(code=9)

    stage.perform(scenario)


def give_up_soon(patch: pytest.MonkeyPatch) -> None:
    """Have supervisors taken for stuck after 0.7 s, and what follows take as long as it may."""
    patch.setattr(_linux_tree, "ANSWER_TIMEOUT_SECONDS", 0.7 - _linux_tree.KILL_TIMEOUT_SECONDS)


def test_supervisor_stopped_again_and_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that its run does not let work is killed, and the tree with it."""
    give_up_soon(monkeypatch)
    program = "import os, signal\nprint(1, flush=True)\nwhile 1: os.kill(os.getppid(), signal.SIGSTOP)"

    async def scenario() -> None:
        async with stage.python(program) as actor:
            assert await actor.raw() == b"1"
            actor.note()
            with trio.fail_after(PROMPT_SECONDS):
                stage.assert_gone(actor, await actor.tree.end(0))
        await assert_runs(stage)

    stage.perform(scenario)


NEVER_REST = """
import os, signal, time
end = time.monotonic() + 20  # whatever becomes of the test
for _ in range(16):
    if os.fork() == 0:
        os.setsid()
        os.write(1, b"1\\n")
        while time.monotonic() < end:
            if os.fork():
                os._exit(0)
        os._exit(0)
signal.pause()
"""


@on_stage
async def test_lineages_that_never_rest(stage: Stage) -> None:
    """Processes that fork and exit without a pause are chased until none is left: one round is not enough."""
    async with stage.python(NEVER_REST) as actor:
        for _ in range(16):
            assert await actor.raw() == b"1"
        with trio.fail_after(PROMPT_SECONDS):
            stage.assert_gone(actor, await actor.tree.end(0))


def test_pid_with_another_bearer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever bears a pid that a process of the run had is not killed, with and without pidfd_open(2)."""
    stranger = subprocess.Popen(("sleep", "600"))
    try:
        identity = processes.identity_of(stranger.pid)
        assert identity is not None
        parent, started = identity
        assert parent == os.getpid()
        killed: set[int] = set()
        for forget in (lambda: None, lambda: monkeypatch.delattr(os, "pidfd_open")):
            forget()
            processes.kill_all({stranger.pid: started + b"0"}, killed)
            with pytest.raises(subprocess.TimeoutExpired):
                stranger.wait(0.2)
            assert not killed
        processes.kill_all({stranger.pid: started}, killed)
        assert stranger.wait(PROMPT_SECONDS) == -signal.SIGKILL
        assert killed == {stranger.pid}
    finally:
        stranger.kill()
        stranger.wait()


def test_supervisor_that_does_not_answer(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A supervisor that hangs is killed by the fork server, which then ends the tree."""
    deaf = _patched_helper(
        str(tmp_path_factory.mktemp("helper")), {"supervisor.py": ('elif data[:1] == b"E":', "elif False:")}
    )
    monkeypatch.setattr(_linux_fork_server, "HELPER_FOLDER", deaf)
    give_up_soon(monkeypatch)

    async def scenario() -> None:
        async with stage.actor(f"{TREE}!wait") as actor:
            await actor.waiting()
            supervisor = helpers_of.supervisor_of(actor.tree.pid)
            with trio.fail_after(PROMPT_SECONDS):
                stage.assert_gone(actor, await actor.tree.end(0))
            assert supervisor not in [one.pid for one in everyone()]

    stage.perform(scenario)


def test_answer_in_the_moment_of_giving_up(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that says that all are dead just as it is taken for stuck is believed: none survives."""
    monkeypatch.setattr(_linux_tree, "KILL_TIMEOUT_SECONDS", 5.0)
    monkeypatch.setattr(_linux_tree, "ANSWER_TIMEOUT_SECONDS", -5.0)

    async def scenario() -> None:
        async with stage.actor(f"{TREE}!wait") as actor:
            await actor.waiting()
            monkeypatch.setattr(_linux_fork_server.ForkServer, "kill", lambda *_: None)
            death = await actor.tree.end(0)
            stage.assert_gone(actor, death)
            assert death.killed == 4

    stage.perform(scenario)


def test_supervisor_belongs_to_whom_it_was_asked_of(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork server that starts before the last one's supervisor introduces itself does not hold that one."""
    introduction = Supervisor.introduction

    async def scenario() -> None:
        containment = cast("linux.LinuxContainment", stage.containment)
        server = containment._fork_server

        async def late(supervisor: Supervisor) -> bytes:
            told = await introduction(supervisor)
            server.generation += 1
            return told

        monkeypatch.setattr(Supervisor, "introduction", late)
        supervisor = await server.fork()
        assert not containment._is_held(supervisor)
        server.generation -= 1
        supervisor.close()

    stage.perform(scenario)


@on_stage
async def test_idle_supervisor_killed(stage: Stage) -> None:
    """A supervisor that dies between two runs is replaced without the next run's noticing."""
    await assert_runs(stage)
    before = helpers_of.supervisors(helpers_of.fork_server())
    assert before
    helpers_of.kill_those(before)
    await assert_runs(stage)


@on_stage
async def test_supervisor_reused(stage: Stage) -> None:
    """A supervisor that has proven its tree dead holds the next one, with nothing of the last."""
    used, counts = set[int](), set[tuple[str, ...]]()
    for _ in range(10):
        async with stage.actor("!child daemon\n!wait") as actor:
            await actor.waiting()
            supervisor = helpers_of.supervisor_of(actor.tree.pid)
            used.add(supervisor)
            counts.add(tuple(helpers_of.descriptors(supervisor)))
            stage.assert_gone(actor, await actor.tree.end(0))
    assert len(used) == 1
    assert len(counts) == 1


@on_stage
async def test_killed_supervisor_not_reused(stage: Stage) -> None:
    """After a run has killed its supervisor, another one holds the next."""
    async with stage.actor("!child daemon\n!wait") as actor:
        await actor.waiting()
        first = helpers_of.supervisor_of(actor.tree.pid)
        os.kill(first, signal.SIGKILL)
        stage.assert_gone(actor, await actor.tree.end(0))
    async with stage.actor("!wait") as actor:
        await actor.waiting()
        assert helpers_of.supervisor_of(actor.tree.pid) != first


# The fork server.


@on_stage
async def test_fork_server_killed(stage: Stage) -> None:
    """Twenty runs live on when the fork server dies, end as they should, and more can start."""
    first = helpers_of.fork_server()

    async def scenario(actors: list[Actor]) -> None:
        os.kill(first, signal.SIGKILL)
        await trio.to_thread.run_sync(lambda: helpers_of.fork_server(other_than=first))
        assert [len(actor.living()) for actor in actors] == [2] * len(actors)
        await assert_runs(stage)
        with trio.fail_after(PROMPT_SECONDS):
            for actor in actors[::2]:
                os.kill(actor.tree.pid, signal.SIGINT)  # the simulated agent's way to exit with 0
                assert await actor.tree.wait_exited() == ExitStatus(code=0)
            for actor in actors:
                stage.assert_gone(actor, await actor.tree.end(0))

    await crowd(stage, 20, scenario)


@on_stage
async def test_fork_server_killed_while_starting(stage: Stage) -> None:
    """Starts go on while the fork server is killed over and over."""
    outcomes: list[str] = []

    async def one() -> None:
        try:
            async with stage.actor("!exit 0") as actor:
                outcomes.append(str(await actor.tree.wait_exited()))
        except SpawnError as error:
            outcomes.append(error.reason)

    before = 0
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            find = functools.partial(helpers_of.fork_server, other_than=before)
            before = await trio.to_thread.run_sync(find)
            for _ in range(20):
                nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
            os.kill(before, signal.SIGKILL)
    assert outcomes == [str(ExitStatus(code=0))] * 60


@on_stage
async def test_fork_server_stopped(stage: Stage) -> None:
    """A fork server that a run has stopped is continued when it is needed."""
    async with stage.actor("!wait") as actor:
        await actor.waiting()
        stop(helpers_of.fork_server())
        with trio.fail_after(PROMPT_SECONDS):
            async with stage.actor("!wait") as second, stage.actor("!wait") as third:
                await second.waiting()
                await third.waiting()


@on_stage
async def test_supervisor_killed_fork_server_stopped(stage: Stage) -> None:
    """A run that stops the fork server and kills its supervisor dies all the same, provably."""
    async with stage.actor(f"{TREE}!wait") as actor:
        await actor.waiting()
        stop(helpers_of.fork_server())
        os.kill(helpers_of.supervisor_of(actor.tree.pid), signal.SIGKILL)
        with trio.fail_after(PROMPT_SECONDS):
            stage.assert_gone(actor, await actor.tree.end(0))


def test_fork_server_stopped_at_the_end(stage: Stage) -> None:
    """A strategy whose fork server is stopped still closes at once, and leaves no helper."""
    clock = Clock()

    async def scenario() -> None:
        await assert_runs(stage)
        stop(helpers_of.fork_server())

    stage.perform(scenario)
    assert clock.seconds < PROMPT_SECONDS


def test_idle_supervisor_stopped_at_the_end(stage: Stage) -> None:
    """Nor does an idle supervisor that is stopped hold the end up."""
    clock = Clock()

    async def scenario() -> None:
        await assert_runs(stage)
        helper = helpers_of.fork_server()
        stop(helper)  # it would continue them
        for one in helpers_of.supervisors(helper):
            stop(one.pid)

    stage.perform(scenario)
    assert clock.seconds < PROMPT_SECONDS


def test_cancelled_from_outside(stage: Stage) -> None:
    """A strategy that is cancelled together with its trees is closed at once."""
    clock = Clock()

    async def scenario() -> None:
        async with stage.actor(f"{TREE}!wait") as actor:
            await actor.waiting()
            stage.scope.cancel()
            await trio.sleep_forever()

    stage.perform(scenario)
    assert clock.seconds < PROMPT_SECONDS


# Both.


@on_stage
async def test_both_killed(stage: Stage) -> None:
    """With supervisor and fork server killed, neither dead nor alive is said: the end is an error."""
    async with stage.actor(f"{TREE}!wait", grace_seconds=0) as actor:
        await actor.waiting()
        supervisor = helpers_of.supervisor_of(actor.tree.pid)
        first = helpers_of.fork_server()
        os.kill(first, signal.SIGKILL)
        await trio.to_thread.run_sync(lambda: helpers_of.fork_server(other_than=first))
        os.kill(supervisor, signal.SIGKILL)
        try:
            with trio.fail_after(PROMPT_SECONDS):
                for _ in range(2):
                    with pytest.raises(ContainmentLost):
                        await actor.tree.end(0)
        finally:
            helpers_of.kill_those(actor.living())


@on_stage
async def test_both_killed_leaving_the_block(stage: Stage) -> None:
    """What ``end`` has told already is not told again by leaving the block."""
    with trio.fail_after(PROMPT_SECONDS):
        async with stage.actor("!wait") as actor:
            await actor.waiting()
            supervisor, first = helpers_of.supervisor_of(actor.tree.pid), helpers_of.fork_server()
            os.kill(first, signal.SIGKILL)
            await trio.to_thread.run_sync(lambda: helpers_of.fork_server(other_than=first))
            os.kill(supervisor, signal.SIGKILL)
            with pytest.raises(ContainmentLost):
                await actor.tree.end(0)
            helpers_of.kill_those(actor.living())


@on_stage
async def test_orphaned_supervisor_lent_again(stage: Stage) -> None:
    """A supervisor that outlived its fork server has nobody behind it: killed, its tree is lost."""
    async with stage.actor("!wait") as actor:
        await actor.waiting()
        first, supervisor = helpers_of.fork_server(), helpers_of.supervisor_of(actor.tree.pid)
        os.kill(first, signal.SIGKILL)
        await trio.to_thread.run_sync(lambda: helpers_of.fork_server(other_than=first))
        await crowd(stage, 3, nothing)  # more than were idle: the new fork server serves
    async with stage.actor("!child setsid\n!wait") as actor:
        await actor.waiting()
        holder = helpers_of.supervisor_of(actor.tree.pid)
        os.kill(holder, signal.SIGKILL)
        try:
            with trio.fail_after(PROMPT_SECONDS):
                if holder == supervisor:
                    with pytest.raises(ContainmentLost):
                        await actor.tree.end(0)
                else:
                    stage.assert_gone(actor, await actor.tree.end(0))
        finally:
            helpers_of.kill_those(actor.living())


# Floods and shortages.


@on_stage
async def test_signal_storm(stage: Stage) -> None:
    """A thousand of each signal by which things are ended or told change nothing."""
    async with stage.actor(f"{TREE}!wait") as actor:
        await actor.waiting()
        helper = helpers_of.fork_server()
        supervisor = helpers_of.supervisor_of(actor.tree.pid)
        count = len(actor.living())
        for number in QUIET_SIGNALS:
            for _ in range(STORM):
                os.kill(helper, number)
                os.kill(supervisor, number)
        assert len(actor.living()) == count
        stage.assert_gone(actor, await actor.tree.end(0))
        await assert_runs(stage)
        assert helpers_of.fork_server() == helper


@pytest.mark.usefixtures("many_descriptors")
@on_stage
async def test_burst_of_starts(stage: Stage) -> None:
    """Four hundred starts in one instant, more than a socket's buffer holds, all succeed."""
    statuses: list[ExitStatus] = []

    async def one() -> None:
        launch = Launch(argv=(shutil.which("true") or "/bin/true",))
        async with stage.containment.open_tree(launch, grace_seconds=0) as tree:
            statuses.append(await tree.wait_exited())

    async with trio.open_nursery() as nursery:
        for _ in range(400):
            nursery.start_soon(one)
    assert statuses == [ExitStatus(code=0)] * 400


@on_stage
async def test_fork_server_without_descriptors(stage: Stage) -> None:
    """A fork server that can take no descriptor delays a start, or refuses it; then all is well."""
    await assert_runs(stage)
    helper = helpers_of.fork_server()
    held = len(helpers_of.descriptors(helper))
    resource.prlimit(helper, resource.RLIMIT_NOFILE, (held, held))
    async with stage.actor("!wait") as first:
        await first.waiting()
        try:
            async with stage.actor("!exit 0") as actor:
                assert await actor.tree.wait_exited() == ExitStatus(code=0)
        except SpawnError as error:
            assert error.errno  # noqa: PT017 (either is fine, an unexplained one is not)
    await assert_runs(stage)


@on_stage
async def test_supervisor_without_descriptors(stage: Stage) -> None:
    """A supervisor that cannot take a run's descriptors refuses the run: it never runs without them."""
    await assert_runs(stage)
    for one in helpers_of.supervisors(helpers_of.fork_server()):
        held = len(helpers_of.descriptors(one.pid))
        limit = held + 1
        resource.prlimit(one.pid, resource.RLIMIT_NOFILE, (limit, limit))
    with pytest.raises(SpawnError) as caught:
        async with stage.actor("!say hello") as actor:
            said = b""
            while line := await actor.raw():
                said += line
            assert b"hello" in said, "it ran, and what it said was lost"
    assert caught.value.errno == 24


@on_stage
async def test_helpers_keep_nothing(stage: Stage) -> None:
    """After forty runs, some of them hostile, the helpers hold what they held, and no zombie."""
    await assert_runs(stage)
    helper = helpers_of.fork_server()

    def settled() -> list[str]:  # a lifeline that it has passed on may be open for a moment
        return wait_for(
            lambda: helpers_of.descriptors(helper), lambda found: found.count("socket") == 1, PROMPT_SECONDS
        )

    held = settled()
    for prompt in (TREE, "!exit 1", f"{TREE}!kill-parent\n!wait", "!stop-parent\n!exit 0") * 10:
        async with stage.actor(prompt) as actor:
            if "!child" in prompt:
                await actor.children(3)
            await actor.tree.end(0)
    assert settled() == held
    assert helpers_of.fork_server() == helper
    zombies = [one for pid in (helper, os.getpid()) for one in helpers_of.zombies_under(pid)]
    assert not zombies, shown(zombies)


# What cannot be killed.


def test_survivors(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A process that no signal reaches is told as a survivor in time; its supervisor is not used again."""
    immune = _immune_helper(str(tmp_path_factory.mktemp("helper")), timeout_seconds=3)
    monkeypatch.setattr(_linux_fork_server, "HELPER_FOLDER", immune)

    async def scenario() -> None:
        async with stage.actor("!child setsid\n!child daemon\n!wait") as actor:
            (setsid, daemon) = await actor.children(2)
            await actor.waiting()
            supervisor = helpers_of.supervisor_of(actor.tree.pid)
            with trio.fail_after(PROMPT_SECONDS):
                death = await actor.tree.end(0)
            try:
                assert death.survivors == (setsid,)
                assert [one.pid for one in actor.living()] == [setsid]
                assert death.killed == 2
                assert daemon not in death.survivors
                assert await actor.tree.end(0) == death
                async with stage.actor("!wait") as second:
                    await second.waiting()
                    assert helpers_of.supervisor_of(second.tree.pid) != supervisor
            finally:
                helpers_of.kill_those(actor.living())
            left = wait_for(lambda: [one for one in everyone() if one.pid == setsid], lambda x: not x, 20)
            assert not left, shown(left)

    stage.perform(scenario)


def test_what_cannot_be_killed_holds_up_its_own_run_alone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The fork server cannot end what a killed supervisor left; what the next one leaves is none the worse."""
    immune = _immune_helper(str(tmp_path_factory.mktemp("helper")), 60)
    monkeypatch.setattr(_linux_fork_server, "HELPER_FOLDER", immune)

    async def scenario() -> None:
        async with stage.actor(f"{TREE}!wait") as first:
            (_, setsid, _) = await first.children(3)
            await first.waiting()
            try:
                os.kill(helpers_of.supervisor_of(first.tree.pid), signal.SIGKILL)
                left = wait_for(first.living, lambda found: [one.pid for one in found] == [setsid], 20)
                assert [one.pid for one in left] == [setsid], shown(left)
                async with stage.actor("!child daemon\n!wait") as second:
                    await second.waiting()
                    os.kill(helpers_of.supervisor_of(second.tree.pid), signal.SIGKILL)
                    with trio.fail_after(PROMPT_SECONDS):
                        stage.assert_gone(second, await second.tree.end(0))
            finally:
                helpers_of.kill_those(first.living())
            with trio.fail_after(PROMPT_SECONDS):
                stage.assert_gone(first, await first.tree.end(0))

    stage.perform(scenario)


def test_who_cannot_look_proves_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Without a descriptor to read the process table with, the fork server says of nobody that all are dead."""
    look = '        for thread in os.listdir(f"/proc/{pid}/task"):\n'
    blind = (
        "        import time\n"
        '        begun = globals().setdefault("BEGUN", time.monotonic())\n'
        "        if pid == os.getpid() and time.monotonic() < begun + 0.5:\n"
        '            raise OSError(24, "Too many open files")\n'
    )
    helper = _patched_helper(str(tmp_path_factory.mktemp("helper")), {"processes.py": (look, blind + look)})
    monkeypatch.setattr(_linux_fork_server, "HELPER_FOLDER", helper)

    async def scenario() -> None:
        async with stage.actor(f"{TREE}!wait") as actor:
            await actor.waiting()
            os.kill(helpers_of.supervisor_of(actor.tree.pid), signal.SIGKILL)
            with trio.fail_after(PROMPT_SECONDS):
                stage.assert_gone(actor, await actor.tree.end(0))

    stage.perform(scenario)


@on_stage
async def test_start_that_the_system_has_no_memory_for(stage: Stage) -> None:
    """What could not be sent to the supervisor is an error with its number, and is waited for by nobody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "send_fds", _no_buffers)
        with pytest.raises(SpawnError) as caught, trio.fail_after(PROMPT_SECONDS):
            async with stage.actor("!wait"):
                pass
        assert caught.value.errno == errno.ENOBUFS
    await assert_runs(stage)


def _no_buffers(*_: object) -> int:
    raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))


def _immune_helper(folder: str, timeout_seconds: float) -> str:
    """A copy of the helper to which the descendants of mode ``setsid`` are out of reach."""
    patches = {
        "supervisor.py": ("KILL_TIMEOUT_SECONDS = 10.0", f"KILL_TIMEOUT_SECONDS = {timeout_seconds}"),
        "processes.py": (
            "            kill(pid, started)\n",
            (
                "            if b'--descend\\0setsid' in open(f'/proc/{pid}/cmdline', 'rb').read():\n"
                "                raise PermissionError\n"
                "            kill(pid, started)\n"
            ),
        ),
    }
    return _patched_helper(folder, patches)


def _patched_helper(folder: str, patches: dict[str, tuple[str, str]]) -> str:
    """A copy of the helper with one thing changed in each of some files."""
    target = os.path.join(folder, "helper")
    shutil.copytree(os.path.join(_linux_fork_server.HELPER_FOLDER, "helper"), target)
    for name, (old, new) in patches.items():
        with open(os.path.join(target, name), "r+", encoding="utf-8") as file:
            text = file.read()
            assert text.count(old) == 1
            file.seek(0)
            file.write(text.replace(old, new))
            file.truncate()
    return folder


# A system that is not up to it.


@pytest.fixture
def no_subreapers(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A system before Linux 3.4: the helper cannot become a subreaper, and ends."""
    patches = {"fork_server.py": ("PR_SET_CHILD_SUBREAPER = 36", "PR_SET_CHILD_SUBREAPER = 99999")}
    folder = _patched_helper(str(tmp_path_factory.mktemp("helper")), patches)
    monkeypatch.setattr(_linux_fork_server, "HELPER_FOLDER", folder)


@pytest.mark.usefixtures("no_subreapers")
def test_without_subreapers_it_falls_back_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """`auto` takes the POSIX way, with a warning that names what is lost."""

    async def main() -> str:
        with trio.fail_after(PROMPT_SECONDS):
            async with open_containment("auto") as containment:
                return containment.name

    assert trio.run(main) == "posix"
    assert "what a run starts may escape" in caplog.text


@pytest.mark.usefixtures("no_subreapers")
def test_without_subreapers_the_named_strategy_is_refused() -> None:
    """Who asks for the proof does not get less."""

    async def main() -> None:
        with trio.fail_after(PROMPT_SECONDS), pytest.raises(ContainmentUnavailable, match="did not start"):
            async with open_containment("linux"):
                pass

    trio.run(main)


# What a run is to the system.


@on_stage
async def test_oom_score(stage: Stage) -> None:
    """When memory ends the kernel takes a run before the server: its score is raised, its children's too."""
    async with stage.actor("!child daemon\n!wait") as actor:
        (child,) = await actor.children(1)
        scores = []
        for pid in (actor.tree.pid, child):
            with open(f"/proc/{pid}/oom_score_adj", encoding="ascii") as file:  # noqa: ASYNC230
                scores.append(int(file.read()))
        assert scores == [300, 300]


@on_stage
async def test_long_command_line(stage: Stage) -> None:
    """A command line longer than a packet arrives whole."""
    given = [str(number) * 50_000 for number in range(9)]
    async with stage.actor("!report", *given) as actor:
        assert (await actor.line("report"))["argv"][-9:] == given


@on_stage
async def test_too_long_command_line(stage: Stage) -> None:
    """One longer than the system allows is refused with its error, and the next run is not spoilt."""
    for _ in range(2):
        with pytest.raises(SpawnError) as caught:
            async with stage.actor("x" * 200_000):
                pass
        assert caught.value.errno == 7
        await assert_runs(stage)
