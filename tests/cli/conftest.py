"""Commands against a real server: in a pipe, and in a terminal of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from terminal_program import TerminalProgram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from server_process import LiveServer

Q9GENT = (sys.executable, "-m", "q9gent")
SECONDS = 60.0
CHANGING = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "PYTHONUNBUFFERED")


def environment(server: LiveServer | None) -> dict[str, str]:
    """The tester's own, less what would change the output, and where the server is."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("Q9GENT_", *CHANGING))}
    address = {} if server is None else {"Q9GENT_URL": f"http://{server.host}:{server.port}"}
    return {**own, "PYTHONUTF8": "1", **address}


@pytest.fixture(scope="module")
def shared(start_shared: Callable[..., LiveServer]) -> LiveServer:
    """A server that does not leave its runs much time."""
    return start_shared("--simulate", "--grace-seconds", "0.5")


@pytest.fixture
def q9gent(shared: LiveServer) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command in pipes, to its end."""

    def run(*arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*Q9GENT, *arguments],
            env={**environment(shared), **more},
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )

    return run


@pytest.fixture
def start(shared: LiveServer) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command in pipes; `program` is one that stands for q9gent."""
    started: list[subprocess.Popen[str]] = []

    def popen(*arguments: str, program: Sequence[str] = Q9GENT) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [*program, *arguments],
                env=environment(shared),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
            )
        )
        return started[-1]

    yield popen
    for process in started:
        with process:
            process.kill()


@pytest.fixture
def terminal(shared: LiveServer, tmp_path: Path) -> Iterator[Callable[..., TerminalProgram]]:
    """Start a command in a terminal."""
    started: list[TerminalProgram] = []

    def start(*arguments: str, server: LiveServer = shared, **more: str) -> TerminalProgram:
        variables = {**environment(server), **more}
        started.append(TerminalProgram([*Q9GENT, *arguments], environment=variables, folder=str(tmp_path)))
        return started[-1]

    yield start
    for program in started:
        program.close()
