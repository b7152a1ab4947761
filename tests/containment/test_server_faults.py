"""A server whose helpers, clients or system fail: what its clients are told, and what is left.

How clients see the end of a stream, and a server that stops in order, is in ``tests/http``; here things
break. What needs no helper is tested with ``--containment posix`` too.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
import server_process
from callers import Caller, desk_of, in_threads
from process_scan import GONE_SECONDS, descendants, links, marked, still_alive, stop, wait_for

import q9gent.simulator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

if sys.platform == "linux":
    import fcntl
    import resource

    import helpers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from server_process import LiveServer

PROMPT_SECONDS = 8.0
MANY_SECONDS = 100.0
"""For the end of many runs: `posix` reads the whole process table several times for each."""

TREE = "!child daemon\n!child setsid\n!child scrubbed\n"
TREES = {"linux": TREE, "posix": TREE.replace("!child scrubbed\n", "")}
"""With what a strategy holds: from `posix` a daemon that scrubbed its environment escapes."""

MANY = 50
STORM = 1000
MOMENTS = (0.0, 0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.016, 0.024, 0.04)
HOWS = ("leave", "reset", "half_close")
LINUX = getattr(pytest, "HIDDEN_PARAM", "linux")
"""Its id: none, where pytest can hide it, as in the names of the tests that have one strategy."""


supervised = pytest.mark.parametrize("containment", [pytest.param("linux", id=LINUX)], indirect=True)
"""For what `posix` is too slow for with many runs at once: for each it reads the whole process table."""


@pytest.fixture(params=[pytest.param("linux", id=LINUX), "posix"])
def containment(request: pytest.FixtureRequest) -> str:
    """Each strategy that Linux has."""
    return str(request.param)


@pytest.fixture
def tree(containment: str) -> str:
    """The beginning of a prompt: children that are hard to find, as far as the strategy holds them."""
    return TREES[containment]


@pytest.fixture
def moments(containment: str) -> tuple[float, ...]:
    """When to strike; `posix` takes longer for each, so it has fewer."""
    return MOMENTS if containment == "linux" else MOMENTS[::2]


@pytest.fixture(scope="module")
def standing(start_shared: Callable[..., LiveServer]) -> Callable[[str], LiveServer]:
    """The server with a strategy, for the tests that leave it as it was."""
    return functools.cache(lambda containment: start_shared("--simulate", "--containment", containment))


@pytest.fixture
def shared(standing: Callable[[str], LiveServer]) -> LiveServer:
    """That with supervisors."""
    return standing("linux")


@pytest.fixture
def steady(shared: LiveServer) -> Iterator[LiveServer]:
    """The same; it must be as it was afterwards."""
    with left_as_it_was(shared, "linux"):
        yield shared


@pytest.fixture
def each_steady(standing: Callable[[str], LiveServer], containment: str) -> Iterator[LiveServer]:
    """That with each strategy; it must be as it was afterwards."""
    with left_as_it_was(standing(containment), containment):
        yield standing(containment)


@contextmanager
def left_as_it_was(server: LiveServer, containment: str) -> Iterator[None]:
    """Afterwards neither it nor its fork server may hold more than before, nor a zombie."""
    desk_of(server).assert_serves()
    helper = helpers_of.fork_server(server.process.pid) if containment == "linux" else None
    before = _held(server, helper)
    yield
    desk_of(server).assert_no_agents()
    after = wait_for(lambda: _held(server, helper), lambda held: held <= before, GONE_SECONDS)
    assert after <= before
    below = descendants(server.process.pid)
    zombies = wait_for(
        lambda: [str(one) for one in descendants(server.process.pid) if one.state == "Z"],
        lambda found: not found,
        GONE_SECONDS,
    )
    assert not zombies, f"{zombies} of {len(below)}"


def _held(server: LiveServer, helper: int | None) -> tuple[int, int]:
    """Descriptors of the server, lifelines of supervisors left out, and of the fork server, if it has one."""
    pid = server.process.pid
    own = [link for link in links(pid) if not link.startswith("anon_inode")]
    lifelines = helpers_of.lifelines(pid)  # read afterwards: a link that it does not know is closed by then
    below = 0 if helper is None else len(helpers_of.descriptors(helper))
    return len([link for link in own if link not in lifelines]), below


def crowd(stack: ExitStack, server: LiveServer, count: int, prompt: str) -> list[Caller]:
    """Have runs that wait, begun at the same time."""
    callers = [stack.enter_context(desk_of(server).spawn(f"{prompt}\n!wait")) for _ in range(count)]
    for caller in callers:
        caller.until("waiting")
    return callers


def kill_server(server: LiveServer) -> None:
    """SIGKILL it, and wait until it is dead: it could not clean anything up."""
    server.note_descendants()
    server.process.kill()
    wait_exited(server)


def wait_exited(server: LiveServer) -> int:
    """Wait for the server's exit status, and return at once: ``Popen.wait`` may look 50 ms too late."""
    end = os.pidfd_open(server.process.pid)
    try:
        assert select.select([end], [], [], MANY_SECONDS)[0], server.log
    finally:
        os.close(end)
    return server.process.wait(0)


