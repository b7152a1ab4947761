"""The server's side of a supervisor: its lifeline."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import socket
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from q9gent.hub import Hub


class Supervisor:
    """The server's end of a supervisor's lifeline. Closing it ends the supervisor and all it holds.

    Args:
        sock: The lifeline.
        hub: What reads it.
    """

    def __init__(self, sock: socket.socket, hub: Hub) -> None:
        self._sock = sock
        self._hub = hub
        self._listener: Callable[[bytes], None] | None = None
        self._is_alive = True
        self.pid = 0
        self.generation = 0
        hub.add(sock.fileno(), self._take)

    def _take(self, packet: bytes) -> None:
        if not packet:
            self._is_alive = False
        if self._listener is not None:
            self._listener(packet)

    def listen(self, listener: Callable[[bytes], None]) -> None:
        """Have each packet handed to a function that does not wait; ``b""`` means that it is gone."""
        self._listener = listener

    def send(self, packet: bytes, fds: list[int] | None = None) -> bool:
        """Send a packet; False if the supervisor is gone.

        Never waits: the few packets of a run are far below what the socket holds.

        Raises:
            OSError: The system has no memory for it, or too many descriptors are on their way (unix(7)).
        """
        try:
            if fds:
                socket.send_fds(self._sock, [packet], fds)
            else:
                self._sock.send(packet)
        except ConnectionError:
            return False
        return True

    async def introduction(self) -> bytes:
        """Wait for its first packet; ``b""`` means that it is gone. Cancellation: safe."""
        packets: list[bytes] = []
        came = trio.Event()

        def take(packet: bytes) -> None:
            packets.append(packet)
            came.set()

        self.listen(take)
        await came.wait()
        return packets[0]

    def is_alive(self) -> bool:
        """Tell whether an idle supervisor, which has nothing to say, is still there."""
        if not self._is_alive:
            return False
        try:
            self._sock.recv(1, socket.MSG_PEEK)  # its end may not have been read yet
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Let go of it."""
        self._listener = None
        self._hub.forget(self._sock.fileno())
        self._sock.close()
