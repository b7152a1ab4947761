"""Pipes to and from a process, on POSIX."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import contextlib
import fcntl
import os
import tempfile

import trio

STDERR_PIPE_BYTES = 4096
"""The smallest pipe: stderr is a few lines, and every page of a pipe counts against the user's budget."""


def output_pipe_bytes(live_trees: int) -> int:
    """Return how large a run's stdout pipe shall be.

    The CLI loses output when its reader is slow, so the pipe should be large; but without privileges
    Linux allows a user 64 MiB in pipes (pipe-user-pages-soft, pipe(7)), and past that every new pipe of
    that user, ours or not, has 8 KiB. With these steps 1,024 runs stay within 60 MiB.
    """
    if live_trees <= 64:
        return 256 * 1024
    if live_trees <= 256:
        return 64 * 1024
    return 32 * 1024


class PipeSource:
    """The reading end of a pipe."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd

    def fileno(self) -> int:
        """See ``ByteSource.fileno``."""
        return self._fd

    async def receive(self, max_bytes: int) -> bytes:
        """See ``ByteSource.receive``."""
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            try:
                return os.read(self._fd, max_bytes)
            except BlockingIOError:
                continue

    def receive_nowait(self, max_bytes: int) -> bytes:
        """See ``ByteSource.receive_nowait``."""
        try:
            return os.read(self._fd, max_bytes)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Close it."""
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            os.close(self._fd)
            self._fd = -1


def open_output_pipe(live_trees: int | None) -> tuple[PipeSource, int]:
    """Return a pipe's reading end, and its writing end as a descriptor that the caller closes.

    Args:
        live_trees: How many runs share the budget; ``None`` for a small pipe (stderr).

    Raises:
        OSError: No descriptors left.
    """
    read_fd, write_fd = os.pipe()
    if sys.platform == "linux":
        size = STDERR_PIPE_BYTES if live_trees is None else output_pipe_bytes(live_trees)
        with contextlib.suppress(OSError):  # over the user's budget: it stays as it is
            fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, size)
    return PipeSource(read_fd), write_fd


def open_null() -> int:
    """Return a descriptor of the null device, for reading."""
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def stdin_file(content: bytes) -> int:
    """Return a descriptor that reads as ``content``: a file, so that nobody has to feed a pipe."""
    if sys.platform == "linux":
        fd = os.memfd_create("q9gent-stdin", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd
