"""What was measured: samples by figure, server and round, their medians and ratios."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.targets import TARGETS, Target


@dataclass(frozen=True)
class Spread:
    """A median with the least and the greatest value."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: list[float]) -> Spread | None:
        """Return the spread of values, if there are any."""
        return cls(median(values), min(values), max(values)) if values else None


@dataclass(frozen=True)
class Verdict:
    """A target, what was reached, and whether that is enough; without a value it could not be told."""

    target: Target
    value: float | None
    broken: int = 0
    """How many rounds of q9gent's gave no figure."""

    @property
    def holds(self) -> bool | None:
        """Whether the target is reached."""
        return None if self.value is None else self.target.holds(self.value)


@dataclass
class Results:
    """All samples of a run of the benchmarks."""

    judged: bool = True
    """Whether the samples are large enough to be compared with the targets."""
    samples: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    """By figure, by server, by round."""
    broken: list[tuple[str, str, int, str]] = field(default_factory=list)
    """Workload, server, round, and why there is no figure."""

    def add(self, workload: str, server: str, round_number: int, figures: dict[str, float]) -> None:
        """Take the figures of one sample."""
        for name, value in figures.items():
            by_server = self.samples.setdefault(f"{workload}.{name}", {})
            by_server.setdefault(server, {})[round_number] = value

    def spread(self, figure: str, server: str) -> Spread | None:
        """Return a figure of a server."""
        return Spread.of(list(self.samples.get(figure, {}).get(server, {}).values()))

    def ratio(self, figure: str, server: str, to_figure: str, to_server: str) -> Spread | None:
        """Return the ratios of two figures, each taken within one round."""
        of, to = (self.samples.get(name, {}) for name in (figure, to_figure))
        pairs = [
            (value, to[to_server][number])
            for number, value in of.get(server, {}).items()
            if number in to.get(to_server, {})
        ]
        return Spread.of([value / other for value, other in pairs if other > 0])

    def verdict(self, target: Target) -> Verdict:
        """Judge a target by the median."""
        if not target.to:
            reached = self.spread(target.figure, "q9gent")
        elif target.to in {"peer", "bare"}:
            reached = self.ratio(target.figure, "q9gent", target.figure, target.to)
        else:
            reached = self.ratio(target.figure, "q9gent", target.to, "q9gent")
        workload = target.figure.partition(".")[0]
        broken = sum((name, server) == (workload, "q9gent") for name, server, *_ in self.broken)
        return Verdict(target, reached.median if reached else None, broken)

    def verdicts(self) -> list[Verdict]:
        """Judge every target of a workload that was measured or that failed."""
        if not self.judged:
            return []
        measured = {figure.partition(".")[0] for figure in self.samples} | {name for name, *_ in self.broken}
        return [self.verdict(target) for target in TARGETS if target.figure.partition(".")[0] in measured]

    def as_json(self) -> dict[str, Any]:
        """Return all of it, for a file."""
        return {
            "samples": self.samples,
            "broken": [
                dict(zip(("workload", "server", "round", "reason"), item, strict=True))
                for item in self.broken
            ],
            "targets": [
                {
                    "figure": verdict.target.figure,
                    "wanted": str(verdict.target),
                    "value": verdict.value,
                    "holds": verdict.holds,
                    "broken_rounds": verdict.broken,
                }
                for verdict in self.verdicts()
            ],
        }
