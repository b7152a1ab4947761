"""`q9gent ps`, `kill` and `sessions`: what lives is listed, and ended by name."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from process_scan import descendants, still_alive

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from server_process import LiveServer
    from terminal_program import TerminalProgram

    Q9gent = Callable[..., subprocess.CompletedProcess[str]]
    Terminal = Callable[..., TerminalProgram]

UNKNOWN = "550e8400-e29b-41d4-a716-446655440000"


@pytest.fixture
def live(shared: LiveServer) -> Iterator[Callable[..., dict[str, Any]]]:
    """Start runs that wait, with a session each; what `/runs` tells of one."""
    with ExitStack() as stack:

        def start(prompt: str = "!ignore-term\n!child daemon\n!wait", **fields: object) -> dict[str, Any]:
            session_id, events = stack.enter_context(shared.started(prompt, **fields))
            assert any('"waiting"' in event["data"] for event in events)
            (run,) = [
                run for run in shared.client.get("/runs").json()["runs"] if run["session_id"] == session_id
            ]
            return dict(run)

        yield start
        for run in shared.client.get("/runs").json()["runs"]:
            shared.terminate(run["run_id"])


def test_ps_is_a_table(q9gent: Q9gent, live: Any) -> None:
    """A row for each live run, its ids cut short."""
    run = live(agent_type="reviewer")
    head, row = q9gent("ps").stdout.splitlines()
    assert head.split("   ")[0] == "RUN ID"
    assert row.split()[:4] == [run["run_id"][:8], run["session_id"][:8], "reviewer", str(run["pid"])]
    assert row.split()[-1] == "2"
    assert run["run_id"] in q9gent("ps", "--no-trunc").stdout


def test_ps_for_programs(q9gent: Q9gent, live: Any) -> None:
    """As JSON, and as ids to hand on."""
    run = live()
    assert json.loads(q9gent("ps", "--json").stdout) == [run]
    assert q9gent("ps", "-q").stdout == f"{run['run_id']}\n"


def test_ps_of_nothing_is_its_headings(q9gent: Q9gent) -> None:
    """And an empty array."""
    assert len(q9gent("ps").stdout.splitlines()) == 1
    assert json.loads(q9gent("ps", "--json").stdout) == []


@pytest.mark.parametrize("name", ["run_id", "session_id"])
@pytest.mark.parametrize("length", [8, 36])
def test_kill_prints_each_id_once_it_is_dead(
    shared: LiveServer, q9gent: Q9gent, live: Any, name: str, length: int
) -> None:
    """A run's or a session's, whole or its beginning: as it was given."""
    run = live()
    processes = [one for one in descendants(shared.process.pid) if "simulator.py" in one.command]
    assert len(processes) == 2
    done = q9gent("kill", run[name][:length])
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{run[name][:length]}\n", "")
    assert still_alive(processes) == []


def test_kill_all_ends_all(shared: LiveServer, q9gent: Q9gent, live: Any) -> None:
    """Nothing is no failure."""
    ids = {live()["run_id"], live()["run_id"], live()["run_id"]}
    done = q9gent("kill", "--all")
    assert done.returncode == 0
    assert set(done.stdout.split()) == ids
    assert shared.client.get("/runs").json()["runs"] == []
    done = q9gent("kill", "--all")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_kill_tells_what_it_could_not_and_does_the_rest(q9gent: Q9gent, live: Any) -> None:
    """The status is 1, the others are dead."""
    run = live()
    done = q9gent("kill", "zz", UNKNOWN, run["run_id"])
    assert done.returncode == 1
    assert done.stdout == f"{run['run_id']}\n"
    assert done.stderr == f"q9gent: no live run: zz\nq9gent: No running process for: {UNKNOWN}\n"


def test_an_ambiguous_beginning_ends_nothing(shared: LiveServer, q9gent: Q9gent, live: Any) -> None:
    """Of seventeen runs, two begin with the same character."""
    runs = [live("!wait") for _ in range(17)]
    firsts = [run["run_id"][0] for run in runs]
    first = next(one for one in firsts if firsts.count(one) > 1)
    done = q9gent("kill", first)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"q9gent: more than one live run begins with {first}\n"
    assert len(shared.client.get("/runs").json()["runs"]) == 17


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["kill"], "Name the runs to end"),
        (["kill", "--all", "x"], "Name the runs to end"),
        (["ps", "--watch"], "--watch needs a terminal"),
        (["sessions", "rm"], "Missing argument"),
    ],
)
def test_bad_usage_is_2(q9gent: Q9gent, arguments: list[str], words: str) -> None:
    """Told before anything is asked."""
    done = q9gent(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


@pytest.mark.parametrize(
    "arguments", [["ps"], ["kill", "--all"], ["kill", "x"], ["sessions"], ["sessions", "rm", "x"]]
)
def test_a_server_that_is_not_there_is_3(q9gent: Q9gent, arguments: list[str]) -> None:
    """In one line that says what to do."""
    done = q9gent(*arguments, Q9GENT_URL="http://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("q9gent: no answer from http://127.0.0.1:1: ")
    assert line.endswith("(start one with `q9gent`, or name it with --url)")


def test_sessions_are_listed_and_forgotten(shared: LiveServer, q9gent: Q9gent) -> None:
    """By their beginning; one that is not there is 1, and the rest is done."""
    ids = []
    for _ in range(2):
        with shared.started("x", agent_type="a\x1b[2Jb") as (session_id, events):
            list(events)
        ids.append(session_id)
    done = q9gent("sessions")
    assert all(
        re.search(rf"^{one}   a\\x1b\[2Jb +\d+s ago +\d+s ago$", done.stdout, re.MULTILINE) for one in ids
    )
    assert {session["session_id"] for session in json.loads(q9gent("sessions", "--json").stdout)} >= set(ids)
    assert set(q9gent("sessions", "-q").stdout.split()) >= set(ids)
    done = q9gent("sessions", "rm", ids[0], "zz", ids[1][:10])
    assert (done.returncode, done.stdout) == (1, f"{ids[0]}\n{ids[1][:10]}\n")
    assert done.stderr == "q9gent: no session: zz\n"
    assert not set(q9gent("sessions", "-q").stdout.split()) & set(ids)


def test_a_session_in_use_is_not_forgotten(q9gent: Q9gent, live: Any) -> None:
    """It has a live run."""
    run = live()
    done = q9gent("sessions", "rm", run["session_id"])
    assert done.returncode == 1
    assert done.stderr == f"q9gent: Session has a running process: {run['session_id']}\n"


def test_watching_follows_what_lives(terminal: Terminal, q9gent: Q9gent, live: Any) -> None:
    """On a screen of its own, which ^C leaves; that is no failure."""
    run = live(agent_type="watched")
    program = terminal("ps", "--watch")
    program.wait_for("watched")
    program.wait_for(run["run_id"][:8])
    assert q9gent("kill", run["run_id"]).returncode == 0
    program.wait_for("no live runs")
    program.type("\x03")
    assert program.exit_status() == 0
    assert program.raw.startswith("\x1b[?1049h")
    assert program.raw.endswith("\x1b[?1049l")
    assert "Traceback" not in program.raw
