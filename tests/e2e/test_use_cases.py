"""The guide's use cases, over HTTP, with the real CLI."""

from __future__ import annotations

import json
import os
import re
import threading
import time
import uuid
from typing import TYPE_CHECKING

import pytest
from api_script import Failure, Held, Text, ToolUse, describe, tool_then_text
from sse_events import TERMINAL, answer, messages, session_of

if TYPE_CHECKING:
    from messages_api import MessagesApi
    from server_process import LiveServer


def write_tool(folder: str, name: str = "made.txt") -> ToolUse:
    """The model's wish to write a file there."""
    return ToolUse("Write", {"file_path": os.path.join(folder, name), "content": "made by a test"})


def test_start_up_prints_the_five_lines(server: LiveServer, claude: str) -> None:
    """Version, session folder, CLI path, address and endpoints, in this order."""
    version, sessions, path, address, endpoints = server.start_lines
    assert re.search(r"Q9gent v\d+\.\d+\.\d+\S* starting", version)
    assert server.session_folder in sessions
    assert claude in path
    assert f"http://127.0.0.1:{server.port}" in address
    assert all(name in endpoints for name in ("/health", "/spawn", "/message", "/terminate", "/sessions"))


# Use case 1: a one-shot agent.


def test_one_shot_agent_uses_a_tool(server: LiveServer, api: MessagesApi) -> None:
    """The CLI's lines come as they are, the file is written, and no session is kept."""
    api.script = tool_then_text(write_tool(server.work_folder), "written")
    found = server.spawn("write it", tools_allowed=["Write"], create_session=False)
    assert found[-1]["type"] == "completed"
    assert all(event["type"] == "output" for event in found[:-1])
    kinds = [line["type"] for line in messages(found)]
    assert kinds[0] == "system"
    assert kinds[-1] == "result"
    assert answer(found) == "written"
    with open(os.path.join(server.work_folder, "made.txt"), encoding="utf-8") as file:
        assert file.read() == "made by a test"
    assert server.sessions() == []


# Use case 2: a conversation of many turns.


def test_conversation_grows_turn_by_turn(server: LiveServer, api: MessagesApi) -> None:
    """The id told first continues the conversation: the API sees every earlier turn."""
    first = server.spawn("red", create_session=True)
    session = session_of(first)
    assert uuid.UUID(session).version == 4
    assert {line["session_id"] for line in messages(first) if "session_id" in line} == {session}
    assert answer(first) == 'turns=1 ["red"]'
    assert [kept["session_id"] for kept in server.sessions()] == [session]

    assert answer(server.message(session, "green")) == 'turns=2 ["red", "green"]'
    assert answer(server.message(session, "blue")) == 'turns=3 ["red", "green", "blue"]'
    assert api.turns[-1].prompts == ["red", "green", "blue"]
    assert [kept["session_id"] for kept in server.sessions()] == [session]


def test_resume_id_continues_the_same_session(server: LiveServer) -> None:
    """A spawn with `resume_id` alone is a further turn of that session."""
    session = session_of(server.spawn("red", create_session=True))
    resumed = server.spawn("green", resume_id=session)
    assert answer(resumed) == 'turns=2 ["red", "green"]'
    assert answer(server.message(session, "blue")) == 'turns=3 ["red", "green", "blue"]'


def test_create_session_with_resume_id_forks(server: LiveServer) -> None:
    """The new session continues the old history, and the old one never hears of it."""
    old = session_of(server.spawn("red", create_session=True))
    forked = server.spawn("green", create_session=True, resume_id=old)
    new = session_of(forked)
    assert new != old
    assert answer(forked) == 'turns=2 ["red", "green"]'
    assert answer(server.message(new, "blue")) == 'turns=3 ["red", "green", "blue"]'
    assert answer(server.message(old, "black")) == 'turns=2 ["red", "black"]'
    assert {kept["session_id"] for kept in server.sessions()} == {old, new}


