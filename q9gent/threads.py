"""Work that is done in threads: what waits for a disk, and what is to be said when there is no thread."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_T = TypeVar("_T")

DISK_THREADS = 8
"""Threads that wait for disks at once, of all runs together: more would not make a disk faster."""

DISK_SECONDS = 30.0
"""After which a disk is taken for dead. A busy one takes seconds; a network disk whose server is gone
hangs, and no cleanup may wait for it for ever."""

_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("q9gent-disk")


async def wait_for_disk(work: Callable[[], _T]) -> _T:
    """Do something that may wait for a disk, without the event loop waiting for it.

    Args:
        work: Called in a thread; at most ``DISK_THREADS`` are, at a time.

    Returns:
        What it returns.

    Raises:
        OSError: The system has no thread to give, or the disk took longer than ``DISK_SECONDS``; then the
            thread is left to itself, and what it does may be done later, or never.

    What ``work`` raises comes out as it is.

    Cancellation: waits for the disk, once this has begun, and its result is not lost.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(DISK_THREADS)
        _limiter.set(limiter)
    with trio.move_on_after(DISK_SECONDS, shield=True), no_thread_is_an_oserror():
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)
    raise TimeoutError(errno.ETIMEDOUT, f"the disk has not answered for {DISK_SECONDS:g} s")


@contextmanager
def no_thread_is_an_oserror() -> Iterator[None]:
    """Say as the system does that it has no thread, or no process, to give.

    Python makes a ``RuntimeError`` of it when a thread cannot be started (``_thread.start_new_thread``), and
    trio passes that on, also where it starts a process: a full process table would look like a defect.

    Raises:
        OSError: EAGAIN, as of fork(2).
    """
    try:
        yield
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
