"""A first-in, first-out store of bytes in temporary files.

Files are unlinked from the start (on Windows: deleted on close), so that not even a killed server
leaves one behind. What was read is given back to the disk segment by segment: a client that is slow but
steady needs only what it is behind, not what the run ever printed.
"""

from __future__ import annotations

import errno
import tempfile
from collections import deque
from functools import partial
from typing import IO, TYPE_CHECKING, TypeVar

import trio

from q9gent.threads import wait_for_disk

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

SEGMENTS = 16
"""Into how many files the limit is divided, and so how many descriptors a run's spool can take."""

MIN_SEGMENT_BYTES = 1 << 20


class SpoolFull(Exception):
    """The spool has reached its limit, or its disk has."""


class _Segment:
    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.written = 0
        self.read = 0


class Spool:
    """The files of one run. One writer, one reader, each its own task.

    Args:
        limit_bytes: How much may be waiting to be read.
        folder: Where the files are made; ``None`` for the system's temporary folder.
    """

    def __init__(self, limit_bytes: int, folder: str | None) -> None:
        self._limit_bytes = limit_bytes
        self._segment_bytes = max(MIN_SEGMENT_BYTES, limit_bytes // SEGMENTS)
        self._folder = folder
        self._segments: deque[_Segment] = deque()
        self._lock = trio.Lock()
        self._is_lost = False
        self.waiting_bytes = 0

    async def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            SpoolFull: There is no room; nothing of ``data`` will be read.

        Cancellation: the bytes may or may not have been appended.
        """
        if self.waiting_bytes + len(data) > self._limit_bytes:
            raise SpoolFull(f"the client is more than {self._limit_bytes} bytes behind")
        async with self._lock:
            try:
                await self._wait(partial(self._write, data))
            except OSError as error:
                raise SpoolFull(f"the spool cannot be written: {error.strerror}") from error
            self.waiting_bytes += len(data)

    async def read(self, max_bytes: int) -> bytes:
        """Return and remove up to ``max_bytes`` of the oldest bytes; ``b""`` if there are none.

        Raises:
            OSError: The disk failed, or there is no thread to wait for it.

        Cancellation: what was being read is lost, with the stream that it belonged to.
        """
        async with self._lock:
            data = await self._wait(partial(self._read, max_bytes))
            self.waiting_bytes -= len(data)
            return data

    async def _wait(self, work: Callable[[], _T]) -> _T:
        if self._is_lost:
            raise TimeoutError(errno.ETIMEDOUT, "the disk did not answer earlier")
        try:
            return await wait_for_disk(work)
        except TimeoutError:
            self._is_lost = True  # a thread may still be at its files, and move their positions
            raise

    def close(self) -> None:
        """Delete everything."""
        while self._segments:
            self._segments.popleft().file.close()
        self.waiting_bytes = 0

    def _write(self, data: bytes) -> None:
        if not self._segments or self._segments[-1].written >= self._segment_bytes:
            file = tempfile.TemporaryFile(  # noqa: SIM115 (closed when read, or by close())
                buffering=0, prefix="q9gent-spool-", dir=self._folder
            )
            self._segments.append(_Segment(file))
        segment = self._segments[-1]
        segment.file.seek(segment.written)
        view = memoryview(data)
        while view:
            view = view[segment.file.write(view) :]
        segment.written += len(data)

    def _read(self, max_bytes: int) -> bytes:
        while self._segments:
            segment = self._segments[0]
            if segment.read < segment.written:
                segment.file.seek(segment.read)
                data = segment.file.read(min(max_bytes, segment.written - segment.read))
                segment.read += len(data)
                return data
            self._segments.popleft().file.close()
        return b""
