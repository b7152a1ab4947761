"""A server under another user, or on a disk of its own: faults that only such a one can meet.

Where the system or the tester's rights do not allow it, a test is skipped and says why.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, cast

import pytest
from callers import Desk
from process_scan import GONE_SECONDS, Found, marked, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's users and limits")

if sys.platform == "linux":
    import helpers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from server_process import LiveServer

NOBODY = 65534
START_SECONDS = 20.0
EXIT_SECONDS = 20.0
LISTENING = re.compile(r"listening on http://(?P<host>[^:/]+):(?P<port>\d+)")
PACKAGE = os.path.dirname(os.path.dirname(sys.modules["q9gent"].__file__ or ""))
PATH = os.pathsep.join([PACKAGE, *(path for path in sys.path if "site-packages" in path)])

AGENT = """#!/bin/sh
case "$*" in *immune*)
    {rooted} --reuid=0 --regid=0 --clear-groups \\
        sh -c 'echo $$ >{pid_file}.part; mv {pid_file}.part {pid_file}; exec sleep 600' >/dev/null 2>&1 &
esac
echo started
exec sleep 600
"""

SECRETIVE = """#!{python} -IS
import ctypes, os, time
PR_SET_DUMPABLE = 4
if os.fork() == 0:
    os.setsid()
    os.fork()
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)
    print("hidden", flush=True)
time.sleep(600)
"""

IS_HIDDEN = """
import ctypes, os, signal
started, say = os.pipe()
child = os.fork()
if child == 0:
    ctypes.CDLL(None).prctl(4, 0)
    os.write(say, b"x")
    signal.pause()
os.read(started, 1)
print(not os.path.exists(f"/proc/{child}/stat"))
os.kill(child, signal.SIGKILL)
"""

SOFT_LIMIT = """
import resource, sys
limit, *pids = map(int, sys.argv[1:])
for pid in pids:
    hard = resource.prlimit(pid, resource.RLIMIT_NPROC)[1]
    resource.prlimit(pid, resource.RLIMIT_NPROC, (hard if limit < 0 else limit, hard))
"""


class Started:
    """A server started by a command of the test's own; what it starts carries its token."""

    def __init__(
        self, python: str, *options: str, prefix: tuple[str, ...] = (), user: int | None = None, home: str
    ) -> None:
        self.token = f"q9t{uuid.uuid4().hex}"
        self._log_path = f"{home}/stderr.log"
        self._lines: queue.Queue[str] = queue.Queue()
        with open(self._log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*prefix, python, "-m", "q9gent", "--port", "0", *options],
                cwd=home,
                env={**_plain(home), "Q9_TEST_TOKEN": self.token},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            while not (found := LISTENING.search(self._lines.get(timeout=START_SECONDS))):
                pass
        except queue.Empty:
            self.close()
            raise AssertionError(f"the server did not start\n{self.log}") from None
        self.host, self.port = found["host"], int(found["port"])
        self.desk = Desk(cast("LiveServer", self))

    @property
    def log(self) -> str:
        """What it has written to stderr."""
        with open(self._log_path, encoding="utf-8") as file:
            return file.read()

    def close(self) -> None:
        """Stop it and prove that nothing is left; kill what is."""
        self.process.terminate()
        try:
            self.process.wait(EXIT_SECONDS)
        finally:
            self.process.kill()
            left = wait_for(lambda: marked(self.token), lambda found: not found, GONE_SECONDS)
            helpers_of.kill_those(left)
            self._reader.join(EXIT_SECONDS)
            assert self.process.stdout is not None
            self.process.stdout.close()
        assert not left, "left alive:\n" + "\n".join(map(str, left))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)


