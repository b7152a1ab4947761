"""The Windows strategy, on real processes: Windows itself or Wine (``tests/wine``).

Death is proven without asking the strategy: by a handle to each process, opened while it lived, and
by looking through all processes of the system for the test's token, which every process of a test
carries on its command line. Nothing here sleeps to let something happen: children say when they are
where a test wants them.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import os
import subprocess
import sys
import textwrap
import threading
import uuid
from contextlib import asynccontextmanager

import psutil
import pytest
import trio

from q9gent.containment.protocol import ContainmentLost, Death, ExitStatus, Launch, SpawnError

if sys.platform == "win32":
    import _winapi

    from q9gent.containment import _job_objects, _overlapped_pipes, windows
    from q9gent.containment.windows import open_windows

pytestmark = [
    pytest.mark.wine,
    pytest.mark.skipif(
        sys.platform != "win32", reason="Job Objects: needs Windows, or Wine (tests/wine/setup.sh)"
    ),
]

DETACHED = 0x8 | 0x200  # DETACHED_PROCESS, CREATE_NEW_PROCESS_GROUP
BREAKAWAY = 0x01000000  # CREATE_BREAKAWAY_FROM_JOB
TEST_SECONDS = 200  # a Python under Wine takes most of a second to start, and on a busy machine several
LONG_SECONDS = 600  # longer than any test may take

CHILD = f"""
import os, subprocess, sys, time

def start(body, flags=0):
    'Start another process of the same tree, which writes to the same pipe.'
    command = [sys.executable, "-I", "-S", __file__, sys.argv[1], body]
    return subprocess.Popen(command, creationflags=flags, stdin=subprocess.DEVNULL, stdout=1, stderr=2)

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def stay():
    say(os.getpid())
    time.sleep({LONG_SECONDS})

def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)

exec(sys.argv[2])
"""


class Stage:
    """Starts processes that carry a token, and finds them again."""

    def __init__(self, program: str) -> None:
        self._program = program
        self.token = f"token-{uuid.uuid4()}"

    def launch(self, body: str, stdin: bytes | None = None) -> Launch:
        """Return what starts a Python process that does as the body says."""
        body = textwrap.dedent(body).strip()
        argv = (sys.executable, "-I", "-S", self._program, self.token, body)
        return Launch(argv=argv, stdin=stdin)

    def find(self) -> list[int]:
        """Return the pids of all processes of the system with this token."""
        found = []
        for process in psutil.process_iter():
            try:
                command_line = process.cmdline()
            except psutil.Error:
                continue
            if self.token in command_line:
                found.append(process.pid)
        return found


class Witness:
    """A handle to a process, which knows whether it died whatever becomes of its pid."""

    def __init__(self, pid: int) -> None:
        synchronize = 0x100000
        self.pid = pid
        self._handle = 0
        self._handle = _winapi.OpenProcess(synchronize, False, pid)

    def lives(self) -> bool:
        return _winapi.WaitForSingleObject(self._handle, 0) != _winapi.WAIT_OBJECT_0

    def __del__(self) -> None:
        if self._handle:
            _winapi.CloseHandle(self._handle)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("child") / "child.py"
    path.write_text(CHILD)
    return str(path)


@pytest.fixture
def stage(program):
    """A stage, on which nothing may be left."""
    stage = Stage(program)
    yield stage
    assert stage.find() == []


def in_trio(test):
    """Run an async test with a deadline."""

    @functools.wraps(test)
    def run(**fixtures):
        async def main():
            with trio.fail_after(TEST_SECONDS):
                await test(**fixtures)

        trio.run(main)

    return run


@asynccontextmanager
async def one_tree(launch, *, grace_seconds=1):
    """Open the strategy for a single tree."""
    async with open_windows() as it, it.open_tree(launch, grace_seconds=grace_seconds) as tree:
        yield tree


async def read_lines(source, count):
    """Read exactly so many lines; what follows must be read later or never."""
    text = b""
    while text.count(b"\n") < count:
        data = await source.receive(1)
        assert data, f"the pipe ended after {text!r}"
        text += data
    return text.decode().split("\n")[:-1]


async def read_all(source):
    parts = []
    while data := await source.receive(65536):
        parts.append(data)
    return b"".join(parts)


async def witnesses(tree, count):
    """Read the pids that children of this tree say, and take a handle to each."""
    return [Witness(int(line)) for line in await read_lines(tree.stdout, count)]


async def until(condition):
    while not condition():  # noqa: ASYNC110 - what other processes do makes no trio.Event
        await trio.sleep(0.01)


def count_handles():
    """Count this process's handles one by one: Wine 8.0 always tells GetProcessHandleCount 0."""
    flags = ctypes.wintypes.DWORD()
    information = ctypes.windll.kernel32.GetHandleInformation
    return sum(bool(information(handle, ctypes.byref(flags))) for handle in range(4, 0x10000, 4))