# How death is seen.


def test_scrubbed_daemon_is_seen(each_steady: LiveServer, containment: str) -> None:
    """One of a run whose session nobody has learnt is counted, also where it has escaped its run's end."""
    desk = desk_of(each_steady)
    learnt = set(desk.sessions)
    with desk.spawn("!child scrubbed\n!wait") as caller:
        read = b""
        while b"waiting" not in read:
            read += (part := caller.response.read1(65536))
            assert part, read
        assert desk.sessions == learnt
        agents = desk.agents()
        assert len(agents) == 2
        (daemon,) = (one for one in agents if "--descend" in one.command)
        assert daemon.pid not in {one.pid for one in marked(each_steady.token)}
        assert desk.terminate(desk.run_id(caller))[0] == 200
    left = [one.pid for one in desk.agents()]
    helpers_of.kill_those([daemon])
    assert left == ([] if containment == "linux" else [daemon.pid])


def test_scrubbed_daemon_is_found_by_close(
    start_server: Callable[..., LiveServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that leaves such a daemon fails its test, and the daemon is killed."""
    server = start_server("--simulate", "--containment", "posix")
    desk = desk_of(server)
    with desk.spawn("!child scrubbed\n!wait") as caller:
        caller.until("waiting")
        monkeypatch.setattr(server_process, "GONE_SECONDS", 0)
        with pytest.raises(AssertionError, match=r"left alive:\n.*--descend scrubbed"):
            server.close()
        assert caller.last()["code"] == "shutdown"
    desk.assert_no_agents()


# Helpers that fail.


def test_supervisor_killed_by_its_run(steady: LiveServer) -> None:
    """A run that kills its supervisor ends with `internal`, its tree dead; the next one is well."""
    with desk_of(steady).spawn(f"{TREE}!kill-parent\n!wait") as caller:
        last = caller.last()
        assert not desk_of(steady).agents()
        assert (last["type"], last["code"]) == ("error", "internal")
        assert "survivors" not in last
    desk_of(steady).assert_serves()


def test_terminate_after_the_supervisor_was_killed(steady: LiveServer) -> None:
    """Terminating such a run is a 200 while it ends and a 404 afterwards; nothing lives either way."""
    for _ in range(5):
        with desk_of(steady).spawn(f"{TREE}!kill-parent\n!wait") as caller:
            status, told = desk_of(steady).terminate(desk_of(steady).run_id(caller))
            assert status in {200, 404}, told
            assert caller.last()["code"] in {"internal", "terminated"}
            assert not desk_of(steady).agents()


def test_supervisor_stopped_by_its_run(steady: LiveServer) -> None:
    """A run that stops its supervisor and exits has its end told; one that waits can be terminated."""
    with desk_of(steady).spawn(f"{TREE}!stop-parent\n!exit 0") as caller:
        assert caller.last()["type"] == "completed"
    desk = desk_of(steady)
    with desk.spawn(f"{TREE}!stop-parent\n!wait") as caller:
        caller.until("waiting")
        began = time.monotonic()
        status, told = desk.terminate(desk.run_id(caller))
        assert (status, told["message"]) == (200, "Process terminated successfully")
        assert not desk_of(steady).agents()
        assert time.monotonic() - began < PROMPT_SECONDS
        assert caller.last()["code"] == "terminated"


def test_fork_server_killed(server: LiveServer) -> None:
    """Twenty runs do not notice that the fork server was killed, nor does who asks for the next."""
    desk = desk_of(server)
    with ExitStack() as stack:
        callers = crowd(stack, server, 20, "!child daemon")
        first = helpers_of.fork_server(server.process.pid)
        server.note_descendants()
        os.kill(first, signal.SIGKILL)
        desk.assert_serves()
        assert len(desk_of(server).agents()) == 40
        for caller in callers[:10]:
            assert desk.terminate(desk.run_id(caller))[0] == 200
            assert caller.last()["code"] == "terminated"
        _, listed = desk.get("/runs")
        for run in listed["runs"]:
            os.kill(run["pid"], signal.SIGINT)  # the simulated agent's way to exit with 0
        assert [caller.last()["type"] for caller in callers[10:]] == ["completed"] * 10
    desk_of(server).assert_no_agents(0)
    assert helpers_of.fork_server(server.process.pid) != first


def test_fork_server_stopped(server: LiveServer) -> None:
    """With its fork server stopped a server starts runs, and stops in order."""
    with ExitStack() as stack:
        crowd(stack, server, 1, "")
        stop(helpers_of.fork_server(server.process.pid))
        began = time.monotonic()
        for _ in range(3):
            crowd(stack, server, 1, "!child daemon")
        stop(helpers_of.fork_server(server.process.pid))
        server.close()
        assert time.monotonic() - began < PROMPT_SECONDS


def test_both_killed(server: LiveServer) -> None:
    """With supervisor and fork server killed nobody is told that a run is dead: 500, and `internal`."""
    desk = desk_of(server)
    with desk.spawn("!child setsid\n!wait") as caller:
        caller.until("waiting")
        tree = desk_of(server).agents()
        leader = next(one for one in tree if "--descend" not in one.command)
        first = helpers_of.fork_server(server.process.pid)
        server.process.send_signal(signal.SIGSTOP)  # it shall find both dead, whichever it looks at first
        os.kill(first, signal.SIGKILL)
        os.kill(leader.parent, signal.SIGKILL)
        with desk.asking("POST", f"/terminate/{desk.run_id(caller)}") as asking:
            server.process.send_signal(signal.SIGCONT)
            status, told = asking.answer()
            assert status in {500, 404}, told
            if status == 500:
                assert told["survivors"] is None
        last = caller.last()
        assert last["code"] == "internal"
        assert "not known" in last["error"]
        helpers_of.kill_those(tree)
    desk.assert_serves()


# A server that is killed.


def test_server_killed_with_fifty_runs(server: LiveServer) -> None:
    """SIGKILL leaves the server no moment, and its fifty runs and all helpers are gone all the same."""
    with ExitStack() as stack:
        crowd(stack, server, MANY, TREE)
        assert len(desk_of(server).agents()) == MANY * 4
        kill_server(server)
        desk_of(server).assert_no_agents()


def test_posix_server_killed_with_fifty_runs(start_server: Callable[..., LiveServer]) -> None:
    """The limit of `posix`: after a SIGKILL of the server all of its fifty runs go on, to their leaves."""
    server = start_server("--simulate", "--containment", "posix")
    desk = desk_of(server)
    with ExitStack() as stack:
        crowd(stack, server, MANY, TREES["posix"])
        agents = desk.agents()
        assert len(agents) == MANY * 3
        kill_server(server)
        leaders = [one.pid for one in agents if "--descend" not in one.command]
        before = [_wakings(pid) for pid in leaders]
        # Each wakes once a second. Nobody is left to kill them, but a pipe without a reader might have.
        assert wait_for(
            lambda: all(then < _wakings(pid) for pid, then in zip(leaders, before, strict=True)),
            bool,
            GONE_SECONDS,
        )
        assert {one.pid for one in desk.agents()} == {one.pid for one in agents}
        helpers_of.kill_those(agents)
        desk.assert_no_agents(0)


def _wakings(pid: int) -> int:
    """How often a process has gone to sleep; nothing grows that is dead."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt_switches"))


