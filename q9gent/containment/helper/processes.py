"""Who descends from whom, and how many are left: the process table, as /proc shows it."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import collections.abc
import os
import signal

OWN = b""
"""In place of a start: our own child, which keeps its pid until we reap it."""


def children_of(pid: int) -> list[int]:
    """Return the children of a process, those of its other threads too.

    Raises:
        OSError: The system has no descriptor or no memory to look with.
    """
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except FileNotFoundError:
        if not os.path.exists("/proc/self/task/%d/children" % os.getpid()):
            return children_by_scan(pid)  # a kernel without CONFIG_PROC_CHILDREN
    except ProcessLookupError:
        pass  # it has just ended; its children are somebody else's now and will be found there
    return found


def children_by_scan(parent: int) -> list[int]:
    """Return the children of a process by reading every process's parent."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat_of(int(name))
            if fields and int(fields[1]) == parent:
                found.append(int(name))
    return found


def _stat_of(pid: int) -> list[bytes]:
    """Return what the system tells of a process, from its state on; nothing if it is gone or hidden."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2].split()
    except OSError:
        return []


def identity_of(pid: int) -> tuple[int, bytes] | None:
    """Return a living process's parent and start, which tells it from a later bearer of its pid.

    One whose main thread alone has ended looks like a zombie, but for its other threads (proc_pid_stat(5)).
    """
    fields = _stat_of(pid)
    if not fields or (fields[0] in b"ZX" and int(fields[17]) <= 1):
        return None
    return int(fields[1]), fields[19]


def descendants_of(pid: int, spared: collections.abc.Container[int] = ()) -> dict[int, bytes]:
    """Return all descendants of a process that live, those of ``spared`` children left out.

    Returns:
        For each pid when it started, in clock ticks since boot, or ``OWN``.
    """
    found = {}
    ahead = [(child, pid) for child in _children_if_any(pid) if child not in spared]
    while ahead:
        child, parent = ahead.pop()
        below = _children_if_any(child)
        if parent == os.getpid():
            # /proc may hide a process of the same user (hidepid), but nothing hides a child from wait.
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                found[child] = OWN
        elif (identity := identity_of(child)) is not None:
            if identity[0] not in (parent, pid):  # its pid is another's by now, or who adopted it comes later
                continue
            found[child] = identity[1]
        ahead += [(one, child) for one in below]
    return found


def _children_if_any(pid: int) -> list[int]:
    try:
        return children_of(pid)
    except OSError:  # nothing to look with, or nobody who may look: whoever looks again finds them
        return []


def kill_all(processes: dict[int, bytes], killed: set[int]) -> None:
    """SIGKILL each, unless its pid has another bearer by now; note in ``killed`` whom the signal reached.

    Args:
        processes: For each pid when it started (see ``descendants_of``).
        killed: Grows by the pids that could be signalled.
    """
    for pid, started in processes.items():
        try:
            kill(pid, started)
            killed.add(pid)
        except OSError:
            pass  # gone already, or not ours to signal: it will be told as a survivor


def kill(pid: int, started: bytes) -> None:
    """SIGKILL a process, and surely no other.

    Its parent may reap it at any moment, and a fork storm runs through all pids in seconds: whoever bears the
    pid now is held by a descriptor first, then looked at.

    Raises:
        ProcessLookupError: It is gone.
        PermissionError: It is not ours to signal.
    """
    if started == OWN:
        os.kill(pid, signal.SIGKILL)
        return
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except (OSError, AttributeError):  # Linux before 5.3, a sandbox without the call, no descriptor left
        pidfd = -1
    try:
        identity = identity_of(pid)
        if identity is None or identity[1] != started:
            raise ProcessLookupError
        if pidfd < 0:
            os.kill(pid, signal.SIGKILL)
        else:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        if pidfd >= 0:
            os.close(pidfd)
