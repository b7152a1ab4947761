"""The Linux strategy's helper processes, as the process table shows them."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from process_scan import Found, everyone, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterable

MARK = "helper.fork_server"
APPEAR_SECONDS = 20.0


def fork_servers(owner: int | None = None) -> list[Found]:
    """Those of a process (this one), zombies left out."""
    parent = os.getpid() if owner is None else owner
    return [one for one in everyone() if one.parent == parent and MARK in one.command]


def fork_server(owner: int | None = None, *, other_than: int = 0) -> int:
    """The pid of the one fork server, awaited."""
    found = wait_for(
        lambda: [one.pid for one in fork_servers(owner) if one.pid != other_than],
        lambda pids: len(pids) == 1,
        APPEAR_SECONDS,
    )
    assert len(found) == 1, found
    return found[0]


def supervisors(fork_server_pid: int) -> list[Found]:
    """The children of a fork server that are supervisors, zombies left out."""
    return [one for one in everyone() if one.parent == fork_server_pid and MARK in one.command]


def supervisor_of(leader: int) -> int:
    """A run's supervisor: its leader's parent."""
    (parent,) = [one.parent for one in everyone() if one.pid == leader]
    return parent


def zombies_under(pid: int) -> list[Found]:
    """Children that nobody has reaped."""
    return [one for one in everyone() if one.parent == pid and one.state == "Z"]


def links(pid: int) -> list[str]:
    """What a process holds open, as /proc names it."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def descriptors(pid: int) -> list[str]:
    """The kinds of what a process holds open."""
    return sorted(link.partition(":")[0] for link in links(pid))


def lifelines(pid: int) -> set[str]:
    """The links of the sockets of packets that a process can see: those to supervisors, and their fork server."""
    with open(f"/proc/{pid}/net/unix", encoding="ascii", errors="replace") as file:
        rows = [line.split() for line in file][1:]
    return {f"socket:[{row[6]}]" for row in rows if row[4] == "0005"}


def wait_state(pid: int, state: str) -> None:
    """Wait until a process is in a state."""

    def now() -> list[str]:
        return [one.state for one in everyone() if one.pid == pid]

    assert wait_for(now, lambda found: found == [state], APPEAR_SECONDS) == [state]


def stop(pid: int) -> None:
    """Stop a process, and wait until it is."""

    def is_stopped() -> bool:
        os.kill(pid, signal.SIGSTOP)  # again, if somebody who looks after it has continued it
        return [one.state for one in everyone() if one.pid == pid] == ["T"]

    assert wait_for(is_stopped, bool, APPEAR_SECONDS)


def kill_those(processes: Iterable[Found]) -> None:
    """Kill processes of the test's own that are still the same, and wait until they are gone."""
    wanted = {(one.pid, one.started) for one in processes}

    def alive() -> list[Found]:
        return [one for one in everyone() if (one.pid, one.started) in wanted and one.state != "Z"]

    for one in alive():
        with contextlib.suppress(ProcessLookupError):  # it was ending anyway
            os.kill(one.pid, signal.SIGKILL)
    assert wait_for(alive, lambda found: not found, APPEAR_SECONDS) == []
