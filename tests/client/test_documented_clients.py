"""The examples of the documentation that use the client, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from server_process import LiveServer

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0
ANSWER = "This is q9gent's simulated agent. "


def examples(page: str) -> list[str]:
    """The blocks of Python that import the client."""
    blocks = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return [block for block in blocks if "q9gent.client" in block]


def run(server: LiveServer, code: str) -> list[str]:
    """Run an example, and return the lines that it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "Q9GENT_URL": f"http://{server.host}:{server.port}", "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert server.client.get("/runs").json()["runs"] == []
    return done.stdout.splitlines()


def test_the_guides_client_is_five_lines(shared: LiveServer) -> None:
    """It prints the session, what the CLI says, and the end."""
    code = examples("docs/how-to/clients.md")[0]
    assert len([line for line in code.splitlines() if line]) == 5
    lines = run(shared, code)
    session_id = shared.sessions()[-1]["session_id"]
    assert lines[0] == f"Claude: SessionCreated(session_id='{session_id}')"
    assert lines[1].startswith("Claude: {'type': 'system'")
    assert lines[-2].startswith("Claude: Completed(")
    assert lines[-1] == f"Done! Session: {session_id}"


@pytest.mark.parametrize(
    ("number", "lines"),
    [
        (
            1,
            [
                f"{ANSWER}You said: Create a web scraper",
                f"{ANSWER}You asked me before: Create a web scraper. You said: Now add a test 0.0",
            ],
        ),
        (2, [f"{ANSWER}You said: {prompt}" for prompt in ("Generate docs", "Run the linter", "Write tests")]),
        (3, [f"{ANSWER}You said: Say hello"]),
    ],
)
def test_examples_of_the_how_to(shared: LiveServer, number: int, lines: list[str]) -> None:
    """A conversation, several at once, and errors."""
    found = run(shared, examples("docs/how-to/clients.md")[number])
    assert (sorted(found) if number == 2 else found) == lines


def test_the_example_of_the_front_page(shared: LiveServer) -> None:
    """The answer, and nothing else."""
    (code,) = examples("README.md")
    assert run(shared, code) == [f"{ANSWER}You said: Review main.py"]


def test_no_example_is_forgotten() -> None:
    """Each is run above."""
    assert len(examples("docs/how-to/clients.md")) == 4
