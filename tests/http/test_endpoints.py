"""The endpoints: what each answers, byte for byte where a client depends on it."""

from __future__ import annotations

import json
import os
import time
import uuid
from typing import TYPE_CHECKING

import pytest
from process_scan import still_alive
from raw_client import RawClient, post_bytes, request_bytes, spawn_bytes
from running import address_of, agents, begin, connect, runs
from sse_events import TERMINAL, events, messages, session_of

import q9gent

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_process import LiveServer


def test_health_tells_status_and_version(client: RawClient) -> None:
    """`GET /health` answers exactly these two members."""
    answer = client.ask("GET", "/health")
    assert answer.status == 200
    assert answer.json == {"status": "ok", "version": q9gent.__version__}
    assert answer.headers["content-length"] == str(len(answer.body))
    assert "date" in answer.headers
    assert "server" not in answer.headers


def test_stream_has_the_headers_of_a_stream(client: RawClient) -> None:
    """A run's answer is an uncached event stream that no proxy shall buffer, and names its run."""
    client.send(spawn_bytes("hello"))
    status, headers = client.head()
    assert status == 200
    assert headers["content-type"] == "text/event-stream"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert uuid.UUID(headers["x-q9gent-run-id"]).version == 4
    assert "content-length" not in headers
    assert headers["transfer-encoding"] == "chunked"


def test_spawn_sends_output_then_completed(client: RawClient) -> None:
    """One `output` a line, then `completed` with what was measured, and nothing else."""
    client.send(spawn_bytes("hello"))
    *outputs, last = client.whole()
    assert [event["type"] for event in outputs] == ["output"] * 3
    assert [line["type"] for line in messages(outputs)] == ["system", "assistant", "result"]
    assert set(last) == {"type", "duration_ms", "killed"}
    assert last["type"] == "completed"
    assert last["killed"] == 0
    assert last["duration_ms"] >= 0


def test_spawn_keeps_no_session_unasked(client: RawClient, shared: LiveServer) -> None:
    """Without `create_session` no session is announced and none is stored."""
    before = shared.sessions()
    client.send(spawn_bytes("hello", create_session=False))
    assert "session_created" not in [event["type"] for event in client.whole()]
    assert shared.sessions() == before


def test_create_session_comes_first(client: RawClient, shared: LiveServer) -> None:
    """The id is told before the process prints, is the one that the CLI was given, and is listed."""
    client.send(spawn_bytes("!sleep 0.1\nhello", create_session=True))
    events = client.whole()
    session_id = session_of(events)
    assert set(events[0]) == {"type", "session_id"}
    assert uuid.UUID(session_id).version == 4
    assert {line["session_id"] for line in messages(events)} == {session_id}
    (listed,) = [one for one in shared.sessions() if one["session_id"] == session_id]
    assert listed["agent_type"] == "test"
    assert set(listed) == {"session_id", "agent_type", "created_at", "last_used"}
    assert type(listed["created_at"]) is type(listed["last_used"]) is int


def test_message_continues_the_session(client: RawClient) -> None:
    """`POST /message/{id}` resumes exactly the session that was told."""
    client.send(spawn_bytes("red", create_session=True))
    session_id = session_of(client.whole())
    client.send(post_bytes(f"/message/{session_id}", {"prompt": "green"}))
    events = client.whole()
    assert events[-1]["type"] == "completed"
    assert "You asked me before: red." in json.dumps(messages(events))
    assert {line["session_id"] for line in messages(events)} == {session_id}


def test_resume_id_with_create_session_forks(client: RawClient) -> None:
    """The fork has an id of its own and the history of the first, which stays free."""
    client.send(spawn_bytes("red", create_session=True))
    old = session_of(client.whole())
    client.send(spawn_bytes("green", create_session=True, resume_id=old))
    events = client.whole()
    assert session_of(events) != old
    assert "You asked me before: red." in json.dumps(messages(events))


def test_message_to_a_live_session_is_409(shared: LiveServer) -> None:
    """A session has one turn at a time: by `/message`, by `resume_id`, and its file is not deleted."""
    with connect(shared) as busy, connect(shared) as other:
        begin(busy, "", create_session=True)
        (run,) = runs(shared)
        session_id = run["session_id"]
        other.send(post_bytes(f"/message/{session_id}", {"prompt": "x"}))
        refused = other.answer()
        assert (refused.status, refused.json) == (
            409,
            {"error": f"Session has a running process: {session_id}"},
        )
        other.send(spawn_bytes("x", resume_id=session_id))
        assert other.answer().status == 409
        assert other.ask("DELETE", f"/sessions/{session_id}").status == 409
        assert other.ask("POST", f"/terminate/{session_id}").status == 200
        other.send(post_bytes(f"/message/{session_id}", {"prompt": "now it is free"}))
        assert other.whole()[-1]["type"] == "completed"