THREE_LEVELS = """
    start("start('stay()'); stay()")
    stay()
"""
"""Says three pids."""


# The leader


@pytest.mark.parametrize("code", [0, 7, 0xC0000005])
@in_trio
async def test_the_exit_status_is_the_leaders(stage, code):
    """All 32 bits of it."""
    launch = stage.launch(f"import ctypes; ctypes.windll.kernel32.ExitProcess({code})")
    async with open_windows() as containment:
        async with containment.open_tree(launch, grace_seconds=1) as tree:
            assert await tree.wait_exited() == ExitStatus(code=code)
        assert tree.death == Death()


@in_trio
async def test_stdout_and_stderr_are_apart(stage):
    """Each is read to its own end."""
    launch = stage.launch("os.write(1, b'out'); os.write(2, b'err')")
    async with one_tree(launch) as tree:
        assert await read_all(tree.stdout) == b"out"
        assert await read_all(tree.stderr) == b"err"


@in_trio
async def test_much_output_arrives_whole(stage):
    """More than any pipe holds, after the leader's exit too."""
    launch = stage.launch("for number in range(2000): os.write(1, b'%09d\\n' % number * 1000)")
    expected = b"".join(b"%09d\n" % number * 1000 for number in range(2000))
    async with one_tree(launch) as tree:
        assert await read_all(tree.stdout) == expected


@in_trio
async def test_an_empty_write_is_no_end_of_file(stage, monkeypatch):
    """Windows delivers it as a read of nothing (Wine 8.0 does not deliver it: it is put in here)."""

    async def read_nothing_first(handle, buffer):
        empty_reads.append(0)
        return 0 if len(empty_reads) < 3 else await readinto_overlapped(handle, buffer)

    empty_reads = []
    readinto_overlapped = trio.lowlevel.readinto_overlapped
    monkeypatch.setattr(trio.lowlevel, "readinto_overlapped", read_nothing_first)
    async with one_tree(stage.launch("os.write(1, b'text')")) as tree:
        assert await read_all(tree.stdout) == b"text"


@in_trio
async def test_the_environment_is_the_servers_without_its_settings(stage, monkeypatch):
    """Variables of the server's own settings stay with the server."""
    monkeypatch.setenv("Q9GENT_PORT", "1")
    monkeypatch.setenv("OTHER_SETTING", "2")
    launch = stage.launch("say(os.environ.get('Q9GENT_PORT'), os.environ.get('OTHER_SETTING'))")
    async with one_tree(launch) as tree:
        assert await read_lines(tree.stdout, 1) == ["None 2"]


@pytest.mark.parametrize(
    "text", ["", "two words", 'a "quoted" one', "C:\\folder\\", 'a\\\\"b', "ä€😀", "%PATH% & ^"]
)
@in_trio
async def test_arguments_arrive_as_they_are(stage, text):
    """No shell, and the quoting that a C runtime undoes."""
    launch = stage.launch("os.write(1, sys.argv[3].encode())")
    launch = Launch(argv=(*launch.argv, text))
    async with one_tree(launch) as tree:
        assert (await read_all(tree.stdout)).decode() == text


# Standard input


@pytest.mark.parametrize("content", [None, b""], ids=["null device", "empty"])
@in_trio
async def test_no_input_is_the_end_of_file(stage, content):
    """The process does not wait for what nobody will send."""
    launch = stage.launch("say(len(sys.stdin.buffer.read()))", stdin=content)
    async with one_tree(launch) as tree:
        assert await read_lines(tree.stdout, 1) == ["0"]


