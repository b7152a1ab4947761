"""macOS and other POSIX systems: the process group, the descendants, and a mark. Best effort.

These systems have no way to hold a tree from above, so its members are looked for (``_posix_search``) in
the process table (``_posix_table``): the leader's session and process group, its descendants as far as
parents still tell, and, for those that were reparented, whoever carries the run's mark in its environment.
They are killed until two readings in a row find nobody.

What can escape: a process that left the session, lost its parent *and* scrubbed its environment
(``env -i setsid``); a process forked between the two readings by one that neither saw; processes whose
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

import trio

from q9gent.containment._posix_search import Search
from q9gent.containment._posix_table import MARK, ProcessTable
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


class PosixTree:
    """A run's processes, as far as they can be found."""

    def __init__(self, table: ProcessTable) -> None:
        self._table = table
        self._process: trio.Process | None = None
        self._search: Search
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
        mark = secrets.token_hex(16)
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
                    env={**agent_environment(), MARK: mark},
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
        self._search = Search(self._table, self.pid, mark)

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
                try:
                    if self._process.poll() is None and grace_seconds > 0:
                        await self._ask(self._process)
                    self.death = await self._search.kill(self._process.poll)
                except Exception:  # whatever it is, the run goes with it as far as one call can kill it
                    if self._process.poll() is None:
                        with contextlib.suppress(OSError):
                            os.killpg(self.pid, signal.SIGKILL)
                        with trio.move_on_after(KILL_TIMEOUT_SECONDS, shield=True):
                            await self._process.wait()
                    raise
        return self.death

    async def _ask(self, process: trio.Process) -> None:
        with contextlib.suppress(OSError):
            await self._search.look()  # now: afterwards parents may be gone
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

    def close(self) -> None:
        """Close the pipes."""
        for name in ("stdout", "stderr"):
            if (source := getattr(self, name, None)) is not None:
                source.close()

    def count_processes(self) -> int:
        """See ``Tree.count_processes``."""
        return 0 if self.death is not None or self._process is None else self._search.count()


class PosixContainment:
    """The strategy, open."""

    name = "posix"
    guarantee = (
        "the processes of a run are looked for and killed; one that leaves its session, its parent and"
        " its environment behind can escape"
    )

    def __init__(self) -> None:
        self._live = 0
        self._table = ProcessTable()

    @asynccontextmanager
    async def open_tree(self, launch: Launch, *, grace_seconds: float) -> AsyncIterator[PosixTree]:
        """See ``Containment.open_tree``."""
        tree = PosixTree(self._table)
        self._live += 1
        try:
            await tree.start(launch, self._live)
            yield tree
        finally:
            try:
                with trio.CancelScope(shield=True):  # bounded: see Search.kill
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
