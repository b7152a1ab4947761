"""The agent by itself: started and read with no server between."""

from __future__ import annotations

import os
import select
import subprocess
import time
from dataclasses import dataclass

from benchmarks.servers import BrokenRun, Tools

READ_BYTES = 1 << 18
DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class BareTurn:
    """One run of the agent: seconds to the first bytes and to the end, and how much came."""

    first_seconds: float
    seconds: float
    lines: int
    bytes: int


def run_agent(tools: Tools, prompt: str) -> BareTurn:
    """Run the agent once.

    Raises:
        BrokenRun: It has failed, or not ended within ``DEADLINE_SECONDS``.
    """
    begin = time.monotonic()
    first, lines, size = 0.0, 0, 0
    with subprocess.Popen(
        [tools.agent, "-p", prompt], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0
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
