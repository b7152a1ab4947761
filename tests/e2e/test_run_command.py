"""`q9gent run` on the real CLI's lines: what is shown, and that nothing is shown twice."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from api_script import Failure, ToolUse, tool_then_text

if TYPE_CHECKING:
    from messages_api import MessagesApi
    from server_process import LiveServer

SECONDS = 60.0


def run(server: LiveServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, in pipes."""
    return subprocess.run(
        [sys.executable, "-m", "q9gent", "run", *arguments],
        env={**os.environ, "Q9GENT_URL": f"http://{server.host}:{server.port}", "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.parametrize("flags", [[], ["--flag=--include-partial-messages"]])
def test_a_turn_with_a_tool_is_shown(server: LiveServer, api: MessagesApi, flags: list[str]) -> None:
    """The answer alone on standard output, and once, in parts or whole; the tool and what it gave back beside it."""
    use = ToolUse("Bash", {"command": "echo from the tool", "description": "Say so"})
    api.script = tool_then_text(use, "The tool has answered.\n\nWell.")
    done = run(server, "--tools", "Bash(echo:*)", *flags, "Use the tool")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "The tool has answered.\n\nWell.\n"
    assert "● Bash echo from the tool\n  ⎿ from the tool\n" in done.stderr
    assert " tokens in, " in done.stderr.splitlines()[-1]


def test_an_api_that_refuses_is_1(server: LiveServer, api: MessagesApi) -> None:
    """What the CLI says of it is shown as an error."""
    api.script = lambda _call: Failure(401, "authentication_error", "no such key")
    done = run(server, "x")
    assert done.returncode == 1
    assert "the agent failed: " in done.stderr
    assert "no such key" in done.stderr
