"""What it looks like: nothing stands out of a narrow window, in either theme. Screenshots on request.

`Q9GENT_SCREENSHOTS=folder` writes them, to be looked at.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from page import printed

if TYPE_CHECKING:
    from page import Page

FOLDER = os.environ.get("Q9GENT_SCREENSHOTS")

SOURCE = "\n".join(f"{n:4}  def function_{n}(argument: int) -> int: ..." for n in range(1, 40))

REVIEW = (
    printed(
        {
            "type": "system",
            "subtype": "init",
            "model": "claude-sonnet",
            "cwd": "/srv/work",
            "tools": ["Read", "Bash"],
        },
        {
            "type": "assistant",
            "message": {
                "content": [
                    {"type": "thinking", "thinking": "First the file, then its history."},
                    {"type": "text", "text": "I'll read the module and its recent history first."},
                    {"type": "tool_use", "name": "Read", "input": {"file_path": "/srv/work/main.py"}},
                ]
            },
        },
        {"type": "user", "message": {"content": [{"type": "tool_result", "content": SOURCE}]}},
        {
            "type": "assistant",
            "message": {
                "content": [
                    {
                        "type": "tool_use",
                        "name": "Bash",
                        "input": {"command": "git log --oneline -3 -- main.py", "description": "History"},
                    }
                ]
            },
        },
        {
            "type": "user",
            "message": {
                "content": [
                    {
                        "type": "tool_result",
                        "content": "4f1c2aa Retry on 503\n9b0e1d7 Parse dates\n77aa001 First version",
                    }
                ]
            },
        },
        {
            "type": "assistant",
            "message": {
                "content": [
                    {"type": "tool_use", "name": "Bash", "input": {"command": "pytest -q tests/test_main.py"}}
                ]
            },
        },
        {
            "type": "user",
            "message": {
                "content": [{"type": "tool_result", "is_error": True, "content": "pytest: command not found"}]
            },
        },
        {
            "type": "assistant",
            "message": {
                "content": [
                    {
                        "type": "text",
                        "text": "main.py is sound, with two remarks:\n\n1. parse_date() accepts 31 February.\n2. The retry has no upper bound: an endless 503 is an endless loop.\n\npytest is not installed here, so the tests did not run.",
                    }
                ]
            },
        },
        {
            "type": "result",
            "subtype": "success",
            "is_error": False,
            "result": "",
            "num_turns": 4,
            "duration_ms": 8120,
            "total_cost_usd": 0.0231,
            "usage": {"input_tokens": 18234, "output_tokens": 611},
        },
        # The simulated agent's own result line is left out.
    )
    + "\n!no-result"
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "width", "height"), [("wide", 1280, 860), ("narrow", 360, 780)])
def test_nothing_stands_out_of_the_window(
    page: Page, scheme: str, name: str, width: int, height: int
) -> None:
    """A run that goes on, one that completed, one that failed and one that was killed."""
    page.resize(width, height)
    page.prefer(scheme)

    def look(what: str) -> None:
        assert page.too_wide() == []
        if FOLDER:
            page.screenshot(os.path.join(FOLDER, f"{name}-{scheme}-{what}.png"))

    look("1-empty")
    page.run(REVIEW, agent_type="reviewer", tools="Read, Bash(git log:*)")
    page.wait_for_text("log", "Completed in")
    page.run("!say Two tools are missing here.\n!stderr npm: not found\n!exit 3", agent_type="builder")
    page.wait_for_text("log", "exit status 3")
    look("2-failed")
    page.run(
        "!ignore-term\n!child daemon 2\n!child setsid\n!say The server runs in the background now.\n!wait",
        agent_type="a-label-that-is-rather-long-for-what-it-says",
    )
    page.wait_for_text("log", "waiting")
    page.until(lambda: "5 processes" in page.text("runs") or "4 processes" in page.text("runs"))
    look("3-running")
    page.click("stop")
    page.wait_for_text("kills", "every process is dead")
    page.wait_for_text("log", "code terminated")
    look("4-killed")
    page.script("document.querySelector('.tab').click(); document.getElementById('log').scrollTop = 0")
    look("5-completed")
    page.click("raw")
    look("6-raw")
    page.click("raw")
