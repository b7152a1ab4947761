"""The whole server on Windows's Python (Windows itself, or Wine): real sockets, real processes.

What the containment does is tested closer to it, in ``tests/containment/test_windows_jobs.py``; here it
is asked through HTTP. Death is proven by handles, and by a look at the command line of every process.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading

import httpx
import pytest
from sse_events import answer, messages, session_of
from windows_server import DEADLINE_SECONDS, ROOT, WindowsServer, until

from q9gent import __version__, simulator

if sys.platform == "win32":
    import _winapi

pytestmark = [
    pytest.mark.wine,
    pytest.mark.skipif(
        sys.platform != "win32", reason="the Windows server: needs Windows, or Wine (tests/wine/setup.sh)"
    ),
]

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A server on the simulated agent, for all tests that leave it running."""
    server = WindowsServer(str(tmp_path_factory.mktemp("shared")), "--simulate")
    yield server
    server.close()


@pytest.fixture
def start(tmp_path):
    """Start servers of a test's own; each is killed afterwards and proven clean."""
    servers = []

    def start(*options, **more):
        folder = tmp_path / f"server-{len(servers)}"
        folder.mkdir(exist_ok=True)
        servers.append(WindowsServer(str(folder), *options, **more))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


class Witness:
    """A handle to a process, which knows whether it died whatever becomes of its pid."""

    def __init__(self, pid):
        self.pid = pid
        self._handle = _winapi.OpenProcess(0x100000, False, pid)  # SYNCHRONIZE

    def lives(self):
        return _winapi.WaitForSingleObject(self._handle, 0) != _winapi.WAIT_OBJECT_0

    def close(self):
        _winapi.CloseHandle(self._handle)


@pytest.fixture
def witness():
    """Take a handle to a process."""
    taken = []

    def take(pid):
        taken.append(Witness(pid))
        assert taken[-1].lives()
        return taken[-1]

    yield take
    for one in taken:
        one.close()


def begin(server, stream, witness):
    """Read a session's stream until its agent waits: its id, and its processes."""
    first = next(stream)
    assert first["type"] == "session_created"
    server.note(first["session_id"])
    processes = []
    for event in stream:
        assert event["type"] == "output", event
        line = json.loads(event["data"])
        if line.get("subtype") == "child":
            processes.append(witness(line["pid"]))
        if line.get("subtype") == "waiting":
            return first["session_id"], [*processes, witness(line["pid"])]
    raise AssertionError("the stream ended")


def spawn(server, *rows):
    """Start a run that waits for ever, with a session."""
    prompt = server.prompt(*rows, "!wait")
    return server.stream("/spawn", agent_type="test", prompt=prompt, create_session=True)


# Start-up


def test_the_start_up_lines(shared):
    """The five of the guide, in UTF-8 where stdout is."""
    first, *rest = shared.start_lines
    assert first == f"🎯 Q9gent v{__version__} starting..."
    assert rest == [
        f"📂 Session directory: {shared.session_folder}",
        "🔧 Claude CLI path: simulated agent",
        f"🚀 Server listening on http://127.0.0.1:{shared.port}",
        "📍 Endpoints: /health, /spawn, /message/:id, /terminate/:id, /sessions",
    ]


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii:strict"])
def test_a_console_that_cannot_show_the_start_up_lines(start, encoding):
    """It gets a question mark for each sign that it lacks, and the server starts."""
    environment = {"PYTHONUTF8": "0", "PYTHONIOENCODING": encoding}
    server = start("--simulate", environment=environment, encoding=encoding.partition(":")[0])
    assert server.start_lines[0] == f"? Q9gent v{__version__} starting..."
    assert server.get("/health").status_code == 200


def test_a_stdout_in_the_systems_own_encoding(start):
    """No variable says what it is, as for most users."""
    server = start("--simulate", environment={"PYTHONUTF8": "0"}, encoding="latin-1")
    assert f" Q9gent v{__version__} starting..." in server.start_lines[0]


