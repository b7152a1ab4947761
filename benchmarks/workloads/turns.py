"""Short turns: one after another, by many clients at once, and how long the first event takes."""

from __future__ import annotations

import math
import time

from benchmarks.bare import run_agent
from benchmarks.load import loading, percentile, run_turns, warm_up
from benchmarks.servers import BrokenRun, Contestant, Tools, started

WARM_SECONDS = 1.5
"""What is left out of rates and percentiles, but not of failures and the longest wait."""


def turns(contestant: Contestant, tools: Tools, *, clients: int) -> dict[str, float]:
    """Clients that each make one short turn after another."""
    warm, seconds = (0.3, 1.0) if tools.quick else (WARM_SECONDS, 5.0)
    clients = min(clients, 16) if tools.quick else clients
    with started(contestant, tools) as server:
        warm_up(server, tools)
        before = server.cpu()
        with loading(server, tools, "turn", connections=clients, seconds=warm + seconds) as load:
            done = load.turns()
        after = server.cpu()
    good = [turn for turn in done if turn.why == "ok" and turn.events == 1]
    begin = min(turn.start for turn in done) + int(warm * 1e9)
    until = begin + seconds * 1e9
    if tools.quick:  # its figures only have to be there
        begin, until = 0, math.inf
    counted = [turn.seconds * 1e3 for turn in good if begin <= turn.end < until]
    if not counted:
        raise BrokenRun(f"no turn succeeded: {done[0].why}")
    return {
        "turns_per_s": len(counted) / seconds,
        "p50_ms": percentile(counted, 0.5),
        "p99_ms": percentile(counted, 0.99),
        "max_ms": max(turn.seconds * 1e3 for turn in done),
        "failures": float(len(done) - len(good)),
        "cpu_us_per_turn": after.since(before) / len(good) / 1e3,
    }


def first_event(contestant: Contestant, tools: Tools) -> dict[str, float]:
    """One turn after another, each on a new connection: the time to the first event and to the end."""
    with started(contestant, tools) as server:
        warm_up(server, tools)
        done = run_turns(server, tools, "turn", 1, turns=5 if tools.quick else 50, fresh=True)
    first = [turn.first_seconds * 1e3 for turn in done]
    return {
        "first_p50_ms": percentile(first, 0.5),
        "first_p99_ms": percentile(first, 0.99),
        "end_p50_ms": percentile([turn.seconds * 1e3 for turn in done], 0.5),
    }


def bare_turns(tools: Tools) -> dict[str, float]:
    """The agent started again and again."""
    seconds, begin = (0.5 if tools.quick else 3.0), time.monotonic()
    walls = []
    while time.monotonic() - begin < seconds:
        walls.append(run_agent(tools, "turn").seconds * 1e3)
    return {
        "turns_per_s": len(walls) / (time.monotonic() - begin),
        "p50_ms": percentile(walls, 0.5),
        "p99_ms": percentile(walls, 0.99),
        "max_ms": max(walls),
    }


def bare_first(tools: Tools) -> dict[str, float]:
    """The time to the agent's own first line and end."""
    done = [run_agent(tools, "turn") for _ in range(5 if tools.quick else 50)]
    first = [each.first_seconds * 1e3 for each in done]
    return {
        "first_p50_ms": percentile(first, 0.5),
        "first_p99_ms": percentile(first, 0.99),
        "end_p50_ms": percentile([each.seconds * 1e3 for each in done], 0.5),
    }