@supervised
@pytest.mark.timeout(240)
def test_fifty_runs_are_dead_when_the_server_has_exited(
    start_server: Callable[..., LiveServer], containment: str, tree: str
) -> None:
    """Told to stop with fifty runs, a third of them deaf, it leaves nothing for a moment after its exit."""
    # On a busy system the usual time may be too short for all to be told.
    server = start_server("--simulate", "--containment", containment, "--shutdown-seconds", "80")
    desk = desk_of(server)
    with ExitStack() as stack:
        callers = crowd(stack, server, MANY - MANY // 3, tree)
        callers += crowd(stack, server, MANY // 3, f"!ignore-term\n{tree}")
        agents = desk.agents()
        assert len(agents) == MANY * (1 + tree.count("!child"))
        below = server.note_descendants()
        server.process.send_signal(signal.SIGTERM)
        status = wait_exited(server)
        # Looked for once, and now; where `waitpid` was the proof, not even a zombie may be left.
        known = [one for one in (*agents, *below) if os.path.exists(f"/proc/{one.pid}")]
        left = (known if containment == "linux" else still_alive(known)) + desk.agents()
        assert not left, "left:\n" + "\n".join(map(str, left))
        assert status == 0
        assert [caller.last()["code"] for caller in callers] == ["shutdown"] * MANY


@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16])
def test_server_killed_while_starting_runs(server: LiveServer, seconds: float) -> None:
    """SIGKILL while twenty runs start, at whatever moment, leaves nothing."""
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(desk_of(server).spawn(f"{TREE}!wait"))
        time.sleep(seconds)  # the moment is the test
        kill_server(server)


