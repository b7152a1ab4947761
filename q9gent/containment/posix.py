"""macOS and other POSIX systems: the process group, the descendants, and a mark. Best effort.

These systems have no way to hold a tree from above, so its members are looked for: the leader's session
and process group, its descendants as far as parents still tell, and, for those that were reparented,
whoever carries the run's mark in its environment. They are killed until two scans in a row find
nobody.

What can escape: a process that left the session, lost its parent *and* scrubbed its environment
(``env -i setsid``); a process forked between the two scans by one that neither saw; processes whose
environment the system does not show us. A server killed by SIGKILL cannot clean up. It runs on Linux
too (``--containment posix``), so that it is tested everywhere.
"""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import contextlib
import os
import secrets
import signal
import subprocess
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psutil
import trio

from q9gent.containment.environment import agent_environment
from q9gent.containment.pipes import PipeSource, open_null, open_output_pipe, stdin_file
from q9gent.containment.protocol import (
    KILL_TIMEOUT_SECONDS,
    Death,
    ExitStatus,
    Launch,
    SpawnError,
)
from q9gent.threads import no_thread_is_an_oserror

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


MARK = "Q9_RUN_MARK"
"""The environment variable by which reparented descendants are known. It is all that is added to what a
run inherits, and only by this strategy."""

SCAN_SECONDS = 0.02
"""The pause between two scans while killing: each reads the whole process table."""


class PosixTree:
    """A run's processes, as far as they can be found."""

    def __init__(self) -> None:
        self._mark = secrets.token_hex(16)
        self._process: trio.Process | None = None
        self._known: dict[int, psutil.Process] = {}
        self._ending = trio.Lock()
        self._deadline = float("inf")
        self._hurry = trio.Event()
        self.pid = 0
        self.death: Death | None = None
        self.stdout: PipeSource
        self.stderr: PipeSource

    async def start(self, launch: Launch, live_trees: int) -> None:
        """Start the leader.

        Raises:
            SpawnError: It could not be started.
        """
        fds: list[int] = []
        try:
            fds.append(open_null() if launch.stdin is None else stdin_file(launch.stdin))
            self.stdout, write_fd = open_output_pipe(live_trees)
            fds.append(write_fd)
            self.stderr, write_fd = open_output_pipe(None)
            fds.append(write_fd)
            # Shielded, as a cancellation here would lose a process that has just been started; it is
            # bounded by a fork and an exec.
            with trio.CancelScope(shield=True), no_thread_is_an_oserror():
                self._process = await trio.lowlevel.open_process(
                    [part.encode("utf-8", "surrogateescape") for part in launch.argv],
                    stdin=fds[0],
                    stdout=fds[1],
                    stderr=fds[2],
                    start_new_session=True,
                    restore_signals=True,
                    env={**agent_environment(), MARK: self._mark},
                )
        except OSError as error:
            raise SpawnError(os.strerror(error.errno or 0), error.errno) from error
        except subprocess.SubprocessError as error:  # a failure between fork and exec
            raise SpawnError(str(error)) from error
        finally:
            for fd in fds:
                os.close(fd)
        assert self._process is not None
        self.pid = self._process.pid

    async def wait_exited(self) -> ExitStatus:
        """See ``Tree.wait_exited``."""
        assert self._process is not None
        code = await self._process.wait()
        return ExitStatus(signal=-code) if code < 0 else ExitStatus(code=code)

    async def end(self, grace_seconds: float) -> Death:
        """See ``Tree.end``."""
        if self._process is None:
            self.death = Death()
            return self.death
        deadline = trio.current_time() + grace_seconds
        if deadline < self._deadline:
            self._deadline = deadline
            self._hurry.set()
            self._hurry = trio.Event()
        async with self._ending:
            if self.death is None:
                if self._process.poll() is None and grace_seconds > 0:
                    self._find()  # before asking: afterwards parents may be gone
                    await self._ask(self._process)
                self.death = await self._kill()
        return self.death

    async def _ask(self, process: trio.Process) -> None:
        for number in (signal.SIGTERM, signal.SIGCONT):  # what is stopped cannot hear the first
            with contextlib.suppress(OSError):
                os.killpg(self.pid, number)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_deadline, nursery.cancel_scope)
            await process.wait()
            nursery.cancel_scope.cancel()

    async def _wait_deadline(self, scope: trio.CancelScope) -> None:
        while (left := self._deadline - trio.current_time()) > 0:
            with trio.move_on_after(left):
                await self._hurry.wait()
        scope.cancel()

    async def _kill(self) -> Death:
        """Kill whoever is found, until two scans in a row find nobody."""
        assert self._process is not None
        killed: set[int] = set()
        clean_scans = 0
        give_up_at = trio.current_time() + KILL_TIMEOUT_SECONDS
        while True:
            found = self._find()
            killed |= self._kill_groups({process.pid for process in found})
            for process in found:
                with contextlib.suppress(psutil.Error):  # gone already, perhaps with its group
                    process.kill()
                    killed.add(process.pid)
            self._process.poll()  # reap the leader
            clean_scans = 0 if found else clean_scans + 1
            if clean_scans == 2:
                return Death(killed=len(killed))
            if trio.current_time() > give_up_at:
                survivors = tuple(sorted(process.pid for process in found))
                return Death(killed=len(killed.difference(survivors)), survivors=survivors)
            await trio.sleep(SCAN_SECONDS)

    def _kill_groups(self, pids: set[int]) -> set[int]:
        """Kill whole process groups: one by one, those that keep forking are always ahead of us.

        Returns:
            Those of ``pids`` whose group was killed.
        """
        groups: dict[int, set[int]] = {}
        for pid in pids:
            with contextlib.suppress(OSError):
                group = os.getpgid(pid)
                if group in pids or group == self.pid:  # led by one of ours: nobody else can be in it
                    groups.setdefault(group, set()).add(pid)
        killed: set[int] = set()
        for group, members in groups.items():
            with contextlib.suppress(OSError):
                os.killpg(group, signal.SIGKILL)
                killed |= members
        return killed

    def _find(self) -> list[psutil.Process]:
        """Return the tree's processes that live, and remember them: a known pid stays known."""
        children: dict[int, list[psutil.Process]] = {}
        ours: list[psutil.Process] = []
        # Not process_iter, which passes over a pid that has a new bearer, twice in a row.
        for pid in psutil.pids():
            try:
                process = psutil.Process(pid)
                children.setdefault(process.ppid(), []).append(process)
            except psutil.Error:
                continue
            if self._known.get(process.pid) == process or self._is_ours(process):
                ours.append(process)
        found: dict[int, psutil.Process] = {}
        while ours:
            process = ours.pop()
            if process.pid not in found:
                found[process.pid] = process
                ours += children.get(process.pid, [])
        self._known = {pid: process for pid, process in found.items() if _lives(process)}
        return list(self._known.values())

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            # The group and session of the leader are its pid, which stays taken while they have members.
            if os.getsid(process.pid) == self.pid or os.getpgid(process.pid) == self.pid:
                return True
        except OSError:
            return False
        try:
            return process.environ().get(MARK) == self._mark
        except (psutil.Error, OSError):
            return False

    def close(self) -> None:
        """Close the pipes."""
        for name in ("stdout", "stderr"):
            if (source := getattr(self, name, None)) is not None:
                source.close()

    def count_processes(self) -> int:
        """See ``Tree.count_processes``."""
        return 0 if self.death is not None or self._process is None else len(self._find())


def _lives(process: psutil.Process) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1:
            return False  # with threads, its main one alone has ended (Linux): the others go on
        return process.is_running()
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


class PosixContainment:
    """The strategy, open."""

    name = "posix"
    guarantee = (
        "the processes of a run are looked for and killed; one that leaves its session, its parent and"
        " its environment behind can escape"
    )

    def __init__(self) -> None:
        self._live = 0

    @asynccontextmanager
    async def open_tree(self, launch: Launch, *, grace_seconds: float) -> AsyncIterator[PosixTree]:
        """See ``Containment.open_tree``."""
        tree = PosixTree()
        self._live += 1
        try:
            await tree.start(launch, self._live)
            yield tree
        finally:
            try:
                with trio.CancelScope(shield=True):  # bounded: see PosixTree.end
                    await tree.end(grace_seconds)
            finally:
                self._live -= 1
                tree.close()


RESTORED_SIGNALS = {"SIGPIPE", "SIGXFZ", "SIGXFSZ"}
"""What Python ignores by itself, and ``restore_signals`` gives back to a run."""


@contextlib.contextmanager
def _nothing_to_inherit() -> Iterator[None]:
    """Have runs start with no signal ignored, though the server may (``nohup``, a shell's ``&``).

    An ignored signal stays so through exec, one that is handled does not: a handler that does nothing is
    the same for us. Python sets handlers in the main thread only; elsewhere this does nothing.
    """
    replaced = []
    if threading.current_thread() is threading.main_thread():
        for number in signal.valid_signals():
            known = isinstance(number, signal.Signals) and number.name in RESTORED_SIGNALS
            if signal.getsignal(number) == signal.SIG_IGN and not known:
                signal.signal(number, lambda *_: None)
                replaced.append(number)
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, signal.SIG_IGN)


@asynccontextmanager
async def open_posix() -> AsyncIterator[PosixContainment]:
    """Open the strategy; it needs no helper."""
    with _nothing_to_inherit():
        yield PosixContainment()
