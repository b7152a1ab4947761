"""One turn of the real CLI, on a loopback stand-in of its API: through a server, and by itself."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from statistics import median

from benchmarks.bare import run_program
from benchmarks.load import run_turns
from benchmarks.servers import BrokenRun, Contestant, Tools, started

TURNS = 5
LINES = 3  # system, assistant, result
CHECKOUT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
STAND_IN = os.path.join(CHECKOUT, "tests", "e2e")


def find_claude() -> str | None:
    """Return the CLI: the one that claude-agent-sdk bundles, or the one on the path."""
    package = importlib.util.find_spec("claude_agent_sdk")
    for folder in (package.submodule_search_locations or []) if package else []:
        path = os.path.join(folder, "_bundled", "claude")
        if os.access(path, os.X_OK):
            return path
    return shutil.which("claude")


@contextlib.contextmanager
def environment(tools: Tools) -> Iterator[dict[str, str]]:
    """Serve the stand-in, and return the environment that makes the CLI use it."""
    if STAND_IN not in sys.path:
        sys.path.append(STAND_IN)
    from messages_api import MessagesApi  # noqa: PLC0415 (of the tests; only here is it needed)

    with MessagesApi() as api:
        yield {
            "ANTHROPIC_BASE_URL": api.url,
            "ANTHROPIC_API_KEY": "sk-ant-test",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_MAX_RETRIES": "0",
            "CLAUDE_CONFIG_DIR": tempfile.mkdtemp(prefix="claude-", dir=tools.folder),
            "DISABLE_TELEMETRY": "1",
            "DISABLE_AUTOUPDATER": "1",
            "IS_SANDBOX": "1",
        }


def turn(contestant: Contestant, tools: Tools) -> dict[str, float]:
    """Turns through a server, each on a new connection, after one that is not counted."""
    assert tools.claude is not None
    with (
        environment(tools) as extra,
        started(contestant, tools, agent=tools.claude, environment=extra) as server,
    ):
        done = run_turns(server, tools, "hello", LINES, turns=1 + _count(tools), fresh=True)[1:]
    return {
        "turn_ms": median(each.seconds for each in done) * 1e3,
        "first_byte_ms": median(each.first_seconds for each in done) * 1e3,
    }


def bare_turn(tools: Tools) -> dict[str, float]:
    """The same turns without a server."""
    assert tools.claude is not None
    command = [tools.claude, "-p", "hello", "--output-format", "stream-json", "--verbose"]
    with environment(tools) as extra:
        folder = tempfile.mkdtemp(dir=tools.folder)
        run = partial(run_program, command, cwd=folder, environment=extra)
        done = [run() for _ in range(1 + _count(tools))]
    if any(each.lines != LINES for each in done):
        raise BrokenRun(f"the CLI printed not {LINES} lines")
    return {
        "turn_ms": median(each.seconds for each in done[1:]) * 1e3,
        "first_byte_ms": median(each.first_seconds for each in done[1:]) * 1e3,
    }


def _count(tools: Tools) -> int:
    return 1 if tools.quick else TURNS