def test_server_killed_with_a_stopped_supervisor(server: LiveServer) -> None:
    """A run that has stopped its supervisor dies with a killed server too."""
    with ExitStack() as stack:
        crowd(stack, server, 2, f"{TREE}!stop-parent")
        kill_server(server)
        desk_of(server).assert_no_agents()


def test_server_killed_with_a_stopped_fork_server(server: LiveServer) -> None:
    """Nor does it help a run to stop the fork server: it goes with a killed server too."""
    with ExitStack() as stack:
        crowd(stack, server, 2, TREE)
        stop(helpers_of.fork_server(server.process.pid))
        kill_server(server)
        desk_of(server).assert_no_agents()


def test_server_killed_with_every_helper_stopped(server: LiveServer) -> None:
    """Nor to stop all helpers: the kernel continues the fork server when its parent dies."""
    with ExitStack() as stack:
        crowd(stack, server, 2, TREE)
        helper = helpers_of.fork_server(server.process.pid)
        stop(helper)
        for one in helpers_of.supervisors(helper):
            stop(one.pid)
        kill_server(server)
        desk_of(server).assert_no_agents()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGABRT])
def test_other_deadly_signals(server: LiveServer, number: int) -> None:
    """Signals that the server does not know end it like any program, and its runs with it."""
    with ExitStack() as stack:
        crowd(stack, server, 3, TREE)
        assert server.signal(number) == -number
        desk_of(server).assert_no_agents()


def test_storm_of_child_signals(steady: LiveServer) -> None:
    """A thousand SIGCHLD, SIGWINCH, SIGURG and SIGCONT mean nothing to the server."""
    with ExitStack() as stack:
        (caller,) = crowd(stack, steady, 1, TREE)
        for number in (signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG, signal.SIGCONT):
            for _ in range(STORM):
                steady.process.send_signal(number)
        desk = desk_of(steady)
        desk.assert_serves()
        assert desk.terminate(desk.run_id(caller))[0] == 200
        assert caller.last()["code"] == "terminated"