def test_unknown_resume_id_ends_with_the_exit_status(server: LiveServer) -> None:
    """The CLI refuses with status 1: the stream says so, and lists no session."""
    found = server.spawn("x", resume_id=str(uuid.uuid4()))
    assert found[-1]["type"] == "error"
    assert found[-1]["code"] == "exit"
    assert found[-1]["exit_code"] == 1
    assert found[-1]["error"].startswith("Process execution failed: ")
    assert server.sessions() == []


def test_message_to_an_unknown_session_is_404(server: LiveServer) -> None:
    """The guide's words, as JSON."""
    unknown = str(uuid.uuid4())
    refused = server.client.post(f"/message/{unknown}", json={"prompt": "x"})
    assert refused.status_code == 404
    assert refused.json()["error"].startswith(f"Session not found: {unknown}")


def test_message_to_a_busy_session_is_409(server: LiveServer, api: MessagesApi) -> None:
    """One live run a session: the CLI would lose a turn. Afterwards the session is free."""
    released = threading.Event()
    api.script = lambda _call: Held(released)
    with server.started("first") as (session, stream):
        refused = server.client.post(f"/message/{session}", json={"prompt": "second"})
        assert refused.status_code == 409, refused.text
        assert "error" in refused.json()
        released.set()
        assert list(stream)[-1]["type"] == "completed"
    api.script = describe
    assert answer(server.message(session, "third")) == 'turns=2 ["first", "third"]'


# Use case 3: restricted tools.


def test_a_tool_that_is_not_allowed_is_refused(server: LiveServer, api: MessagesApi) -> None:
    """With `Read` alone the CLI denies `Write`, and the turn goes on."""
    api.script = tool_then_text(write_tool(server.work_folder), "refused")
    found = server.spawn("write it", tools_allowed=["Read"])
    assert answer(found) == "refused"
    assert "permission" in api.turns[-1].tool_results[0]
    assert not os.path.exists(os.path.join(server.work_folder, "made.txt"))


def test_an_allowed_tool_reads(server: LiveServer, api: MessagesApi) -> None:
    """With `Read` allowed, the file's content reaches the model."""
    path = os.path.join(server.work_folder, "main.py")
    with open(path, "w", encoding="utf-8") as file:
        file.write("print('reviewed')\n")
    api.script = tool_then_text(ToolUse("Read", {"file_path": path}), "looks good")
    found = server.spawn("review main.py", tools_allowed=["Read", "Bash(git log:*)"])
    assert answer(found) == "looks good"
    assert "print('reviewed')" in api.turns[-1].tool_results[0]


def test_tools_in_flags_are_the_real_fence(server: LiveServer, api: MessagesApi) -> None:
    """`--tools=Read` in `flags` takes every other built-in tool from the model's sight."""
    server.spawn("review", tools_allowed=["Read"], flags=["--tools=Read"])
    assert "Read" in api.turns[-1].tool_names
    assert not {"Bash", "Write", "Edit"} & set(api.turns[-1].tool_names)


# Use case 4: system prompts.


@pytest.mark.parametrize("text", ["You are a TDD expert, M4RK.", "--version M4RK, is no flag"])
def test_system_append_reaches_the_model(server: LiveServer, api: MessagesApi, text: str) -> None:
    """The text is part of the system prompt, with the CLI's own, also when it looks like a flag."""
    assert server.spawn("test it", system_append=text)[-1]["type"] == "completed"
    assert text in api.turns[-1].system
    assert len(api.turns[-1].system) > 2 * len(text)


def test_without_system_append_nothing_is_added(server: LiveServer, api: MessagesApi) -> None:
    """No text of a former turn stays behind in the server."""
    server.spawn("one", system_append="M4RK")
    server.spawn("two")
    assert "M4RK" not in api.turns[-1].system


def test_system_append_on_message_is_effective(server: LiveServer, api: MessagesApi) -> None:
    """A later turn's own text reaches the model, though newer CLIs keep the first turn's."""
    session = session_of(server.spawn("one", create_session=True, system_append="F1RST"))
    assert "F1RST" in api.turns[-1].system
    found = server.message(session, "two", system_append="S3COND")
    assert found[-1]["type"] == "completed"
    assert "S3COND" in api.turns[-1].system
    assert api.turns[-1].prompts == ["one", "two"]


