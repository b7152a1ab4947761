"""The hub on Linux: one task reads the pipes and sockets of all runs.

Trio's way to read many pipes is a task each: a wake-up costs two task switches and a system call to watch
the pipe again, about 80 µs, where handing a line on costs 20. The hub watches all of them with one epoll,
and reads every one that is ready in a plain loop.

It also *moderates*, as network cards do. A hundred agents that print at once wake the server a hundred
times, and one that prints fast wakes it for every few lines. So a pipe that brings little, and again at
once, *settles*: settled pipes are read in rounds, one a tick. A tick is short while a pipe brings much, so
that none fills up, and a pipe that has been quiet for a while is young again: its next line is read at once.

In a round the pipes are read first, and what came is handed on afterwards. A client that sleeps costs a
write that wakes it, often more than the write itself; writes that follow each other at once find it awake.

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
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from q9gent.log import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

READ_BYTES = 64 * 1024
"""One read: what a default pipe holds. Larger reads gained nothing."""

READS_AT_ONCE = 4
"""How often a pipe that is full is read before the others have their turn: together one enlarged pipe."""

LONGEST_TICK_SECONDS = 0.01
"""The time between two rounds, and so what moderation adds to a line's way, at most. A round costs about
100 µs before it has read anything: a hundred a second are 1 % of a core, and what they gather is cheaper to
send, as the client is awake from the first to the last. Longer ticks would begin to show."""

SHORTEST_TICK_SECONDS = 0.0005

ROUND_BYTES = 16 * 1024
"""What a round shall find in the fullest pipe, the tick being as long as that takes: half of the smallest."""

SMALL_BYTES = 8 * 1024
"""A read of less brings little: copying it costs less than waking up for it."""

QUIET_SECONDS = 0.015
"""A pipe that brings something more often than this can settle; one that has not for this long is young."""

SHARED_QUIET_SECONDS = 0.1
"""The same where many pipes share the rounds: a round is made anyway."""

PIPES_TO_SHARE = 8

HANDED_ON_TOGETHER = 32
"""How many pipes a round reads before it hands on what they brought: enough for the clients to stay awake,
few enough that the first does not wait for the last of hundreds."""

_TFD_NONBLOCK, _TFD_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC

logger = get_logger("q9gent.hub")


class _Pipe:
    __slots__ = ("fd", "hand_on", "handler", "is_settled", "read_at")

    def __init__(self, fd: int, handler: Callable[[bytes], None], hand_on: Callable[[], None] | None) -> None:
        self.fd = fd
        self.handler = handler
        self.hand_on = hand_on
        self.read_at = 0.0
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
        self._tick = LONGEST_TICK_SECONDS
        self._ready.register(self._timer.fd, select.EPOLLIN)
        self._ready.register(self._settled.fileno(), select.EPOLLIN | select.EPOLLONESHOT)

    def add(
        self, fd: int, handler: Callable[[bytes], None], hand_on: Callable[[], None] | None = None
    ) -> None:
        """See ``Hub.add``."""
        self._ready.register(fd, select.EPOLLIN)
        self._pipes[fd] = _Pipe(fd, handler, hand_on)

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
                    self._make_round()
                elif fd == settled_fd:
                    self._begin_rounds()
                else:
                    self._serve_young(fd)

    def _serve_young(self, fd: int) -> None:
        size = self._serve(fd)
        pipe = self._pipes.get(fd)
        if pipe is None or not self._moderate:
            return
        now = time.monotonic()
        gap, pipe.read_at = now - pipe.read_at, now
        if size < SMALL_BYTES and gap < self._quiet_seconds():
            self._move(pipe, self._ready, self._settled)
            if gap < SHORTEST_TICK_SECONDS * 2:
                self._tick = SHORTEST_TICK_SECONDS  # a fast one would fill up in a long tick

    def _quiet_seconds(self) -> float:
        return SHARED_QUIET_SECONDS if len(self._pipes) >= PIPES_TO_SHARE else QUIET_SECONDS

    def _begin_rounds(self) -> None:
        """Settled pipes have something, after a while in which none had."""
        oldest = time.monotonic() - self._quiet_seconds()
        for fd, _events in self._settled.poll(0):
            pipe = self._pipes.get(fd)  # none, or another by now, where a handler of this loop forgot it
            if pipe is not None and pipe.is_settled and pipe.read_at < oldest:
                self._move(pipe, self._settled, self._ready)
                self._serve_young(fd)
        self._timer.set(self._tick)

    def _make_round(self) -> None:
        self._timer.acknowledge()
        now, fullest = time.monotonic(), 0
        later: list[_Pipe] = []
        for fd, _events in self._settled.poll(0):
            if fd in self._pipes:  # else forgotten by a handler of this round
                self._pipes[fd].read_at = now
                fullest = max(fullest, self._serve(fd, later))
                if len(later) >= HANDED_ON_TOGETHER:
                    self._hand_on(later)
        self._hand_on(later)
        if fullest:
            tick = self._tick * ROUND_BYTES / fullest
            self._tick = min(LONGEST_TICK_SECONDS, max(SHORTEST_TICK_SECONDS, tick))
            self._timer.set(self._tick)
        else:  # wait for the next line, not for the next tick
            self._timer.set(0)
            self._ready.modify(self._settled.fileno(), select.EPOLLIN | select.EPOLLONESHOT)

    def _serve(self, fd: int, later: list[_Pipe] | None = None) -> int:
        """Read a pipe until it is empty, or has had its turn; return how much there was.

        Args:
            fd: The pipe.
            later: Takes it if what it brought, being little, can be handed on together with others'.
        """
        size = 0
        for _ in range(READS_AT_ONCE):
            pipe = self._pipes.get(fd)
            if pipe is None:  # forgotten by a handler of this round
                break
            try:
                data = os.read(fd, READ_BYTES)
            except BlockingIOError:
                break
            except OSError:  # a socket that was reset
                data = b""
            if not data:
                self.forget(fd)
            try:
                pipe.handler(data)
            except Exception:
                logger.exception("handler failed")
                self.forget(fd)
            if later is not None and len(data) < SMALL_BYTES:
                later.append(pipe)
            else:
                self._hand_on([pipe])
            size += len(data)
            if len(data) < READ_BYTES:
                break
        return size

    def _hand_on(self, pipes: list[_Pipe]) -> None:
        for pipe in pipes:
            if pipe.hand_on is not None:
                try:
                    pipe.hand_on()
                except Exception:
                    logger.exception("handler failed")
                    if self._pipes.get(pipe.fd) is pipe:  # else the number is another's by now
                        self.forget(pipe.fd)
        pipes.clear()

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
        self._seconds = 0.0

    def set(self, seconds: float) -> None:
        """Have it tick that often, or with 0 never."""
        if seconds == self._seconds:
            return
        self._seconds = seconds
        nanoseconds = int(seconds * 1e9)
        specification = struct.pack("@4l", 0, nanoseconds, 0, nanoseconds)
        if self._libc.timerfd_settime(self.fd, 0, specification, None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def acknowledge(self) -> None:
        """Take note that it has ticked."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:  # it was set anew in the meantime
            return

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