@in_trio
async def test_large_input_is_fed_while_output_is_read(stage):
    """Both pipes are full at once, and neither waits for the other."""
    content = os.urandom(1 << 20) * 8
    launch = stage.launch(
        """
        import hashlib
        digest = hashlib.sha256()
        while data := sys.stdin.buffer.read(4096):
            digest.update(data)
            os.write(1, b"." * len(data))
        say(digest.hexdigest())
        """,
        stdin=content,
    )
    async with one_tree(launch) as tree:
        output = await read_all(tree.stdout)
    assert output.decode() == "." * len(content) + hashlib.sha256(content).hexdigest() + "\n"


@in_trio
async def test_input_that_nobody_reads_holds_nothing_up(stage):
    """A process may exit without having read."""
    launch = stage.launch("say('done')", stdin=bytes(8 << 20))
    async with one_tree(launch) as tree:
        assert await read_lines(tree.stdout, 1) == ["done"]
        assert await tree.wait_exited() == ExitStatus(code=0)


@in_trio
async def test_input_that_nobody_reads_does_not_hold_up_the_end(stage):
    """A process that lives without reading is killed all the same."""
    launch = stage.launch("stay()", stdin=bytes(8 << 20))
    async with one_tree(launch) as tree:
        (leader,) = await witnesses(tree, 1)
        assert await tree.end(0) == Death(killed=1)
        assert not leader.lives()


# The tree


@in_trio
async def test_three_levels_die_at_once(stage):
    """Leader, child and grandchild."""
    async with one_tree(stage.launch(THREE_LEVELS)) as tree:
        processes = await witnesses(tree, 3)
        assert tree.count_processes() == 3
        assert await tree.end(1) == Death(killed=3)
        assert not any(process.lives() for process in processes)
        assert stage.find() == []
        assert tree.count_processes() == 0


@in_trio
async def test_leaving_the_block_ends_the_tree(stage):
    """Nobody needs to call ``end``."""
    async with open_windows() as containment:
        async with containment.open_tree(stage.launch(THREE_LEVELS), grace_seconds=1) as tree:
            processes = await witnesses(tree, 3)
        assert not any(process.lives() for process in processes)
        assert tree.death == Death(killed=3)


@in_trio
async def test_what_an_exited_leader_leaves_dies_at_once(stage, tmp_path):
    """Without anybody asking for it, and the leader's status stays its own."""
    flag = tmp_path / "go"
    launch = stage.launch(f"start('stay()'); wait_for({str(flag)!r}); sys.exit(3)")
    async with one_tree(launch, grace_seconds=60) as tree:
        (child,) = await witnesses(tree, 1)
        flag.touch()
        assert await tree.wait_exited() == ExitStatus(code=3)
        await until(lambda: tree.death is not None)
        assert not child.lives()
        assert tree.death == Death(killed=1)


@in_trio
async def test_a_detached_process_dies_too(stage):
    """No console, a process group of its own, and a parent that has exited."""
    launch = stage.launch(f"""
        start("start('stay()', {DETACHED})", {DETACHED}).wait()
        stay()
    """)
    async with open_windows() as containment:
        async with containment.open_tree(launch, grace_seconds=1) as tree:
            processes = await witnesses(tree, 2)
        assert not any(process.lives() for process in processes)
        assert stage.find() == []


@in_trio
async def test_nothing_can_leave_the_job(stage):
    """Windows refuses the attempt."""
    launch = stage.launch(f"""
        try:
            start('stay()', {BREAKAWAY})
        except OSError as error:
            say('refused', error.winerror)
        stay()
    """)
    async with one_tree(launch) as tree:
        assert (await read_lines(tree.stdout, 1)) == ["refused 5"]


@in_trio
async def test_a_job_inside_does_not_let_out(stage):
    """Node puts its children into a job that lets theirs leave silently: that job, not ours."""
    launch = stage.launch("""
        import ctypes
        kernel32 = ctypes.windll.kernel32
        job = kernel32.CreateJobObjectW(None, None)
        limits = (ctypes.c_uint64 * 18)()
        limits[2] = 0x1000 | 0x2000  # SILENT_BREAKAWAY_OK, KILL_ON_JOB_CLOSE
        assert kernel32.SetInformationJobObject(job, 9, limits, ctypes.sizeof(limits))
        child = start("start('stay()'); stay()", 0x4)
        assert kernel32.AssignProcessToJobObject(job, int(child._handle))
        ctypes.windll.ntdll.NtResumeProcess(int(child._handle))
        stay()
    """)
    async with open_windows() as containment:
        async with containment.open_tree(launch, grace_seconds=1) as tree:
            processes = await witnesses(tree, 3)
        assert not any(process.lives() for process in processes)


