"""A run's process tree on Linux: all descendants of its supervisor."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import contextlib
import math
import os
import signal
from typing import TYPE_CHECKING

import trio

from q9gent.containment.helper.processes import descendants_of, identity_of, kill_all
from q9gent.containment.pipes import PipeSource, open_null, open_output_pipe, stdin_file
from q9gent.containment.protocol import (
    KILL_TIMEOUT_SECONDS,
    ContainmentLost,
    Death,
    ExitStatus,
    Launch,
    SpawnError,
)
from q9gent.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from q9gent.containment._linux_fork_server import ForkServer
    from q9gent.containment._linux_supervisor import Supervisor

logger = get_logger("q9gent.containment")

INLINE_BYTES = 64 * 1024
"""Larger command lines travel in a memory file: a packet may be no larger than the socket's buffer."""

WAKE_SECONDS = 0.05
"""How often a helper that its run may have stopped is continued while it is waited for."""

ANSWER_TIMEOUT_SECONDS = 3.0
"""On top of what a supervisor itself may take, before it is taken for stuck and killed: more than a busy
system makes it wait for its turn."""


class LinuxTree:
    """A run's processes: all descendants of its supervisor."""

    def __init__(self, supervisor: Supervisor, fork_server: ForkServer) -> None:
        self._supervisor = supervisor
        self._fork_server = fork_server
        self._generation = supervisor.generation
        self._waiters = trio.lowlevel.ParkingLot()
        self._sent = False
        self._refused: int | None = None
        self._lost = False
        self._status: ExitStatus | None = None
        self.pid = 0
        self.death: Death | None = None
        self.stdout: PipeSource
        self.stderr: PipeSource
        supervisor.listen(self._apply)

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
        if self.death is not None:
            return self.death
        if self._refused is None and self._status is None:
            # A run may have stopped its supervisor; killed, it stays a zombie until we have been told.
            with contextlib.suppress(OSError):
                os.kill(self._supervisor.pid, signal.SIGCONT)
            with contextlib.suppress(OSError):  # not told for lack of memory, it is killed in the end
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
        give_up_at = trio.current_time() + KILL_TIMEOUT_SECONDS
        while self.death is None and trio.current_time() < give_up_at:
            # What stopped its supervisor now has the fork server for a parent, and may stop that as well.
            self._kill_orphans()
            self._fork_server.wake()
            with trio.move_on_after(WAKE_SECONDS):
                return Death(killed=await self._fork_server.wait_gone(self._supervisor.pid, self._generation))
        if self.death is not None:  # its answer came in the moment in which we gave it up
            return self.death
        living = [*descendants_of(self._supervisor.pid)]
        if self.pid in descendants_of(self._fork_server.pid or 0):
            living += [self.pid, *descendants_of(self.pid)]
        # Should none be found, what lives is one of the fork server's own children by now, and has no name.
        return Death(survivors=tuple(dict.fromkeys(living)) or (self.pid,))

    def _kill_orphans(self) -> None:
        """Kill the leader and what it started, if it is a child of the fork server's and was not reaped."""
        below = descendants_of(self.pid)
        identity = identity_of(self.pid)
        if self._status is None and identity is not None and identity[0] == self._fork_server.pid:
            kill_all({self.pid: identity[1], **below}, set())

    async def _until(self, done: Callable[[], bool]) -> None:
        """Wait until the supervisor's packets have made something true, or it is gone."""
        while not done() and not self._lost:
            await self._waiters.park()

    def _apply(self, packet: bytes) -> None:
        self._waiters.unpark_all()
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
                if len(numbers) > 1:
                    self._status = decode_wait_status(numbers[1])
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
        return 0 if self.death is not None else len(descendants_of(self._supervisor.pid))


def decode_wait_status(status: int) -> ExitStatus:
    """Return what ``waitpid`` told."""
    if os.WIFSIGNALED(status):
        return ExitStatus(signal=os.WTERMSIG(status))
    return ExitStatus(code=os.WEXITSTATUS(status))
