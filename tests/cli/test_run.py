"""`q9gent run`: a turn on the command line, in pipes and in a terminal, and its end by ^C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from process_scan import descendants, still_alive, wait_for

from q9gent.cli import cli

if TYPE_CHECKING:
    from collections.abc import Callable

    from process_scan import Found
    from server_process import LiveServer
    from terminal_program import TerminalProgram

    Q9gent = Callable[..., subprocess.CompletedProcess[str]]
    Terminal = Callable[..., TerminalProgram]

SECONDS = 30.0
STUBBORN = "!ignore-term\n!child daemon\n!child setsid\n!wait"
UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def line(message: dict[str, Any]) -> str:
    """A directive that prints a line of the CLI's."""
    return "!hex " + (json.dumps(message) + "\n").encode().hex()


def says(text: str) -> str:
    return line({"type": "assistant", "message": {"id": "m", "content": [{"type": "text", "text": text}]}})


def agents(server: LiveServer, count: int, lines: int = 1) -> list[Found]:
    """The processes of a live run, once it has printed a line for each, and so many more: its agent waits."""

    def waiting() -> bool:
        runs = server.client.get("/runs").json()["runs"]
        return [run["processes"] for run in runs] == [count] and runs[0]["lines"] == count + lines

    assert wait_for(waiting, bool, SECONDS)
    (run,) = server.client.get("/runs").json()["runs"]
    tree = descendants(server.process.pid)
    found = [one for one in tree if "simulator.py" in one.command]
    assert run["pid"] in [one.pid for one in found]
    assert len(found) == count
    return found


# Pipes.


def test_standard_output_has_the_answer_alone(q9gent: Q9gent) -> None:
    """So that `answer=$(q9gent run …)` works; the rest is on standard error, without colours."""
    done = q9gent("run", "hello")
    assert done.returncode == 0
    assert done.stdout == "This is q9gent's simulated agent. You said: hello\n"
    assert re.fullmatch(r"simulated in .*\n1 turn, \d+\.\d s, \$0\.0000\n", done.stderr)


def test_quiet_leaves_the_answer(q9gent: Q9gent) -> None:
    """Nothing on standard error, if nothing fails."""
    done = q9gent("run", "-q", "hello")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("You said: hello\n")


@pytest.mark.parametrize("arguments", [["run", "-q"], ["run", "-q", "-"]])
def test_the_prompt_may_come_on_standard_input(q9gent: Q9gent, arguments: list[str]) -> None:
    """With `-`, or with no prompt; all of it, line ends too."""
    assert q9gent(*arguments, stdin="é one\ntwo\n").stdout.endswith("You said: é one\ntwo\n")


def test_a_session_goes_on_by_its_beginning(q9gent: Q9gent) -> None:
    """The id is told first, eight characters of it will do; with both options it branches off."""
    session = re.match(f"session ({UUID})\n", q9gent("run", "--new-session", "first").stderr)
    assert session
    done = q9gent("run", "--session", session[1][:8], "second")
    assert "You asked me before: first. You said: second" in done.stdout
    assert "session" not in done.stderr
    branch = q9gent("run", "--session", session[1], "--new-session", "third")
    assert "You asked me before: first / second. You said: third" in branch.stdout
    told = re.match(f"session ({UUID})\n", branch.stderr)
    assert told
    assert told[1] != session[1]


def test_options_reach_the_cli(q9gent: Q9gent) -> None:
    """Tools, system prompt and flags."""
    arguments = [
        "--tools",
        "Read,Bash(git log:*)",
        "--tools",
        "Grep",
        "--system",
        "S",
        "--flag=--model",
        "--flag=m",
    ]
    done = q9gent("run", "--json", *arguments, "!report")
    lines = [
        json.loads(event["data"]) for event in map(json.loads, done.stdout.splitlines()) if "data" in event
    ]
    (argv,) = [message["argv"] for message in lines if "argv" in message]
    assert "--allowedTools=Read,Bash(git log:*),Grep" in argv
    assert "--append-system-prompt=S" in argv
    assert argv[-2:] == ["--model", "m"]


def test_json_is_the_servers_events(q9gent: Q9gent) -> None:
    """One object a line, the session and the ending too."""
    done = q9gent("run", "--json", "--new-session", "hello")
    events = [json.loads(text) for text in done.stdout.splitlines()]
    assert [event["type"] for event in events] == [
        "session_created",
        "output",
        "output",
        "output",
        "completed",
    ]
    assert done.stderr == ""
    assert done.returncode == 0


def test_a_pipe_gets_control_characters_as_they_are(start: Any) -> None:
    """What reads it wants what was said."""
    process = start("run", "-q", says("a\x1b[2J\x9b\rb"))
    assert process.stdout.buffer.read() == "a\x1b[2J\x9b\rb\n".encode()
    assert process.wait(SECONDS) == 0


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("!exit 3", "Process execution failed: exit status 3 (code: exit)"),
        ("!signal 9", "Process execution failed: killed by signal 9 (SIGKILL) (code: signal)"),
        ("!no-result\nx", "the run completed without a result: the answer may be incomplete"),
    ],
)
@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_a_run_that_failed_is_told_and_1(q9gent: Q9gent, prompt: str, words: str, option: str) -> None:
    """On standard error, also when nothing else is."""
    done = q9gent("run", option, prompt)
    assert done.returncode == 1
    assert done.stderr == f"q9gent: {words}\n"


