"""How the agent is started: what it inherits, and what a client is told when it cannot be."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest
from raw_client import RawClient, spawn_bytes
from sse_events import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from program import Program

    Start = Callable[..., Program]


SPAWN_FAILED = {"error": "Process spawn failed: No such file or directory"}


def ask_to_spawn(program: Program, prompt: str, **fields: object) -> RawClient:
    client = program.connect(program.wait_started()[0])
    client.send(spawn_bytes(prompt, **fields))
    return client


def report_of(program: Program) -> dict[str, Any]:
    """What the simulated agent says that it was given."""
    with ask_to_spawn(program, "!report") as client:
        (report,) = [line for line in messages(client.whole()) if line.get("subtype") == "report"]
    return dict(report)


def test_missing_cli_is_a_warning_and_a_500(q9gent: Start) -> None:
    """The server starts without the CLI and says so; a run then fails with the system's words."""
    program = q9gent("--claude-path", "no-such-claude")
    with ask_to_spawn(program, "x", create_session=True) as client:
        answer = client.answer()
        assert (answer.status, answer.json) == (500, SPAWN_FAILED)
        assert client.ask("GET", "/sessions").json == {"sessions": []}
    (warning,) = [json.loads(line) for line in program.err.splitlines() if '"warning"' in line]
    assert "--claude-path" in warning["event"]
    assert warning["claude_path"] == "no-such-claude"


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        ("#!/no/such/interpreter\n", 0o755, "No such file or directory"),
        ("#!/bin/sh\n", 0o644, "Permission denied"),
        ("\x7fELF nonsense", 0o755, "Exec format error"),
    ],
)
def test_cli_that_cannot_run_is_a_500_with_the_reason(
    q9gent: Start, tmp_path: Any, content: str, mode: int, reason: str
) -> None:
    """A program that the system refuses fails the run with the system's own words."""
    path = tmp_path / "claude"
    path.write_text(content)
    path.chmod(mode)
    with ask_to_spawn(q9gent("--claude-path", str(path)), "x") as client:
        answer = client.answer()
        assert (answer.status, answer.json) == (500, {"error": f"Process spawn failed: {reason}"})


def test_cli_that_appears_later_is_found(q9gent: Start) -> None:
    """A CLI that is installed while the server runs needs no restart."""
    program = q9gent("--claude-path", "./claude")
    path = os.path.join(program.folder, "claude")
    with ask_to_spawn(program, "x") as client:
        assert client.answer().status == 500
        with open(path, "w", encoding="utf-8") as file:
            file.write('#!/bin/sh\necho \'{"type":"result"}\'\n')
        os.chmod(path, 0o755)
        client.send(spawn_bytes("x"))
        assert client.whole()[-1]["type"] == "completed"


def test_unwritable_session_folder_fails_sessions_alone(q9gent: Start, tmp_path: Any) -> None:
    """It is a warning at the start, and a 500 only for who wants a session."""
    (tmp_path / "file").write_text("")
    program = q9gent("--simulate", "--session-dir", str(tmp_path / "file" / "sessions"))
    with ask_to_spawn(program, "x", create_session=True) as client:
        answer = client.answer()
        assert answer.status == 500
        assert "Not a directory" in answer.error
        client.send(spawn_bytes("x"))
        assert client.whole()[-1]["type"] == "completed"
    assert "sessions cannot be stored" in program.err


def test_agent_inherits_all_but_the_servers_own(q9gent: Start) -> None:
    """Working directory and environment are the server's, less every `Q9GENT_*`."""
    program = q9gent(Q9GENT_SIMULATE="1", Q9GENT_LOG="info", q9gent_other="x", OTHER="kept", EMPTY="")
    report = report_of(program)
    assert os.path.realpath(report["cwd"]) == os.path.realpath(program.folder)
    assert report["env"]["OTHER"] == "kept"
    assert report["env"]["EMPTY"] == ""
    assert [name for name in report["env"] if name.upper().startswith("Q9GENT")] == []


def test_agent_has_clean_descriptors_and_signals(q9gent: Start) -> None:
    """Nothing of the server's is open in it, stdin is empty, no signal is blocked or ignored."""
    with socket.socket() as inherited:
        inherited.set_inheritable(True)
        program = q9gent("--simulate", pass_fds=[inherited.fileno()])
        report = report_of(program)
    assert report["stdin_null"] is True
    assert [number for number, _ in report["fds"]] == [0, 1, 2]
    assert report["blocked_signals"] == []
    # Python ignores two by itself; the C library's posix_spawn two that are its own (32 and 33).
    assert set(report["ignored_signals"]) <= {signal.SIGPIPE, signal.SIGXFSZ, 32, 33}
    assert report["sid"] == report["pgid"] == report["pid"]


def test_agent_has_the_descriptor_limit_that_the_server_was_started_with(
    q9gent: Start, tmp_path: Any
) -> None:
    """The server raises its own, and does not pass that on: a program that uses `select` would break."""
    script = tmp_path / "agent"
    script.write_text("#!/bin/sh\nulimit -Sn\nulimit -Hn\n")
    script.chmod(0o755)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = min(soft, hard - 1, 512)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lower, hard))
    try:
        program = q9gent("--claude-path", str(script), "--containment", "linux")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with ask_to_spawn(program, "x") as client:
        printed = [event["data"] for event in client.whole() if event["type"] == "output"]
    assert printed == [str(lower), str(hard)]
    assert resource.prlimit(program.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
