"""The helper process that starts and holds every run on Linux: ``python -I -S _fork_server.py FD LIMIT``.

Standard library only, and single-threaded: it must be small, and forking must be safe.

It is two programs in one file. The *fork server* sits at the other end of the server's socket ``FD``
and forks supervisors. A *supervisor* holds one run at a time: it is a child subreaper, so whatever the
run starts, however it detaches, is a descendant of it for ever. To end a run it signals all
descendants and reaps, again and again, until ``waitpid`` says ECHILD: nothing is left. That is the
proof of death, and it is also why a supervisor can be used again for the next run.

Both ignore the signals by which terminals and service managers end things; only their socket, the
lifeline, ends them: its end of file (or any error) means that the server is gone, and then the runs
must go too. The fork server is a subreaper as well: a run that kills its own supervisor is caught here.

Messages are packets. Numbers are decimal text::

    server → fork server    F + [socket]   fork a supervisor for the other end of this socket
                            K pid          kill that supervisor
    fork server → server    R              ready
                            D pid killed   that supervisor is gone, and so is all that it held
    server → supervisor     S argv + [stdin, stdout, stderr]   start; NUL-separated; inline
                            M + [stdin, stdout, stderr, memfd] start; argv in the memfd
                            E grace_ms     end it: ask, wait, kill
    supervisor → server     P pid          here I am
                            ! errno        could not fork, or could not start
                            p pid          started
                            x status       the leader has exited (a wait status)
                            v killed pids  still alive after KILL_TIMEOUT_SECONDS of killing
                            d killed       all dead
"""

from __future__ import annotations

import _socket
import collections.abc
import ctypes
import gc
import os
import resource
import select
import signal
import sys
import time

assert sys.platform == "linux"

PR_SET_CHILD_SUBREAPER = 36
PACKET_BYTES = 1 << 17
KILL_TIMEOUT_SECONDS = 10.0  # q9gent.containment.protocol says why
AGENT_OOM_SCORE_ADJ = b"300"  # the kernel shall take an agent, never the server, when memory ends
DEFAULT_SIGNALS = [
    number
    for number in signal.valid_signals()
    if number not in (signal.SIGKILL, signal.SIGSTOP) and number < signal.SIGRTMIN
]
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


def children_of(pid: int) -> list[int]:
    """Return the children of a process, those of its other threads too."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except FileNotFoundError:
        if not os.path.exists("/proc/self/task/%d/children" % os.getpid()):
            return children_by_scan(pid)  # a kernel without CONFIG_PROC_CHILDREN
    except OSError:
        pass  # it has just ended; its children are somebody else's now and will be found there
    return found


def children_by_scan(parent: int) -> list[int]:
    """Return the children of a process by reading every process's parent."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b") ")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found.append(int(name))
    return found


def descendants_of(pid: int, spared: collections.abc.Container[int] = ()) -> list[int]:
    """Return all descendants of a process that live, those of ``spared`` children left out."""
    found = []
    ahead = [child for child in children_of(pid) if child not in spared]
    while ahead:
        child = ahead.pop()
        ahead += children_of(child)
        try:
            with open(f"/proc/{child}/stat", "rb") as file:
                if file.read().rpartition(b") ")[2][:1] not in b"ZX":
                    found.append(child)
        except OSError:
            continue
    return found


def kill_all(pids: list[int], killed: set[int]) -> None:
    """SIGKILL each, and note in the set ``killed`` those that could be signalled."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        except OSError:
            pass  # gone already, or not ours to signal: it will be told as a survivor


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
            spent = time.monotonic() - self.killing_since
            return min(0.25, 0.001 + spent / 8)  # killing is over in a millisecond, or takes long
        if self.kill_at is not None:
            return max(0.0, self.kill_at - time.monotonic())
        return None

    def read_message(self) -> None:
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
        try:
            with open(f"/proc/{self.leader}/oom_score_adj", "wb", buffering=0) as file:
                file.write(AGENT_OOM_SCORE_ADJ)
        except OSError:
            pass  # it has ended already, or this system does not let us
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
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                killed = len(self.killed)
                self.reset()
                send(self.sock, f"d {killed}")
                return
            if pid == 0:
                return
            if pid == self.leader:
                self.leader = 0
                send(self.sock, f"x {status}")

    def must_kill(self) -> bool:
        """What an exited leader leaves behind has no grace."""
        return not self.leader or (self.kill_at is not None and time.monotonic() >= self.kill_at)

    def kill(self) -> None:
        now = time.monotonic()
        if self.killing_since is None:
            self.killing_since = now
        living = descendants_of(os.getpid())
        kill_all(living, self.killed)
        if now - self.killing_since > KILL_TIMEOUT_SECONDS and not self.told_survivors and living:
            self.told_survivors = True
            send(self.sock, " ".join(map(str, ["v", len(self.killed.difference(living)), *living])))


class ForkServer:
    """Forks supervisors, and ends what a killed supervisor leaves."""

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        self.waker = Waker(sock)
        self.supervisors: set[int] = set()
        self.gone: list[int] = []  # supervisors that died, until all that they held is dead
        self.killed: set[int] = set()
        self.server_is_gone = False

    def run(self) -> None:
        """Serve until the server is gone and every supervisor after it."""
        send(self.sock, "R")
        while self.supervisors or self.gone or not self.server_is_gone:
            if self.waker.wait(0.005 if self.gone else None):
                self.read_message()
            self.reap()
            if self.gone:
                self.sweep()

    def read_message(self) -> None:
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
            Supervisor(lifeline).run()
        finally:
            os._exit(0)

    def reap(self) -> None:
        while True:
            try:
                pid, _status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.supervisors:
                self.supervisors.discard(pid)
                self.gone.append(pid)

    def sweep(self) -> None:
        """Kill the orphans of dead supervisors: any child that is no supervisor.

        Only after that supervisor was reaped, as its orphans become ours in its last moment.
        """
        kill_all(descendants_of(os.getpid(), self.supervisors), self.killed)
        self.reap()
        if all(child in self.supervisors for child in children_of(os.getpid())):
            for pid in self.gone:
                send(self.sock, f"D {pid} {len(self.killed)}")
            self.gone.clear()
            self.killed.clear()


LIBC = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Adopt the orphans among our descendants (Linux 3.4, prctl(2))."""
    if LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def main() -> None:
    """Serve at the socket whose descriptor is the argument, with the descriptor limit that runs get."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sock = _socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(sock.fileno(), False)
    become_subreaper()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), hard))
    gc.disable()  # nothing here makes cycles, and a collection would unshare every forked page
    gc.freeze()
    ForkServer(sock).run()


if __name__ == "__main__":
    main()
