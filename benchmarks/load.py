"""Runs the client (``native/load.c``) and reads what it measured."""

from __future__ import annotations

import array
import contextlib
import os
import select
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.servers import BrokenRun, Server, Tools, tail

DEADLINE_SECONDS = 60.0
FOREVER = 10**9


@dataclass(frozen=True)
class Turn:
    """One turn as the client saw it; times in nanoseconds of the monotonic clock."""

    start: int
    first: int
    end: int
    events: int
    bytes: int
    status: int
    why: str

    @property
    def seconds(self) -> float:
        """How long it took, from before the request to the end of the stream."""
        return (self.end - self.start) / 1e9

    @property
    def first_seconds(self) -> float:
        """How long its first event took."""
        return (self.first - self.start) / 1e9


class Load:
    """A client at work."""

    def __init__(self, process: subprocess.Popen[str], stamps: str, log: str) -> None:
        self._process = process
        self._stamps = stamps
        self._log = log

    def wait_ready(self) -> None:
        """Wait until each connection has had its first event.

        Raises:
            BrokenRun: One has failed before.
        """
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], DEADLINE_SECONDS)[0]:
            raise BrokenRun("not all streams have begun")
        line = self._process.stdout.readline()
        if line.strip() != "ready":
            raise BrokenRun(f"a stream had ended before the last had begun: {line.strip()}")

    def turns(self) -> list[Turn]:
        """Wait until all is done, and return the turns.

        Raises:
            BrokenRun: The client has failed.
        """
        text, _ = self._process.communicate(timeout=4 * DEADLINE_SECONDS)
        if self._process.returncode:
            raise BrokenRun(f"the client ended with {self._process.returncode}")
        return [_turn(line) for line in text.splitlines() if line.startswith("turn ")]

    def stamps(self) -> Iterator[tuple[int, int]]:
        """Return for each event when it was made and when it was read."""
        with open(self._stamps, "rb") as file:
            numbers = array.array("q", file.read())
        return zip(numbers[::2], numbers[1::2], strict=True)


@contextlib.contextmanager
def loading(
    server: Server,
    tools: Tools,
    prompt: str,
    *,
    connections: int = 1,
    turns: int = 1,
    seconds: float = 0.0,
    fresh: bool = False,
    stamps: bool = False,
) -> Iterator[Load]:
    """Start a client; it is ended when the block is left.

    Args:
        server: Where to.
        tools: The programs.
        prompt: What each turn asks for.
        connections: How many work at once.
        turns: How many turns each makes, if ``seconds`` is 0.
        seconds: How long turns are started.
        fresh: A connection for each turn, even where the server would keep it.
        stamps: Whether events carry the time when they were made.
    """
    path = tempfile.mktemp(prefix="stamps-", dir=tools.folder) if stamps else "-"
    arguments = [server.port, connections, FOREVER if seconds else turns, seconds]
    deadline = seconds + DEADLINE_SECONDS
    process = subprocess.Popen(
        [tools.load, *map(str, [*arguments, deadline, int(fresh), path, prompt])],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Load(process, path, server.log)
    finally:
        process.kill()
        process.communicate()
        if stamps:
            with contextlib.suppress(OSError):
                os.unlink(path)


def run_turns(
    server: Server, tools: Tools, prompt: str, events: int, *, turns: int = 1, **how: bool
) -> list[Turn]:
    """Make turns on one connection, each of which must succeed."""
    with loading(server, tools, prompt, turns=turns, **how) as load:
        done = load.turns()
    check(done, events, turns, server)
    return done


def check(turns: list[Turn], events: int, count: int, server: Server) -> None:
    """Check that there are so many turns, each completed and with so many output events.

    Raises:
        BrokenRun: It is not so.
    """
    if failed := Counter(turn.why for turn in turns if turn.why != "ok"):
        raise BrokenRun(f"turns failed: {dict(failed)}; {tail(server.log)}")
    if wrong := [turn.events for turn in turns if turn.events != events]:
        raise BrokenRun(f"{len(wrong)} turns had not {events} events but {wrong[:3]}")
    if len(turns) != count:
        raise BrokenRun(f"{len(turns)} turns in place of {count}")


def warm_up(server: Server, tools: Tools) -> None:
    """Let a server load what it loads when first used."""
    run_turns(server, tools, "turn", 1, turns=5)
    time.sleep(0.1)


def percentile(values: list[float], part: float) -> float:
    """Return the value that this part (0..1) of the values do not exceed."""
    if not values:
        raise BrokenRun("nothing was measured")
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def _turn(line: str) -> Turn:
    _, start, first, end, events, size, status, why = line.split(" ", 7)
    return Turn(int(start), int(first), int(end), int(events), int(size), int(status), why)
