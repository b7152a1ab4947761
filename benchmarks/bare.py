"""The agent by itself: started and read with no server between."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.servers import BrokenRun, Tools

READ_BYTES = 1 << 18
DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class BareTurn:
    """One run of a program: seconds to the first bytes and to the end, and how much came."""

    first_seconds: float
    seconds: float
    lines: int
    bytes: int


def run_agent(tools: Tools, prompt: str) -> BareTurn:
    """Run the agent of the measurements once; see ``run_program``."""
    return run_program([tools.agent, "-p", prompt])


def run_program(
    command: list[str], *, cwd: str | None = None, environment: Mapping[str, str] | None = None
) -> BareTurn:
    """Run a program once and read all that it prints.

    Args:
        command: Its command line.
        cwd: The folder that it runs in.
        environment: Further environment variables.

    Raises:
        BrokenRun: It has failed, or was silent for ``DEADLINE_SECONDS``.
    """
    begin = time.monotonic()
    first, lines, size = 0.0, 0, 0
    with subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    ) as process:
        assert process.stdout is not None
        try:
            while select.select([process.stdout], [], [], DEADLINE_SECONDS)[0]:
                data = os.read(process.stdout.fileno(), READ_BYTES)
                if not data:
                    break
                first = first or time.monotonic() - begin
                lines += data.count(b"\n")
                size += len(data)
            else:
                raise BrokenRun("the agent says nothing")
            process.wait(DEADLINE_SECONDS)
        finally:
            process.kill()
    if process.returncode:
        raise BrokenRun(f"the agent ended with {process.returncode}")
    return BareTurn(first, time.monotonic() - begin, lines, size)