def _plain(home: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": PATH, "PYTHONUTF8": "1", "HOME": home}


def _python_for(user: int | None, home: str) -> str:
    """A Python of this version that the user may run, with q9gent's dependencies."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    places = {"user": user, "group": user, "extra_groups": None if user is None else []}
    for python in (sys.executable, *filter(None, [shutil.which(version, path="/usr/local/bin:/usr/bin")])):
        try:
            probe: Any = {"cwd": home, "env": _plain(home), "capture_output": True, "timeout": 30, **places}
            if not subprocess.run([python, "-c", "import q9gent.cli.serve"], check=False, **probe).returncode:
                return python
        except OSError:
            continue
    pytest.skip(f"user {user} has no {version} that can import q9gent")


@pytest.fixture
def home() -> Iterator[str]:
    """A folder that any user can reach, unlike pytest's own."""
    folder = tempfile.mkdtemp(prefix="q9gent-test-")
    os.chmod(folder, 0o755)  # others must reach it
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def start(home: str) -> Iterator[Callable[..., Started]]:
    """Start servers; afterwards each is proven to have left nothing."""
    started: list[Started] = []

    def begin(*options: str, **how: Any) -> Started:
        user = how.get("user")
        if user is not None:
            os.chown(home, user, user)
        started.append(Started(_python_for(user, home), *options, home=home, **how))
        return started[-1]

    yield begin
    for server in started:
        server.close()


def _limit_processes(python: str, user: int | None, limit: int, pids: list[int]) -> None:
    """Set the soft limit of processes, as the user: not every root may do it to another's."""
    argv = [python, "-I", "-S", "-c", SOFT_LIMIT, str(limit), *map(str, pids)]
    subprocess.run(argv, user=user, group=user, check=True, timeout=30)


def test_no_process_to_be_had(start: Callable[..., Started], home: str) -> None:
    """When the system has no process to give the answer is a 503 to come back from, and it passes."""
    user = NOBODY if os.getuid() == 0 else None  # root has no such limit
    server, python = start("--simulate", user=user), _python_for(user, home)
    desk = server.desk
    desk.assert_serves()
    helper = helpers_of.fork_server(server.process.pid)
    idle = helpers_of.supervisors(helper)
    assert idle
    _limit_processes(python, user, 0, [helper, *(one.pid for one in idle)])
    for _ in range(3):  # first the idle supervisors cannot start it, then no other can be forked
        with desk.spawn("!exit 0") as caller:
            status, told = caller.answer()
            assert status == 503, told
            assert "Resource temporarily unavailable" in told["error"]
            assert caller.response.headers["retry-after"]
    helpers_of.kill_those(idle)
    with desk.spawn("!exit 0") as caller:
        assert caller.answer()[0] == 503
    _limit_processes(python, user, -1, [helper])
    desk.assert_serves()
    assert helpers_of.fork_server(server.process.pid) == helper


def test_no_thread_to_be_had(start: Callable[..., Started], home: str) -> None:
    """When the system has no thread for the server either, the answer has the reason, and it passes."""
    user = NOBODY if os.getuid() == 0 else None  # root has no such limit
    server, python = (
        start("--simulate", "--session-dir", f"{home}/sessions", user=user),
        _python_for(user, home),
    )
    desk, pid = server.desk, server.process.pid
    desk.assert_serves()
    helper = helpers_of.fork_server(pid)
    _limit_processes(python, user, 0, [pid])
    # A thread that is idle is used again; trio ends it after 10 s.
    assert wait_for(lambda: len(os.listdir(f"/proc/{pid}/task")), lambda count: count == 1, GONE_SECONDS) == 1
    desk.assert_serves()  # what needs no thread goes on
    for answer in (lambda: desk.get("/sessions"), lambda: _created(desk)):
        status, told = answer()
        assert status == 500, told
        assert "Resource temporarily unavailable" in told["error"]
    os.kill(helper, signal.SIGKILL)
    assert wait_for(lambda: server.log, lambda log: "fork server failed" in log, GONE_SECONDS)
    with desk.spawn("!exit 0") as caller:
        status, told = caller.answer()
        assert status == 503, told
        assert "Resource temporarily unavailable" in told["error"]
        assert caller.response.headers["retry-after"]
    _limit_processes(python, user, -1, [pid])
    status, told = wait_for(lambda: _created(desk), lambda answer: answer[0] == 200, GONE_SECONDS)
    assert status == 200, told
    assert helpers_of.fork_server(pid) != helper
    assert len(desk.get("/sessions")[1]["sessions"]) == 1


def _created(desk: Desk) -> tuple[int, Any]:
    """Have a run with a session: the status, and the error or the last event."""
    with desk.spawn("!exit 0", create_session=True) as caller:
        return caller.answer() if caller.response.status != 200 else (200, caller.last())


def test_what_cannot_be_killed(start: Callable[..., Started], home: str) -> None:
    """A process of another user is told as a survivor by all who tell of its run, in bounded time."""
    if os.getuid() != 0:
        pytest.skip("only root can make a process that the server may not kill")
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("needs setpriv(1)")
    rooted, script, pid_file = f"{home}/rooted", f"{home}/agent", f"{home}/pid"
    shutil.copy(setpriv, rooted)
    os.chmod(rooted, stat.S_ISUID | 0o555)
    with open(script, "w", encoding="utf-8") as file:
        file.write(AGENT.format(rooted=rooted, pid_file=pid_file))
    os.chmod(script, 0o755)
    server = start("--claude-path", script, "--grace-seconds", "0.2", user=NOBODY)
    desk = server.desk
    try:
        with desk.spawn("immune", create_session=True) as caller:
            session = next(caller.events())["session_id"]
            assert next(caller.events())["data"] == "started"
            if not wait_for(lambda: os.path.exists(pid_file), bool, 30):
                pytest.skip("setuid programs do not work here")
            with open(pid_file, encoding="ascii") as file:
                immune = int(file.read())
            began = time.monotonic()
            status, told = desk.terminate(session)
            assert 10 <= time.monotonic() - began < 40
            assert status == 500, told
            assert immune in told["survivors"]
            last = caller.last()
            assert last["code"] == "survivors"
            assert last["survivors"] == told["survivors"]
        assert desk.terminate(session)[0] == 404
        helper = helpers_of.fork_server(server.process.pid)
        holding = [one.pid for one in helpers_of.supervisors(helper)]
        with desk.spawn("go") as caller:  # another supervisor holds it
            assert next(caller.events())["data"] == "started"
            assert set(holding) < {one.pid for one in helpers_of.supervisors(helper)}
            assert desk.terminate(desk.run_id(caller))[0] == 200
    finally:
        helpers_of.kill_those(one for one in marked(server.token) if one.command == "sleep 600")


def test_what_proc_hides(start: Callable[..., Started], home: str) -> None:
    """What a /proc with `hidepid` hides even from its own user, as it does an ssh-agent, dies with its run."""
    drop = (
        f"setpriv --bounding-set=-sys_ptrace --regid={NOBODY} --clear-groups"  # what would show all to root
    )
    hiding = f'mount -t proc -o hidepid=invisible proc /proc && exec {drop} "$@"'
    prefix = (*_mounts(), "sh", "-c", hiding, "sh")
    probe = subprocess.run(
        [*prefix, sys.executable, "-c", IS_HIDDEN], check=False, capture_output=True, timeout=30
    )
    if probe.stdout != b"True\n":
        pytest.skip(f"no /proc that hides: {probe.stdout!r} {probe.stderr!r}")
    script = f"{home}/agent"
    with open(script, "w", encoding="utf-8") as file:
        file.write(SECRETIVE.format(python=sys.executable))
    os.chmod(script, 0o755)
    server = start("--claude-path", script, "--grace-seconds", "0", prefix=prefix)
    desk = server.desk
    with desk.spawn("go") as caller:
        events = caller.events()
        assert [next(events)["data"] for _ in range(2)] == ["hidden", "hidden"]

        def agents() -> list[Found]:
            mine = [one for one in marked(server.token) if f"{script} -p go" in one.command]
            return [one for one in mine if one.state != "Z"]

        assert len(agents()) == 3
        status, told = desk.terminate(desk.run_id(caller))
        assert status == 200, told
        assert told["killed"] == 3
        assert agents() == []


def _mounts() -> tuple[str, ...]:
    """How to start something with mounts of its own."""
    unshare = ("unshare", "--mount") if os.getuid() == 0 else ("unshare", "--map-root-user", "--mount")
    try:
        subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", "/mnt"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no mounts of our own: {error}")
    return unshare


