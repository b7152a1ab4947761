"""The command line: what is printed, the exit statuses, and what an agent inherits."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from process_scan import wait_for
from program import Q9GENT, Program, listening
from raw_client import DEADLINE_SECONDS, RawClient, spawn_bytes
from sse_events import messages

import q9gent as package
from q9gent.cli import cli

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[..., Program]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m q9gent` to its end."""
    return subprocess.run(
        [*Q9GENT, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def one_line(text: str) -> str:
    """The only line of a text."""
    (line,) = text.splitlines()
    return line


def test_start_up_prints_the_guides_five_lines(q9gent: Start) -> None:
    """Exactly these, on stdout, and the log on stderr."""
    program = q9gent("--simulate", "--session-dir", "kept")
    (url,) = program.wait_started()
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*", url)
    assert program.out.splitlines() == [
        f"🎯 Q9gent v{package.__version__} starting...",
        "📂 Session directory: kept",
        "🔧 Claude CLI path: simulated agent",
        f"🚀 Server listening on {url}",
        "📍 Endpoints: /health, /spawn, /message/:id, /terminate/:id, /sessions",
    ]
    assert [json.loads(line)["level"] for line in program.err.splitlines()] == ["info"]


def test_printed_port_is_the_one_that_listens(q9gent: Start) -> None:
    """`--port 0` picks a free port, and tells which."""
    program = q9gent("--simulate")
    with program.connect(program.wait_started()[0]) as client:
        assert client.ask("GET", "/health").status == 200


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "LANG": None},
        {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "cp1252:strict", "PYTHONUTF8": "0"},
    ],
)
def test_a_console_without_emoji_is_no_failure(q9gent: Start, environment: dict[str, str | None]) -> None:
    """Where the emoji cannot be shown, something stands for them, and the rest is the same."""
    program = q9gent("--simulate", **environment)
    program.wait_started()
    lines = program.out.splitlines()
    assert len(lines) == 5
    assert f"Q9gent v{package.__version__} starting..." in lines[0]
    assert program.stop() == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_failure(start_program: Callable[..., Program], closed: str) -> None:
    """A server that is started without some of its streams serves, and its runs have theirs."""
    program = start_program("/bin/sh", "-c", f"exec {sys.executable} -m q9gent --simulate --port 0 {closed}")
    (port,) = wait_for(lambda: listening(program.process.pid), bool, DEADLINE_SECONDS)
    with RawClient(("127.0.0.1", port)) as client:
        client.send(spawn_bytes("!report"))
        (report,) = [line for line in messages(client.whole()) if line.get("subtype") == "report"]
        assert [number for number, _ in report["fds"]] == [0, 1, 2]
        assert report["stdin_null"] is True
    assert program.stop() == 0


def test_start_up_lines_that_nobody_reads_are_no_failure(q9gent: Start) -> None:
    """A pipe whose reader is gone does not keep the server from serving."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        program = q9gent("--simulate", out=pipe.fileno())
    program.wait_until(lambda one: '"containment"' in one.err)
    assert program.stop() == 0
    assert "Traceback" not in program.err


def test_version_is_told_in_one_line() -> None:
    """`--version` names program and version; so does `/health`."""
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert package.__version__ in one_line(done.stdout)


@pytest.mark.parametrize("argument", ["--help", "-h"])
def test_help_lists_the_exit_statuses(argument: str) -> None:
    """`--help` shows options, variables and exit statuses."""
    done = run(argument)
    assert done.returncode == 0
    assert "--session-dir" in done.stdout
    assert "Q9GENT_PORT" in done.stdout
    assert "3 cannot listen" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
        (["--port", "x"], "--port"),
        (["--port", "70000"], "--port"),
        (["--port", "-1"], "--port"),
        (["--max-runs", "0"], "--max-runs"),
        (["--grace-seconds", "-1"], "--grace-seconds"),
        (["--heartbeat-seconds", "nan"], "--heartbeat-seconds"),
        (["--host", ""], "--host"),
        (["--containment", "magic"], "--containment"),
        (["--log", "loud"], "--log"),
    ],
)
def test_bad_usage_is_2_and_named(arguments: list[str], named: str) -> None:
    """A wrong option is refused before anything starts, by its name, without a traceback."""
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert named in done.stderr.splitlines()[-1]


def test_bad_usage_of_the_program_is_2() -> None:
    """The exit status of the process itself, and no traceback."""
    done = run("--max-runs", "0")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("Error: Invalid value for '--max-runs'")
    assert "Traceback" not in done.stderr


def test_bad_variable_is_2() -> None:
    """A wrong environment variable is as wrong as an option."""
    done = run(Q9GENT_PORT="x")
    assert done.returncode == 2
    assert "port" in done.stderr
    assert "Traceback" not in done.stderr


def test_variables_set_what_options_do(q9gent: Start) -> None:
    """A variable counts where no option is given, and an option wins."""
    program = q9gent("--session-dir", "from-option", Q9GENT_SIMULATE="1", Q9GENT_SESSION_DIR="from-variable")
    program.wait_started()
    assert "simulated agent" in program.out
    assert "from-option" in program.out


def test_taken_port_is_3_and_one_line() -> None:
    """A port that is taken is told in one clear line on stderr."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("--simulate", "--port", str(port))
    assert done.returncode == 3
    assert one_line(done.stderr) == f"q9gent: cannot listen on 127.0.0.1:{port}: Address already in use"


@pytest.mark.parametrize("host", ["203.0.113.1", "no.such.host.invalid"])
def test_an_address_that_is_not_here_is_3(host: str) -> None:
    """An address of another machine, or none at all, is the same kind of failure."""
    done = run("--simulate", "--port", "0", "--host", host)
    assert done.returncode == 3
    assert one_line(done.stderr).startswith(f"q9gent: cannot listen on {host}:0: ")


def test_containment_that_is_missing_is_1() -> None:
    """What cannot be held is not started: one line says why."""
    done = run("--simulate", "--port", "0", "--containment", "windows")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("q9gent: ")


@pytest.mark.parametrize("level", ["info", "q9gent=info", "INFO", "q9gent=warn", "debug", "error"])
def test_log_level_in_both_spellings(q9gent: Start, level: str) -> None:
    """`Q9GENT_LOG` takes a level, or the Rust original's form of it."""
    program = q9gent("--simulate", Q9GENT_LOG=level)
    program.wait_started()
    assert ('"containment"' in program.err) == (level.lower().rpartition("=")[2] in ("info", "debug"))
    assert program.stop() == 0
