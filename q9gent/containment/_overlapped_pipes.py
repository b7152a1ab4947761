"""Pipes to and from a process, on Windows: overlapped at our end, for trio's completion port."""

from __future__ import annotations

import _winapi
import ctypes
import sys
from asyncio import windows_utils
from ctypes import wintypes
from typing import TYPE_CHECKING

import trio

from q9gent.containment import _job_objects

if TYPE_CHECKING:
    from contextlib import ExitStack

assert sys.platform == "win32"

PIPE_BYTES = 64 * 1024
"""What a pipe holds before its writer waits: what the pumps read at once."""

_SHARE_READ_AND_WRITE = 3
_ERROR_IO_PENDING = 997


class PipeSource:
    """The reading end of an overlapped pipe."""

    def __init__(self, handle: int) -> None:
        trio.lowlevel.register_with_iocp(handle)
        self._handle = handle
        self._read = b""

    def fileno(self) -> None:
        """See ``ByteSource.fileno``: a handle is none."""

    async def receive(self, max_bytes: int) -> bytes:
        """See ``ByteSource.receive``."""
        while not self._read:
            if not self._handle:
                raise trio.ClosedResourceError
            buffer = bytearray(max_bytes)
            try:
                size = await trio.lowlevel.readinto_overlapped(self._handle, buffer)
            except BrokenPipeError:  # how Windows says end of file
                await trio.lowlevel.checkpoint()
                return b""
            self._read = bytes(memoryview(buffer)[:size])
        # Also a read that was to be cancelled may have come through: then it is kept for the next.
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._take(max_bytes)

    def receive_nowait(self, max_bytes: int) -> bytes:
        """See ``ByteSource.receive_nowait``. Never while ``receive`` waits."""
        if not self._read and self._handle:
            self._read = _read_available(self._handle, max_bytes)
        return self._take(max_bytes)

    def _take(self, max_bytes: int) -> bytes:
        data, self._read = self._read[:max_bytes], self._read[max_bytes:]
        return data

    def close(self) -> None:
        """Close it."""
        if self._handle:
            _winapi.CloseHandle(self._handle)
            self._handle = 0


class Feeder:
    """Writes to the writing end of an overlapped pipe, and closes it."""

    def __init__(self, handle: int, content: bytes) -> None:
        trio.lowlevel.register_with_iocp(handle)
        self._handle = handle
        self._content = content

    async def run(self) -> None:
        """Write all of it, or as much as is wanted. Cancellation: safe."""
        try:
            if self._content:
                await trio.lowlevel.write_overlapped(self._handle, self._content)
        except OSError:
            pass  # the reader closed its end, which is its right
        finally:
            self.close()

    def close(self) -> None:
        """Close it."""
        if self._handle:
            _winapi.CloseHandle(self._handle)
            self._handle = 0


def open_output(resources: ExitStack, theirs: ExitStack) -> tuple[PipeSource, int]:
    """Return a pipe's reading end, and the handle of its writing end."""
    reader, writer = windows_utils.pipe(overlapped=(True, False), bufsize=PIPE_BYTES)
    theirs.callback(_winapi.CloseHandle, writer)
    source = PipeSource(reader)
    resources.callback(source.close)
    return source, writer


def open_stdin(content: bytes | None, resources: ExitStack, theirs: ExitStack) -> tuple[int, Feeder | None]:
    """Return the handle to read from, and who feeds it."""
    if content is None:
        reader = _winapi.CreateFile(
            "NUL",
            _winapi.GENERIC_READ,
            _SHARE_READ_AND_WRITE,
            _winapi.NULL,
            _winapi.OPEN_EXISTING,
            0,
            _winapi.NULL,
        )
        theirs.callback(_winapi.CloseHandle, reader)
        return reader, None
    reader, writer = windows_utils.pipe(overlapped=(False, True), bufsize=PIPE_BYTES)
    theirs.callback(_winapi.CloseHandle, reader)
    feeder = Feeder(writer, content)
    resources.callback(feeder.close)
    return reader, feeder


class _Overlapped(ctypes.Structure):
    _fields_ = [
        ("internal", ctypes.c_size_t),
        ("internal_high", ctypes.c_size_t),
        ("offset", ctypes.c_uint64),
        ("event", wintypes.HANDLE),
    ]


_H, _D, _B, _P = wintypes.HANDLE, wintypes.DWORD, wintypes.BOOL, wintypes.LPVOID
_create_event = _job_objects.declare("CreateEventW", _H, _P, _B, _B, wintypes.LPCWSTR)
_read_file = _job_objects.declare("ReadFile", _B, _H, _P, _D, _P, _P)
_get_overlapped_result = _job_objects.declare("GetOverlappedResult", _B, _H, _P, _P, _B)


def _read_available(pipe_handle: int, max_bytes: int) -> bytes:
    """Return what is in an overlapped pipe, ``b""`` if nothing is.

    Nobody else may be reading it, or this waits for them.
    """
    while size := min(_peek(pipe_handle), max_bytes):
        if data := _read(pipe_handle, size):  # an empty write reads as nothing, before what follows
            return data
    return b""


def _peek(pipe_handle: int) -> int:
    """Return how many bytes are there."""
    try:
        available = _winapi.PeekNamedPipe(pipe_handle, 0)[0]
    except OSError:  # empty, and no writer is left
        return 0
    assert isinstance(available, int)  # not bytes, as none were asked for
    return available


def _read(pipe_handle: int, size: int) -> bytes:
    """Read what is known to be there."""
    buffer = ctypes.create_string_buffer(size)
    event = _create_event(None, True, False, None)
    _job_objects.check(event)
    try:
        # The lowest bit keeps the completion port, which knows nothing of this read, out of it.
        overlapped = _Overlapped(event=event | 1)
        received = wintypes.DWORD()
        started = _read_file(pipe_handle, buffer, size, None, ctypes.byref(overlapped))
        _job_objects.check(started or ctypes.get_last_error() == _ERROR_IO_PENDING)
        told = ctypes.byref(overlapped), ctypes.byref(received)
        _job_objects.check(_get_overlapped_result(pipe_handle, *told, True))
    finally:
        _winapi.CloseHandle(event)
    return buffer.raw[: received.value]
