"""The application under a plain `hypercorn -k trio q9gent:app`: what the documentation promises of it."""

from __future__ import annotations

import os
import re
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from process_scan import Found, still_alive, wait_for
from raw_client import DEADLINE_SECONDS, RawClient, request_bytes, spawn_bytes, within
from running import begin
from sse_events import session_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from program import Program

PLAIN = (sys.executable, "-m", "hypercorn", "-k", "trio", "q9gent:app", "-b", "127.0.0.1:0")
RUNNING = re.compile(r"Running on http://127\.0\.0\.1:(\d+)")


@pytest.fixture
def plain(start_program: Callable[..., Program]) -> Callable[..., Program]:
    """Start a plain hypercorn with settings from the environment."""

    def start(**environment: str) -> Program:
        return start_program(*PLAIN, Q9GENT_SIMULATE="1", Q9GENT_SESSION_DIR="sessions", **environment)

    return start


def connect(program: Program) -> RawClient:
    program.wait_until(lambda one: RUNNING.search(one.err) or one.process.poll() is not None)
    found = RUNNING.search(program.err)
    assert found, program.err
    return RawClient(("127.0.0.1", int(found[1])))


def agents(program: Program) -> list[Found]:
    return [found for found in program.descendants() if "simulator.py" in found.command]


def wait_dead(tree: list[Found]) -> None:
    assert tree
    assert wait_for(lambda: still_alive(tree), lambda left: not left, DEADLINE_SECONDS) == []


def stop(program: Program, number: int = signal.SIGINT) -> None:
    """Stop it in order, which hypercorn's parent does on SIGINT and SIGTERM."""
    with within(15):
        assert program.stop(number) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_and_stops(plain: Callable[..., Program], number: int) -> None:
    """Settings come from the environment; a session is made, continued and listed; a signal stops it."""
    program = plain(Q9GENT_HEARTBEAT_SECONDS="0.1")
    with connect(program) as client:
        client.send(spawn_bytes("!sleep 0.3\nred", create_session=True))
        status, headers = client.head()
        assert status == 200
        body = b"".join(client.parts(headers))
        assert b": heartbeat\n\n" in body
        assert body.startswith(b'data: {"type":"session_created"')
        client.send(spawn_bytes("!lines 5000 100", create_session=True))
        found = client.whole()
        assert len(found) == 5004
        assert len(os.listdir(os.path.join(program.folder, "sessions"))) == 2
        listed = client.ask("GET", "/sessions").json["sessions"]
        assert session_of(found) in [one["session_id"] for one in listed]
    stop(program, number)


def test_terminate_and_disconnect_kill_the_tree(plain: Callable[..., Program]) -> None:
    """The containment is the application's: whatever ends a run ends all that it started."""
    program = plain()
    with connect(program) as client, connect(program) as other:
        stream = begin(client, "!child daemon\n!child scrubbed", create_session=True)
        tree = agents(program)
        assert len(tree) == 3
        (run,) = other.ask("GET", "/runs").json["runs"]
        assert other.ask("POST", f"/terminate/{run['session_id']}").status == 200
        assert still_alive(tree) == []
        assert list(stream)[-1]["code"] == "terminated"
    with connect(program) as client:
        begin(client, "!child setsid")
        tree = agents(program)
    wait_dead(tree)
    stop(program)


def test_killed_worker_takes_its_trees_along(plain: Callable[..., Program]) -> None:
    """SIGKILL of the worker with live runs leaves no process of theirs."""
    program = plain()
    with connect(program) as one, connect(program) as two:
        begin(one, "!ignore-term\n!child daemon\n!child scrubbed")
        begin(two, "!child setsid\n!child ignore-term")
        tree = agents(program)
        assert len(tree) == 6
        (worker,) = [found for found in program.descendants() if "spawn_main" in found.command]
        os.kill(worker.pid, signal.SIGKILL)
        wait_dead(tree)
        assert one.is_ended()
    program.exit_status()


def test_stop_with_a_live_run_leaves_nothing(plain: Callable[..., Program]) -> None:
    """Hypercorn cuts the stream after its own time; the tree dies all the same."""
    program = plain(Q9GENT_GRACE_SECONDS="0.1")
    with connect(program) as client:
        begin(client, "!ignore-term\n!child daemon")
        tree = agents(program)
        stop(program)
        wait_dead(tree)
        assert client.is_ended()


def test_host_is_guarded_here_too(plain: Callable[..., Program]) -> None:
    """A connection to a loopback address must name a loopback host."""
    program = plain()
    with connect(program) as client:
        client.send(request_bytes("GET", "/health", host="evil.example"))
        assert client.answer().status == 421
    stop(program)


def test_a_wrong_setting_stops_it(plain: Callable[..., Program]) -> None:
    """The reason is logged, and the program ends."""
    program = plain(Q9GENT_MAX_RUNS="0")
    program.exit_status()
    assert "--max-runs" in program.err
