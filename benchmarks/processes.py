"""What a server and its helpers take, together: CPU and memory, as /proc tells."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass

from benchmarks.soak import descendants

DEATH_SECONDS = 10.0
POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Cpu:
    """The CPU time that each process has had, in nanoseconds, and when that was read."""

    at: int
    by_pid: dict[int, int]

    def since(self, earlier: Cpu) -> int:
        """Return the nanoseconds spent between two readings.

        A process that has started since counts from its start; one that has ended meanwhile is left out, as
        what it spent last is not known. In the windows that are measured, only idle helpers end.
        """
        return sum(spent - earlier.by_pid.get(pid, 0) for pid, spent in self.by_pid.items())


@dataclass(frozen=True)
class Memory:
    """Memory in MB: the server's resident and proportional set, and the helpers' proportional one."""

    server_rss: float
    server_pss: float
    helpers_pss: float
    helpers: int

    @property
    def pss(self) -> float:
        """All that is taken, shared pages counted once."""
        return self.server_pss + self.helpers_pss


def executable(pid: int) -> str:
    """Return the program that a process runs; nothing if it has ended."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def running(program: str) -> list[int]:
    """Return the processes that run a program."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and executable(int(name)) == program]


def helpers_of(server: int, agent: str) -> list[int]:
    """Return a server's descendants that are no agents and run no agent's work."""
    return [pid for pid in descendants(server) if executable(pid) not in {"", agent}]


def read_cpu(server: int, agent: str) -> Cpu:
    """Read the CPU time of a server, with all its threads, and of its helpers."""
    helpers = helpers_of(server, agent)
    at = time.monotonic_ns()
    return Cpu(at, {pid: _cpu_of(pid) for pid in (server, *helpers)})


def read_memory(server: int, agent: str) -> Memory:
    """Read the memory of a server and of its helpers."""
    rss, pss = _memory_of(server)
    helpers = [_memory_of(pid)[1] for pid in helpers_of(server, agent)]
    return Memory(rss, pss, sum(helpers), len(helpers))


def kill_all(program: str) -> None:
    """Kill every process that runs a program built for this run alone, and wait for their end."""
    end = time.monotonic() + DEATH_SECONDS
    while (pids := running(program)) and time.monotonic() < end:
        kill(pids)
        time.sleep(POLL_SECONDS)
    if pids:
        raise RuntimeError(f"agents cannot be killed: {pids}")


def kill(pids: list[int]) -> None:
    """Send SIGKILL to each."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _cpu_of(pid: int) -> int:
    spent = 0
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/schedstat", "rb") as file:
                spent += int(file.read().split()[0])
    return spent


def _memory_of(pid: int) -> tuple[float, float]:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line and "kB" in line)
    except OSError:
        return 0.0, 0.0
    return tuple(int(fields[name].split()[0]) * 1024 / 1e6 for name in ("Rss", "Pss"))  # type: ignore[return-value]