def test_system_append_on_a_fork_is_effective(server: LiveServer, api: MessagesApi) -> None:
    """A fork may be given a role of its own."""
    old = session_of(server.spawn("one", create_session=True, system_append="F1RST"))
    found = server.spawn("two", create_session=True, resume_id=old, system_append="S3COND")
    assert found[-1]["type"] == "completed"
    assert "S3COND" in api.turns[-1].system


# Use case 6: health. (Use case 5, the clients, has a file of its own.)


def test_health_tells_the_version(server: LiveServer) -> None:
    """The probe's answer names the version that start-up printed."""
    answered = server.client.get("/health")
    assert answered.status_code == 200
    assert answered.headers["content-type"].startswith("application/json")
    assert answered.json()["status"] == "ok"
    assert f"v{answered.json()['version']} " in server.start_lines[0]


# Use case 7: sessions.


def test_sessions_lists_the_four_fields(server: LiveServer) -> None:
    """Id, agent type and two whole seconds, of which `last_used` moves on with each turn."""
    before = int(time.time())
    session = session_of(server.spawn("one", create_session=True, agent_type="coding_assistant"))
    (kept,) = server.sessions()
    assert set(kept) == {"session_id", "agent_type", "created_at", "last_used"}
    assert kept["session_id"] == session
    assert kept["agent_type"] == "coding_assistant"
    assert type(kept["created_at"]) is type(kept["last_used"]) is int
    assert before <= kept["created_at"] <= kept["last_used"] <= time.time()

    time.sleep(max(0.0, kept["last_used"] + 1 - time.time()))
    server.message(session, "two")
    (used,) = server.sessions()
    assert used["created_at"] == kept["created_at"]
    assert used["last_used"] > kept["last_used"]


def test_terminate_by_run_id(server: LiveServer, api: MessagesApi) -> None:
    """A run without a session is terminable too: by the id in its response header."""
    api.script = lambda _call: Held(threading.Event())
    body = {"agent_type": "test", "prompt": "wait"}
    with server.post("/spawn", body) as response:
        ended = server.terminate(response.headers["x-q9gent-run-id"])
        assert ended.status_code == 200, ended.text
        assert b'"terminated"' in response.read()


# Use case 8: flags of the caller's own.


def test_flags_reach_the_cli(server: LiveServer, api: MessagesApi) -> None:
    """`--max-turns 1` ends a turn that would go on: exit status 1, after one call of the API."""
    api.script = tool_then_text(write_tool(server.work_folder))
    ended = server.spawn("x", tools_allowed=["Write"], flags=["--max-turns", "1"])
    assert ended[-1]["code"] == "exit"
    assert ended[-1]["exit_code"] == 1
    assert len(api.turns) == 1
    enough = server.spawn("x", tools_allowed=["Write"], flags=["--max-turns", "4"])
    assert enough[-1]["type"] == "completed"


def test_partial_messages_arrive_while_the_turn_runs(server: LiveServer, api: MessagesApi) -> None:
    """With `--include-partial-messages` the first token is here before the answer is complete."""
    released = threading.Event()
    api.script = lambda _call: Held(released, Text("word " * 20, pieces=20, interval_seconds=0.01))
    with server.started("x", flags=["--include-partial-messages"]) as (_, stream):
        for event in stream:
            assert event["type"] not in TERMINAL
            if json.loads(event["data"])["type"] == "stream_event":
                break
        released.set()
        rest = list(stream)
    assert rest[-1]["type"] == "completed"
    assert sum('"text_delta"' in event.get("data", "") for event in rest) >= 20


@pytest.mark.parametrize(("status", "kind"), [(401, "authentication_error"), (429, "rate_limit_error")])
def test_an_error_of_the_api_is_told(server: LiveServer, api: MessagesApi, status: int, kind: str) -> None:
    """The CLI gives up with status 1 after a `result` line that is an error."""
    api.script = lambda _call: Failure(status, kind)
    found = server.spawn("x")
    assert messages(found)[-1]["is_error"] is True
    assert found[-1]["code"] == "exit"
    assert found[-1]["exit_code"] == 1