def test_server_stopped_and_continued(steady: LiveServer) -> None:
    """A server that was stopped for a while goes on where it was, clients and all."""
    with ExitStack() as stack:
        (caller,) = crowd(stack, steady, 1, TREE)
        stop(steady.process.pid)
        with desk_of(steady).asking("GET", "/health") as asking:
            steady.process.send_signal(signal.SIGCONT)
            assert asking.answer()[0] == 200
        desk = desk_of(steady)
        assert desk.terminate(desk.run_id(caller))[0] == 200
        assert caller.last()["code"] == "terminated"


# Clients that go.


class HeldAgent:
    """The simulated agent behind a script, which can be held on its way to its first byte.

    Args:
        folder: Of its own.
    """

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, "simulator.py")  # a name by which agents are known
        self._gate = os.path.join(folder, "gate")
        python = f"{sys.executable} -I -S {q9gent.simulator.__file__}"
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(
                f"#!/bin/sh\nif [ -p {self._gate} ]; then\n"
                f"{python} --descend daemon 1 early </dev/null >/dev/null 2>&1\n"
                f'read -r _ <{self._gate}\nfi\nexec {python} "$@"\n'
            )
        os.chmod(self.path, 0o755)

    @contextmanager
    def in_its_exec(self) -> Iterator[Callable[[], bool]]:
        """Hold who executes it until the block is left: what is yielded tells whether somebody is held."""
        before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # with which the system asks for the lease back
        lease = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            except OSError as error:
                if error.errno == errno.EAGAIN:  # somebody has it open
                    raise
                pytest.skip(f"this file system has no leases: {error}")
            yield lambda: fcntl.fcntl(lease, fcntl.F_GETLEASE) != fcntl.F_WRLCK
        finally:
            os.close(lease)
            signal.signal(signal.SIGIO, before)

    @contextmanager
    def before_its_first_byte(self) -> Iterator[Callable[[], bool]]:
        """The same, for one that has started a daemon and printed nothing."""
        os.mkfifo(self._gate)
        with ExitStack() as stack:
            stack.callback(os.unlink, self._gate)

            def is_held() -> bool:
                with contextlib.suppress(OSError):  # nobody reads
                    stack.callback(os.close, os.open(self._gate, os.O_WRONLY | os.O_NONBLOCK))
                    return True
                return False

            yield is_held


@pytest.fixture(scope="module")
def holding(
    start_shared: Callable[..., LiveServer], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[LiveServer, HeldAgent]]:
    """The server with a strategy whose agents can be held."""

    def start(containment: str) -> tuple[LiveServer, HeldAgent]:
        agent = HeldAgent(str(tmp_path_factory.mktemp("agent")))
        return start_shared("--claude-path", agent.path, "--containment", containment), agent

    return functools.cache(start)


@pytest.fixture
def each_holding(
    holding: Callable[[str], tuple[LiveServer, HeldAgent]], containment: str
) -> Iterator[tuple[LiveServer, HeldAgent]]:
    """That with each strategy; it must be as it was afterwards."""
    server, agent = holding(containment)
    with left_as_it_was(server, containment):
        yield server, agent


@pytest.mark.parametrize("how", HOWS)
def test_client_goes_before_it_is_read(each_steady: LiveServer, tree: str, how: str) -> None:
    """A client that has gone before the server reads its request leaves nothing."""
    desk = desk_of(each_steady)
    stop(each_steady.process.pid)
    with desk.spawn(f"{tree}!wait") as caller:
        getattr(caller, how)()
        each_steady.process.send_signal(signal.SIGCONT)
        desk.assert_serves()  # on a later connection
        desk.assert_no_runs()
        desk.assert_no_agents(0)


@pytest.mark.parametrize("how", HOWS)
def test_client_goes_during_the_spawn(
    each_holding: tuple[LiveServer, HeldAgent], tree: str, how: str
) -> None:
    """While its run's first process is still in its exec: the run is dead once it is listed no more."""
    server, agent = each_holding
    desk = desk_of(server)
    with ExitStack() as stack:
        with agent.in_its_exec() as is_held:
            caller = stack.enter_context(desk.spawn(f"{tree}!wait"))
            assert wait_for(is_held, bool, GONE_SECONDS)
            assert [run["pid"] for run in desk.runs()] == [None]
            getattr(caller, how)()
            desk.get("/health")  # answered after it has heard of that
        desk.assert_no_runs()
        desk.assert_no_agents(0)


