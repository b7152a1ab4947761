"""A socket whose peer must keep taking bytes."""

from __future__ import annotations

import os
import sys

import trio

HAS_PLAIN_IO = sys.platform != "win32"
"""Whether a socket's descriptor can be read and written like a file's."""


class SocketStream(trio.abc.HalfCloseableStream):
    """A TCP or Unix socket as a stream.

    Like ``trio.SocketStream``, but ``send_all`` fails when the peer has taken no byte for
    ``stall_seconds``: a client that stops reading must not hold a task, and with it a shutdown, for ever.

    Attributes:
        socket: The socket.
        stalled: Whether that has happened.
    """

    def __init__(self, stream: trio.SocketStream, stall_seconds: float) -> None:
        self._stream = stream
        self.socket = stream.socket
        self._fd = stream.socket.fileno()  # -1 once it is closed
        self.stalled = False
        self._stall_seconds = stall_seconds
        self._sending: trio.CancelScope | None = None

    def set_stall_seconds(self, seconds: float) -> None:
        """Change the limit, for a send in progress too."""
        self._stall_seconds = seconds
        if self._sending is not None:
            self._sending.deadline = min(self._sending.deadline, trio.current_time() + seconds)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything.

        Raises:
            trio.BrokenResourceError: The peer is gone, or has taken nothing for too long.
            trio.ClosedResourceError: It was closed here.

        Cancellation: some of the data may have been sent; the stream can only be closed then.
        """
        if self.socket.fileno() < 0:
            raise trio.ClosedResourceError
        view = memoryview(data)
        while view:
            deadline = trio.current_time() + self._stall_seconds
            with trio.CancelScope(deadline=deadline) as self._sending:
                try:
                    sent = await self.socket.send(view)
                except OSError as error:
                    raise trio.BrokenResourceError(str(error)) from error
            if self._sending.cancelled_caught:
                self.stalled = True
                raise trio.BrokenResourceError("the client took no byte for too long")
            view = view[sent:]

    def send_nowait(self, data: bytes) -> int:
        """Send what the system takes at once, and return how much that was.

        Never while a ``send_all`` is in progress. A peer that is gone takes nothing: ``send_all`` says so.
        """
        if not HAS_PLAIN_IO:
            return 0
        try:
            return os.write(self._fd, data)
        except OSError:
            return 0

    async def wait_send_all_might_not_block(self) -> None:
        """See ``trio.abc.SendStream``."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See ``trio.abc.ReceiveStream``. Cancellation: nothing is lost."""
        if not HAS_PLAIN_IO or max_bytes is None:
            return await self._stream.receive_some(max_bytes)
        # Most reads have to wait: to wait first saves the one that fails.
        while True:
            fd = self.socket.fileno()
            if fd < 0:
                raise trio.ClosedResourceError
            await trio.lowlevel.wait_readable(fd)
            try:
                return os.read(fd, max_bytes)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error

    async def send_eof(self) -> None:
        """See ``trio.abc.HalfCloseableStream``."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close it; never waits."""
        self._fd = -1
        await self._stream.aclose()
