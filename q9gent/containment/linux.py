"""Linux: a fork server, and a subreaper for each run (``_fork_server`` says how and why).

This is the server's side: it keeps the fork server alive, a small pool of idle supervisors, and speaks
to the supervisor of each tree. No process is ever forked from the server itself, which is large and
runs an event loop; starting a run is a message.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import contextlib
import math
import os
import signal
import socket
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from q9gent.containment import _fork_server
from q9gent.containment.environment import STARTED_WITH, agent_environment
from q9gent.containment.pipes import PipeSource, open_null, open_output_pipe, stdin_file
from q9gent.containment.protocol import (
    KILL_TIMEOUT_SECONDS,
    ContainmentLost,
    ContainmentUnavailable,
    Death,
    ExitStatus,
    Launch,
    SpawnError,
)
from q9gent.log import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


logger = get_logger("q9gent.containment")

IDLE_SUPERVISORS = 16
"""How many wait for a next run: about 1 MB each, and a fork saved for every turn."""

INLINE_BYTES = 64 * 1024
"""Larger command lines travel in a memory file: a packet may be no larger than the socket's buffer."""

START_TIMEOUT_SECONDS = 10.0
"""For the helpers' own start, which takes 20 ms: what takes longer has failed."""

ANSWER_TIMEOUT_SECONDS = 1.0
"""On top of what a supervisor itself may take, before it is taken for stuck and replaced."""


