"""Windows: every run in a Job Object of its own, which its processes cannot leave.

A process is created suspended, put into the job, and only then resumed: whatever it starts is in
the job too, however it detaches. ``TerminateJobObject`` kills them all, and the job's own count of
active processes says when they are dead. The job dies with its handle, which only the server holds,
so the server's end, however sudden, is the end of its runs. The server is itself in such a job,
which covers the moment between creating a process and putting it into its own.

What is outside: processes that other daemons start on request (services, the Task Scheduler, WMI).

Asking before killing takes a console that server and run share. Without one (a service, a hidden
window) nobody can be asked, so there is no grace: the tree is killed at once.
"""

from __future__ import annotations

import _winapi
import errno
import os
import subprocess
import sys
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from q9gent.containment import _job_objects, _overlapped_pipes
from q9gent.containment.environment import agent_environment
from q9gent.containment.protocol import (
    KILL_TIMEOUT_SECONDS,
    ContainmentLost,
    Death,
    ExitStatus,
    Launch,
    SpawnError,
)
from q9gent.log import get_logger
from q9gent.threads import no_thread_is_an_oserror

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from q9gent.containment.protocol import ByteSource

assert sys.platform == "win32"

logger = get_logger("q9gent.containment")

COMMAND_LINE_CHARACTERS = 32_767
"""What CreateProcess takes, with the closing NUL, in UTF-16 units."""

FIRST_PAUSE_SECONDS = 0.001
LONGEST_PAUSE_SECONDS = 0.05
"""Between two looks at a job that was just killed, doubling: nearly all are dead at once."""

BATCH_SUFFIXES = (".bat", ".cmd")

NO_MEMORY = {1450, 1455}
"""Windows errors (no system resources, paging file too small) that Python does not take for ENOMEM."""


