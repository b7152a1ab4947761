"""One turn of the real CLI, on a loopback stand-in of its API: through a server, and by itself."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from statistics import median

from benchmarks.load import run_turns
from benchmarks.servers import BrokenRun, Contestant, Tools, started

TURNS = 3
TURN_SECONDS = 60.0
LINES = 3  # system, assistant, result
STAND_IN = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "tests", "e2e"
)


def find_claude() -> str | None:
    """Return the CLI: the one named by ``Q9GENT_E2E_CLAUDE``, the one bundled by claude-agent-sdk, or any."""
    if named := os.environ.get("Q9GENT_E2E_CLAUDE"):
        return shutil.which(named)
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
        done = run_turns(server, tools, "hello", LINES, turns=1 + (1 if tools.quick else TURNS), fresh=True)[
            1:
        ]
    return {
        "turn_ms": median(each.seconds for each in done) * 1e3,
        "first_byte_ms": median(each.first_seconds for each in done) * 1e3,
    }


def bare_turn(tools: Tools) -> dict[str, float]:
    """The same turns without a server."""
    assert tools.claude is not None
    walls, firsts = [], []
    with environment(tools) as extra:
        for _number in range(1 + (1 if tools.quick else TURNS)):
            folder = tempfile.mkdtemp(dir=tools.folder)
            begin = time.monotonic()
            with subprocess.Popen(
                [tools.claude, "-p", "hello", "--output-format", "stream-json", "--verbose"],
                cwd=folder,
                env={**os.environ, **extra},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            ) as process:
                try:
                    assert process.stdout is not None
                    first = os.read(process.stdout.fileno(), 65536)
                    firsts.append(time.monotonic() - begin)
                    rest, _ = process.communicate(timeout=TURN_SECONDS)
                finally:
                    process.kill()
            walls.append(time.monotonic() - begin)
            if process.returncode or (first + rest).count(b"\n") != LINES:
                raise BrokenRun(f"the CLI ended with {process.returncode}: {(first + rest)[-300:]!r}")
    return {"turn_ms": median(walls[1:]) * 1e3, "first_byte_ms": median(firsts[1:]) * 1e3}