@in_trio
async def test_a_tree_that_keeps_growing_dies(stage):
    """It is killed until nothing is left, and what came meanwhile is counted."""
    launch = stage.launch("""
        grow = "say(os.getpid())\\nfor number in range(20): start('stay()')\\nstay()"
        for number in range(3): start(grow)
        stay()
    """)
    async with open_windows() as containment:
        async with containment.open_tree(launch, grace_seconds=1) as tree:
            processes = await witnesses(tree, 8)
            death = await tree.end(0)
        assert death.killed >= 8
        assert death.survivors == ()
        assert not any(process.lives() for process in processes)
        assert stage.find() == []


@in_trio
async def test_a_run_does_not_hold_another_ones_pipes(stage):
    """Started at the same time, each inherits its own three handles only."""
    lasting, brief = stage.launch("stay()"), stage.launch("stay()")

    async def start(launch, *, task_status):
        async with containment.open_tree(launch, grace_seconds=1) as tree:
            task_status.started(tree)
            await trio.sleep_forever()

    async with open_windows() as containment, trio.open_nursery() as nursery:
        trees = []

        async def add(launch):
            trees.append(await nursery.start(functools.partial(start, launch)))

        async with trio.open_nursery() as starting:
            for _ in range(4):
                starting.start_soon(add, lasting)
                starting.start_soon(add, brief)
        for tree in trees:
            await witnesses(tree, 1)
        for tree in trees[:4]:
            await tree.end(0)
            assert await tree.stdout.receive(1) == b""
        assert all(tree.death is None for tree in trees[4:])
        nursery.cancel_scope.cancel()


# Ending


@in_trio
async def test_without_a_console_there_is_no_grace(stage, monkeypatch):
    """Nobody can be asked, so nobody is waited for."""
    monkeypatch.setattr(_job_objects, "has_console", lambda: False)
    async with one_tree(stage.launch("stay()")) as tree:
        await witnesses(tree, 1)
        with trio.fail_after(5):
            assert await tree.end(LONG_SECONDS) == Death(killed=1)


@in_trio
async def test_a_console_that_fails_gives_no_grace(stage, monkeypatch):
    """The event could not be sent: the same as without a console."""
    monkeypatch.setattr(_job_objects, "has_console", lambda: True)
    monkeypatch.setattr(_job_objects, "ask_to_end", lambda _pid: False)
    async with one_tree(stage.launch("stay()")) as tree:
        await witnesses(tree, 1)
        with trio.fail_after(5):
            assert await tree.end(LONG_SECONDS) == Death(killed=1)


@pytest.fixture
def asked(monkeypatch):
    """Have asking appear to work, and return the pids that were asked."""
    pids = []
    monkeypatch.setattr(_job_objects, "has_console", lambda: True)
    monkeypatch.setattr(_job_objects, "ask_to_end", lambda pid: not pids.append(pid))
    return pids


@in_trio
async def test_a_leader_that_ignores_the_request_is_killed_after_the_grace(stage, asked):
    """Not before."""
    async with one_tree(stage.launch("stay()")) as tree:
        (leader,) = await witnesses(tree, 1)
        began = trio.current_time()
        assert await tree.end(0.3) == Death(killed=1)
        assert trio.current_time() - began >= 0.3
        assert asked == [tree.pid]
        assert not leader.lives()


@in_trio
async def test_a_leader_that_obeys_keeps_its_status_and_its_children_get_no_grace(stage, asked, tmp_path):
    """What it leaves behind is killed at once."""
    flag = tmp_path / "asked"
    launch = stage.launch(f"""
        start("stay()")
        say(os.getpid())
        wait_for({str(flag)!r})
        sys.exit(4)
    """)
    async with one_tree(launch) as tree:
        processes = await witnesses(tree, 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tree.end, LONG_SECONDS)
            await until(lambda: asked)
            flag.touch()
        assert tree.death == Death(killed=1)
        assert await tree.wait_exited() == ExitStatus(code=4)
        assert not any(process.lives() for process in processes)