@pytest.mark.parametrize("how", HOWS)
def test_client_goes_before_the_first_byte(each_holding: tuple[LiveServer, HeldAgent], how: str) -> None:
    """With its run well started, but nothing printed yet: the run is dead once it is listed no more."""
    server, agent = each_holding
    desk = desk_of(server)
    with agent.before_its_first_byte() as is_held, desk.spawn("!wait") as caller:
        assert wait_for(is_held, bool, GONE_SECONDS)
        assert [(run["pid"] is None, run["bytes"]) for run in desk.runs()] == [(False, 0)]
        assert len(desk.agents()) == 2
        getattr(caller, how)()
        desk.assert_no_runs()
        desk.assert_no_agents(0)


@pytest.mark.parametrize("how", HOWS)
def test_client_goes_at_every_moment(
    each_steady: LiveServer, moments: tuple[float, ...], tree: str, how: str
) -> None:
    """Nor does any moment between these save a run whose client goes."""
    desk = desk_of(each_steady)
    for seconds in moments:
        with desk.spawn(f"{tree}!wait") as caller:
            time.sleep(seconds)  # the moment is the test
            getattr(caller, how)()
            desk.assert_no_agents()
            desk.assert_no_runs()


@pytest.mark.parametrize("how", HOWS)
def test_client_goes_mid_line(each_steady: LiveServer, tree: str, how: str) -> None:
    """A client that has read half of an event takes its run with it."""
    desk = desk_of(each_steady)
    with desk.spawn(f"!big 2000000\n{tree}!wait") as caller:
        caller.response.read1(1000)
        getattr(caller, how)()
        desk.assert_no_agents()


@supervised
@pytest.mark.timeout(240)
def test_hundred_clients_go_at_once(each_steady: LiveServer) -> None:
    """A hundred clients that go in one moment, some in the midst of their starts, leave nothing."""
    desk = desk_of(each_steady)
    with ExitStack() as stack:
        callers = crowd(stack, each_steady, 50, "!child daemon")
        callers += [stack.enter_context(desk.spawn("!child daemon\n!wait")) for _ in range(50)]
        for caller in callers:
            caller.reset()
        desk.assert_no_agents(MANY_SECONDS)
    desk.assert_serves()


@supervised
def test_client_that_stops_reading(
    start_server: Callable[..., LiveServer], containment: str, tree: str
) -> None:
    """A client that takes no byte for too long loses its run, however much it prints."""
    server = start_server("--simulate", "--client-stall-seconds", "1", "--containment", containment)
    with desk_of(server).spawn(f"{tree}!lines 300000 100\n!wait"):
        assert wait_for(lambda: '"code": "stalled"' in server.log, bool, GONE_SECONDS)
        desk_of(server).assert_no_agents(0)  # told once all were dead
    desk_of(server).assert_serves()


# Races.


def test_terminate_races_exit(each_steady: LiveServer, moments: tuple[float, ...]) -> None:
    """A terminate around the moment of the exit is a 200 or a 404, and the stream ends accordingly."""
    desk = desk_of(each_steady)
    for seconds in moments * 3:
        with desk.spawn("!child daemon\n!sleep 0.01\n!exit 0") as caller:
            run = desk.run_id(caller)
            time.sleep(seconds)  # the moment is the test
            status, told = desk.terminate(run)
            last = caller.last()
            assert not desk_of(each_steady).agents()
            outcome = status, last.get("code", last["type"])
            assert outcome in {(200, "terminated"), (200, "completed"), (404, "completed")}, (told, last)


