"""Linux: a fork server, and a subreaper for each run (``helper`` says how and why).

This is the strategy: it lends each tree a supervisor, and keeps a few idle ones. No process is ever forked
from the server itself, which is large and runs an event loop; starting a run is a message.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from q9gent.containment._linux_fork_server import ForkServer, Supervisor
from q9gent.containment._linux_tree import LinuxTree
from q9gent.containment.protocol import ContainmentUnavailable, Launch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

IDLE_SUPERVISORS = 16
"""How many wait for a next run: about 1 MB each, and a fork saved for every turn."""


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
