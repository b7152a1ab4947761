"""What is to be reached, and whether it is."""

from __future__ import annotations

import operator
from dataclasses import dataclass

OPERATORS = {">=": operator.ge, "<=": operator.le, "<": operator.lt, "==": operator.eq}


@dataclass(frozen=True)
class Target:
    """A bound for a figure.

    Attributes:
        figure: ``workload.figure``.
        relation: One of ``OPERATORS``.
        bound: What the figure is compared with.
        to: What the figure is first divided by: the same figure of ``peer`` or of ``bare``, another figure of
            the same server, or nothing.
    """

    figure: str
    relation: str
    bound: float
    to: str = ""

    def holds(self, value: float) -> bool:
        """Tell whether a value is within the bound."""
        return bool(OPERATORS[self.relation](value, self.bound))

    def __str__(self) -> str:
        against = {"": "", "peer": "x peer's ", "bare": "x bare "}.get(self.to, f"x {self.to} ")
        return f"{against}{self.relation} {self.bound:g}"


TARGETS = [
    Target("burst.events_per_s", ">=", 2.5, "peer"),
    Target("big.events_per_s", ">=", 1.7, "peer"),
    Target("live20.cpu_us_per_event", "<=", 0.8, "peer"),
    Target("live100.cpu_us_per_event", "<=", 0.8, "peer"),
    Target("live200.cpu_us_per_event", "<=", 0.9, "peer"),
    Target("live100.latency_p99_ms", "<=", 12),
    Target("live200.with_start_p99_ms", "<=", 20),
    Target("turns1.turns_per_s", ">=", 20, "peer"),
    Target("turns64.turns_per_s", ">=", 0.5, "peer"),
    Target("turns256.failures", "==", 0),
    Target("turns256.max_ms", "<=", 2000),
    Target("turns256.turns_per_s", ">=", 0.9, "turns64.turns_per_s"),
    Target("kill100.dead_and_answered_ms", "<=", 150),
    Target("realcli.turn_ms", "<=", 1.02, "bare"),
    Target("realcli.first_byte_ms", "<=", 1.0, "peer"),
    Target("idle1000.held", "==", 1000),
    Target("idle1000.server_rss_mb", "<", 160),
    Target("idle1000.helpers_pss_mb_per_run", "<", 1.2),
]
