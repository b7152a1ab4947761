"""The socket to the server, and how a helper waits for it and for its children at once."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import _socket
import os
import select
import signal

from . import PACKET_BYTES


class Waker:
    """Makes SIGCHLD readable, so that one ``poll`` waits for children and messages alike."""

    def __init__(self, sock: _socket.socket) -> None:
        self.read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.write_fd = write_fd
        self.poll = select.poll()
        self.poll.register(self.read_fd, select.POLLIN)
        self.sock_fd = sock.fileno()
        self.poll.register(self.sock_fd, select.POLLIN)

    def wait(self, timeout_seconds: float | None) -> bool:
        """Wait, and return whether the socket has something to say."""
        timeout = None if timeout_seconds is None else max(0, int(timeout_seconds * 1000) + 1)
        ready = dict(self.poll.poll(timeout))
        if self.read_fd in ready:
            try:
                os.read(self.read_fd, 4096)
            except BlockingIOError:
                pass
        return self.sock_fd in ready

    def ignore_socket(self) -> None:
        """Stop watching the socket: it has ended, and would be ready for ever."""
        self.poll.unregister(self.sock_fd)

    def close_inherited(self) -> None:
        """Close what a forked child got of its parent's."""
        signal.set_wakeup_fd(-1)
        os.close(self.read_fd)
        os.close(self.write_fd)


def receive(sock: _socket.socket) -> tuple[bytes | None, list[int]]:
    """Return the next packet and its file descriptors; an ended lifeline gives ``b""``."""
    try:
        data, ancillary, _flags, _address = sock.recvmsg(
            PACKET_BYTES, _socket.CMSG_SPACE(4 * 8), _socket.MSG_CMSG_CLOEXEC | _socket.MSG_DONTWAIT
        )
    except BlockingIOError:
        return None, []
    except OSError:  # a server that died with a message of ours unread resets the connection
        return b"", []
    fds: list[int] = []
    for _level, _kind, payload in ancillary:
        fds += [int.from_bytes(payload[at : at + 4], sys.byteorder) for at in range(0, len(payload), 4)]
    return data, fds


def send(sock: _socket.socket, text: str) -> None:
    """Tell the server; a server that is gone will be noticed when we read."""
    try:
        sock.send(text.encode())
    except OSError:
        pass