@pytest.mark.parametrize("by", ["session_id", "run_id"])
def test_terminate_by_either_id(start_server: Callable[..., LiveServer], by: str) -> None:
    """The answer tells both ids and how it ended; the stream ends with `terminated`."""
    server = start_server("--simulate", "--grace-seconds", "60")
    with connect(server) as busy, connect(server) as other:
        stream = begin(busy, "", create_session=True)
        (run,) = runs(server)
        answer = other.ask("POST", f"/terminate/{run[by]}")
        assert answer.status == 200
        told = answer.json
        assert told["message"] == "Process terminated successfully"
        assert (told["run_id"], told["session_id"]) == (run["run_id"], run["session_id"])
        *_, event = stream
        assert event["type"] == "error"
        assert event["code"] == told["code"] == "terminated"
        assert event["error"].startswith("Process execution failed: ")
        assert event["exit_code"] == 143


def test_terminate_answers_after_the_last_death(shared: LiveServer) -> None:
    """When `/terminate` has answered, no process of the run is alive, not even a deaf or detached one."""
    with connect(shared) as busy, connect(shared) as other:
        prompt = "!ignore-term\n!child setsid 2\n!child daemon\n!child scrubbed\n!child ignore-term"
        stream = begin(busy, prompt, create_session=True)
        (run,) = runs(shared)
        assert run["processes"] >= 6
        tree = agents(shared)
        assert len(tree) >= 6
        assert other.ask("POST", f"/terminate/{run['run_id']}").status == 200
        assert still_alive(tree) == []
        assert list(stream)[-1]["code"] == "terminated"
        assert other.ask("POST", f"/terminate/{run['run_id']}").status == 404


def test_two_terminates_at_once_both_answer_200(shared: LiveServer) -> None:
    """Who asks while the run is being ended is told of the same end."""
    with connect(shared) as busy, connect(shared) as one, connect(shared) as other:
        begin(busy, "!ignore-term")
        (run,) = runs(shared)
        for asking in one, other:
            asking.send(request_bytes("POST", f"/terminate/{run['run_id']}"))
        first, second = ((answer.status, answer.json) for answer in (one.answer(), other.answer()))
    assert first == second
    assert first[0] == 200


def test_the_run_id_is_told_in_a_header(shared: LiveServer) -> None:
    """The header's id is the live run's, and ends it."""
    with connect(shared) as busy, connect(shared) as other:
        busy.send(spawn_bytes("!wait"))
        _, headers = busy.head()
        run_id = headers["x-q9gent-run-id"]
        assert [run["run_id"] for run in runs(shared)] == [run_id]
        assert other.ask("POST", f"/terminate/{run_id}").json["run_id"] == run_id


def test_runs_describe_the_live_ones(shared: LiveServer) -> None:
    """`GET /runs` tells ids, pid, start and what was printed; an ended run is not listed."""
    assert runs(shared) == []
    with connect(shared) as busy, connect(shared) as other:
        before = time.time()
        busy.send(spawn_bytes("!wait"))
        stream = events(busy.parts(busy.head()[1]))
        printed = [next(stream)["data"] for _ in range(2)]
        (run,) = other.ask("GET", "/runs").json["runs"]
        assert set(run) == {
            "run_id",
            "session_id",
            "agent_type",
            "pid",
            "started_at",
            "lines",
            "bytes",
            "processes",
        }
        assert run["agent_type"] == "test"
        assert run["session_id"] is None
        assert run["pid"] in [found.pid for found in agents(shared)]
        assert run["lines"] == 2
        assert run["bytes"] == len("".join(f"{line}\n" for line in printed).encode())
        assert before - 1 <= run["started_at"] <= time.time()
        assert run["processes"] == 1
        other.ask("POST", f"/terminate/{run['run_id']}")
        assert list(stream)[-1]["type"] in TERMINAL
        assert other.ask("GET", "/runs").json == {"runs": []}


def test_delete_forgets_a_session(client: RawClient, shared: LiveServer) -> None:
    """After `DELETE /sessions/{id}` it is neither listed, nor stored, nor continued."""
    client.send(spawn_bytes("hello", create_session=True))
    session_id = session_of(client.whole())
    file = os.path.join(shared.session_folder, f"{session_id}.json")
    assert os.path.exists(file)
    answer = client.ask("DELETE", f"/sessions/{session_id}")
    assert answer.status == 200
    assert answer.json == {"message": "Session deleted", "session_id": session_id}
    assert not os.path.exists(file)
    assert client.ask("DELETE", f"/sessions/{session_id}").status == 404
    client.send(post_bytes(f"/message/{session_id}", {"prompt": "x"}))
    assert client.answer().status == 404


def test_answers_come_in_the_order_of_the_requests(client: RawClient) -> None:
    """Pipelined requests are each answered, in order, streams among them."""
    client.send(
        request_bytes("GET", "/health")
        + spawn_bytes("one")
        + request_bytes("GET", "/nowhere")
        + spawn_bytes("two")
        + request_bytes("GET", "/runs")
    )
    assert client.answer().status == 200
    assert "You said: one" in json.dumps(client.whole())
    assert client.answer().status == 404
    assert "You said: two" in json.dumps(client.whole())
    assert client.answer().json == {"runs": []}


def test_one_connection_serves_many_turns(client: RawClient, shared: LiveServer) -> None:
    """Keep-alive works across stream responses: many turns on the one connection."""
    local = client.sock.getsockname()
    for number in range(20):
        client.send(spawn_bytes(f"turn {number}"))
        assert client.whole()[-1]["type"] == "completed"
    assert client.sock.getsockname() == local
    assert client.sock.getpeername() == address_of(shared)
