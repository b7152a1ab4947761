"""Metrics of a live server: each counts what it says, once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from process_scan import wait_for
from prometheus_client.parser import text_string_to_metric_families
from raw_client import DEADLINE_SECONDS, spawn_bytes
from running import UNKNOWN_ID, begin, connect, log_lines, wait_for_log, wait_for_runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_process import LiveServer

SMALL_BUFFER = 4096


def measure(server: LiveServer) -> dict[str, float]:
    """Each sample of a scrape, by its name and the values of its labels."""
    answer = server.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        ":".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def wait_for_metrics(server: LiveServer, **expected: float) -> dict[str, float]:
    """Wait until these samples, named without the prefix, are as expected."""
    wanted = {"q9gent_" + name.replace("__", ":"): value for name, value in expected.items()}
    found = wait_for(lambda: measure(server), lambda seen: wanted.items() <= seen.items(), DEADLINE_SECONDS)
    assert {name: found.get(name) for name in wanted} == wanted
    return found


@pytest.fixture
def measured(start_server: Callable[..., LiveServer]) -> LiveServer:
    """A server that measures, for two runs at once."""
    return start_server("--simulate", "--metrics", "--max-runs", "2", "--queue-seconds", "60")


def test_a_run_is_counted_while_it_lives_and_after(measured: LiveServer) -> None:
    """Its start, its output so far, its end and its code; nothing twice."""
    with connect(measured) as client:
        begin(client, "!lines 10 100")
        live = wait_for_metrics(measured, spawns_total=1, runs_live=1, runs_queued=0)
        assert live["q9gent_output_lines_total"] == 12  # init, ten lines, waiting
        assert live["q9gent_output_bytes_total"] > 1000
        assert live["q9gent_runs_ended_total:terminated"] == 0
        (run,) = wait_for_runs(measured, 1)
        measured.terminate(run["run_id"])
        ended = wait_for_metrics(measured, runs_live=0, runs_ended_total__terminated=1)
    (summary,) = log_lines(measured, "run ended")
    assert ended["q9gent_output_lines_total"] == summary["lines"]
    assert ended["q9gent_output_bytes_total"] == summary["bytes"]
    assert ended["q9gent_processes_killed_total"] == summary["killed"]
    assert ended["q9gent_kill_duration_seconds_count"] == 1
    assert ended["q9gent_spawn_duration_seconds_count"] == 1
    assert sum(value for name, value in ended.items() if "runs_ended_total" in name) == 1


def test_killed_processes_are_counted(measured: LiveServer) -> None:
    """Those that a run left behind."""
    measured.spawn("!child setsid 3")
    assert wait_for_metrics(measured, runs_ended_total__completed=1)["q9gent_processes_killed_total"] == 3


def test_waiting_runs_are_not_live_ones(measured: LiveServer) -> None:
    """A third of two."""
    with connect(measured) as one, connect(measured) as two, connect(measured) as three:
        begin(one, "")
        begin(two, "")
        three.send(spawn_bytes("hello"))
        wait_for_metrics(measured, runs_live=2, runs_queued=1, spawns_total=2)
    wait_for_metrics(measured, runs_live=0, runs_queued=0, runs_ended_total__disconnected=3)


def test_output_never_falls_while_runs_end(measured: LiveServer) -> None:
    """Scraped as fast as can be, while a run passes from live to ended."""
    done = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                measured.spawn("!lines 500 100")
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=work)
    thread.start()
    seen = [measure(measured)]
    while not done.is_set():
        seen.append(measure(measured))
    thread.join(DEADLINE_SECONDS)
    assert not failures
    for name in ("q9gent_output_lines_total", "q9gent_output_bytes_total", "q9gent_spawns_total"):
        values = [one[name] for one in seen]
        assert values == sorted(values)
    # init, 500 lines, result
    wait_for_metrics(measured, output_lines_total=10 * 502, runs_ended_total__completed=10)


def test_spools_of_dead_runs_count_until_they_are_delivered(start_server: Callable[..., LiveServer]) -> None:
    """A run that is over holds the disk as long as its client has not read."""
    server = start_server("--simulate", "--metrics", "--memory-bytes", "65536")
    with connect(server, receive_buffer=SMALL_BUFFER) as client:
        client.send(spawn_bytes("!lines 20000 1000"))
        _, headers = client.head()
        wait_for_log(server, "run ended")
        assert wait_for_metrics(server, runs_live=0)["q9gent_spool_bytes"] > 10_000_000
        list(client.parts(headers))
        wait_for_metrics(server, spool_bytes=0)


def test_a_stalled_client_is_counted_once(start_server: Callable[..., LiveServer]) -> None:
    """Of a live run, and of one that is over: that one's code is another."""
    server = start_server("--simulate", "--metrics", "--client-stall-seconds", "0.5")
    with connect(server, receive_buffer=SMALL_BUFFER) as client:
        client.send(spawn_bytes("!lines 20000 1000\n!wait"))
        client.head()
        wait_for_metrics(server, client_stalls_total=1, runs_ended_total__stalled=1)
    with connect(server, receive_buffer=SMALL_BUFFER) as client:
        client.send(spawn_bytes("!lines 20000 1000"))
        client.head()
        wait_for_metrics(server, client_stalls_total=2)


def test_runs_that_do_not_start_are_counted_by_error(start_server: Callable[..., LiveServer]) -> None:
    """Not what is refused before a run is made of it."""
    server = start_server("--claude-path", "/", "--metrics")
    assert server.client.post("/spawn", json={"agent_type": "t", "prompt": "x"}).status_code == 500
    assert server.client.post("/spawn", json={"agent_type": "t"}).status_code == 400
    assert server.client.post(f"/message/{UNKNOWN_ID}", json={"prompt": "x"}).status_code == 404
    found = measure(server)
    assert found["q9gent_start_failures_total:ProcessSpawnFailed"] == 1
    assert sum(value for name, value in found.items() if "start_failures_total" in name) == 1
    assert found["q9gent_spawns_total"] == 0
    assert sum(value for name, value in found.items() if "runs_ended_total" in name) == 0


@pytest.mark.parametrize("kind", ["application/openmetrics-text", "text/plain"])
@pytest.mark.parametrize("version", ["abc", '"1.0.0"', "", "1.0.0.0.0.0"])
def test_any_version_that_is_asked_for_is_answered(measured: LiveServer, kind: str, version: str) -> None:
    """A scraper that names one that is none gets the plainest format."""
    with connect(measured) as client:
        answer = client.ask("GET", "/metrics", None, f"Accept: {kind}; version={version}")
    assert answer.status == 200
    assert b"q9gent_runs_live 0.0" in answer.body


def test_without_the_flag_there_are_no_metrics(shared: LiveServer) -> None:
    """Not found, like any path that is not there."""
    assert shared.client.get("/metrics").status_code == 404