def test_terminate_by_ten_at_once(each_steady: LiveServer, tree: str) -> None:
    """Ten terminates at once all answer 200, none before all is dead."""
    desk = desk_of(each_steady)
    with desk.spawn(f"{tree}!ignore-term\n!wait", create_session=True) as caller, ExitStack() as stack:
        session = next(caller.events())["session_id"]
        caller.until("waiting")
        run, answers = desk.run_id(caller), list[tuple[int, int]]()
        stop(each_steady.process.pid)  # it finds all ten when it goes on
        asking = [
            stack.enter_context(desk.asking("POST", f"/terminate/{run if number % 2 else session}"))
            for number in range(10)
        ]
        each_steady.process.send_signal(signal.SIGCONT)

        def work(number: int) -> None:
            answers.append((asking[number].answer()[0], len(desk_of(each_steady).agents())))

        in_threads(10, work)
        assert answers == [(200, 0)] * 10
        assert caller.last()["code"] == "terminated"


def test_terminate_races_disconnect(each_steady: LiveServer, moments: tuple[float, ...], tree: str) -> None:
    """A client that goes while another terminates its run: both get what they want."""
    desk = desk_of(each_steady)
    for seconds in moments:
        with desk.spawn(f"{tree}!wait") as caller:
            caller.until("waiting")
            run = desk.run_id(caller)
            with desk.asking("POST", f"/terminate/{run}") as asking:
                time.sleep(seconds)  # the moment is the test
                caller.reset()
                assert asking.answer()[0] in {200, 404}
        desk_of(each_steady).assert_no_agents()


def test_stopped_run(steady: LiveServer) -> None:
    """A run that is stopped is continued to be asked, so it ends within its grace."""
    desk = desk_of(steady)
    with desk.spawn("!child stopped\n!signal 19\n!wait") as caller:
        line = caller.until("child")
        leader = next(one for one in desk_of(steady).agents() if "--descend" not in one.command)
        helpers_of.wait_state(leader.pid, "T")
        status, told = desk.terminate(desk.run_id(caller))
        assert (status, told["exit_code"]) == (200, 143), (told, line)
        assert not desk_of(steady).agents()


# Shortages.


def test_server_without_descriptors(server: LiveServer) -> None:
    """With no descriptor left for a run the answer is a 503 that says so, and it passes."""
    desk = desk_of(server)
    desk.assert_serves()
    pid = server.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    statuses = set[int]()
    for spare in range(1, 9):
        with socket.create_connection((server.host, server.port), timeout=30) as opened:
            _await_accepted(opened)
            highest = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + spare, limits[1]))
            try:
                status, told = _spawn_on(opened)
            finally:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            statuses.add(status)
            if status != 200:
                assert status == 503, told
                assert "Too many open files" in told, told
                assert "retry-after" in told.lower(), told
        desk.assert_serves()
    assert 503 in statuses
    desk_of(server).assert_no_agents()


def _await_accepted(opened: socket.socket) -> None:
    """Have the server answer on it once: a connection in the backlog needs a descriptor, too."""
    opened.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    read = b""
    while not read.endswith(b"}"):
        read += (part := opened.recv(65536))
        assert part, read