@pytest.fixture
def small_disk(start: Callable[..., Started], home: str) -> tuple[Started, str]:
    """A server whose sessions and spool are on a disk of 1 MiB, and that disk as seen from here."""
    disk = f"{home}/disk"
    os.mkdir(disk)
    script = f'mount -t tmpfs -o size=1m none {disk} && exec "$@"'
    server = start(
        *("--simulate", "--session-dir", f"{disk}/sessions", "--spool-dir", disk),
        prefix=(*_mounts(), "sh", "-c", script, "sh"),
    )
    return server, f"/proc/{server.process.pid}/root{disk}"


def test_full_disk_for_sessions(small_disk: tuple[Started, str]) -> None:
    """On a full disk a session is a 500 that says so, and leaves no half of a file; runs go on."""
    server, disk = small_disk
    desk = server.desk
    with desk.spawn("!exit 0", create_session=True) as caller:
        session = next(caller.events())["session_id"]
        assert caller.last()["type"] == "completed"
    with open(f"{disk}/ballast", "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 4096)
    with desk.spawn("!exit 0", create_session=True) as caller:
        status, told = caller.answer()
        assert status == 500
        assert "No space left on device" in told["error"]
    assert os.listdir(f"{disk}/sessions") == [f"{session}.json"]
    with desk.message(session, "!exit 0") as caller:
        assert caller.last()["type"] == "completed", "its last use is not stored, and that is all"
    assert [one["session_id"] for one in desk.get("/sessions")[1]["sessions"]] == [session]
    os.unlink(f"{disk}/ballast")
    with desk.spawn("!exit 0", create_session=True) as caller:
        assert caller.last()["type"] == "completed"
    assert len(os.listdir(f"{disk}/sessions")) == 2


def test_full_disk_for_output(small_disk: tuple[Started, str]) -> None:
    """When a slow client's output fills the disk its run ends with `overflow`, and the disk is free again."""
    server, disk = small_disk
    with server.desk.spawn("!child daemon\n!lines 200000 100\n!wait") as caller:
        server.desk.run_id(caller)  # it has started
        server.desk.assert_no_runs()
        server.desk.assert_no_agents(0)
        last = caller.last()
        assert last["code"] == "overflow"
        assert "No space left on device" in last["error"]
    free = wait_for(lambda: os.statvfs(disk).f_bfree, lambda blocks: blocks > 200, GONE_SECONDS)
    assert free > 200
    server.desk.assert_serves()


def test_read_only_disk(small_disk: tuple[Started, str]) -> None:
    """When the disk has become read-only, sessions and slow clients' output say so; then all is as before."""
    server, disk = small_disk
    desk, folder = server.desk, disk.split("/root", 1)[1]

    def remount(how: str) -> None:
        own = () if os.getuid() == 0 else ("--user", "--preserve-credentials")
        enter = ("nsenter", f"--target={server.process.pid}", *own, "--mount")
        subprocess.run([*enter, "mount", "-o", f"remount,{how}", folder], check=True, timeout=30)

    desk.assert_serves()
    remount("ro")
    status, told = _created(desk)
    assert status == 500
    assert "Read-only file system" in told["error"]
    with desk.spawn("!lines 200000 100\n!wait") as caller:
        desk.run_id(caller)  # it has started
        desk.assert_no_runs()
        last = caller.last()
    assert last["code"] == "overflow"
    assert "Read-only file system" in last["error"]
    remount("rw")
    assert _created(desk)[0] == 200
    assert len(os.listdir(f"{disk}/sessions")) == 1
