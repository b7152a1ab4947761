"""The supervisor: a subreaper that holds one run at a time."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import _socket
import errno
import os
import signal
import time

from .lifeline import Waker, receive, send
from .processes import descendants_of, kill_all

KILL_TIMEOUT_SECONDS = 10.0  # q9gent.containment.protocol says why
AGENT_OOM_SCORE_ADJ = b"300"
DEFAULT_SIGNALS = [
    number
    for number in signal.valid_signals()
    if number not in (signal.SIGKILL, signal.SIGSTOP) and number < signal.SIGRTMIN
]


class Supervisor:
    """Holds one run at a time, for as long as the lifeline lasts."""

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        self.waker = Waker(sock)
        self.server_is_gone = False
        self.reset()

    def reset(self) -> None:
        """Forget the last run, of which nothing is left."""
        self.leader = 0  # 0: none, or exited and reaped
        self.running = False
        self.kill_at: float | None = None  # when asking ends and killing begins
        self.killing_since: float | None = None
        self.killed: set[int] = set()
        self.told_survivors = False

    def run(self) -> None:
        """Serve runs until the server is gone and nothing is left."""
        raise_oom_score()
        send(self.sock, f"P {os.getpid()}")
        while self.running or not self.server_is_gone:
            if self.waker.wait(self.timeout()):
                self.read_message()
            if self.running:
                self.reap()
            if self.running and self.must_kill():
                self.kill()

    def timeout(self) -> float | None:
        """Return how long there is nothing to do unless something happens."""
        if self.killing_since is not None:
            return pause_of_killing(self.killing_since)
        if self.kill_at is not None:
            return max(0.0, self.kill_at - time.monotonic())
        return None

    def read_message(self) -> None:
        """Do what the server says; its end begins the killing."""
        data, fds = receive(self.sock)
        if data is None:
            return
        if data[:1] in (b"S", b"M"):
            self.start(data, fds)
        elif data[:1] == b"E":
            self.ask(int(data[1:]) / 1000)
        elif not data:
            self.server_is_gone = True
            self.waker.ignore_socket()
            self.kill_at = time.monotonic()

    def start(self, data: bytes, fds: list[int]) -> None:
        """Start the leader, in a session of its own and with the system's default signals."""
        if len(fds) != (4 if data[:1] == b"M" else 3):  # the system cut them off
            for fd in fds:
                os.close(fd)
            send(self.sock, f"! {errno.EMFILE}")
            return
        if data[:1] == b"M":
            with open(fds.pop(), "rb") as file:
                data = b"S" + file.read()
        argv = data[1:].split(b"\0")
        try:
            actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(fds)]
            self.leader = os.posix_spawn(
                argv[0],
                argv,
                os.environ,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=DEFAULT_SIGNALS,
            )
        except OSError as error:
            send(self.sock, f"! {error.errno}")
            return
        finally:
            for fd in fds:
                os.close(fd)
        self.running = True
        send(self.sock, f"p {self.leader}")

    def ask(self, grace_seconds: float) -> None:
        """Ask the leader and its process group to end, once; a shorter grace shortens the wait."""
        if not self.running or self.killing_since is not None:
            return
        deadline = time.monotonic() + grace_seconds
        first = self.kill_at is None
        self.kill_at = deadline if self.kill_at is None else min(self.kill_at, deadline)
        if first and self.leader and grace_seconds > 0:
            for number in (signal.SIGTERM, signal.SIGCONT):  # what is stopped cannot hear the first
                try:
                    os.killpg(self.leader, number)
                except OSError:
                    pass

    def reap(self) -> None:
        """Collect who has died; the leader's end is told, and the end of all ends the run."""
        exit_status = ""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                killed = len(self.killed)
                self.reset()
                send(self.sock, f"d {killed}{exit_status}")
                return
            if pid == 0:
                break
            if pid == self.leader:
                self.leader = 0
                exit_status = f" {status}"
        if exit_status:
            send(self.sock, f"x{exit_status}")

    def must_kill(self) -> bool:
        """What an exited leader leaves behind has no grace."""
        return not self.leader or (self.kill_at is not None and time.monotonic() >= self.kill_at)

    def kill(self) -> None:
        """Kill whatever lives, once; called again until nothing is left to reap."""
        now = time.monotonic()
        if self.killing_since is None:
            self.killing_since = now
        living = descendants_of(os.getpid())
        kill_all(living, self.killed)
        if now - self.killing_since > KILL_TIMEOUT_SECONDS and not self.told_survivors and living:
            self.told_survivors = True
            send(self.sock, " ".join(map(str, ["v", len(self.killed.difference(living)), *living])))


def pause_of_killing(since: float) -> float:
    """Return how long to wait for deaths before killing again: it is over in a millisecond, or takes long."""
    return min(0.25, 0.001 + (time.monotonic() - since) / 8)


def raise_oom_score() -> None:
    """Have the kernel take an agent, and not the server, when memory ends; agents inherit it from here."""
    try:
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
            file.write(AGENT_OOM_SCORE_ADJ)
    except OSError:
        pass  # this system does not let us
