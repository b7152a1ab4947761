"""The fork server: forks supervisors, and ends what a killed one leaves."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import _socket
import ctypes
import gc
import os
import resource
import signal
import time

from .lifeline import Waker, receive, send
from .processes import children_of, descendants_of, kill_all
from .supervisor import Supervisor, pause_of_killing

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
IGNORED_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGPIPE,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
)

LIBC = ctypes.CDLL(None, use_errno=True)


class ForkServer:
    """Forks supervisors, and ends what a killed supervisor leaves."""

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        self.waker = Waker(sock)
        self.supervisors: set[int] = set()
        # Supervisors that died, until all that they held is dead; and whom earlier ones had left us by then,
        # who may be beyond killing (setuid) and are not theirs.
        self.gone: dict[int, set[int]] = {}
        self.gone_since = 0.0
        self.orphans: set[int] = set()
        self.killed: set[int] = set()
        self.server_is_gone = False

    def run(self) -> None:
        """Serve until the server is gone and every supervisor after it."""
        send(self.sock, "R")
        while self.supervisors or self.gone or not self.server_is_gone:
            if self.waker.wait(self.timeout()):
                self.read_message()
            self.reap()
            if self.gone:
                self.sweep()

    def timeout(self) -> float | None:
        """Return how long there is nothing to do unless something happens."""
        if self.gone:
            return pause_of_killing(self.gone_since)
        if self.server_is_gone:
            for pid in self.supervisors:  # one that a run has stopped cannot see its lifeline's end
                os.kill(pid, signal.SIGCONT)
            return 0.1
        return None

    def read_message(self) -> None:
        """Do what the server says."""
        data, fds = receive(self.sock)
        if data is None:
            return
        if data == b"F":
            self.fork(_socket.socket(fileno=fds[0]))
        elif data[:1] == b"K":
            pid = int(data[1:])
            if pid in self.supervisors:  # not reaped yet: the pid is surely still its own
                os.kill(pid, signal.SIGKILL)
        elif not data:
            self.server_is_gone = True
            self.waker.ignore_socket()

    def fork(self, lifeline: _socket.socket) -> None:
        """Fork a supervisor; this returns in the parent alone."""
        try:
            pid = os.fork()
        except OSError as error:
            send(lifeline, f"! {error.errno}")
            lifeline.close()
            return
        if pid:
            self.supervisors.add(pid)
            lifeline.close()
            return
        try:
            self.waker.close_inherited()
            self.sock.close()
            become_subreaper()
            continue_when_orphaned()
            Supervisor(lifeline).run()
        finally:
            os._exit(0)

    def reap(self) -> None:
        """Collect who has died; a supervisor among them leaves orphans to us.

        One that its run has stopped is continued at once: else nobody would see how that run ends.
        """
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                if pid in self.supervisors:
                    os.kill(pid, signal.SIGCONT)
            elif pid in self.supervisors:
                self.supervisors.discard(pid)
                self.gone[pid] = set(self.orphans)
                self.gone_since = time.monotonic()

    def sweep(self) -> None:
        """Kill the orphans of dead supervisors: any child that is no supervisor.

        Only after that supervisor was reaped, as its orphans become ours in its last moment.
        """
        kill_all(descendants_of(os.getpid(), self.supervisors), self.killed)
        self.reap()
        try:
            orphans = {child for child in children_of(os.getpid()) if child not in self.supervisors}
        except OSError:  # who cannot look has proven nothing
            return
        for pid, others in list(self.gone.items()):
            if orphans <= others:
                del self.gone[pid]
                send(self.sock, f"D {pid} {len(self.killed)}")
        self.orphans = orphans
        if not self.gone:
            self.killed.clear()


def become_subreaper() -> None:
    """Adopt the orphans among our descendants (Linux 3.4, prctl(2))."""
    if LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def continue_when_orphaned() -> None:
    """Have the kernel send SIGCONT when the parent dies (prctl(2)): stopped, nobody sees its lifeline's end.

    The signal also comes when a mere thread of the parent's ends, and is then none the worse.
    """
    if LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def main() -> None:
    """Serve at the socket, with the descriptor limit, that the arguments name (see ``BOOT``)."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sock = _socket.socket(fileno=int(sys.argv[2]))
    os.set_inheritable(sock.fileno(), False)
    become_subreaper()
    continue_when_orphaned()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[3]), hard))
    gc.disable()  # nothing here makes cycles, and a collection would unshare every forked page
    gc.freeze()
    ForkServer(sock).run()