def test_a_stdout_that_nobody_reads_any_more(tmp_path):
    """Its reader is gone before the first line: the server starts and stays."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "q9gent", "--simulate", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--session-dir", str(tmp_path)],
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": ROOT},
    )
    os.close(writing)
    try:
        assert until(lambda: answers(port), bool)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait(DEADLINE_SECONDS)


def answers(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_a_taken_port_is_one_line_and_status_3(shared, tmp_path):
    """Windows would otherwise let two servers share a port, and give each connection to either."""
    command = [sys.executable, "-m", "q9gent", "--simulate", "--port", str(shared.port)]
    ended = subprocess.run(
        command,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": ROOT},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE_SECONDS,
    )
    assert ended.returncode == 3, ended
    (line,) = ended.stderr.decode().splitlines()
    assert line.startswith(f"q9gent: cannot listen on 127.0.0.1:{shared.port}: ")


# Endpoints


def test_health(shared):
    """The version is told."""
    assert shared.get("/health").json() == {"status": "ok", "version": __version__}


def test_a_stateless_run(shared):
    """Its lines arrive as events, and then it is completed."""
    before = session_ids(shared)
    found = shared.turn("/spawn", "hello")
    assert [event["type"] for event in found] == ["output", "output", "output", "completed"]
    assert answer(found).endswith(f"You said: hello\n{shared.token}")
    assert session_ids(shared) == before


def test_a_session_is_stored_and_listed(shared):
    """As a file of four fields, under the id that the stream told first."""
    session_id = session_of(shared.turn("/spawn", "hello", create_session=True))
    with open(os.path.join(shared.session_folder, f"{session_id}.json"), encoding="utf-8") as file:
        stored = json.load(file)
    assert sorted(stored) == ["agent_type", "created_at", "last_used", "session_id"]
    assert stored["session_id"] == session_id
    assert stored in shared.get("/sessions").json()["sessions"]


def session_ids(server):
    return [session["session_id"] for session in server.get("/sessions").json()["sessions"]]


def test_a_message_continues_its_session(shared):
    """The agent remembers what was asked before."""
    session_id = session_of(shared.turn("/spawn", "my name is Ada", create_session=True))
    found = shared.turn(f"/message/{session_id}", "who am I?")
    assert "You asked me before: my name is Ada" in answer(found)


def test_many_messages_to_sessions_at_once(shared):
    """A stored session is replaced while others list them all."""
    created = [session_of(shared.turn("/spawn", "hello", create_session=True)) for _ in range(4)]
    failed = []

    def converse(session_id):
        try:
            shared.turn(f"/message/{session_id}", "again")
            assert set(session_ids(shared)) >= set(created)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=converse, args=(one,)) for one in created]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive()
    assert failed == []


@pytest.mark.parametrize("session_id", [UNKNOWN_ID, "CON", "..%5Cx", "a%3Ab"])
def test_an_unknown_session_is_404(shared, session_id):
    """Names that mean something to Windows mean nothing here."""
    response = shared.post(f"/message/{session_id}", {"prompt": "hello"})
    assert response.status_code == 404
    assert response.json()["error"].startswith("Session not found: ")


def test_a_bad_body_is_400(shared):
    """The error names the field."""
    response = shared.post("/spawn", {"agent_type": "test", "prompt": "hello", "flags": ["a", 5]})
    assert response.status_code == 400
    assert "$.flags[1]" in response.json()["error"]


def test_an_exit_status_is_told(shared):
    """All 32 bits of it."""
    last = shared.turn("/spawn", f"!exit {0x40000015}")[-1]
    assert (last["type"], last["code"], last["exit_code"]) == ("error", "exit", 0x40000015)


# Amounts


def test_a_long_prompt_arrives_whole(shared):
    """A MiB through standard input, read while its echo is written."""
    text = "".join(f"{number:07d}ä" for number in range(1 << 17))[: 1 << 20]
    said = messages(shared.turn("/spawn", text))[1]["message"]["content"][0]["text"]
    assert said == f"This is q9gent's simulated agent. You said: {text}\n{shared.token}"


def test_a_burst_of_lines_arrives_exactly(shared):
    """20,000 lines, each once, in order."""
    found = shared.turn("/spawn", "!lines 20000 200")
    lines = [event["data"] for event in found if event["type"] == "output"][1:-2]
    assert [json.loads(line)["n"] for line in lines] == list(range(1, 20001))
    assert {len(line) for line in lines} == {199}
    assert found[-1]["type"] == "completed"


def test_what_a_slow_client_misses_waits_in_a_file(start, tmp_path):
    """Which nothing is left of when it has been read."""
    folder = tmp_path / "spool"
    folder.mkdir()
    server = start("--simulate", "--memory-bytes", "65536", "--spool-dir", str(folder))
    rows = server.prompt("!lines 20000 2000", "!say written")
    with server.stream("/spawn", agent_type="test", prompt=rows) as stream:
        next(stream)
        assert until(lambda: os.listdir(folder), bool)
        numbers = [json.loads(event["data"]).get("n") for event in stream if event["type"] == "output"]
    assert [number for number in numbers if number] == list(range(1, 20001))
    assert until(lambda: os.listdir(folder), lambda names: not names) == []


# The end of a run

MODES = ["plain", "setsid", "daemon", "scrubbed", "ignore-term", "deep 3"]


@pytest.mark.parametrize("mode", MODES)
def test_terminate_kills_the_whole_tree(shared, witness, mode):
    """Every process is dead when the answer arrives, however it detached."""
    with spawn(shared, f"!child {mode}") as stream:
        session_id, processes = begin(shared, stream, witness)
        assert len(processes) == (4 if mode == "deep 3" else 2)
        assert set(shared.find(session_id)) >= {process.pid for process in processes}
        response = shared.post(f"/terminate/{session_id}", None)
        assert [process for process in processes if process.lives()] == []
        assert shared.find(session_id) == []
        assert response.status_code == 200
        assert response.json()["message"] == "Process terminated successfully"
        (last,) = stream
        assert (last["type"], last["code"]) == ("error", "terminated")
    assert shared.post(f"/terminate/{session_id}", None).status_code == 404


def test_what_an_agent_leaves_behind_is_killed(shared):
    """Nothing lives when the run is said to be completed."""
    found = shared.turn("/spawn", "!child daemon 3", create_session=True)
    assert (found[-1]["type"], found[-1]["killed"]) == ("completed", 3)
    assert shared.find(session_of(found)) == []


def test_a_descendant_that_holds_stdout_does_not_hold_the_stream(shared):
    """The stream ends with its leader."""
    found = shared.turn("/spawn", "!child hold-stdout", create_session=True)
    assert (found[-1]["type"], found[-1]["killed"]) == ("completed", 1)
    assert shared.find(session_of(found)) == []


def test_a_disconnect_ends_the_run(shared, witness):
    """All of it, detached processes too."""
    with spawn(shared, "!child daemon") as stream:
        session_id, processes = begin(shared, stream, witness)
    assert until(lambda: [one for one in processes if one.lives()], lambda left: not left) == []
    assert until(lambda: shared.find(session_id), lambda left: not left) == []


def test_the_servers_sudden_death_is_its_runs(start, witness, tmp_path):
    """TerminateProcess: nobody is left to clean up, and nothing is left, of processes or files."""
    folder = tmp_path / "spool"
    folder.mkdir()
    server = start("--simulate", "--memory-bytes", "65536", "--spool-dir", str(folder))
    flood = server.prompt("!lines 20000 2000", "!wait")
    with (
        spawn(server, "!child daemon", "!child setsid") as stream,
        server.stream("/spawn", agent_type="test", prompt=flood) as unread,
    ):
        session_id, processes = begin(server, stream, witness)
        assert len(processes) == 3
        next(unread)
        assert until(lambda: os.listdir(folder), bool)
        server.kill()
        assert until(lambda: [one for one in processes if one.lives()], lambda left: not left) == []
    assert until(lambda: server.find(session_id), lambda left: not left) == []
    assert until(lambda: os.listdir(folder), lambda names: not names) == []


CREATE_NEW_CONSOLE = 0x10
STATUS_CONTROL_C_EXIT = 0xC000013A

CONTROL_C = """
import ctypes, sys
kernel32 = ctypes.windll.kernel32
kernel32.FreeConsole()
if not kernel32.AttachConsole(int(sys.argv[1])):
    sys.exit(5)
