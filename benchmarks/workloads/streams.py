"""Streams of lines: as fast as they come, and many of them at the pace of real agents."""

from __future__ import annotations

import time
from statistics import median

from benchmarks.bare import run_agent
from benchmarks.load import check, loading, percentile, run_turns, warm_up
from benchmarks.servers import BrokenRun, Contestant, Tools, started

LINES_A_SECOND = 50
SETTLE_SECONDS = 1.0
EDGE_NANOSECONDS = 100_000_000
"""Left out after the window's first reading, which itself takes some CPU."""
TOLERANCE = 0.05


def burst(contestant: Contestant, tools: Tools, *, lines: int, size: int) -> dict[str, float]:
    """One stream of lines as fast as they are taken: the median of a few turns."""
    with started(contestant, tools) as server:
        warm_up(server, tools)
        turns = run_turns(server, tools, f"burst {lines} {size}", lines, turns=1 if tools.quick else 5)
    if any(turn.bytes < lines * size for turn in turns):
        raise BrokenRun("bytes are missing")
    seconds = median(turn.seconds for turn in turns)
    return {"events_per_s": lines / seconds, "mb_per_s": turns[0].bytes / seconds / 1e6}


def bare_burst(tools: Tools, *, lines: int, size: int) -> dict[str, float]:
    """The same lines read from the agent's own pipe."""
    turns = [run_agent(tools, f"burst {lines} {size}") for _ in range(1 if tools.quick else 5)]
    if any(turn.lines != lines for turn in turns):
        raise BrokenRun("lines are missing")
    seconds = median(turn.seconds for turn in turns)
    return {"events_per_s": lines / seconds, "mb_per_s": turns[0].bytes / seconds / 1e6}


def live(contestant: Contestant, tools: Tools, *, streams: int) -> dict[str, float]:
    """Streams at 50 lines a second each, all started at once."""
    streams, window_seconds = (min(streams, 20), 0.5) if tools.quick else (streams, 4.0)
    # For all streams to begin, before the first one's lines are over.
    # A quick run is there to work on a machine that holds a process for seconds.
    begin_seconds = 12.0 if tools.quick else 1.0 + streams / 50
    count = int(LINES_A_SECOND * (begin_seconds + SETTLE_SECONDS + window_seconds))
    with started(contestant, tools) as server:
        warm_up(server, tools)
        prompt = f"live {LINES_A_SECOND} {count}"
        with loading(server, tools, prompt, connections=streams, stamps=True) as load:
            load.wait_ready()
            time.sleep(SETTLE_SECONDS)
            before = server.cpu()
            time.sleep(window_seconds)
            after = server.cpu()
            check(load.turns(), count, streams, server)
            stamps = list(load.stamps())
    events = sum(before.at <= read < after.at for _made, read in stamps)
    expected = streams * LINES_A_SECOND * (after.at - before.at) / 1e9
    if abs(events / expected - 1) > TOLERANCE and not tools.quick:
        raise BrokenRun(f"{events} events came in a window that should have had {expected:.0f}")
    whole = [(read - made) / 1e6 for made, read in stamps]
    steady = [(read - made) / 1e6 for made, read in stamps if before.at + EDGE_NANOSECONDS <= made < after.at]
    if tools.quick:  # its figures only have to be there: a process that was held may have missed the window
        events, steady = max(events, 1), steady or whole
    return {
        "cpu_us_per_event": after.since(before) / events / 1e3,
        "latency_p50_ms": percentile(steady, 0.5),
        "latency_p99_ms": percentile(steady, 0.99),
        "with_start_p99_ms": percentile(whole, 0.99),
        "with_start_max_ms": max(whole),
    }