def test_a_turn_that_failed_is_told_and_1(q9gent: Q9gent) -> None:
    """In the CLI's words on standard error; with JSON they are in its line, and nowhere else."""
    message = {"type": "result", "is_error": True, "result": "no credit"}
    prompt = line(message) + "\n!no-result"
    done = q9gent("run", "--quiet", prompt)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "  ✗ the agent failed: no credit\n"
    done = q9gent("run", "--json", prompt)
    assert (done.returncode, done.stderr) == (1, "")
    events = [json.loads(text) for text in done.stdout.splitlines()]
    assert message in [json.loads(event["data"]) for event in events if event["type"] == "output"]


def test_what_a_run_left_behind_is_told(q9gent: Q9gent) -> None:
    """It completed, and its daemon was killed."""
    done = q9gent("run", "!child daemon\nhello")
    assert done.returncode == 0
    assert "killed: 1 process that the run left behind\n" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["run", "--session", "550e8400-e29b-41d4-a716-446655440000", "x"], 1, "Session not found"),
        (["run", "--session", "zz", "x"], 1, "no session: zz"),
        (["run", "--tools", "a b", "x"], 1, "$.tools_allowed[0]"),
        (["run", "--url", "http://127.0.0.1:1", "x"], 3, "no answer from http://127.0.0.1:1"),
        (["run", "--url", "ftp://x", "x"], 2, "Invalid value for '--url'"),
        (["run", " "], 2, "The prompt is empty."),
        (["run", "-"], 2, "The prompt is empty."),
        (["run", "--nonsense", "x"], 2, "--nonsense"),
    ],
)
def test_exit_statuses(q9gent: Q9gent, arguments: list[str], status: int, words: str) -> None:
    """Refused is 1, bad usage 2, unreachable 3; the last line says why, and nothing is on standard output."""
    done = q9gent(*arguments)
    assert done.returncode == status
    assert words in done.stderr.splitlines()[-1]
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_prompt_that_is_no_unicode_is_2(shared: LiveServer) -> None:
    """On the command line, as an option, and on standard input."""
    assert CliRunner().invoke(cli, ["run", "\udcff"]).exit_code == 2
    assert CliRunner().invoke(cli, ["run", "--system", "\udcff", "x"]).exit_code == 2
    done = CliRunner().invoke(cli, ["run", "--url", f"http://{shared.host}:{shared.port}"], input=b"\xff")
    assert done.exit_code == 2
    assert "not UTF-8" in done.stderr


def test_a_lost_server_is_3(start_server: Callable[..., LiveServer], start: Any) -> None:
    """A stream that was cut has not completed."""
    server = start_server("--simulate")
    process = start("run", "--json", "--url", f"{server.host}:{server.port}", "!wait")
    assert any('\\"waiting\\"' in text for text in process.stdout)
    server.note_descendants()
    server.process.kill()
    server.process.wait(SECONDS)
    assert process.wait(SECONDS) == 3
    assert "ended without a terminal event" in process.stderr.read()


def test_a_reader_that_has_enough_ends_the_run(shared: LiveServer, start: Any) -> None:
    """As in `q9gent run … | head -1`: no traceback, and nothing left alive."""
    process = start("run", "--json", "!child daemon\n!lines 200000 100\n!wait")
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(SECONDS) == 1
    assert process.stderr.read() == ""
    assert wait_for(lambda: shared.client.get("/runs").json()["runs"], lambda runs: not runs, SECONDS) == []


def test_without_httpx_the_extra_is_named() -> None:
    """In one line, with status 2; the commands that need none work."""
    block = "import sys; sys.modules['httpx'] = None; from q9gent.cli import main; "
    for command in ["run", "x"], ["ps"], ["kill", "x"], ["sessions"], ["sessions", "rm", "x"]:
        code = f"{block}sys.argv = ['q9gent', *{command}]; main()"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "q9gent: this command needs httpx: pip install 'q9gent[cli]'\n"


def test_the_address_follows_the_servers_settings(shared: LiveServer, q9gent: Q9gent) -> None:
    """Whoever sets a port for the server need not say it twice; `Q9GENT_URL` and `--url` win."""
    done = q9gent("--port", str(shared.port), "ps", "-q", Q9GENT_URL="")
    assert (done.returncode, done.stderr) == (0, "")
    assert q9gent("ps", "-q", Q9GENT_URL="", Q9GENT_PORT=str(shared.port)).returncode == 0
    assert q9gent("--port", "1", "ps", "-q").returncode == 0
    assert q9gent("--port", "1", "ps", "-q", Q9GENT_URL="").returncode == 3


# ^C.


