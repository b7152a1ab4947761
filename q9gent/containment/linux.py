"""Linux: a fork server, and a subreaper for each run (``helper`` says how and why).

This is the strategy: it lends each tree a supervisor, and keeps a few idle ones. No process is ever forked
from the server itself, which is large and runs an event loop; starting a run is a message.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from q9gent._linux_hub import open_epoll_hub
from q9gent.containment._linux_fork_server import ForkServer
from q9gent.containment._linux_supervisor import Supervisor
from q9gent.containment._linux_tree import LinuxTree
from q9gent.containment.protocol import ContainmentLost, ContainmentUnavailable, Launch, SpawnError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

IDLE_SUPERVISORS = 16
"""How many wait for a next run: about 1 MB each, and a fork saved for every turn."""

IDLE_SECONDS = 10.0
"""How long they wait; one stays, so that the next run needs no fork."""


STARTS_AT_ONCE = 4
"""How many runs are being started at once: more would start none of them sooner, and a burst of starts would
leave the runs that print no time."""


class LinuxContainment:
    """The strategy, open."""

    name = "linux"
    guarantee = "every process a run starts, however it detaches, is dead when the run has ended"

    def __init__(self, fork_server: ForkServer) -> None:
        self._fork_server = fork_server
        self._idle: list[tuple[float, Supervisor]] = []  # the longest idle first
        self._live = 0
        self._gate = trio.Semaphore(STARTS_AT_ONCE)  # first come, first served
        self._closed = False

    @asynccontextmanager
    async def open_tree(self, launch: Launch, *, grace_seconds: float) -> AsyncIterator[LinuxTree]:
        """See ``Containment.open_tree``."""
        await self._pass_gate()
        try:
            supervisor = await self._take()
        except BaseException:
            self._gate.release()
            raise
        tree = LinuxTree(supervisor, self._fork_server)
        self._live += 1
        try:
            try:
                await tree.start(launch, self._live)
            finally:
                self._gate.release()
            yield tree
        finally:
            try:
                if tree.death is None:
                    # Bounded: see LinuxTree.end. Who waited for the end has been told if it was lost.
                    with trio.CancelScope(shield=True), contextlib.suppress(ContainmentLost):
                        await tree.end(grace_seconds)
            finally:
                self._live -= 1
                tree.close()
                self._put_back(supervisor, reusable=tree.is_reusable)

    async def _pass_gate(self) -> None:
        try:
            self._gate.acquire_nowait()
        except trio.WouldBlock:
            await self._gate.acquire()

    async def _take(self) -> Supervisor:
        while self._idle:
            _since, supervisor = self._idle.pop()
            if supervisor.is_alive() and self._is_held(supervisor):
                return supervisor
            supervisor.close()
        return await self._fork_server.fork()

    def _is_held(self, supervisor: Supervisor) -> bool:
        """Tell whether the fork server behind it lives: without, nobody would catch what it left."""
        server = self._fork_server
        return server.pid is not None and supervisor.generation == server.generation

    def _put_back(self, supervisor: Supervisor, *, reusable: bool) -> None:
        reusable = reusable and not self._closed and self._is_held(supervisor)
        if reusable and len(self._idle) < IDLE_SUPERVISORS:
            self._idle.append((trio.current_time(), supervisor))
        else:
            supervisor.close()

    async def keep_idle(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Hold one supervisor ready from the start, and let those end that have been idle for long.

        Besides, continue a fork server that a run has stopped, so that it can continue supervisors.

        Raises:
            SpawnError: Not even one can be forked.

        Cancellation: they all end.
        """
        try:
            self._put_back(await self._fork_server.fork(), reusable=True)
            task_status.started()
            while True:
                await trio.sleep(IDLE_SECONDS)
                self._fork_server.wake()
                while len(self._idle) > 1 and trio.current_time() - self._idle[0][0] >= IDLE_SECONDS:
                    self._idle.pop(0)[1].close()
        finally:
            self._closed = True
            while self._idle:
                self._idle.pop()[1].close()


@asynccontextmanager
async def open_linux() -> AsyncIterator[LinuxContainment]:
    """Start the fork server; it and all that it holds end with the block.

    Raises:
        ContainmentUnavailable: This system has no subreapers, or cannot start the helper.
    """
    failure: OSError | SpawnError | None = None
    async with open_epoll_hub(moderate=False) as hub, trio.open_nursery() as nursery:
        fork_server = ForkServer(hub)
        try:
            await nursery.start(fork_server.run)
            containment = LinuxContainment(fork_server)
            await nursery.start(containment.keep_idle)
        except (OSError, SpawnError) as error:
            failure = error
        else:
            yield containment
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise ContainmentUnavailable(str(failure)) from failure