def _spawn_on(opened: socket.socket) -> tuple[int, str]:
    """Ask for a run on an open connection, and read all of the answer."""
    body = json.dumps({"agent_type": "t", "prompt": "!exit 0"})
    head = "POST /spawn HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close"
    opened.sendall(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    read = b""
    while data := opened.recv(65536):
        read += data
    return int(read.split()[1]), read.decode()


def test_files_cannot_grow(server: LiveServer) -> None:
    """With no room for a session its creation is a 500 that says so; a run without one is well."""
    desk = desk_of(server)
    desk.assert_serves()
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
    with desk.spawn("!exit 0", create_session=True) as caller:
        status, told = caller.answer()
        assert (status, told["error"].partition(":")[0]) == (500, "Session storage failed")
        assert "File too large" in told["error"]
    with desk.spawn("!exit 0") as caller:
        assert caller.last()["type"] == "completed"
    assert desk.get("/sessions") == (200, {"sessions": []})
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
    assert os.listdir(server.session_folder) == []
    with desk.spawn("!exit 0", create_session=True) as caller:
        assert caller.last()["type"] == "completed"
    assert len(desk.get("/sessions")[1]["sessions"]) == 1


def test_spool_cannot_grow(start_server: Callable[..., LiveServer], tmp_path: object) -> None:
    """With no room for a slow client's output its run ends with `overflow`, and says why."""
    server = start_server("--simulate", "--spool-dir", str(tmp_path))
    desk = desk_of(server)
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    with desk.spawn(f"{TREE}!lines 200000 100\n!wait") as caller:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
        desk.run_id(caller)  # it has started
        desk.assert_no_runs()
        desk.assert_no_agents(0)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
        last = caller.last()
        assert last["code"] == "overflow"
        assert "File too large" in last["error"]
    assert os.listdir(str(tmp_path)) == []
    desk.assert_serves()


# Files and clocks.


def test_half_written_sessions(shared: LiveServer) -> None:
    """Files in the session folder that are no sessions disturb nobody, and are no sessions."""
    desk = desk_of(shared)
    with desk.spawn("!exit 0", create_session=True) as caller:
        session = next(caller.events())["session_id"]
        caller.last()
    path = os.path.join(shared.session_folder, f"{session}.json")
    with open(path, "rb") as file:
        whole = file.read()
    other = "00000000-0000-4000-8000-00000000000"
    broken = [b"", whole[: len(whole) // 2], b"\xff" * 100, b"[" * 5000, whole]
    for number, content in enumerate(broken):
        with open(os.path.join(shared.session_folder, f"{other}{number}.json"), "wb") as file:
            file.write(content)
    os.mkdir(os.path.join(shared.session_folder, f"{other}9.json"))
    status, told = desk.get("/sessions")
    assert status == 200
    assert session in [one["session_id"] for one in told["sessions"]]
    assert not [one for one in told["sessions"] if one["session_id"].startswith(other)]
    for number in (*range(len(broken)), 9):
        with desk.message(f"{other}{number}", "!exit 0") as caller:
            assert caller.answer() == (404, {"error": f"Session not found: {other}{number}"})


CLOCK = """
import os, time
_real = time.time
def _jumping():
    try:
        with open(os.environ["JUMP_FILE"]) as file:
            return _real() + float(file.read() or 0)
    except (OSError, KeyError, ValueError):
        return _real()
time.time = _jumping
"""


def test_clock_that_jumps(start_server: Callable[..., LiveServer], tmp_path: object) -> None:
    """A system clock that jumps ten years, both ways, ends no run early and makes no session older."""
    with open(f"{tmp_path}/sitecustomize.py", "w", encoding="utf-8") as file:
        file.write(CLOCK)
    jump = f"{tmp_path}/jump"
    package = os.path.dirname(os.path.dirname(sys.modules["q9gent"].__file__ or ""))
    server = start_server(
        *("--simulate", "--max-run-seconds", "60", "--heartbeat-seconds", "0.2"),
        environment={"PYTHONPATH": f"{tmp_path}{os.pathsep}{package}", "JUMP_FILE": jump},
    )
    desk, decade = desk_of(server), 10 * 365 * 86400
    with desk.spawn(f"{TREE}!wait", create_session=True) as caller:
        session = next(caller.events())["session_id"]
        caller.until("waiting")
        used = []
        for offset in (decade, -decade):
            with open(jump, "w", encoding="ascii") as file:
                file.write(str(offset))
            with desk.spawn("!exit 0", create_session=True) as other:
                created = next(other.events())["session_id"]
                assert other.last()["type"] == "completed"
            _, told = desk.get("/sessions")
            times = {one["session_id"]: one["created_at"] for one in told["sessions"]}
            assert abs(times[created] - time.time() - offset) < 100
            used.append(len(desk_of(server).agents()))
        assert used == [4, 4], "the waiting run lives on"
        status, told = desk.terminate(session)
        assert (status, told["duration_ms"] >= 0, told["duration_ms"] < 60_000) == (200, True, True)
        assert caller.last()["code"] == "terminated"
    before = {one["session_id"]: one for one in desk.get("/sessions")[1]["sessions"]}[created]
    with desk.message(session, "!exit 0") as caller:
        assert caller.last()["type"] == "completed"
    after = {one["session_id"]: one for one in desk.get("/sessions")[1]["sessions"]}[session]
    assert after["last_used"] >= after["created_at"] > before["created_at"]