def test_an_interrupt_ends_the_run_and_says_what_was_killed(shared: LiveServer, start: Any) -> None:
    """When the command is gone, so is all that its run started; the status is 130."""
    process = start("run", STUBBORN)
    assert process.stderr.readline().startswith("simulated in ")  # it knows of its run
    processes = agents(shared, 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert still_alive(processes) == []
    assert err.splitlines()[-2:] == [
        "q9gent: interrupted: ending the run; ^C again does not wait for it",
        "q9gent: interrupted: every process of the run is dead, 3 had to be killed (code: terminated)",
    ]


def test_an_interrupt_while_it_waits_for_a_place_starts_nothing(
    start_server: Callable[..., LiveServer], start: Any
) -> None:
    """The server forgets the request."""
    server = start_server("--simulate", "--max-runs", "1", "--queue-seconds", "600")

    def runs_are(count: int) -> bool:
        return len(server.client.get("/runs").json()["runs"]) == count

    first = start("run", "--url", f"{server.host}:{server.port}", "!wait")
    assert wait_for(lambda: runs_are(1), bool, SECONDS)
    second = start("run", "--url", f"{server.host}:{server.port}", "x")
    assert wait_for(lambda: runs_are(2), bool, SECONDS)
    second.send_signal(signal.SIGINT)
    _, err = second.communicate(timeout=SECONDS)
    assert (second.returncode, err) == (130, "q9gent: interrupted: the run had not started\n")
    assert wait_for(lambda: runs_are(1), bool, SECONDS)
    first.send_signal(signal.SIGINT)
    assert first.wait(SECONDS) == 130


def test_an_interrupt_while_nobody_reads_ends_the_run(shared: LiveServer, start: Any) -> None:
    """A write that is stuck holds neither the end of the run up, nor that of the command."""
    process = start("run", "--json", "!ignore-term\n!child daemon\n!lines 200000 100\n!wait")
    assert process.stdout.readline()  # it knows of its run
    assert wait_for(
        lambda: [run["lines"] for run in shared.client.get("/runs").json()["runs"]] == [200003], bool, SECONDS
    )
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 130
    assert "2 had to be killed (code: terminated)" in process.stderr.read()
    assert wait_for(lambda: shared.client.get("/runs").json()["runs"], lambda runs: not runs, SECONDS) == []


def test_a_second_interrupt_does_not_wait(
    start_server: Callable[..., LiveServer], terminal: Terminal
) -> None:
    """The command is gone while the server still gives the run its grace."""
    server = start_server("--simulate", "--grace-seconds", "30")
    program = terminal("run", "!ignore-term\n!wait", server=server)
    program.wait_for("simulated in ")  # it knows of its run
    (agent,) = agents(server, 1)
    program.type("\x03")
    program.wait_for("ending the run")
    program.type("\x03")
    assert program.exit_status() == 130
    assert len(server.client.get("/runs").json()["runs"]) == 1
    os.kill(agent.pid, signal.SIGKILL)
    assert wait_for(lambda: server.client.get("/runs").json()["runs"], lambda runs: not runs, SECONDS) == []


# A terminal.


def test_a_terminal_is_not_driven_by_the_agent(terminal: Terminal) -> None:
    """Its control characters are shown, ours are colours alone."""
    program = terminal("run", says("a\x1b]0;evil\x07\x1b[2J\x9b1m\u202eb"))
    assert program.exit_status() == 0
    assert "a\\x1b]0;evil\\x07\\x1b[2J\\x9b1m\\u202eb\r\n" in program.raw
    assert set(re.findall("\x1b[^m]*m?", program.raw)) == {"\x1b[2m", "\x1b[0m"}
    assert not set(program.raw) & set("\x07\x9b\u202e")


def test_a_terminal_without_colours_gets_none(terminal: Terminal) -> None:
    """As `NO_COLOR` asks."""
    program = terminal("run", "hello", NO_COLOR="1")
    assert program.exit_status() == 0
    assert "\x1b" not in program.raw


def test_the_key_c_ends_the_run(shared: LiveServer, terminal: Terminal) -> None:
    """^C typed into the terminal; what is told stands on lines of its own."""
    program = terminal("run", "!ignore-term\n!child daemon\n!say partly\n!wait")
    agents(shared, 2, 2)
    program.wait_for("partly")
    program.type("\x03")
    assert program.exit_status() == 130
    assert "\r\nq9gent: interrupted: ending the run" in program.raw
    assert "2 had to be killed (code: terminated)\r\n" in program.raw


def test_text_comes_as_it_is_said(shared: LiveServer, terminal: Terminal) -> None:
    """Not when the turn is over: parts of a line, too."""
    part = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a part"}}
    program = terminal("run", line({"type": "stream_event", "event": part}) + "\n!wait")
    program.wait_for("a part")
    assert program.process.poll() is None
    shared.terminate(shared.client.get("/runs").json()["runs"][0]["run_id"])
    assert program.exit_status() == 1
    assert "a part\r\nq9gent: Process execution failed: terminated on request" in program.raw


def test_a_terminal_is_told_how_to_end_a_prompt(terminal: Terminal) -> None:
    """A command that waits for typing says so."""
    program = terminal("run")
    program.wait_for("^D ends it")
    program.type("typed\n\x04")
    assert program.exit_status() == 0
    assert "You said: typed" in program.raw