class WindowsTree:
    """A run's processes: all that are in its job."""

    def __init__(
        self,
        job: _job_objects.Job,
        process: int,
        pid: int,
        *,
        stdout: ByteSource,
        stderr: ByteSource,
        feeder: _overlapped_pipes.Feeder | None,
        can_ask: bool,
    ) -> None:
        self._job = job
        self._process = process
        self._feeder = feeder
        self._can_ask = can_ask
        self._asked: bool | None = None
        self._patience = trio.CancelScope()  # ends the wait for the leader
        self._exited = trio.Event()
        self._status: ExitStatus | None = None
        self._ended = trio.Event()
        self.pid = pid
        self.stdout: ByteSource = stdout
        self.stderr: ByteSource = stderr
        self.death: Death | None = None

    async def keep(self) -> None:
        """Watch over the tree from its start to its death: a task of the containment.

        When the leader has exited, or is not to be waited for any longer, what lives is killed.

        Cancellation: shielded; bounded by ``end`` and then by ``KILL_TIMEOUT_SECONDS``.
        """
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                if self._feeder is not None:
                    nursery.start_soon(self._feeder.run)
                try:
                    with self._patience:
                        await self._wait_leader()
                    self.death = await self._kill()
                except (OSError, RuntimeError) as error:  # no thread to wait with
                    logger.exception("a run cannot be watched, killing it", error=str(error))
                    self._job.terminate()
                nursery.cancel_scope.cancel()
        self._exited.set()
        self._ended.set()

    async def _wait_leader(self) -> None:
        await trio.lowlevel.WaitForSingleObject(self._process)
        self._status = ExitStatus(code=_winapi.GetExitCodeProcess(self._process))
        self._exited.set()

    async def _kill(self) -> Death:
        """Kill what is in the job until nothing is."""
        before = after = self._job.counts()
        found = self._job.members() if before.active else ()
        survivors: tuple[int, ...] = ()
        pause_seconds = 0.0
        with trio.move_on_after(KILL_TIMEOUT_SECONDS):
            while after.active:
                self._job.terminate()  # each time: it may have missed one that was just starting
                await trio.sleep(pause_seconds)
                pause_seconds = min(pause_seconds * 2 or FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
                after = self._job.counts()
            if self._status is None:
                await self._wait_leader()
        if after.active:
            survivors = self._job.pids()
        started_meanwhile = after.total - before.total
        killed = len(set(found).difference(survivors)) + started_meanwhile
        return Death(killed=killed, survivors=survivors)

    async def wait_exited(self) -> ExitStatus:
        """See ``Tree.wait_exited``.

        Raises:
            ContainmentLost: The system did not let it be watched.
        """
        await self._exited.wait()
        if self._status is None:
            raise ContainmentLost("the run's process could not be watched")
        return self._status

    async def end(self, grace_seconds: float) -> Death:
        """See ``Tree.end``. Where nobody can be asked there is no grace.

        Raises:
            ContainmentLost: The system did not let it be watched.
        """
        if self._asked is None and not self._exited.is_set():
            self._asked = self._can_ask and grace_seconds > 0 and _job_objects.ask_to_end(self.pid)
        patience_seconds = grace_seconds if self._asked else 0
        deadline = trio.current_time() + patience_seconds
        self._patience.deadline = min(self._patience.deadline, deadline)
        await self._ended.wait()
        if self.death is None:
            raise ContainmentLost("the run was killed, but could not be watched")
        return self.death

    def count_processes(self) -> int:
        """See ``Tree.count_processes``."""
        return 0 if self.death is not None else len(self._job.members())


class WindowsContainment:
    """The strategy, open."""

    name = "windows"
    guarantee = (
        "every process a run starts is in a Job Object that it cannot leave, and is dead when the"
        " run has ended"
    )

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._has_console = _job_objects.has_console()

    @asynccontextmanager
    async def open_tree(self, launch: Launch, *, grace_seconds: float) -> AsyncIterator[WindowsTree]:
        """See ``Containment.open_tree``."""
        with ExitStack() as resources:
            tree = await self._start(launch, resources)
            try:
                yield tree
            finally:
                # Bounded: see WindowsTree.keep. Who waited for the end has been told if it was lost.
                with trio.CancelScope(shield=True), suppress(ContainmentLost):
                    await tree.end(grace_seconds)

    async def _start(self, launch: Launch, resources: ExitStack) -> WindowsTree:
        """Start a process and its keeper.

        Raises:
            SpawnError: It could not be started.
        """
        _check_command(launch.argv)
        try:
            with ExitStack() as theirs:
                job = _job_objects.Job()
                resources.callback(job.close)
                stdin, feeder = _overlapped_pipes.open_stdin(launch.stdin, resources, theirs)
                source, stdout = _overlapped_pipes.open_output(resources, theirs)
                error_source, stderr = _overlapped_pipes.open_output(resources, theirs)
                # Not abandoned when cancelled: it takes milliseconds, and what it returns is ours.
                with no_thread_is_an_oserror():
                    process, pid = await trio.to_thread.run_sync(
                        partial(
                            _job_objects.spawn,
                            job,
                            launch.argv,
                            agent_environment(),
                            stdin=stdin,
                            stdout=stdout,
                            stderr=stderr,
                            creation_flags=self._creation_flags(),
                        )
                    )
        except OSError as error:
            raise _spawn_error(error) from error
        except ValueError as error:
            raise SpawnError(str(error)) from error
        resources.callback(_winapi.CloseHandle, process)
        tree = WindowsTree(
            job,
            process,
            pid,
            stdout=source,
            stderr=error_source,
            feeder=feeder,
            can_ask=self._has_console,
        )
        self._nursery.start_soon(tree.keep)
        return tree

    def _creation_flags(self) -> int:
        # A group of its own hears no ^C of the server's console, and can be sent CTRL_BREAK alone.
        hidden = 0 if self._has_console else subprocess.CREATE_NO_WINDOW
        return subprocess.CREATE_NEW_PROCESS_GROUP | hidden


def _check_command(argv: tuple[str, ...]) -> None:
    """Refuse what CreateProcess would take for something else.

    Raises:
        SpawnError: It would be run by cmd.exe, or is too long.
    """
    # Windows ignores dots and spaces at the end of a name.
    if argv[0].rstrip(". ").lower().endswith(BATCH_SUFFIXES):
        raise SpawnError("a batch file is not run: cmd.exe would reinterpret its arguments")
    units = len(subprocess.list2cmdline(argv).encode("utf-16-le", "surrogatepass")) // 2
    if units >= COMMAND_LINE_CHARACTERS:
        raise SpawnError(os.strerror(errno.E2BIG), errno.E2BIG)


def _spawn_error(error: OSError) -> SpawnError:
    """Say it in the words of errno, as on other systems; in Windows's own where there is none."""
    number = errno.ENOMEM if error.winerror in NO_MEMORY else error.errno
    if number in (None, errno.EINVAL):  # what Python makes of an error that it does not know
        return SpawnError(error.strerror or str(error))
    return SpawnError(os.strerror(number), number)


@asynccontextmanager
async def open_windows() -> AsyncIterator[WindowsContainment]:
    """Open the strategy, and put the server itself into a job, for good."""
    try:
        _job_objects.confine_this_process()
    except OSError as error:
        logger.warning(
            "the server cannot be put into a job of its own: a process that it was just starting"
            " when it crashed would stay, suspended",
            reason=str(error),
        )
    async with trio.open_nursery() as nursery:
        yield WindowsContainment(nursery)
