"""The log of a live server: whose lines are a run's, how many there are, and what is never in them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from raw_client import spawn_bytes
from running import UNKNOWN_ID, begin, connect, log_lines, wait_for_log, wait_for_runs

from q9gent.runs import PROMPT_LOG_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from program import Program
    from server_process import LiveServer

SECRET = "my-secret-prompt"


def lines_of(server: LiveServer, run_id: str) -> list[dict[str, Any]]:
    """The lines that carry a run's id."""
    return [line for line in log_lines(server) if line.get("run_id") == run_id]


def run_to_end(server: LiveServer, prompt: str, **fields: object) -> str:
    """Do a run and return its id. Its summary is logged before its last event is sent."""
    with connect(server) as client:
        client.send(spawn_bytes(prompt, **fields))
        status, headers = client.head()
        assert status == 200
        list(client.parts(headers))
    return headers["x-q9gent-run-id"]


def test_every_line_of_a_run_carries_its_id(server: LiveServer) -> None:
    """Standard error, warnings and the summary; what else there is is none of its business."""
    run_id = run_to_end(server, "!stderr first\n!stderr second\n!no-result\n!stderr-flood 2000000")
    found = lines_of(server, run_id)
    assert [line["event"] for line in found][:2] == ["agent stderr", "agent stderr"]
    assert {line["event"] for line in found} == {
        *("agent stderr", "more stderr, not logged", "run ended"),
        "exit status 0 without a result line: the turn may be incomplete",
    }
    others = {line["event"] for line in log_lines(server) if "run_id" not in line}
    assert others == {"containment"}


def test_lines_of_two_runs_at_once_are_told_apart(server: LiveServer) -> None:
    """Each its own, however they mix."""
    with connect(server) as one, connect(server) as other:
        one.send(spawn_bytes("!stderr one\n!sleep 0.3\n!stderr one"))
        other.send(spawn_bytes("!stderr other\n!sleep 0.3\n!stderr other"))
        ids = []
        for client in (one, other):
            _, headers = client.head()
            ids.append(headers["x-q9gent-run-id"])
            list(client.parts(headers))
    wait_for_log(server, "run ended", 2)
    for run_id, text in zip(ids, ("one", "other"), strict=True):
        said = [line["text"] for line in lines_of(server, run_id) if line["event"] == "agent stderr"]
        assert said == [text, text]


@pytest.mark.parametrize(
    ("prompt", "code", "level", "facts"),
    [
        ("hello", "completed", "info", {"exit_code": 0, "killed": 0}),
        ("!exit 3", "exit", "warning", {"exit_code": 3, "killed": 0}),
        ("!signal 9", "signal", "warning", {"signal": 9, "killed": 0}),
        ("!child setsid", "completed", "info", {"exit_code": 0, "killed": 1}),
    ],
)
def test_a_run_that_ends_by_itself_has_one_summary(
    shared: LiveServer, prompt: str, code: str, level: str, facts: dict[str, int]
) -> None:
    """With how it ended, and what it printed."""
    run_id = run_to_end(shared, prompt, create_session=True)
    (summary,) = [line for line in lines_of(shared, run_id) if line["event"] == "run ended"]
    assert (summary["code"], summary["level"]) == (code, level)
    assert {name: summary[name] for name in ("exit_code", "signal", "killed") if name in summary} == facts
    assert {"session_id", "lines", "bytes", "duration_ms"} <= set(summary)


def test_a_terminated_run_has_one_summary(server: LiveServer) -> None:
    """Two requests to terminate it make it no second."""
    with connect(server) as client:
        begin(client, "")
        (run,) = wait_for_runs(server, 1)
        server.terminate(run["run_id"])
        server.terminate(run["run_id"])
    wait_for_runs(server, 0)
    (summary,) = log_lines(server, "run ended")
    assert (summary["code"], summary["run_id"]) == ("terminated", run["run_id"])


def test_a_run_whose_client_goes_has_one_summary(server: LiveServer) -> None:
    """The log is the only place where its code is told."""
    with connect(server) as client:
        begin(client, "")
        (run,) = wait_for_runs(server, 1)
    (summary,) = wait_for_log(server, "run ended")
    assert (summary["code"], summary["run_id"]) == ("disconnected", run["run_id"])


def test_a_run_that_waits_for_its_start_has_one_summary(start_server: Callable[..., LiveServer]) -> None:
    """Terminated in the queue, it never had a process."""
    server = start_server("--simulate", "--max-runs", "1", "--queue-seconds", "60")
    with connect(server) as first, connect(server) as second:
        begin(first, "")
        second.send(spawn_bytes("hello"))
        waiting = wait_for_runs(server, 2)[1]
        server.terminate(waiting["run_id"])
        wait_for_log(server, "run ended")
    summaries = wait_for_log(server, "run ended", 2)
    assert [one["code"] for one in summaries] == ["terminated", "disconnected"]
    assert summaries[0]["run_id"] == waiting["run_id"]


