"""Metrics: what there is from the start, and that nothing of it is undocumented or unbounded."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from q9gent.containment.protocol import Death, ExitStatus
from q9gent.ending import Ending
from q9gent.http.app import create_app
from q9gent.metrics import Metrics
from q9gent.settings import Settings
from q9gent.wire.events import Code

OPEN_METRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


def samples(metrics: Metrics) -> dict[str, float]:
    """Each sample of an exposition, by its name with its labels."""
    body, _ = metrics.expose("")
    return {
        sample.name
        + "".join(f"{{{key}={value}}}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def ending(*, cause: Code | None = None, killed: int = 0) -> Ending:
    """How a run ended."""
    return Ending(
        cause=cause, detail="", status=ExitStatus(code=0), death=Death(killed=killed), duration_ms=1
    )


def test_every_code_is_there_from_the_start() -> None:
    """A rate over a counter that appears with its first ending would miss that one."""
    found = samples(Metrics())
    assert {name: value for name, value in found.items() if name.startswith("q9gent_runs_ended_total")} == {
        f"q9gent_runs_ended_total{{code={code}}}": 0 for code in ("completed", *get_args(Code))
    }


def test_a_death_counts_as_a_kill_if_something_was_killed_or_told_to_end() -> None:
    """Not when a run went by itself and left nothing."""
    metrics = Metrics()
    metrics.died(ending(), 1.0)
    assert samples(metrics)["q9gent_kill_duration_seconds_count"] == 0
    metrics.died(ending(killed=3), 1.0)
    metrics.died(ending(cause="terminated"), 1.0)
    found = samples(metrics)
    assert found["q9gent_kill_duration_seconds_count"] == 2
    assert found["q9gent_kill_duration_seconds_sum"] == 2.0
    assert found["q9gent_processes_killed_total"] == 3


@pytest.mark.parametrize(
    ("accept", "media_type", "last"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8", b"\n"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", b"\n"),
        (OPEN_METRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8", b"# EOF\n"),
    ],
)
def test_the_format_is_the_one_asked_for(accept: str, media_type: str, last: bytes) -> None:
    """By prometheus_client's own negotiation."""
    body, told = Metrics().expose(accept)
    assert told.startswith(media_type)
    assert body.endswith(last)


def test_two_applications_count_apart() -> None:
    """Each has a registry of its own, and the library's global one has none of it."""
    one, other = (create_app(Settings(metrics=True)).metrics for _ in range(2))
    assert one is not None
    assert other is not None
    one.spawned(0.1)
    assert samples(one)["q9gent_spawns_total"] == 1
    assert samples(other)["q9gent_spawns_total"] == 0


def test_without_the_flag_nothing_is_measured() -> None:
    """There is nobody to tell, and no route."""
    app = create_app(Settings())
    assert app.metrics is None
    assert "/metrics" not in {rule.rule for rule in app.url_map.iter_rules()}


def test_a_missing_package_is_one_line_that_names_the_extra() -> None:
    """Exit status 1, before anything listens."""
    program = (
        "import sys; sys.modules['prometheus_client'] = None; from q9gent.cli import main;"
        " sys.argv[1:] = ['--metrics', '--simulate', '--port', '0']; main()"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert told.returncode == 1
    assert told.stderr == "q9gent: --metrics needs the extra 'metrics': pip install 'q9gent[metrics]'\n"
