"""A server whose helpers, clients or system fail: what its clients are told, and what is left.

How a client goes, and how a server stops in order, is in ``tests/http``; here things break.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from callers import Caller, desk_of, in_threads
from process_scan import GONE_SECONDS, descendants, links, stop, wait_for
from server_process import LiveServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

if sys.platform == "linux":
    import resource

    import helpers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROMPT_SECONDS = 8.0
TREE = "!child daemon\n!child setsid\n!child scrubbed\n"
MANY = 50
STORM = 1000
MOMENTS = (0.0, 0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.016, 0.024, 0.04)
IDLE_SUPERVISORS = 16


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server for the tests that leave it as it was."""
    server = LiveServer(str(tmp_path_factory.mktemp("shared")), "--simulate")
    yield server
    server.close()


@pytest.fixture
def steady(shared: LiveServer) -> Iterator[LiveServer]:
    """The same; afterwards neither it nor its fork server may hold more than before, nor a zombie."""
    desk_of(shared).assert_serves()
    helper = helpers_of.fork_server(shared.process.pid)
    before = wait_for(lambda: _held(shared, helper), bool, 0)
    yield shared
    desk_of(shared).assert_no_agents()
    after = wait_for(lambda: _held(shared, helper), lambda held: held <= before, GONE_SECONDS)
    assert after <= before
    below = descendants(shared.process.pid)
    zombies = wait_for(
        lambda: [str(one) for one in descendants(shared.process.pid) if one.state == "Z"],
        lambda found: not found,
        GONE_SECONDS,
    )
    assert not zombies, f"{zombies} of {len(below)}"


def _held(server: LiveServer, helper: int) -> tuple[int, int]:
    """Descriptors of the server, lifelines of supervisors left out, and of the fork server."""
    pid = server.process.pid
    own = [link for link in links(pid) if not link.startswith("anon_inode")]
    lifelines = helpers_of.lifelines(pid)  # read afterwards: a link that it does not know is closed by then
    return len([link for link in own if link not in lifelines]), len(helpers_of.descriptors(helper))


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
    server.process.wait(PROMPT_SECONDS)


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


@pytest.mark.parametrize("how", ["leave", "reset", "half_close"])
def test_client_goes_at_every_moment(steady: LiveServer, how: str) -> None:
    """Before the first byte or during the spawn: whenever a client goes, its run goes too."""
    for seconds in MOMENTS:
        with desk_of(steady).spawn(f"{TREE}!wait") as caller:
            time.sleep(seconds)  # the moment is the test
            getattr(caller, how)()
            desk_of(steady).assert_no_agents()
            desk_of(steady).assert_no_runs()


@pytest.mark.parametrize("how", ["leave", "reset", "half_close"])
def test_client_goes_mid_line(steady: LiveServer, how: str) -> None:
    """A client that has read half of an event takes its run with it."""
    with desk_of(steady).spawn(f"!big 2000000\n{TREE}!wait") as caller:
        caller.response.read1(1000)
        getattr(caller, how)()
        desk_of(steady).assert_no_agents()


def test_hundred_clients_go_at_once(steady: LiveServer) -> None:
    """A hundred clients that go in one moment, some in the midst of their starts, leave nothing."""
    with ExitStack() as stack:
        callers = crowd(stack, steady, 50, "!child daemon")
        callers += [stack.enter_context(desk_of(steady).spawn("!child daemon\n!wait")) for _ in range(50)]
        for caller in callers:
            caller.reset()
        desk_of(steady).assert_no_agents()
    desk_of(steady).assert_serves()


def test_client_that_stops_reading(start_server: Callable[..., LiveServer]) -> None:
    """A client that takes no byte for too long loses its run, however much it prints."""
    server = start_server("--simulate", "--client-stall-seconds", "1")
    with desk_of(server).spawn(f"{TREE}!lines 300000 100\n!wait"):
        assert wait_for(lambda: '"code": "stalled"' in server.log, bool, GONE_SECONDS)
        desk_of(server).assert_no_agents(0)  # told once all were dead
    desk_of(server).assert_serves()


# Races.


def test_terminate_races_exit(steady: LiveServer) -> None:
    """A terminate around the moment of the exit is a 200 or a 404, and the stream ends accordingly."""
    desk = desk_of(steady)
    for seconds in MOMENTS * 3:
        with desk.spawn("!child daemon\n!sleep 0.01\n!exit 0") as caller:
            run = desk.run_id(caller)
            time.sleep(seconds)  # the moment is the test
            status, told = desk.terminate(run)
            last = caller.last()
            assert not desk_of(steady).agents()
            outcome = status, last.get("code", last["type"])
            assert outcome in {(200, "terminated"), (200, "completed"), (404, "completed")}, (told, last)


def test_terminate_by_ten_at_once(steady: LiveServer) -> None:
    """Ten terminates at once all answer 200, none before all is dead."""
    desk = desk_of(steady)
    with desk.spawn(f"{TREE}!ignore-term\n!wait", create_session=True) as caller, ExitStack() as stack:
        session = next(caller.events())["session_id"]
        caller.until("waiting")
        run, answers = desk.run_id(caller), list[tuple[int, int]]()
        stop(steady.process.pid)  # it finds all ten when it goes on
        asking = [
            stack.enter_context(desk.asking("POST", f"/terminate/{run if number % 2 else session}"))
            for number in range(10)
        ]
        steady.process.send_signal(signal.SIGCONT)

        def work(number: int) -> None:
            answers.append((asking[number].answer()[0], len(desk_of(steady).agents())))

        in_threads(10, work)
        assert answers == [(200, 0)] * 10
        assert caller.last()["code"] == "terminated"


def test_terminate_races_disconnect(steady: LiveServer) -> None:
    """A client that goes while another terminates its run: both get what they want."""
    desk = desk_of(steady)
    for seconds in MOMENTS:
        with desk.spawn(f"{TREE}!wait") as caller:
            caller.until("waiting")
            run = desk.run_id(caller)
            with desk.asking("POST", f"/terminate/{run}") as asking:
                time.sleep(seconds)  # the moment is the test
                caller.reset()
                assert asking.answer()[0] in {200, 404}
        desk_of(steady).assert_no_agents()


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
