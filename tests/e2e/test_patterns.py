"""The guide's four patterns, over HTTP, with the real CLI."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from api_script import Held, describe
from sse_events import answer, session_of

if TYPE_CHECKING:
    from api_script import Call, Reply
    from messages_api import MessagesApi
    from server_process import LiveServer

BARRIER_SECONDS = 30.0


def test_fire_and_forget(server: LiveServer) -> None:
    """Pattern 1: no session, nothing kept; ids that end are not terminable."""
    body = {
        "agent_type": "assistant",
        "prompt": "Generate documentation",
        "tools_allowed": ["Read"],
    }
    with server.post("/spawn", body) as response:
        run = response.headers["x-q9gent-run-id"]
        response.read()
    assert server.sessions() == []
    assert server.terminate(run).status_code == 404


def test_interactive_session(server: LiveServer, api: MessagesApi) -> None:
    """Pattern 2: a session, then two messages in it."""
    session = session_of(server.spawn("Start code review", create_session=True))
    server.message(session, "Check for security holes", tools_allowed=["Read"])
    server.message(session, "Suggest performance improvements", tools_allowed=["Read"])
    assert api.turns[-1].prompts == [
        "Start code review",
        "Check for security holes",
        "Suggest performance improvements",
    ]


def test_parallel_agents(server: LiveServer, api: MessagesApi) -> None:
    """Pattern 3: three agents at once, each with its own answer; none waits for another."""
    together = threading.Barrier(3)

    def script(call: Call) -> Reply:
        if call.is_turn:
            together.wait(BARRIER_SECONDS)
        return describe(call)

    api.script = script
    prompts = ["Generate docs", "Write tests", "Run linter"]
    with ThreadPoolExecutor(3) as pool:
        answers = [answer(found) for found in pool.map(server.spawn, prompts)]
    assert answers == [f'turns=1 ["{prompt}"]' for prompt in prompts]


def test_session_cleanup(server: LiveServer, api: MessagesApi) -> None:
    """Pattern 4: 404 when the turn has ended, as nothing runs; 200 while one is live."""
    session = session_of(server.spawn("one", create_session=True))
    ended = server.terminate(session)
    assert ended.status_code == 404
    assert "error" in ended.json()

    api.script = lambda _call: Held(threading.Event())
    with server.post(f"/message/{session}", {"prompt": "two"}) as response:
        live = server.terminate(session)
        assert live.status_code == 200, live.text
        assert live.json()["message"] == "Process terminated successfully"
        assert b'"terminated"' in response.read()
    assert server.terminate(session).status_code == 404
    assert [kept["session_id"] for kept in server.sessions()] == [session]

    api.script = describe
    assert server.message(session, "three")[-1]["type"] == "completed"