kernel32.SetConsoleCtrlHandler(None, True)  # for the others, not for this process
sys.exit(0 if kernel32.GenerateConsoleCtrlEvent(0, 0) else 6)
"""


def test_control_c_on_the_console_stops_in_order(start, witness):
    """Runs are ended, their streams told so, and the exit status is 0."""
    server = start("--simulate", flags=CREATE_NEW_CONSOLE)
    with spawn(server, "!child daemon") as stream:
        _, processes = begin(server, stream, witness)
        command = [sys.executable, "-c", CONTROL_C, str(server.process.pid)]
        sender = subprocess.run(command, check=False, timeout=DEADLINE_SECONDS)
        assert sender.returncode == 0
        (last,) = stream
        assert (last["type"], last["code"]) == ("error", "shutdown")
        assert [process for process in processes if process.lives()] == []
    assert server.process.wait(DEADLINE_SECONDS) == 0


CTRL_BREAK = """
import ctypes, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, creationflags=0x200)
sent = ctypes.windll.kernel32.GenerateConsoleCtrlEvent(1, child.pid)
child.kill()
sys.exit(0 if sent else 6)
"""


@pytest.mark.parametrize("heeds", [True, False], ids=["heeds", "ignores"])
def test_a_run_on_a_console_is_asked_by_ctrl_break(start, witness, heeds):
    """One that heeds it ends by itself, with the system's status for that; one that does not is killed."""
    command = [sys.executable, "-c", CTRL_BREAK]
    if subprocess.run(
        command, check=False, timeout=DEADLINE_SECONDS, creationflags=CREATE_NEW_CONSOLE
    ).returncode:
        pytest.skip("no CTRL_BREAK can be sent here: Wine 8.0 sends CTRL_C alone")
    grace_seconds = "300" if heeds else "0.5"
    server = start("--simulate", "--grace-seconds", grace_seconds, flags=CREATE_NEW_CONSOLE)
    with spawn(server, *([] if heeds else ["!ignore-term"])) as stream:
        session_id, processes = begin(server, stream, witness)
        told = server.post(f"/terminate/{session_id}", None).json()
        assert [process for process in processes if process.lives()] == []
        (last,) = stream
    assert (last["type"], last["code"]) == ("error", "terminated")
    assert (told["exit_code"], told["killed"]) == ((STATUS_CONTROL_C_EXIT, 0) if heeds else (1, 1))


