"""The Linux strategy's helper processes, as the process table shows them."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from process_scan import Found, everyone, links, state_of, wait_for

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
    assert wait_for(lambda: state_of(pid), lambda now: now == state, APPEAR_SECONDS) == state


def kill_those(processes: Iterable[Found]) -> None:
    """Kill processes of the test's own that are still the same, and wait until they are gone."""
    wanted = {(one.pid, one.started) for one in processes}

    def alive() -> list[Found]:
        return [one for one in everyone() if (one.pid, one.started) in wanted and one.state != "Z"]

    for one in alive():
        with contextlib.suppress(ProcessLookupError):  # it was ending anyway
            os.kill(one.pid, signal.SIGKILL)
    assert wait_for(alive, lambda found: not found, APPEAR_SECONDS) == []
