"""The hub on Linux: one task reads the pipes and sockets of all runs.

Trio's way to read many pipes is a task each: a wake-up costs two task switches and a system call to watch
the pipe again, about 80 µs, where handing a line on costs 20. The hub watches all of them with one epoll,
and reads every one that is ready in a plain loop.

It also *moderates*, as network cards do. A hundred agents that print at once wake the server a hundred
times; so a pipe that has shown to bring little at a time *settles*, and settled pipes are read in rounds, at
most one a tick. A young pipe is read at once, and so is one that brings much. Few pipes never settle: with
nobody to share a round, waiting would only delay.

The hub owns no run. Whoever adds a pipe forgets it again before closing it, and has a task of its own for
whatever takes time: a handler is a plain function, called with what was read, and must not wait.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import ctypes
import os
import select
import struct
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from q9gent.log import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

READ_BYTES = 64 * 1024
"""One read: what a default pipe holds. Larger reads gained nothing."""

READS_AT_ONCE = 4
"""How often a pipe that is full is read before the others have their turn: together one enlarged pipe."""

TICK_SECONDS = 0.006
"""The time between two rounds: what moderation adds to a line's way, at most. Shorter ticks wake the server
more often than lines come; longer ones show."""

SMALL_BYTES = 8 * 1024
"""A read of less brings little: copying it costs less than waking up for it."""

SMALL_READS_TO_SETTLE = 2

PIPES_TO_MODERATE = 8
"""With fewer pipes a round has hardly anything to gather."""

_TFD_NONBLOCK, _TFD_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC

logger = get_logger("q9gent.hub")


class _Pipe:
    __slots__ = ("fd", "handler", "is_settled", "small_reads")

    def __init__(self, fd: int, handler: Callable[[bytes], None]) -> None:
        self.fd = fd
        self.handler = handler
        self.small_reads = 0
        self.is_settled = False


class EpollHub:
    """See the module. Made by ``open_epoll_hub``."""

    def __init__(self, *, moderate: bool) -> None:
        self._moderate = moderate
        self._pipes: dict[int, _Pipe] = {}
        self._scope = trio.CancelScope(shield=True)
        self._ready = select.epoll()  # young pipes, and the two below
        self._settled = select.epoll()
        self._timer = _Timer()
        self._ready.register(self._timer.fd, select.EPOLLIN)
        self._ready.register(self._settled.fileno(), select.EPOLLIN | select.EPOLLONESHOT)

    def add(self, fd: int, handler: Callable[[bytes], None]) -> None:
        """See ``Hub.add``."""
        self._ready.register(fd, select.EPOLLIN)
        self._pipes[fd] = _Pipe(fd, handler)

    def forget(self, fd: int) -> None:
        """See ``Hub.forget``."""
        pipe = self._pipes.pop(fd, None)
        if pipe is not None:
            (self._settled if pipe.is_settled else self._ready).unregister(fd)

    async def run(self) -> None:
        """Serve until ``stop``; runs whose end is shielded from a cancellation need it to the last."""
        with self._scope:
            await self._serve_all()

    def stop(self) -> None:
        """Have ``run`` return."""
        self._scope.cancel()

    async def _serve_all(self) -> None:
        ready_fd, settled_fd, timer_fd = self._ready.fileno(), self._settled.fileno(), self._timer.fd
        while True:
            await trio.lowlevel.wait_readable(ready_fd)
            for fd, _events in self._ready.poll(0):
                if fd == timer_fd:
                    self._serve_settled()
                elif fd == settled_fd:
                    self._timer.start(TICK_SECONDS)  # disarmed itself: the timer watches now
                else:
                    self._serve(fd)

    def _serve_settled(self) -> None:
        self._timer.acknowledge()
        ready = self._settled.poll(0)
        for fd, _events in ready:
            self._serve(fd)
        if len(ready) < 2:  # nothing to gather: wait for the next line, not for the next tick
            self._timer.stop()
            self._ready.modify(self._settled.fileno(), select.EPOLLIN | select.EPOLLONESHOT)

    def _serve(self, fd: int) -> None:
        for _ in range(READS_AT_ONCE):
            pipe = self._pipes.get(fd)
            if pipe is None:  # forgotten by a handler of this round
                return
            try:
                data = os.read(fd, READ_BYTES)
            except BlockingIOError:
                return
            except OSError:  # a socket that was reset
                data = b""
            if not data:
                self.forget(fd)
            try:
                pipe.handler(data)
            except Exception:
                logger.exception("handler failed")
                self.forget(fd)
            if data and self._moderate:
                self._moderate_pipe(pipe, len(data))
            if len(data) < READ_BYTES:
                return

    def _moderate_pipe(self, pipe: _Pipe, size: int) -> None:
        if self._pipes.get(pipe.fd) is not pipe:
            return
        if size >= SMALL_BYTES:
            pipe.small_reads = 0
            if pipe.is_settled:
                self._move(pipe, self._settled, self._ready)
        elif not pipe.is_settled:
            pipe.small_reads += 1
            if pipe.small_reads >= SMALL_READS_TO_SETTLE and len(self._pipes) >= PIPES_TO_MODERATE:
                self._move(pipe, self._ready, self._settled)

    def _move(self, pipe: _Pipe, source: select.epoll, target: select.epoll) -> None:
        try:
            target.register(pipe.fd, select.EPOLLIN)
        except OSError:  # the system watches enough already: it stays where it is
            return
        source.unregister(pipe.fd)
        pipe.is_settled = target is self._settled

    def close(self) -> None:
        """Close what is its own."""
        self._ready.close()
        self._settled.close()
        self._timer.close()


class _Timer:
    """A periodic timer that is a descriptor (timerfd_create(2)); Python has it only from 3.13 on."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._libc.timerfd_create(1, _TFD_NONBLOCK | _TFD_CLOEXEC)  # CLOCK_MONOTONIC
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def _set(self, seconds: float) -> None:
        nanoseconds = int(seconds * 1e9)
        specification = struct.pack("@4l", 0, nanoseconds, 0, nanoseconds)
        if self._libc.timerfd_settime(self.fd, 0, specification, None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def start(self, seconds: float) -> None:
        self._set(seconds)

    def stop(self) -> None:
        self._set(0)

    def acknowledge(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.fd, 8)

    def close(self) -> None:
        os.close(self.fd)


@asynccontextmanager
async def open_epoll_hub(*, moderate: bool) -> AsyncIterator[EpollHub]:
    """Run a hub for as long as the block.

    Args:
        moderate: Whether pipes may settle.

    Raises:
        OSError: The system has no epoll or timer to give.
    """
    hub = EpollHub(moderate=moderate)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.run)
            try:
                yield hub
            finally:
                hub.stop()
    finally:
        hub.close()
