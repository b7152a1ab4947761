"""What a caller writes stays what it is: the API receives each prompt to the letter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sse_events import session_of

if TYPE_CHECKING:
    from messages_api import MessagesApi
    from server_process import LiveServer

LONG = "All work and no play. " * 14_000  # 300 KB, twice what one argument may hold

PROMPTS = {
    "subcommand update": "update",
    "subcommand doctor": "doctor",
    "subcommand mcp": "mcp",
    "subcommand help": "help",
    "subcommand install": "install",
    "option --version": "--version",
    "option -p": "-p",
    "dash": "-",
    "two dashes": "--",
    "list": "- first\n- second\n",
    "option with a value": "--output-format=text",
    "option that would grant all": "--dangerously-skip-permissions",
    "long": LONG,
    "long and led by a dash": f"-{LONG}",
    "blanks and line ends": "  two blanks, a tab\t, \r\n and line ends \n\n",
    "shell": "$(touch owned) `touch owned` ; touch owned & %PATH% \"'\\",
    "unicode": "é 🎯 \u2028 \ufeff 你好",
    "control characters": "bell \x07 escape \x1b[31m end of text \x03\x04",
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_prompt_arrives_unchanged(server: LiveServer, api: MessagesApi, prompt: str) -> None:
    """On /spawn, and on /message, where `--resume` stands beside it."""
    first = server.spawn(prompt, create_session=True)
    assert first[-1]["type"] == "completed"
    assert api.turns[-1].prompts == [prompt]

    second = server.message(session_of(first), prompt, tools_allowed=["Read", "Bash(ls:*)"])
    assert second[-1]["type"] == "completed"
    assert api.turns[-1].prompts == [prompt, prompt]


def test_prompt_is_not_taken_for_a_tool(server: LiveServer, api: MessagesApi) -> None:
    """`--allowedTools` takes many values: the prompt is none of them."""
    assert server.spawn("update", tools_allowed=["Read"], flags=["--model", "sonnet"])
    assert api.turns[-1].prompts == ["update"]


def test_empty_prompt_is_400(server: LiveServer, api: MessagesApi) -> None:
    """There is nothing to run, and nothing runs."""
    refused = server.client.post("/spawn", json={"agent_type": "test", "prompt": ""})
    assert refused.status_code == 400
    assert "prompt" in refused.json()["error"]
    assert api.calls == []


def test_system_append_beyond_the_argument_limit_is_413(server: LiveServer) -> None:
    """What the system cannot carry in one argument is refused by name, not by a failed start."""
    body = {"agent_type": "test", "prompt": "x", "system_append": LONG}
    refused = server.client.post("/spawn", json=body)
    assert refused.status_code == 413, refused.text
    assert "system_append" in refused.json()["error"]


def test_resume_id_that_is_a_path_is_refused(server: LiveServer, api: MessagesApi) -> None:
    """The CLI would open a transcript by its path; the server takes ids only."""
    body = {"agent_type": "test", "prompt": "x", "resume_id": "/etc/passwd"}
    refused = server.client.post("/spawn", json=body)
    assert refused.status_code in {400, 404}, refused.text
    assert api.calls == []
