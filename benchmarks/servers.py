"""The servers that are compared: how each is started, found and ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import psutil

from benchmarks.processes import Cpu, Memory, kill_all, read_cpu, read_memory
from benchmarks.soak import descendants

START_SECONDS = 30.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.02


class BrokenRun(Exception):
    """What was measured did not go as it must, so that there is no figure; the text says why."""


@dataclass(frozen=True)
class Contestant:
    """One of the servers compared: its name, and the beginning of its command line."""

    name: str
    command: tuple[str, ...]
    ends_runs: bool = True
    """Whether it ends a run's processes when it is asked to, or when its client leaves."""


@dataclass(frozen=True)
class Tools:
    """What every measurement needs."""

    folder: str
    agent: str
    load: str
    quick: bool = False
    claude: str | None = None


@dataclass(frozen=True)
class Server:
    """A server that runs, with default settings."""

    contestant: Contestant
    pid: int
    port: int
    agent: str
    log: str = field(repr=False)

    def cpu(self) -> Cpu:
        """Read the CPU time of the server and its helpers."""
        return read_cpu(self.pid, self.agent)

    def memory(self) -> Memory:
        """Read the memory of the server and its helpers."""
        return read_memory(self.pid, self.agent)


@contextlib.contextmanager
def started(
    contestant: Contestant,
    tools: Tools,
    *,
    agent: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Start a server in a folder of its own; at the end, nothing of it is left, its agents too.

    Args:
        contestant: Which.
        tools: The programs.
        agent: What it runs in place of the CLI; by default the agent of the measurements.
        environment: Further environment variables.

    Raises:
        BrokenRun: It does not listen within ``START_SECONDS``, or has ended by itself.
    """
    agent = agent or tools.agent
    folder = tempfile.mkdtemp(prefix=f"{contestant.name}-", dir=tools.folder)
    log = os.path.join(folder, "log")
    options = ["--port", "0", "--session-dir", os.path.join(folder, "sessions"), "--claude-path", agent]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("Q9GENT_")}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*contestant.command, *options],
            cwd=folder,
            env={**clean, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield Server(contestant, process.pid, _listening_port(process, log), agent, log)
        if process.poll() is not None:
            raise BrokenRun(f"the server ended by itself: {tail(log)}")
    finally:
        _end(process, contestant, tools)
        shutil.rmtree(folder, ignore_errors=True)


def tail(log: str) -> str:
    """Return the end of a log."""
    with open(log, "rb") as file:
        return file.read()[-500:].decode(errors="replace")


def _listening_port(process: subprocess.Popen[bytes], log: str) -> int:
    """Wait until the server listens, and return where: not every server tells which port it was given."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(psutil.Error):
            for connection in psutil.Process(process.pid).net_connections("tcp4"):
                if connection.status == psutil.CONN_LISTEN:
                    return int(connection.laddr.port)
        time.sleep(POLL_SECONDS)
    raise BrokenRun(f"the server does not listen: {tail(log)}")


def _end(process: subprocess.Popen[bytes], contestant: Contestant, tools: Tools) -> None:
    """End a server, and whatever of its processes then is left: a peer need not end them itself."""
    handles = []
    for pid in descendants(process.pid) if process.poll() is None else []:
        with contextlib.suppress(psutil.Error):
            handles.append(psutil.Process(pid))  # knows its start time, so that no other gets the signal
    if process.poll() is None:
        process.send_signal(signal.SIGTERM if contestant.ends_runs else signal.SIGKILL)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        kill_all(tools.agent)
        _, left = psutil.wait_procs(handles, timeout=STOP_SECONDS if contestant.ends_runs else 0)
        for handle in left:
            with contextlib.suppress(psutil.Error):
                handle.kill()
