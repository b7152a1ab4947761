"""The server's side of the fork server: one is kept alive, and supervisors come from it."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import contextlib
import os
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

import trio

from q9gent.containment._linux_supervisor import Supervisor
from q9gent.containment.environment import STARTED_WITH, agent_environment
from q9gent.containment.helper import BOOT, PACKET_BYTES
from q9gent.containment.protocol import KILL_TIMEOUT_SECONDS, ContainmentLost, SpawnError
from q9gent.log import get_logger
from q9gent.threads import no_thread_is_an_oserror

if TYPE_CHECKING:
    from q9gent.hub import Hub

logger = get_logger("q9gent.containment")

HELPER_FOLDER = os.path.dirname(os.path.abspath(__file__))

NEWS_KEPT = 4096
"""How many ended supervisors are remembered. Most end idle, and nobody asks; who does ask does so at once,
and there are never more than runs. A pid's next bearer replaces what is remembered of it."""

START_TIMEOUT_SECONDS = 10.0
"""For the helpers' own start, which takes 20 ms: what takes longer has failed."""


class ForkServer:
    """Keeps one fork server running: it is started again when it dies, and running runs go on."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._sock: socket.socket | None = None
        self._process: trio.Process | None = None
        self._failure: OSError | None = None  # why none runs
        self._gone: dict[int, int] = {}
        self._news = trio.Event()
        self._sending = trio.Lock()
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
                self._failure = error
            # A helper that dies at once must not become a busy loop.
            lasted = trio.current_time() - began > 1
            pause_seconds = 0.0 if lasted else min(1.0, 0.05 + pause_seconds * 2)
            logger.warning("fork server ended, starting another", pause_seconds=pause_seconds)
            await trio.sleep(pause_seconds)

    async def _run_one(self, task_status: trio.TaskStatus[None]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            ours.setblocking(False)
            with no_thread_is_an_oserror():
                process = await trio.lowlevel.open_process(
                    [
                        sys.executable,
                        "-I",
                        "-S",
                        "-c",
                        BOOT,
                        HELPER_FOLDER,
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
                    ready = ours.recv(PACKET_BYTES) == b"R"
                except OSError:
                    ready = False
                if not ready:
                    raise OSError("the fork server did not start")
                self._sock = ours
                self._process = process
                self._failure = None
                self.generation += 1
                if self.generation == 1:
                    task_status.started()
                await self._listen(ours)
            finally:
                self.wake()
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
                packet = sock.recv(PACKET_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return
            if not packet:
                return
            _kind, pid, killed = packet.split()
            self._gone[int(pid)] = int(killed)
            if len(self._gone) > NEWS_KEPT:
                del self._gone[next(iter(self._gone))]
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def fork(self) -> Supervisor:
        """Return a new supervisor.

        Raises:
            SpawnError: The system has no room for another process, or the fork server is failing.
        """
        with trio.move_on_after(START_TIMEOUT_SECONDS):
            while True:  # the fork server may die with our request unread, and again
                supervisor = await self._try_fork()
                if supervisor is not None:
                    return supervisor
                await self._news_or_start()
        why = self._failure
        raise SpawnError(f"the fork server is not running: {why or 'unknown'}", why.errno if why else None)

    async def _try_fork(self) -> Supervisor | None:
        while self._sock is None:
            await self._news_or_start()
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise SpawnError(os.strerror(error.errno or 0), error.errno) from error
        ours.setblocking(False)
        try:
            supervisor = Supervisor(ours, self._hub)
        except OSError as error:
            ours.close()
            theirs.close()
            raise SpawnError(os.strerror(error.errno or 0), error.errno) from error
        try:
            self.wake()
            with theirs:
                generation = await self._send_request(theirs)
            kind, _, number = (await supervisor.introduction()).partition(b" ")
            if kind == b"P":
                supervisor.pid = int(number)
                supervisor.generation = generation
                self._gone.pop(supervisor.pid, None)  # news of an earlier bearer of this pid
                return supervisor
            if kind == b"!":
                raise SpawnError(os.strerror(int(number)), int(number))
        except (OSError, trio.ClosedResourceError):  # it has died; the keeper starts another
            pass
        finally:
            if not supervisor.pid:
                supervisor.close()
        return None

    async def _send_request(self, theirs: socket.socket) -> int:
        """Ask for a supervisor; return whom: another may have taken its place when the answer comes."""
        async with self._sending:  # one waits for room, and the others for it
            while self._sock is not None:
                try:
                    socket.send_fds(self._sock, [b"F"], [theirs.fileno()])
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._sock)
                else:
                    break
            return self.generation

    async def _news_or_start(self) -> None:
        with trio.move_on_after(0.05):  # a start makes no news; its 20 ms are not worth a signal
            await self._news.wait()

    @property
    def pid(self) -> int | None:
        """Its pid, while it runs."""
        return self._process.pid if self._process is not None else None

    def wake(self) -> None:
        """Continue it, should a run have stopped it: it is our child, so the pid is its own."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)

    def kill(self, supervisor_pid: int) -> None:
        """Kill a supervisor that does not answer; the fork server then ends what it held."""
        self.wake()
        if self._sock is not None:
            with contextlib.suppress(OSError):  # it is ending; who waits for the outcome is told so
                self._sock.send(b"K %d" % supervisor_pid)

    async def wait_gone(self, supervisor_pid: int, generation: int) -> int:
        """Wait until a supervisor and all that it held are dead, and return how many were killed.

        Raises:
            ContainmentLost: The fork server that could say has died, too.
        """
        while supervisor_pid not in self._gone:
            if self._sock is None or self.generation != generation:
                raise ContainmentLost("the run's supervisor and the fork server were killed")
            await self._news.wait()
        return self._gone[supervisor_pid]  # and not pop: more than one may wait for the same news