# The CLI


@pytest.mark.parametrize("session", [False, True], ids=["stateless", "session"])
def test_a_missing_cli_is_500(start, session):
    """In the guide's words, and nothing is stored."""
    server = start("--claude-path", r"C:\no\such\claude.exe")
    body = {"agent_type": "test", "prompt": "hello", "create_session": session}
    response = server.post("/spawn", body)
    assert response.status_code == 500
    assert response.json() == {"error": "Process spawn failed: No such file or directory"}
    assert session_ids(server) == []


# What npm 10 (cmd-shim 7) writes, with an option for the Python that stands for Node here.
NPM_SHIM = r"""@ECHO off
GOTO start
:find_dp0
SET dp0=%~dp0
EXIT /b
:start
SETLOCAL
CALL :find_dp0

IF EXIST "%dp0%\node.exe" (
  SET "_prog=%dp0%\node.exe"
) ELSE (
  SET "_prog=node"
  SET PATHEXT=%PATHEXT:;.JS;=;%
)

endLocal & goto #_undefined_# 2>NUL || title %COMSPEC% & "%_prog%" -I -S "%dp0%\node_modules\cli\cli.js" %*
"""


@pytest.fixture(scope="module")
def npm_folder(tmp_path_factory):
    """What `npm install -g` leaves: a batch file and a shell script, beside Node: here a Python."""
    folder = tmp_path_factory.mktemp("npm")
    home = os.path.dirname(sys.executable)
    for name in os.listdir(home):
        if name.lower().endswith(".dll"):
            shutil.copy(os.path.join(home, name), folder)
    shutil.copy(sys.executable, folder / "node.exe")
    (folder / "pyvenv.cfg").write_text(f"home = {home}\n")
    (folder / "node_modules" / "cli").mkdir(parents=True)
    shutil.copy(simulator.__file__, folder / "node_modules" / "cli" / "cli.js")
    (folder / "claude").write_text("#!/bin/sh\nexit 9\n")
    (folder / "claude.cmd").write_bytes(NPM_SHIM.replace("\n", "\r\n").encode())
    return folder


