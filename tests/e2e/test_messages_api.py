"""The stand-in of the Messages API answers as the API does: what the other tests stand on."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import httpx
import pytest
from api_script import Call, Failure, Held, Text, ToolUse, tool_then_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from messages_api import MessagesApi

TOOLS = [{"name": "Bash"}]


@pytest.fixture
def client(api: MessagesApi) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, timeout=10, trust_env=False) as opened:
        yield opened


def ask(client: httpx.Client, *contents: object, **fields: object) -> httpx.Response:
    """Ask for a message after user turns with these contents."""
    turns = [{"role": "user", "content": content} for content in contents]
    body = {"model": "m", "messages": turns, "tools": TOOLS, **fields}
    return client.post("/v1/messages?beta=true", json=body)


def streamed(response: httpx.Response) -> list[dict[str, object]]:
    """The events of a streaming answer."""
    frames = response.text.split("\n\n")[:-1]
    return [json.loads(frame.split("\ndata: ")[1]) for frame in frames]


def test_a_plain_answer_counts_the_user_turns(client: httpx.Client) -> None:
    """Without a script the answer tells how many prompts were seen."""
    reminder = {"type": "text", "text": "<system-reminder>x</system-reminder>"}
    reply = ask(client, "one", [reminder, {"type": "text", "text": "two"}]).json()
    assert reply["content"] == [{"type": "text", "text": 'turns=2 ["one", "two"]'}]
    assert reply["stop_reason"] == "end_turn"


def test_a_streamed_answer_has_the_events_of_the_api(api: MessagesApi, client: httpx.Client) -> None:
    """The events come in the API's order, and the pieces make the text."""
    api.script = lambda _call: Text("abcdefg", pieces=3)
    found = streamed(ask(client, "x", stream=True))
    kinds = [event["type"] for event in found]
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    texts = [event["delta"]["text"] for event in found if event["type"] == "content_block_delta"]
    assert "".join(texts) == "abcdefg"


def test_a_tool_is_asked_for_once_a_prompt(api: MessagesApi, client: httpx.Client) -> None:
    """A tool_use first, the text when the tool's result has come back, a tool_use anew later."""
    api.script = tool_then_text(ToolUse("Bash", {"command": "true"}), "done")
    result = [{"type": "tool_result", "tool_use_id": "t", "content": "out"}]
    stops = [
        ask(client, *turns, stream=False).json()["stop_reason"]
        for turns in (["go"], ["go", result], ["go", result, "again"])
    ]
    assert stops == ["tool_use", "end_turn", "tool_use"]
    assert api.calls[1].tool_results == ["out"]


def test_a_failure_has_its_status(api: MessagesApi, client: httpx.Client) -> None:
    """An error of the API comes with status and kind."""
    api.script = lambda _call: Failure(429, "rate_limit_error")
    reply = ask(client, "x", stream=True)
    assert reply.status_code == 429
    assert reply.json()["error"]["type"] == "rate_limit_error"


def test_a_held_answer_waits_for_its_release(api: MessagesApi, client: httpx.Client) -> None:
    """Nothing but the beginning of the message comes before the release."""
    released = threading.Event()
    api.script = lambda _call: Held(released, Text("at last"))
    with client.stream("POST", "/v1/messages", json={"messages": [], "stream": True}) as reply:
        chunks = reply.iter_text()
        assert "message_start" in next(chunks)
        released.set()
        assert "at last" in "".join(chunks)


def test_what_else_a_client_may_ask_is_harmless(api: MessagesApi, client: httpx.Client) -> None:
    """Token counts, a HEAD, unknown paths: each has an answer, and is recorded."""
    assert client.post("/v1/messages/count_tokens", json={}).json() == {"input_tokens": 10}
    assert client.head("/").status_code == 200
    assert client.get("/nothing").status_code == 404
    assert client.post("/nothing", json={}).status_code == 404
    assert ("HEAD", "/") in api.requests


def test_system_texts_are_found_wherever_they_stand() -> None:
    """The system prompt is read from its own field and from system messages."""
    call = Call(
        {
            "system": [{"type": "text", "text": "above"}],
            "messages": [
                {"role": "user", "content": "x"},
                {"role": "system", "content": [{"type": "text", "text": "between"}]},
            ],
        }
    )
    assert call.system == "above\nbetween"
    assert call.prompts == ["x"]
