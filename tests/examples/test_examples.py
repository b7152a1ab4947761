"""Every file of examples/, run as it stands against the simulated agent.

Two things are replaced in a copy: the server's address, and the one prompt that must keep an agent busy, as
the simulated one is done at once.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from server_process import LiveServer

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SUFFIXES = {".sh", ".py", ".mjs"}
FILES = sorted(
    path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*") if path.suffix in SUFFIXES
)
SECONDS = 60

BUSY = "Review the whole code base"

SAID = "You said: {}"
ASKED_BEFORE = "You asked me before: {}. You said: {}"

USE_CASES = [
    SAID.format("Write a Python function for Fibonacci numbers to fibonacci.py"),
    SAID.format("Create a REST API server in Node.js with Express"),
    ASKED_BEFORE.format("Create a REST API server in Node.js with Express", "Add error handling middleware"),
    "Add error handling middleware. You said: Try the same with Fastify",
    SAID.format("Review main.py and suggest improvements"),
    SAID.format("Write unit tests for the calculator module"),
    "terminated",
    "Session deleted",
    SAID.format("Analyse the code base"),
]
REVIEW = [
    SAID.format("Start a code review"),
    ASKED_BEFORE.format("Start a code review", "Check for security issues"),
    "Check for security issues. You said: Suggest performance improvements",
]
PARALLEL = [SAID.format(prompt) for prompt in ("Generate docs", "Write tests", "Run the linter")]
COMPLETED = '"type":"completed"'

# What each prints, in this order; `turn` is a module of the others and prints nothing.
PRINTS: dict[str, list[str]] = {
    "curl/use-case-1-one-shot.sh": [USE_CASES[0], COMPLETED],
    "curl/use-case-2-conversation.sh": [
        *USE_CASES[2:3],
        COMPLETED,
        "session_created",
        USE_CASES[3],
        COMPLETED,
    ],
    "curl/use-case-3-restricted-tools.sh": [USE_CASES[4], COMPLETED],
    "curl/use-case-4-system-prompt.sh": [USE_CASES[5], COMPLETED],
    "curl/use-case-6-health.sh": ['{"status":"ok"'],
    "curl/use-case-7-sessions-and-runs.sh": [
        '{"sessions":[{"session_id":',
        '{"runs":[{"run_id":',
        '"message":"Process terminated successfully"',
        '"message":"Session deleted"',
        '"code":"terminated"',
    ],
    "curl/use-case-8-cli-flags.sh": [USE_CASES[8], COMPLETED],
    "curl/pattern-1-fire-and-forget.sh": ["started"],
    "curl/pattern-2-interactive-session.sh": [*REVIEW[1:], COMPLETED],
    "curl/pattern-3-parallel-agents.sh": [COMPLETED] * 3,
    "curl/pattern-4-session-cleanup.sh": ['"code":"terminated"', '"message":"Session deleted"'],
    "python/turn.py": [],
    "python/use_case_5_client.py": [
        "session ",
        SAID.format("Create a web scraper"),
        ASKED_BEFORE.format("Create a web scraper", "Now add a test"),
    ],
    "python/use_cases.py": [*USE_CASES[:6], "'status': 'ok'", " stored", "1 live", *USE_CASES[6:]],
    "python/pattern_1_fire_and_forget.py": ["started"],
    "python/pattern_2_interactive_session.py": REVIEW,
    "python/pattern_3_parallel_agents.py": PARALLEL,
    "python/pattern_4_session_cleanup.py": ["terminated 0"],
    "javascript/turn.mjs": [],
    "javascript/use-case-5-client.mjs": [
        "session ",
        SAID.format("Create a TODO app"),
        ASKED_BEFORE.format("Create a TODO app", "Add a test"),
    ],
    "javascript/use-cases.mjs": [*USE_CASES[:6], "status: 'ok'", " stored", "1 live", *USE_CASES[6:]],
    "javascript/pattern-1-fire-and-forget.mjs": ["started"],
    "javascript/pattern-2-interactive-session.mjs": REVIEW,
    "javascript/pattern-3-parallel-agents.mjs": PARALLEL,
    "javascript/pattern-4-session-cleanup.mjs": ["terminated 0"],
}

TYPED = {
    "curl/pattern-2-interactive-session.sh": "Check for security issues\nSuggest performance improvements\n"
}

# How many runs of the agent each takes.
RUNS = dict.fromkeys(PRINTS, 1) | {
    "curl/use-case-2-conversation.sh": 3,
    "curl/use-case-6-health.sh": 0,
    "python/turn.py": 0,
    "javascript/turn.mjs": 0,
    **dict.fromkeys(["python/use_cases.py", "javascript/use-cases.mjs"], 8),
    **dict.fromkeys(["python/use_case_5_client.py", "javascript/use-case-5-client.mjs"], 2),
    **{name: 3 for name in PRINTS if "pattern-2" in name or "pattern-3" in name},
    **{name: 3 for name in PRINTS if "pattern_2" in name or "pattern_3" in name},
}


def interpreter(name: str) -> list[str]:
    """What runs a file; the test is skipped where it is missing."""
    if name.endswith(".py"):
        if importlib.util.find_spec("httpx") is None:
            pytest.skip("httpx is not installed")
        return [sys.executable]
    needed = ["node"] if name.endswith(".mjs") else ["curl", "sh"]
    needed += ["jq"] if TYPED.get(name) else []
    for program in needed:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    return [needed[0]] if name.endswith(".mjs") else ["sh"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for all: what an example leaves would show in the next."""
    # The grace is for an agent that the system holds: killed, it would be counted.
    server = LiveServer(str(tmp_path_factory.mktemp("examples")), "--simulate", "--grace-seconds", "30")
    yield server
    server.close()


def test_every_example_is_run() -> None:
    """A file that is added needs a row above."""
    assert sorted(PRINTS) == FILES


@pytest.mark.parametrize("name", FILES)
def test_example(name: str, shared: LiveServer, tmp_path: Path) -> None:
    """It ends well, prints what it is there for, and has the runs that it says."""
    command = interpreter(name)
    before = len(shared.log)
    for path in (EXAMPLES / name).parent.iterdir():
        if path.suffix in SUFFIXES:  # what somebody who tried them has left there is no part of them
            text = path.read_text(encoding="utf-8")
            text = text.replace("localhost:8080", f"{shared.host}:{shared.port}").replace(BUSY, "!wait")
            (tmp_path / path.name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [*command, Path(name).name],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONUTF8": "1"},
        input=TYPED.get(name, ""),
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    rest = done.stdout
    for text in PRINTS[name]:
        assert text in rest, f"{text!r} is not in what follows\n{done.stdout}\n{done.stderr}"
        rest = rest.partition(text)[2]
    assert shared.client.get("/runs").json()["runs"] == []
    log = shared.log[before:]
    assert len(re.findall('"event": "run ended"', log)) == RUNS[name], log
    expected = {"completed"} | (
        {"terminated"} if BUSY in (EXAMPLES / name).read_text(encoding="utf-8") else set()
    )
    assert set(re.findall('"code": "([a-z]+)"', log)) <= expected