@in_trio
async def test_a_shorter_grace_shortens_a_longer_one(stage, asked):
    """Calls overlap, and all are told the same; it is asked once."""
    deaths = []

    async def end(seconds):
        deaths.append(await tree.end(seconds))

    async with open_windows() as containment:
        async with containment.open_tree(stage.launch("stay()"), grace_seconds=1) as tree:
            await witnesses(tree, 1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(end, LONG_SECONDS)
                await until(lambda: asked)
                nursery.start_soon(end, 0.1)
            assert await tree.end(LONG_SECONDS) == Death(killed=1)
        assert deaths == [Death(killed=1)] * 2
        assert len(asked) == 1


@in_trio
async def test_an_exited_leader_is_not_asked(stage, asked):
    """Its pid may be another's by then."""
    async with open_windows() as containment:
        async with containment.open_tree(stage.launch("pass"), grace_seconds=60) as tree:
            await tree.wait_exited()
        assert asked == []


@pytest.mark.usefixtures("asked")
@in_trio
async def test_the_killing_goes_on_when_the_wait_is_cancelled(stage):
    """Only the wait is given up."""
    async with one_tree(stage.launch("stay()")) as tree:
        (leader,) = await witnesses(tree, 1)
        with trio.move_on_after(0):
            await tree.end(0.1)
        assert tree.death is None
        await until(lambda: tree.death is not None)
        assert not leader.lives()


@in_trio
async def test_a_block_left_by_an_exception_raises_it_as_it_is(stage):
    """No group around it, and the tree is dead when it arrives."""
    processes = []

    async def leave():
        async with containment.open_tree(stage.launch("stay()"), grace_seconds=1) as tree:
            processes.extend(await witnesses(tree, 1))
            raise KeyError

    async with open_windows() as containment:
        with pytest.raises(KeyError):
            await leave()
    assert [process.lives() for process in processes] == [False]


@in_trio
async def test_a_cancelled_block_ends_the_tree(stage):
    """Shielded: the wait for its death is not cancelled with it."""
    async with open_windows() as containment:
        with trio.CancelScope() as scope:
            async with containment.open_tree(stage.launch(THREE_LEVELS), grace_seconds=1) as tree:
                processes = await witnesses(tree, 3)
                scope.cancel()
                await trio.sleep_forever()
        assert tree.death == Death(killed=3)
        assert not any(process.lives() for process in processes)


@in_trio
async def test_many_trees_end_at_once(stage):
    """Twenty, each of two processes."""
    processes = []

    async def run(*, task_status):
        launch = stage.launch("start('stay()'); stay()")
        async with containment.open_tree(launch, grace_seconds=1) as tree:
            processes.extend(await witnesses(tree, 2))
            task_status.started()
            await trio.sleep_forever()

    async with open_windows() as containment, trio.open_nursery() as nursery:
        async with trio.open_nursery() as starting:
            for _ in range(20):
                starting.start_soon(nursery.start, run)
        assert len(processes) == 40
        nursery.cancel_scope.cancel()
    assert not any(process.lives() for process in processes)


@in_trio
async def test_survivors_are_told_by_their_pids(stage, monkeypatch):
    """Dead is never said of what lives; closing the job is the last attempt."""
    monkeypatch.setattr(_job_objects.Job, "terminate", lambda _job: False)
    monkeypatch.setattr(windows, "KILL_TIMEOUT_SECONDS", 0.2)
    async with open_windows() as containment:
        async with containment.open_tree(stage.launch("start('stay()'); stay()"), grace_seconds=1) as tree:
            processes = await witnesses(tree, 2)
            death = await tree.end(0)
            assert {process.pid for process in processes} <= set(death.survivors)
            assert death.killed == 0
            assert all(process.lives() for process in processes)
        await until(lambda: not any(process.lives() for process in processes))


@in_trio
async def test_the_list_of_pids_grows_until_all_fit(stage):
    """Windows tells only as many as there is room for."""
    async with one_tree(stage.launch(THREE_LEVELS)) as tree:
        pids = {process.pid for process in await witnesses(tree, 3)}
        assert pids <= set(tree._job.pids(room=1))
        assert pids == set(tree._job.members())


@in_trio
async def test_a_tree_that_cannot_be_watched_is_killed_and_called_lost(stage, monkeypatch, caplog):
    """No thread left to wait with: it is not claimed to be dead."""

    async def fail(_handle):
        raise RuntimeError("can't start new thread")

    async def run():
        async with containment.open_tree(stage.launch("stay()"), grace_seconds=1) as tree:
            with pytest.raises(ContainmentLost):
                await tree.wait_exited()
            assert tree.death is None

    monkeypatch.setattr(trio.lowlevel, "WaitForSingleObject", fail)
    async with open_windows() as containment:
        await run()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    await until(lambda: not stage.find())


# Pipes


@in_trio
async def test_a_pipe_held_outside_is_read_without_waiting(stage):
    """Somebody beyond the tree has the writing end: the dead tree's last words are read all the same."""
    launch = stage.launch("""
        import msvcrt
        say(msvcrt.get_osfhandle(1))
        os.write(1, b"last words")
        os.write(2, b"written")
        time.sleep(600)
    """)
    async with one_tree(launch) as tree:
        (handle,) = await read_lines(tree.stdout, 1)
        duplicate_handle, same_access = 0x40, 2
        leader = _winapi.OpenProcess(duplicate_handle, False, tree.pid)
        held = _winapi.DuplicateHandle(
            leader, int(handle), _winapi.GetCurrentProcess(), 0, False, same_access
        )
        await tree.stderr.receive(100)
        await tree.end(0)
        with trio.move_on_after(0.1) as scope:
            assert await tree.stdout.receive(4) == b"last"
            assert tree.stdout.receive_nowait(3) == b" wo"
            assert tree.stdout.receive_nowait(100) == b"rds"
            assert tree.stdout.receive_nowait(100) == b""
            await tree.stdout.receive(100)
        assert scope.cancelled_caught
        _winapi.CloseHandle(held)
        _winapi.CloseHandle(leader)


@in_trio
async def test_reading_at_once_passes_over_an_empty_write(stage, monkeypatch):
    """What stands behind it is not lost."""

    def read_nothing_first(_handle, _size):
        monkeypatch.undo()
        return b""

    async with one_tree(stage.launch("os.write(1, b'words'); os.write(2, b'written')")) as tree:
        await tree.stderr.receive(100)
        monkeypatch.setattr(_overlapped_pipes, "_read", read_nothing_first)
        assert tree.stdout.receive_nowait(100) == b"words"


@in_trio
async def test_cancelled_reads_lose_nothing(stage):
    """Also one that came through although it was cancelled."""
    launch = stage.launch("for number in range(20000): os.write(1, b'%09d\\n' % number)")
    received = b""
    async with one_tree(launch) as tree:
        while True:
            with trio.move_on_after(0.0005):
                data = await tree.stdout.receive(1000)
                received += data
                if not data:
                    break
    assert received == b"".join(b"%09d\n" % number for number in range(20000))


@in_trio
async def test_a_late_read_is_kept(stage, monkeypatch):
    """A read that Windows completes after the cancellation is there for the next."""

    async def read_late(handle, buffer):
        scope.cancel()
        with trio.CancelScope(shield=True):
            return await readinto_overlapped(handle, buffer)

    readinto_overlapped = trio.lowlevel.readinto_overlapped
    async with one_tree(stage.launch("os.write(1, b'abc')")) as tree:
        with trio.CancelScope() as scope, monkeypatch.context() as patch:
            patch.setattr(trio.lowlevel, "readinto_overlapped", read_late)
            await tree.stdout.receive(100)
        assert scope.cancelled_caught
        assert await tree.stdout.receive(1) == b"a"
        assert tree.stdout.receive_nowait(100) == b"bc"


@in_trio
async def test_a_closed_source_says_so(stage):
    """After the block there is nothing to read from."""
    async with open_windows() as containment:
        async with containment.open_tree(stage.launch("pass"), grace_seconds=1) as tree:
            await tree.wait_exited()
        with pytest.raises(trio.ClosedResourceError):
            await tree.stdout.receive(1)
        assert tree.stdout.receive_nowait(1) == b""


# Starting


async def spawn_error(launch):
    async with open_windows() as containment:
        with pytest.raises(SpawnError) as caught:
            async with containment.open_tree(launch, grace_seconds=1):
                pytest.fail("it was started")
    return caught.value.errno, caught.value.reason


@in_trio
async def test_a_missing_program_is_told_with_its_errno():
    """In the words that other systems use, without the path."""
    launch = Launch(argv=(r"C:\no\such\program.exe",))
    assert await spawn_error(launch) == (errno.ENOENT, "No such file or directory")


@in_trio
async def test_a_bare_name_is_not_looked_for_on_the_path():
    """A path is meant: relative to the working directory."""
    assert await spawn_error(Launch(argv=("cmd.exe",))) == (errno.ENOENT, "No such file or directory")


@in_trio
async def test_a_file_that_is_no_program_is_told(tmp_path):
    """Errors of which errno has no notion are told in Windows's words."""
    file = tmp_path / "text.exe"
    file.write_text("not a program")
    number, reason = await spawn_error(Launch(argv=(str(file),)))
    assert number in (errno.ENOEXEC, None)
    assert reason
    assert "text.exe" not in reason


def test_an_error_unknown_to_errno_keeps_its_own_words():
    """Python gives EINVAL to every Windows error that it does not know."""
    error = OSError(0, "The requested operation requires elevation", None, 740)
    assert windows._spawn_error(error).reason == "The requested operation requires elevation"
    assert windows._spawn_error(error).errno is None


@pytest.mark.parametrize("number", [8, 1450, 1455])
def test_no_memory_is_one_error(number):
    """So that the server can say that it is full."""
    assert windows._spawn_error(OSError(0, "", None, number)).errno == errno.ENOMEM


@pytest.mark.parametrize("name", ["claude.cmd", "CLAUDE.BAT", "claude.cmd. ."])
@in_trio
async def test_a_batch_file_is_refused(tmp_path, name):
    """cmd.exe would read a caller's text as its own."""
    (tmp_path / "claude.cmd").write_text("echo hello")
    number, reason = await spawn_error(Launch(argv=(str(tmp_path / name), "a&b")))
    assert number is None
    assert "batch file" in reason


@in_trio
async def test_a_command_that_is_too_long_is_told_so(stage):
    """Counted as Windows counts: after quoting, in UTF-16."""
    argv = (*stage.launch("pass").argv, "😀" * 16_000 + '"' * 400)
    assert await spawn_error(Launch(argv=argv)) == (errno.E2BIG, "Argument list too long")


@in_trio
async def test_a_command_that_just_fits_is_run(stage):
    """Up to the last character."""
    argv = stage.launch("os.write(1, b'%d' % len(sys.argv[3]))").argv
    room = windows.COMMAND_LINE_CHARACTERS - len(subprocess.list2cmdline(argv)) - 2
    launch = Launch(argv=(*argv, "x" * room))
    async with one_tree(launch) as tree:
        assert await read_all(tree.stdout) == b"%d" % room
    assert (await spawn_error(Launch(argv=(*argv, "x" * (room + 1)))))[0] == errno.E2BIG


@in_trio
async def test_a_nul_is_refused(stage):
    """It would end the command line there."""
    assert (await spawn_error(Launch(argv=(*stage.launch("pass").argv, "a\0b"))))[0] is None


@pytest.mark.parametrize("failing", ["assign", "resume"])
@in_trio
async def test_a_process_that_cannot_be_contained_is_killed(stage, monkeypatch, failing):
    """It has not run, and is dead when the error arrives."""
    created = []
    create = _job_objects._create_suspended

    def remember(*arguments):
        result = create(*arguments)
        created.append(Witness(result[2]))
        return result

    def refuse(*_arguments):
        raise PermissionError(errno.EACCES, "Access is denied")

    monkeypatch.setattr(_job_objects, "_create_suspended", remember)
    if failing == "assign":
        monkeypatch.setattr(_job_objects.Job, "assign", refuse)
    else:
        monkeypatch.setattr(_job_objects, "_resume_thread", refuse)
    assert await spawn_error(stage.launch("stay()")) == (errno.EACCES, "Permission denied")
    assert [process.lives() for process in created] == [False]


@in_trio
async def test_cancelled_while_starting_nothing_is_left(stage, monkeypatch):
    """The process comes to be after the cancellation, and dies of it."""
    spawn = _job_objects.spawn
    created = []

    def spawn_cancelled(*arguments, **options):
        trio.from_thread.run_sync(scope.cancel)
        process, pid = spawn(*arguments, **options)
        created.append(Witness(pid))
        return process, pid

    monkeypatch.setattr(_job_objects, "spawn", spawn_cancelled)
    async with open_windows() as containment:
        with trio.CancelScope() as scope:
            async with containment.open_tree(stage.launch("stay()"), grace_seconds=1) as tree:
                await tree.wait_exited()
        assert scope.cancelled_caught
        assert [process.lives() for process in created] == [False]


@in_trio
async def test_cancelled_before_starting_nothing_is_started(stage):
    """A cancelled request costs no process, and no handle."""
    async with open_windows() as containment:
        await trio.to_thread.run_sync(int)
        before = count_handles()
        for _ in range(10):
            with trio.CancelScope() as scope:
                scope.cancel()
                async with containment.open_tree(stage.launch("stay()"), grace_seconds=1):
                    pytest.fail("it was started")
        assert count_handles() <= before  # idle threads of earlier tests may end meanwhile, with theirs


# The server


@in_trio
async def test_a_hundred_runs_leave_nothing():
    """No handle, no thread, no process."""
    shell = Launch(argv=(os.environ["COMSPEC"], "/c", "exit 5"), stdin=b"x")
    missing = Launch(argv=(r"C:\no\such\program.exe",), stdin=b"x")

    async def exit_5():
        async with containment.open_tree(shell, grace_seconds=1) as tree:
            assert await tree.wait_exited() == ExitStatus(code=5)
        assert tree.death == Death()

    async def run(count):
        for _ in range(count):
            await exit_5()
            with pytest.raises(SpawnError):
                async with containment.open_tree(missing, grace_seconds=1):
                    pytest.fail("it was started")

    async with open_windows() as containment:
        await run(5)  # what is made once: threads, caches
        before = count_handles(), threading.active_count(), len(psutil.pids())
        await run(100)
        assert count_handles() <= before[0]
        assert threading.active_count() <= before[1]
        assert len(psutil.pids()) <= before[2]


def test_the_count_of_handles_counts():
    """The measure itself: one more when there is one more."""
    before = count_handles()
    job = _job_objects.Job()
    assert count_handles() == before + 1
    job.close()
    job.close()  # twice is once
    assert count_handles() == before


@in_trio
async def test_a_server_that_cannot_have_a_job_warns_and_works(stage, monkeypatch, caplog):
    """Somebody's job forbids another inside: the runs have theirs all the same."""

    def refuse():
        raise PermissionError(errno.EACCES, "Access is denied")

    monkeypatch.setattr(_job_objects, "confine_this_process", refuse)
    async with one_tree(stage.launch("sys.exit(6)")) as tree:
        assert await tree.wait_exited() == ExitStatus(code=6)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


SERVER = """
import sys, time
sys.path[:0] = {path!r}
import msgspec, trio
from q9gent.containment import _job_objects
from q9gent.containment.protocol import Launch
from q9gent.containment.windows import open_windows

def hang(job, handle):
    print("not assigned", flush=True)
    time.sleep(600)

async def main():
    async with open_windows() as containment:
        if {hang!r}:
            _job_objects.Job.assign = hang
        launch = Launch(argv={argv!r})
        async with containment.open_tree(launch, grace_seconds=1) as tree:
            while data := await tree.stdout.receive(1000):
                sys.stdout.buffer.write(data)
                sys.stdout.flush()

trio.run(main)
"""


def start_server(launch, *, hang=False):
    source = SERVER.format(path=sys.path, argv=launch.argv, hang=hang)
    return subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


@in_trio
async def test_the_servers_sudden_death_is_its_runs(stage):
    """TerminateProcess on the server: nobody is left to clean up, and nothing is left."""
    with start_server(stage.launch(THREE_LEVELS)) as server:
        lines = [await trio.to_thread.run_sync(server.stdout.readline) for _ in range(3)]
        processes = [Witness(int(line)) for line in lines]
        assert all(process.lives() for process in processes)
        server.kill()
        await until(lambda: not any(process.lives() for process in processes))


@in_trio
async def test_a_server_that_dies_while_starting_leaves_nothing(stage):
    """Between creating a process and putting it into its job, the server's own job holds it."""
    with start_server(stage.launch("stay()"), hang=True) as server:
        line = await trio.to_thread.run_sync(server.stdout.readline)
        assert line.strip() == b"not assigned"
        process = Witness(stage.find()[0])
        assert process.lives()
        server.kill()
        await until(lambda: not process.lives())
