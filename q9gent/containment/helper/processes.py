"""Who descends from whom, and how many are left: the process table, as /proc shows it."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import collections.abc
import os
import signal


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