HOSTILE = "%PATH% & echo a > b ^| \"quoted\" 'x' ! ä😀 \\"


@pytest.mark.parametrize("named", ["by its path", "on PATH"])
def test_an_npm_launcher_is_not_run_but_read(start, npm_folder, named):
    """What it would start is started, with arguments that cmd.exe would have changed."""
    path = f"{npm_folder};{os.environ['PATH']}"
    name = "claude" if named == "on PATH" else str(npm_folder / "claude.cmd")
    server = start("--claude-path", name, environment={"PATH": path})
    found = server.turn("/spawn", HOSTILE, "!report")
    assert answer(found).endswith(f"You said: {HOSTILE}\n{server.token}")
    (report,) = (line for line in messages(found) if line.get("subtype") == "report")
    assert report["argv"][0] == str(npm_folder / "node_modules" / "cli" / "cli.js")


def test_what_lies_in_the_working_directory_is_not_the_agent(start, tmp_path, npm_folder):
    """Windows looks there first for a bare name; a repository's own shall not be run."""
    where = tmp_path / "server-0"
    where.mkdir()
    shutil.copy(npm_folder / "claude.cmd", where / "planted.cmd")
    server = start("--claude-path", "planted")
    response = server.post("/spawn", {"agent_type": "test", "prompt": "hello"})
    assert response.status_code == 500
    assert response.json() == {"error": "Process spawn failed: No such file or directory"}


def test_an_unknown_launcher_is_refused(start, tmp_path):
    """The error names the line, and the script has not run."""
    marker = tmp_path / "it-ran"
    (tmp_path / "claude.cmd").write_text(f'@echo off\n@echo x > "{marker}"\n')
    server = start("--claude-path", str(tmp_path / "claude.cmd"))
    response = server.post("/spawn", {"agent_type": "test", "prompt": "hello"})
    assert response.status_code == 500
    error = response.json()["error"]
    assert error.startswith("Process spawn failed: ")
    assert "claude.cmd, line 2, is not what npm, pnpm or yarn write" in error
    assert not marker.exists()


def test_an_exe_launcher_leads_to_the_exe(start, npm_folder):
    """Where a package carries a program: here Python itself, which does not know the CLI's options."""
    (npm_folder / "direct.cmd").write_text('@"%~dp0\\node.exe"   %*\n')
    server = start("--claude-path", str(npm_folder / "direct.cmd"))
    last = server.turn("/spawn", "hello")[-1]
    assert (last["code"], last["exit_code"]) == ("exit", 2)
    assert until(lambda: "Unknown option: -p" in server.log, bool)  # read by a thread of its own
