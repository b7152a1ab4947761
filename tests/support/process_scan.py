"""Who is alive: the system's process table, so that no bookkeeping has to be believed.

A process is recognised by a token: in its command line (which survives `env -i`) or in its
environment (which every other descendant of the server inherits). Linux only: it reads `/proc`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_SECONDS = 0.02
GONE_SECONDS = 30.0
"""How long a process may take to be gone, or in another state: a busy system can hold it for seconds."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Found:
    """One process; `started` (clock ticks since boot) tells it from a later owner of its pid."""

    pid: int
    parent: int
    state: str
    started: int
    command: str

    def __str__(self) -> str:
        return f"{self.pid} (parent {self.parent}, {self.state}) {self.command[:160]!r}"


def everyone() -> list[Found]:
    """Every process of the system, zombies too."""
    found = [_read(int(name)) for name in os.listdir("/proc") if name.isdecimal()]
    return [process for process in found if process is not None]


def with_token(token: str) -> list[Found]:
    """The processes that carry `token` in their command line."""
    return [process for process in everyone() if token in process.command]


def marked(token: str) -> list[Found]:
    """The processes that carry `token` in their command line or their environment."""
    return [
        process
        for process in everyone()
        if token in process.command or token.encode() in _bytes(process.pid, "environ")
    ]


def descendants(pid: int) -> list[Found]:
    """The children of `pid`, their children, and so on, zombies too, by what `/proc` says now."""
    table = everyone()
    wanted, found = {pid}, list[Found]()
    grown = True
    while grown:
        new = [one for one in table if one.parent in wanted and one.pid not in wanted]
        wanted |= {one.pid for one in new}
        found += new
        grown = bool(new)
    return found


def still_alive(processes: list[Found]) -> list[Found]:
    """Those of `processes` that run on: same pid, same start, and no zombie."""
    now = [(process, _read(process.pid)) for process in processes]
    return [
        process
        for process, seen in now
        if seen is not None and seen.started == process.started and seen.state != "Z"
    ]


def state_of(pid: int) -> str:
    """A process's state, by its letter."""
    found = _read(pid)
    return "gone" if found is None else found.state


def stop(pid: int) -> None:
    """Stop a process, and wait until it is."""

    def state() -> str:
        os.kill(pid, signal.SIGSTOP)  # again, if somebody who looks after it has continued it
        return state_of(pid)

    assert wait_for(state, lambda now: now == "T", GONE_SECONDS) == "T"


def links(pid: int) -> list[str]:
    """What a process holds open, as /proc names it."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def wait_for(probe: Callable[[], Answer], accept: Callable[[Answer], object], seconds: float) -> Answer:
    """Probe until the answer is accepted or `seconds` are over, and return the last answer."""
    end = time.monotonic() + seconds
    while True:
        is_last = time.monotonic() > end  # asked first: one who was held meanwhile looks once more
        answer = probe()
        if accept(answer) or is_last:
            return answer
        time.sleep(POLL_SECONDS)


def _read(pid: int) -> Found | None:
    """What `/proc` says of `pid`, or None when it is gone."""
    stat = _bytes(pid, "stat").decode(errors="replace")
    if not stat:
        return None
    fields = stat.rpartition(")")[2].split()
    command = _bytes(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
    # A zombie with threads is none: its main thread alone has ended, and with it went the command line.
    state = "S" if fields[0] == "Z" and int(fields[17]) > 1 else fields[0]
    return Found(pid=pid, parent=int(fields[1]), state=state, started=int(fields[19]), command=command)


def _bytes(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""
