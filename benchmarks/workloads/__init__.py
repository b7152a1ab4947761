"""The workloads: what is asked of each server, and the figures taken of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.servers import Contestant, Tools
from benchmarks.workloads import held, realcli, streams, turns

Figures = dict[str, float]
Measure = Callable[[Contestant, Tools], Figures]


@dataclass(frozen=True)
class Workload:
    """One workload; a figure's name ends in its unit."""

    name: str
    about: str
    measure: Measure
    bare: Callable[[Tools], Figures] | None = None
    """The same figures of the agent alone, with no server between, where that means something."""
    needs_claude: bool = False


def _live(count: int) -> Workload:
    about = f"{count} streams at {streams.LINES_A_SECOND} lines/s each, started at once"
    return Workload(f"live{count}", about, partial(streams.live, streams=count))


def _turns(clients: int) -> Workload:
    about = f"{clients} clients, each one short turn after another"
    return Workload(f"turns{clients}", about, partial(turns.turns, clients=clients))


WORKLOADS = [
    Workload(
        "burst",
        "one stream of 20,000 lines of 250 B",
        partial(streams.burst, lines=20_000, size=250),
        partial(streams.bare_burst, lines=20_000, size=250),
    ),
    Workload(
        "big",
        "one stream of 2,000 lines of 10 KB",
        partial(streams.burst, lines=2_000, size=10_000),
        partial(streams.bare_burst, lines=2_000, size=10_000),
    ),
    *map(_live, (1, 20, 100, 200, 400)),
    Workload("turns1", "one short turn after another", partial(turns.turns, clients=1), turns.bare_turns),
    *map(_turns, (16, 64, 256)),
    Workload("ttfe", "the first event of a turn, on a new connection", turns.first_event, turns.bare_first),
    Workload("idle1000", "1,000 open streams that say nothing", partial(held.idle, streams=1_000)),
    Workload("kill1", "one run, terminated", partial(held.terminate, runs=1)),
    Workload("kill100", "100 runs, terminated at once", partial(held.terminate, runs=100)),
    Workload("realcli", "one turn of the real CLI", realcli.turn, realcli.bare_turn, needs_claude=True),
    Workload("memory", "idle, then with 100 open streams", partial(held.memory, streams=100)),
]