class Supervisor:
    """The server's end of a supervisor's lifeline. Closing it ends the supervisor and all it holds."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.pid = 0

    def send(self, packet: bytes, fds: list[int] | None = None) -> bool:
        """Send a packet; False if the supervisor is gone.

        Never waits: the few packets of a run are far below what the socket holds.
        """
        try:
            if fds:
                socket.send_fds(self._sock, [packet], fds)
            else:
                self._sock.send(packet)
        except OSError:
            return False
        return True

    async def receive(self) -> bytes:
        """Wait for a packet; ``b""`` means that the supervisor is gone. Cancellation: safe."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                return self._sock.recv(_fork_server.PACKET_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return b""

    def is_alive(self) -> bool:
        """Tell whether an idle supervisor, which has nothing to say, is still there."""
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Let go of it."""
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()


class ForkServer:
    """Keeps one fork server running: it is started again when it dies, and running runs go on."""

    def __init__(self) -> None:
        self._sock: socket.socket | None = None
        self._process: trio.Process | None = None
        self._gone: dict[int, int] = {}
        self._news = trio.Event()
        self.generation = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep it running until cancelled.

        Raises:
            OSError: The first one could not be started, or does not work on this system.
        """
        pause_seconds = 0.0
        while True:
            began = trio.current_time()
            try:
                await self._run_one(task_status)
            except OSError as error:
                if self.generation == 0:
                    raise
                logger.error("fork server failed", error=str(error))
            # A helper that dies at once must not become a busy loop.
            lasted = trio.current_time() - began > 1
            pause_seconds = 0.0 if lasted else min(1.0, 0.05 + pause_seconds * 2)
            logger.warning("fork server ended, starting another", pause_seconds=pause_seconds)
            await trio.sleep(pause_seconds)

    async def _run_one(self, task_status: trio.TaskStatus[None]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            ours.setblocking(False)
            process = await trio.lowlevel.open_process(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    _fork_server.__file__,
                    str(theirs.fileno()),
                    str(STARTED_WITH[0]),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # out of reach of the terminal's signals
                env=agent_environment(),
            )
            theirs.close()
            try:
                with trio.move_on_after(START_TIMEOUT_SECONDS):
                    await trio.lowlevel.wait_readable(ours)
                try:
                    ready = ours.recv(_fork_server.PACKET_BYTES) == b"R"
                except OSError:
                    ready = False
                if not ready:
                    raise OSError("the fork server did not start")
                self._sock = ours
                self._process = process
                self.generation += 1
                if self.generation == 1:
                    task_status.started()
                await self._listen(ours)
            finally:
                self._sock = self._process = None
                self._tell()
                trio.lowlevel.notify_closing(ours)
                ours.close()  # its lifeline: it ends when its last supervisor has
                with trio.CancelScope(shield=True), trio.move_on_after(KILL_TIMEOUT_SECONDS + 2):
                    await process.wait()

    async def _listen(self, sock: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                packet = sock.recv(_fork_server.PACKET_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return
            if not packet:
                return
            _kind, pid, killed = packet.split()
            self._gone[int(pid)] = int(killed)
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def fork(self) -> Supervisor:
        """Return a new supervisor.

        Raises:
            SpawnError: The system has no room for another process, or the fork server is failing.
        """
        for _attempt in range(3):  # the fork server may die with our request unread, and again
            supervisor = await self._try_fork()
            if supervisor is not None:
                return supervisor
        raise SpawnError("the fork server is not running")

    async def _try_fork(self) -> Supervisor | None:
        with trio.move_on_after(START_TIMEOUT_SECONDS):
            while self._sock is None:
                await self._news_or_start()
        if self._sock is None:
            return None
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise SpawnError(os.strerror(error.errno or 0), error.errno) from error
        supervisor = Supervisor(ours)
        try:
            self._wake()
            ours.setblocking(False)
            with theirs:
                while True:
                    try:
                        socket.send_fds(self._sock, [b"F"], [theirs.fileno()])
                        break
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(self._sock)
            with trio.move_on_after(START_TIMEOUT_SECONDS):
                kind, _, number = (await supervisor.receive()).partition(b" ")
                if kind == b"P":
                    supervisor.pid = int(number)
                    self._gone.pop(supervisor.pid, None)  # news of an earlier bearer of this pid
                    return supervisor
                if kind == b"!":
                    raise SpawnError(os.strerror(int(number)), int(number))
        except OSError:
            pass
        finally:
            if not supervisor.pid:
                supervisor.close()
        return None

    async def _news_or_start(self) -> None:
        with trio.move_on_after(0.05):  # a start makes no news; its 20 ms are not worth a signal
            await self._news.wait()

    def _wake(self) -> None:
        """Continue it, should a run have stopped it: it is our child, so the pid is its own."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)

    def kill(self, supervisor_pid: int) -> None:
        """Kill a supervisor that does not answer; the fork server then ends what it held."""
        self._wake()
        if self._sock is not None:
            with contextlib.suppress(OSError):  # it is ending; who waits for the outcome is told so
                self._sock.send(b"K %d" % supervisor_pid)

    async def wait_gone(self, supervisor_pid: int, generation: int) -> int | None:
        """Wait until a supervisor and all that it held are dead.

        Returns:
            How many were killed; ``None`` if the fork server that could say has died too.
        """
        while supervisor_pid not in self._gone:
            if self._sock is None or self.generation != generation:
                return None
            await self._news.wait()
        return self._gone.pop(supervisor_pid)


class LinuxTree:
    """A run's processes: all descendants of its supervisor."""

    def __init__(self, supervisor: Supervisor, fork_server: ForkServer) -> None:
        self._supervisor = supervisor
        self._fork_server = fork_server
        self._generation = fork_server.generation
        self._reading = trio.Lock()
        self._sent = False
        self._refused: int | None = None
        self._lost = False
        self._status: ExitStatus | None = None
        self.pid = 0
        self.death: Death | None = None
        self.stdout: PipeSource
        self.stderr: PipeSource

    async def start(self, launch: Launch, live_trees: int) -> None:
        """Start the leader.

        Raises:
            SpawnError: It could not be started.
        """
        packet = b"\0".join(part.encode("utf-8", "surrogateescape") for part in launch.argv)
        passed: list[int] = []
        try:
            passed.append(open_null() if launch.stdin is None else stdin_file(launch.stdin))
            self.stdout, write_fd = open_output_pipe(live_trees)
            passed.append(write_fd)
            self.stderr, write_fd = open_output_pipe(None)
            passed.append(write_fd)
            if len(packet) > INLINE_BYTES:
                passed.append(stdin_file(packet))
                self._sent = self._supervisor.send(b"M", passed)
            else:
                self._sent = self._supervisor.send(b"S" + packet, passed)
        except OSError as error:
            raise SpawnError(os.strerror(error.errno or 0), error.errno) from error
        finally:
            for fd in passed:
                os.close(fd)
        await self._until(lambda: bool(self.pid or self._refused))
        if self._refused is not None:
            raise SpawnError(os.strerror(self._refused), self._refused)
        if not self.pid:
            raise SpawnError("its supervisor ended")

    async def wait_exited(self) -> ExitStatus:
        """See ``Tree.wait_exited``.

        Raises:
            ContainmentLost: The supervisor was killed, and the leader's status with it.
        """
        await self._until(lambda: self._status is not None)
        if self._status is None:
            raise ContainmentLost("the run's supervisor was killed")
        return self._status

    async def end(self, grace_seconds: float) -> Death:
        """See ``Tree.end``.

        Raises:
            ContainmentLost: Supervisor and fork server were both killed: nobody can say what lives.
        """
        if not self._sent:
            self.death = Death()
        if self.death is None and self._refused is None and self._status is None:
            # A run may have stopped its supervisor; killed, it stays a zombie until we have been told.
            with contextlib.suppress(OSError):
                os.kill(self._supervisor.pid, signal.SIGCONT)
            self._supervisor.send(b"E %d" % math.ceil(grace_seconds * 1000))
        limit = grace_seconds + KILL_TIMEOUT_SECONDS + ANSWER_TIMEOUT_SECONDS
        with trio.move_on_after(limit):
            await self._until(lambda: self.death is not None or self._refused is not None)
        if self._refused is not None:
            self.death = Death()
        if self.death is None:
            self.death = await self._end_without_supervisor()
        return self.death

    async def _end_without_supervisor(self) -> Death:
        if not self._lost:
            logger.error("supervisor does not answer, killing it", pid=self._supervisor.pid)
            self._lost = True
        self._fork_server.kill(self._supervisor.pid)
        killed: int | None = None
        with trio.move_on_after(KILL_TIMEOUT_SECONDS) as waiting:
            killed = await self._fork_server.wait_gone(self._supervisor.pid, self._generation)
        if killed is not None:
            return Death(killed=killed)
        if waiting.cancelled_caught:
            survivors = _fork_server.descendants_of(self.pid)
            return Death(survivors=(self.pid, *survivors))
        raise ContainmentLost("the run's supervisor and the fork server were killed")

    async def _until(self, done: Callable[[], bool]) -> None:
        """Read packets until something is true, or the supervisor is gone.

        Whoever waits reads for all: no task of its own for each tree.
        """
        while not done() and not self._lost:
            async with self._reading:
                if not done() and not self._lost:
                    self._apply(await self._supervisor.receive())

    def _apply(self, packet: bytes) -> None:
        kind, *rest = packet.split() or [b""]
        numbers = [int(part) for part in rest]
        match kind:
            case b"p":
                self.pid = numbers[0]
            case b"!":
                self._refused = numbers[0]
            case b"x":
                self._status = decode_wait_status(numbers[0])
            case b"d":
                self.death = Death(killed=numbers[0])
            case b"v":
                self.death = Death(killed=numbers[0], survivors=tuple(numbers[1:]))
            case _:
                self._lost = True

    @property
    def is_reusable(self) -> bool:
        """Whether the supervisor has proven that nothing is left, and so can take another run."""
        proven = self.death is not None and not self.death.survivors
        return not self._lost and (proven or self._refused is not None or not self._sent)

    def close(self) -> None:
        """Close the pipes."""
        for name in ("stdout", "stderr"):
            if (source := getattr(self, name, None)) is not None:
                source.close()

    def count_processes(self) -> int:
        """See ``Tree.count_processes``."""
        return 0 if self.death is not None else len(_fork_server.descendants_of(self._supervisor.pid))


def decode_wait_status(status: int) -> ExitStatus:
    """Return what ``waitpid`` told."""
    if os.WIFSIGNALED(status):
        return ExitStatus(signal=os.WTERMSIG(status))
    return ExitStatus(code=os.WEXITSTATUS(status))


class LinuxContainment:
    """The strategy, open."""

    name = "linux"
    guarantee = "every process a run starts, however it detaches, is dead when the run has ended"

    def __init__(self, fork_server: ForkServer) -> None:
        self._fork_server = fork_server
        self._idle: list[Supervisor] = []
        self._live = 0

    @asynccontextmanager
    async def open_tree(self, launch: Launch, *, grace_seconds: float) -> AsyncIterator[LinuxTree]:
        """See ``Containment.open_tree``."""
        supervisor = await self._take()
        tree = LinuxTree(supervisor, self._fork_server)
        self._live += 1
        try:
            await tree.start(launch, self._live)
            yield tree
        finally:
            try:
                with trio.CancelScope(shield=True):  # bounded: see LinuxTree.end
                    await tree.end(grace_seconds)
            finally:
                self._live -= 1
                tree.close()
                self._put_back(supervisor, reusable=tree.is_reusable)

    async def _take(self) -> Supervisor:
        while self._idle:
            supervisor = self._idle.pop()
            if supervisor.is_alive():
                return supervisor
            supervisor.close()
        return await self._fork_server.fork()

    def _put_back(self, supervisor: Supervisor, *, reusable: bool) -> None:
        if reusable and len(self._idle) < IDLE_SUPERVISORS:
            self._idle.append(supervisor)
        else:
            supervisor.close()

    def close(self) -> None:
        """Let the idle supervisors end."""
        while self._idle:
            self._idle.pop().close()


@asynccontextmanager
async def open_linux() -> AsyncIterator[LinuxContainment]:
    """Start the fork server; it and all that it holds end with the block.

    Raises:
        ContainmentUnavailable: This system has no subreapers, or cannot start the helper.
    """
    fork_server = ForkServer()
    failure: OSError | None = None
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(fork_server.run)
        except OSError as error:
            failure = error
        else:
            containment = LinuxContainment(fork_server)
            try:
                yield containment
            finally:
                containment.close()
                nursery.cancel_scope.cancel()
    if failure is not None:
        raise ContainmentUnavailable(str(failure)) from failure