def test_a_run_whose_client_goes_while_it_waits_has_one_summary(
    start_server: Callable[..., LiveServer],
) -> None:
    """Cancelled together with its request, before there was a process."""
    server = start_server("--simulate", "--max-runs", "1", "--queue-seconds", "60")
    with connect(server) as first:
        begin(first, "")
        with connect(server) as second:
            second.send(spawn_bytes("hello"))
            waiting = wait_for_runs(server, 2)[1]
        (summary,) = wait_for_log(server, "run ended")
        assert (summary["run_id"], summary["code"]) == (waiting["run_id"], "disconnected")


def test_a_run_that_does_not_start_says_why(start_server: Callable[..., LiveServer]) -> None:
    """One line, with its id, in place of a summary."""
    server = start_server("--claude-path", "/")
    assert server.client.post("/spawn", json={"agent_type": "t", "prompt": SECRET}).status_code == 500
    (line,) = [line for line in log_lines(server) if "run_id" in line]
    assert line["event"] == "process spawn failed"
    assert line["level"] == "error"


def test_no_prompt_is_logged_unasked(shared: LiveServer) -> None:
    """Not even at the lowest level, nor with what is refused or fails."""
    run_to_end(shared, f"{SECRET}\n!exit 1", system_append=SECRET)
    shared.client.post("/spawn", json={"agent_type": "t", "prompt": SECRET, "unknown": SECRET})
    shared.client.post(f"/message/{UNKNOWN_ID}", json={"prompt": SECRET})
    assert SECRET not in shared.log


def test_no_prompt_is_logged_at_debug(start_server: Callable[..., LiveServer]) -> None:
    """More lines are no reason."""
    server = start_server("--simulate", "--log", "debug")
    run_to_end(server, SECRET)
    assert SECRET not in server.log


def test_a_prompt_is_one_field_of_one_line_if_asked_for(start_server: Callable[..., LiveServer]) -> None:
    """When its run starts; what stands in it is data."""
    server = start_server("--simulate", "--log-prompts")
    prompt = f"{SECRET}\nFORGED\x1b[2J"
    run_id = run_to_end(server, prompt)
    long_id = run_to_end(server, "x" * (PROMPT_LOG_CHARACTERS + 1))
    assert server.log.count(SECRET) == 1
    (started,) = [line for line in lines_of(server, run_id) if "prompt" in line]
    assert started["event"] == lines_of(server, run_id)[0]["event"] == "run started"
    assert started["prompt"] == prompt.replace("\n", "\\n").replace("\x1b", "\\x1b")
    assert started["cut"] is False
    cut = lines_of(server, long_id)[0]
    assert (cut["prompt"], cut["cut"]) == ("x" * PROMPT_LOG_CHARACTERS, True)


LOGGING_APP = """
import logging, sys
import trio
import q9gent
from q9gent.log import configure_logging

configure_logging("info", "json")
app = q9gent.create_app(q9gent.Settings(port=0, simulate=True))

@app.get("/quart")
async def quart():
    app.logger.warning("said by %s", "quart")
    logging.getLogger("hypercorn.error").warning("said by hypercorn")
    logging.getLogger("trio.abc").warning("said by trio")
    return {}

@app.after_request
async def after(response):
    logging.getLogger("mine").info("answered")
    return response

@app.get("/fail")
async def fail():
    raise RuntimeError("a defect")

async def main():
    async with trio.open_nursery() as nursery:
        urls = await nursery.start(q9gent.serve, app)
        print("Server listening on", urls[0])
        print("Endpoints: ", flush=True)

trio.run(main)
"""


def test_everybodys_lines_have_the_one_format(start_program: Callable[..., Program]) -> None:
    """Quart's, hypercorn's, a route's own: JSON, once each; what a run's request logs has the run's id."""
    program = start_program(sys.executable, "-c", LOGGING_APP)
    (url,) = program.wait_started()
    with program.connect(url) as client:
        assert client.ask("GET", "/quart").status == 200
        assert client.ask("GET", "/fail").status == 500
        client.send(spawn_bytes("hello"))
        _, headers = client.head()
        list(client.parts(headers))
    assert program.stop() == 0
    found = [json.loads(line) for line in program.err.splitlines()]
    events = [line["event"] for line in found]
    for event in ("said by quart", "said by hypercorn", "said by trio", "request failed"):
        assert events.count(event) == 1
    assert all({"event", "level", "logger", "timestamp"} <= set(line) for line in found)
    ids = [line.get("run_id") for line in found if line["event"] == "answered"]
    assert ids == [None, None, headers["x-q9gent-run-id"]]
