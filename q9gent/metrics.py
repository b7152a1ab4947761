"""Metrics for Prometheus. The one module that imports ``prometheus_client``: the extra ``q9gent[metrics]``.

What happens is counted as it happens (``RunObserver``); what is so is looked at when asked for. Output is
both: that of live runs is added to that of ended ones, which a run joins in the moment that it leaves the
other, so the sum never falls. No label takes a value that a caller chooses.
"""

from __future__ import annotations

import platform
import weakref
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

from q9gent._version import __version__
from q9gent.wire.events import Code
from q9gent.wire.operations import START_PROBLEMS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from q9gent.ending import Ending
    from q9gent.errors import Q9gentError
    from q9gent.run import Run
    from q9gent.runs import Runs

COMPLETED = "completed"

SPAWN_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""A spawn takes some milliseconds; a machine out of memory takes seconds."""

DEATH_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 2.5, 5, 10, 15)
"""Killing takes milliseconds, being asked first up to the grace (2 s), survivors are told after 10 s more."""


class Metrics:
    """The metrics of one application, in a registry of their own.

    Attributes:
        registry: Further collectors may be registered; they are exposed too.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._runs: Runs | None = None
        # Also dead runs whose output is still being delivered: they hold spools.
        self._undelivered: weakref.WeakSet[Run] = weakref.WeakSet()
        self._ended_lines = 0
        self._ended_bytes = 0
        self._build = Info("q9gent_build", "What runs here.", registry=registry)
        self._spawn_seconds = Histogram(
            "q9gent_spawn_duration_seconds",
            "Time from the decision to start a process to its running.",
            buckets=SPAWN_BUCKETS_SECONDS,
            registry=registry,
        )
        self._spawns = Counter("q9gent_spawns", "Processes started.", registry=registry)
        self._start_failures = Counter(
            "q9gent_start_failures", "Runs that did not start.", ["error"], registry=registry
        )
        self._endings = Counter("q9gent_runs_ended", "Runs that ended.", ["code"], registry=registry)
        self._killed = Counter(
            "q9gent_processes_killed", "Processes that had to be killed.", registry=registry
        )
        self._death_seconds = Histogram(
            "q9gent_kill_duration_seconds",
            "Time from the decision to end a run to the death of its last process, grace included.",
            buckets=DEATH_BUCKETS_SECONDS,
            registry=registry,
        )
        self._stalls = Counter(
            "q9gent_client_stalls", "Clients that took nothing for too long.", registry=registry
        )
        for code in (COMPLETED, *get_args(Code)):
            self._endings.labels(code)
        for kind in START_PROBLEMS:
            self._start_failures.labels(kind.__name__)
        ProcessCollector(registry=registry)
        registry.register(self)

    def watch(self, runs: Runs, *, containment: str) -> None:
        """Look at these runs from now on.

        Args:
            runs: The application's.
            containment: The name of the strategy that holds them.
        """
        self._runs = runs
        self._build.info(
            {"version": __version__, "python": platform.python_version(), "containment": containment}
        )

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the format that a scraper asks for, and its media type."""
        try:
            encode, media_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, media_type = choose_encoder("")
        return encode(self.registry), media_type

    def collect(self) -> Iterator[Metric]:
        """Look: called by the registry."""
        live = self._runs.live() if self._runs is not None else []
        queued = self._runs.waiting if self._runs is not None else 0
        yield GaugeMetricFamily("q9gent_runs_live", "Runs that live.", len(live) - queued)
        yield GaugeMetricFamily("q9gent_runs_queued", "Runs that wait for a place.", queued)
        yield GaugeMetricFamily(
            "q9gent_spool_bytes",
            "Output that waits on disk for slow clients.",
            sum(run.spooled_bytes for run in self._undelivered),
        )
        yield CounterMetricFamily(
            "q9gent_output_lines",
            "Output events made of what runs printed.",
            self._ended_lines + sum(run.lines for run in live),
        )
        yield CounterMetricFamily(
            "q9gent_output_bytes",
            "Bytes that runs printed.",
            self._ended_bytes + sum(run.bytes for run in live),
        )

    def prepared(self, run: Run) -> None:
        """See ``RunObserver``."""
        self._undelivered.add(run)

    def spawned(self, seconds: float) -> None:
        """See ``RunObserver``."""
        self._spawns.inc()
        self._spawn_seconds.observe(seconds)

    def died(self, ending: Ending, seconds: float) -> None:
        """See ``RunObserver``; a run that ended by itself and left nothing behind was not killed."""
        killed = ending.death.killed if ending.death else 0
        self._killed.inc(killed)
        if killed or ending.cause is not None:
            self._death_seconds.observe(seconds)

    def stalled(self) -> None:
        """See ``RunObserver``."""
        self._stalls.inc()

    def failed(self, error: Q9gentError) -> None:
        """See ``RunObserver``."""
        self._start_failures.labels(type(error).__name__).inc()

    def ended(self, run: Run) -> None:
        """See ``RunObserver``."""
        if run.ending is not None:
            self._ended_lines += run.lines
            self._ended_bytes += run.bytes
            self._endings.labels(run.ending.code or COMPLETED).inc()
