"""The client for programs without an event loop, against a real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import httpx
import pytest
from process_scan import descendants, still_alive, wait_for
from scripted_server import COMPLETED, OUTPUT, Recording, Scripted, Stream

from q9gent.client import (
    AtCapacity,
    Client,
    Completed,
    Failed,
    InvalidRequest,
    Output,
    ProcessSpawnFailed,
    RequestFailed,
    RunFailed,
    RunNotFound,
    ServerUnreachable,
    SessionBusy,
    SessionCreated,
    SessionNotFound,
    StreamBroken,
    SurvivorsLeft,
    TurnFailed,
    UnexpectedAnswer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from process_scan import Found
    from server_process import LiveServer

    from q9gent.client import Event, Run

STUBBORN = "!ignore-term\n!child daemon\n!wait"
SECONDS = 30.0


@pytest.fixture(scope="module")
def shared(start_shared: Callable[..., LiveServer]) -> LiveServer:
    """A server that does not leave its runs much time."""
    return start_shared("--simulate", "--grace-seconds", "0.5")


@pytest.fixture
def client(shared: LiveServer) -> Iterator[Client]:
    with Client(f"http://{shared.host}:{shared.port}") as connected:
        yield connected


def wait_until_waiting(run: Run) -> list[int]:
    """Read until the agent waits; the pids that it told of."""
    pids = []
    for event in run:
        line = event.json() if isinstance(event, Output) else None
        if line and "pid" in line:
            pids.append(line["pid"])
        if line and line.get("subtype") == "waiting":
            return pids
    raise AssertionError("the run ended before its agent waited")


def processes_of(server: LiveServer, pids: list[int]) -> list[Found]:
    """The processes of these pids, which are there."""
    found = [process for process in descendants(server.process.pid) if process.pid in pids]
    assert len(found) == len(pids) >= 2
    return found


# Events.


def test_events_come_typed_and_in_order(client: Client) -> None:
    """The session first, lines of the CLI, then the terminal event."""
    with client.spawn("hello", create_session=True) as run:
        first, *lines, last = list(run)
    assert isinstance(first, SessionCreated)
    assert run.session_id == first.session_id
    assert all(isinstance(line, Output) for line in lines)
    assert [line.json()["type"] for line in lines] == ["system", "assistant", "result"]
    assert isinstance(last, Completed)
    assert run.ending is last


def test_a_burst_arrives_whole(client: Client) -> None:
    """Events that span reads, and reads of many events."""
    with client.spawn("!lines 20000 100\n!big 3000000") as run:
        lines = [event.data for event in run if isinstance(event, Output)]
    assert len(lines) == 20003
    assert max(map(len, lines)) == 2999999


def test_text_is_the_answer(client: Client) -> None:
    """Of the whole turn, in one call."""
    with client.spawn("hello") as run:
        assert run.text() == "This is q9gent's simulated agent. You said: hello"


def test_a_session_goes_on(client: Client) -> None:
    """The next turn knows the one before; the result carries what the CLI told."""
    with client.spawn("first", create_session=True) as run:
        run.text()
    assert run.session_id is not None
    with client.message(run.session_id, "second") as run:
        result = run.result()
    assert "You asked me before: first." in result.text
    assert (result.session_id, result.is_error, result.num_turns) == (run.session_id, False, 1)
    assert result.cost_usd == 0
    assert result.message["type"] == "result"
    assert result.ending == run.ending


def test_options_reach_the_cli(client: Client) -> None:
    """Tools, flags and system prompt are on its command line."""
    options = {"tools_allowed": ["Read", "Bash(git log:*)"], "flags": ["--model", "m"], "system_append": "S"}
    with client.spawn("!report", **options) as run:
        (argv,) = [
            line["argv"]
            for event in run
            if isinstance(event, Output)
            if (line := event.json()) and "argv" in line
        ]
    assert "--allowedTools=Read,Bash(git log:*)" in argv
    assert "--append-system-prompt=S" in argv
    assert argv[-2:] == ["--model", "m"]


def test_lists_are_typed(client: Client) -> None:
    """Runs, sessions and health, as the server tells them."""
    with client.spawn("!wait", create_session=True, agent_type="mine") as run:
        wait_until_waiting(run)
        (live,) = client.runs()
        assert (live.run_id, live.session_id, live.agent_type) == (run.run_id, run.session_id, "mine")
        assert run.session_id in [session.session_id for session in client.sessions()]
    assert client.runs() == []
    assert run.session_id is not None
    client.delete_session(run.session_id)
    assert run.session_id not in [session.session_id for session in client.sessions()]
    assert client.health().status == "ok"


# The end of a run.


def test_leaving_the_context_means_every_process_is_dead(shared: LiveServer, client: Client) -> None:
    """At that very moment, and not soon after: the agent ignores SIGTERM, its daemon has left it."""
    with client.spawn(STUBBORN) as run:
        processes = processes_of(shared, wait_until_waiting(run))
        assert still_alive(processes) == processes
    assert still_alive(processes) == []


def test_an_exception_ends_the_run_and_passes(shared: LiveServer, client: Client) -> None:
    """It is the caller's own that arrives."""
    processes: list[Found] = []
    with pytest.raises(ZeroDivisionError), client.spawn(STUBBORN) as run:
        processes = processes_of(shared, wait_until_waiting(run))
        _ = 1 / 0
    assert processes
    assert still_alive(processes) == []


def test_a_run_that_has_ended_needs_no_request(shared: LiveServer) -> None:
    """Neither after its last event, nor after `text`."""
    transport = Recording()
    with Client(f"http://{shared.host}:{shared.port}", transport=transport) as client:
        with client.spawn("hello") as run:
            for event in run:
                if isinstance(event, Completed):
                    break
        with client.spawn("hello") as run:
            run.text()
    assert transport.asked == ["POST /spawn", "POST /spawn"]


def test_another_thread_may_terminate(client: Client) -> None:
    """Who reads sees why it ended; who asked is told what it took."""
    told = []
    with client.spawn(STUBBORN, create_session=True) as run:
        wait_until_waiting(run)
        thread = threading.Thread(target=lambda: told.append(client.terminate(str(run.session_id))))
        thread.start()
        *_, last = run
        thread.join(SECONDS)
    assert isinstance(last, Failed)
    assert (last.code, last.killed) == ("terminated", 2)
    assert (told[0].code, told[0].killed, told[0].run_id) == ("terminated", 2, run.run_id)


def test_a_failed_run_carries_the_fields(client: Client) -> None:
    """As an event for who iterates, as an exception for who asks for the result."""
    with client.spawn("!child daemon\n!exit 3") as run:
        *_, last = run
        assert isinstance(last, Failed)
        with pytest.raises(RunFailed) as caught:
            run.result()
        with pytest.raises(RunFailed):
            run.raise_for_failure()
    error = caught.value
    assert (error.code, error.exit_code, error.signal, error.killed) == ("exit", 3, None, 1)
    assert (error.survivors, error.event, error.duration_ms) == ((), last, last.duration_ms)


def test_a_signal_is_told(client: Client) -> None:
    """The number that ended the process."""
    with client.spawn("!signal 9") as run, pytest.raises(RunFailed) as caught:
        run.text()
    assert (caught.value.code, caught.value.signal, caught.value.exit_code) == ("signal", 9, None)


def test_a_turn_without_result_has_failed(client: Client) -> None:
    """Exit status 0 is not proof of success."""
    with client.spawn("!no-result\nhello") as run, pytest.raises(TurnFailed) as caught:
        run.text()
    assert caught.value.result is None
    assert isinstance(run.ending, Completed)


def test_an_error_as_result_is_not_an_answer(client: Client) -> None:
    """What the CLI says of it is in the exception."""
    line = b'{"type":"result","subtype":"error_max_turns","is_error":true,"result":"too many"}\n'
    with (
        client.spawn(f"!hex {line.hex()}\n!no-result") as run,
        pytest.raises(TurnFailed, match="too many") as caught,
    ):
        run.text()
    assert caught.value.result is not None
    assert caught.value.result.subtype == "error_max_turns"


@pytest.mark.parametrize(
    "stream",
    [
        Stream(OUTPUT),
        Stream(OUTPUT, COMPLETED[:-1]),
        Stream(OUTPUT, error=httpx.ReadError("reset")),
        Stream(OUTPUT, error=httpx.ReadTimeout("")),
        Stream(OUTPUT, b"data: nonsense\n\n"),
    ],
)
def test_a_stream_without_an_ending_is_broken(stream: Stream) -> None:
    """What came is given, then it is told; the run is ended, should it live."""
    transport = Scripted(
        stream, terminate=lambda: httpx.Response(404, json={"error": "No running process for: r1"})
    )
    seen: list[Event] = []
    with Client(transport=transport) as client, pytest.raises(StreamBroken), client.spawn("x") as run:
        for event in run:
            seen.append(event)  # noqa: PERF402 (what came before it broke)
    assert seen == [Output(data="x")]
    assert transport.asked == ["POST /spawn", "POST /terminate/r1"]
    assert stream.closed


def test_what_follows_an_ending_breaks_nothing() -> None:
    """The run has ended, however the connection does."""
    transport = Scripted(Stream(OUTPUT + COMPLETED, error=httpx.ReadError("reset")))
    with Client(transport=transport) as client, client.spawn("x") as run:
        assert [type(event) for event in run] == [Output, Completed]


@pytest.mark.parametrize(
    "headers", [{"content-type": "text/html"}, {"content-type": "text/event-stream"}, {}]
)
def test_an_answer_of_another_server_is_told(headers: dict[str, str]) -> None:
    """A page with status 200 is no stream, nor is one without a run's id."""
    stream = Stream(b"<html>")
    with Client(transport=Scripted(stream, headers=headers)) as client, pytest.raises(UnexpectedAnswer):
        client.spawn("x").__enter__()
    assert stream.closed


def test_survivors_are_not_kept_quiet() -> None:
    """Leaving the context raises, if nothing else is on its way."""
    answer = {"error": "Processes could not be killed: 7", "survivors": [7]}
    transport = Scripted(Stream(OUTPUT), terminate=lambda: httpx.Response(500, json=answer))
    with (
        Client(transport=transport) as client,
        pytest.raises(SurvivorsLeft) as caught,
        client.spawn("x") as run,
    ):
        next(run)
    assert caught.value.survivors == (7,)


def test_survivors_are_a_note_on_another_exception() -> None:
    """The caller's own exception arrives, and tells both."""
    answer = {"error": "Processes could not be killed: 7", "survivors": [7]}
    transport = Scripted(Stream(OUTPUT), terminate=lambda: httpx.Response(500, json=answer))
    with Client(transport=transport) as client, pytest.raises(ZeroDivisionError) as caught, client.spawn("x"):
        _ = 1 / 0
    assert "Processes could not be killed: 7" in caught.value.__notes__[0]


def test_interrupting_a_program_ends_its_run(shared: LiveServer, tmp_path: Path) -> None:
    """When a program that ^C ended is gone, so is all that its run started."""
    program = tmp_path / "program.py"
    program.write_text(
        "from q9gent.client import Client, Output\n"
        f"with Client() as client, client.spawn({STUBBORN!r}) as run:\n"
        "    for event in run:\n"
        "        print(event.data if isinstance(event, Output) else event, flush=True)\n"
    )
    environment = {**os.environ, "Q9GENT_URL": f"http://{shared.host}:{shared.port}"}
    with subprocess.Popen(
        [sys.executable, str(program)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any('"waiting"' in line for line in process.stdout)
        processes = descendants(shared.process.pid)
        agents = [found for found in processes if "!wait" in found.command or "--descend" in found.command]
        assert len(agents) >= 2
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in err
    assert still_alive(agents) == []


def test_a_run_is_started_by_entering_it(client: Client) -> None:
    """Once: neither before, nor again."""
    run = client.spawn("hello")
    with pytest.raises(RuntimeError):
        next(run)
    with run:
        pass
    with pytest.raises(RuntimeError):
        run.__enter__()


# What the server refuses.


@pytest.mark.parametrize("session_id", ["nonsense", "550e8400-e29b-41d4-a716-446655440000", "a/b"])
def test_an_unknown_session_is_told(client: Client, session_id: str) -> None:
    """By `message`, and by `delete_session`."""
    kind = RequestFailed if "/" in session_id else SessionNotFound
    with pytest.raises(kind) as caught:
        client.message(session_id, "x").__enter__()
    assert caught.value.status == 404
    with pytest.raises(kind):
        client.delete_session(session_id)


def test_nothing_to_terminate_is_told(client: Client) -> None:
    """An id of no live run."""
    with pytest.raises(RunNotFound):
        client.terminate("550e8400-e29b-41d4-a716-446655440000")


def test_a_bad_request_names_the_field(client: Client) -> None:
    """The server's text is the exception's."""
    with pytest.raises(InvalidRequest, match=r"at `\$\.prompt`"):
        client.spawn(" ").__enter__()


def test_text_that_is_no_unicode_is_a_value_error(client: Client) -> None:
    """It cannot be sent at all."""
    with pytest.raises(ValueError, match="surrogate"):
        client.spawn("\ud800").__enter__()


def test_a_busy_session_is_told(client: Client) -> None:
    """One session, one live run."""
    with client.spawn("!wait", create_session=True) as run:
        wait_until_waiting(run)
        with pytest.raises(SessionBusy):
            client.message(str(run.session_id), "x").__enter__()


def test_capacity_tells_when_to_try_again(start_server: Callable[..., LiveServer]) -> None:
    """From the header `retry-after`."""
    server = start_server("--simulate", "--max-runs", "1", "--queue-seconds", "0")
    with Client(f"http://{server.host}:{server.port}") as client, client.spawn("!wait") as run:
        wait_until_waiting(run)
        with pytest.raises(AtCapacity) as caught:
            client.spawn("x").__enter__()
    assert caught.value.retry_after_seconds is not None
    assert caught.value.status == 503


def test_a_cli_that_is_missing_is_told(start_server: Callable[..., LiveServer]) -> None:
    """The run did not start."""
    server = start_server("--claude-path", "no-such-claude")
    with Client(f"http://{server.host}:{server.port}") as client, pytest.raises(ProcessSpawnFailed):
        client.spawn("x").__enter__()


def test_nobody_there_is_told() -> None:
    """With the address."""
    with Client("http://127.0.0.1:1") as client, pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:1"):
        client.health()


def test_a_unix_socket_is_a_transport(start_server: Callable[..., LiveServer], tmp_path: Path) -> None:
    """As httpx has it."""
    path = tmp_path / "socket"
    config = tmp_path / "hypercorn.toml"
    config.write_text(f'bind = ["unix:{path}", "127.0.0.1:0"]\n')
    start_server("--simulate", "--hypercorn-config", str(config))
    with Client(transport=httpx.HTTPTransport(uds=str(path))) as client, client.spawn("hello") as run:
        assert run.text().endswith("hello")


def test_without_httpx_the_extra_is_named() -> None:
    """One clear ImportError."""
    code = "import sys; sys.modules['httpx'] = None; import q9gent.client"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1] == "ImportError: q9gent.client needs httpx: pip install 'q9gent[client]'"
    )


def test_a_client_that_is_closed_leaves_no_run(shared: LiveServer) -> None:
    """Its connections close, and a client that goes ends its runs."""
    client = Client(f"http://{shared.host}:{shared.port}")
    run = client.spawn("!wait")
    run.__enter__()
    wait_until_waiting(run)
    client.close()
    assert wait_for(lambda: shared.client.get("/runs").json()["runs"], lambda runs: not runs, SECONDS) == []


def test_a_client_that_is_closed_inside_a_run_hides_no_exception(shared: LiveServer) -> None:
    """The caller's own arrives, and without one none does: whoever closes the client has ended its runs."""
    with (
        pytest.raises(ZeroDivisionError),
        Client(f"http://{shared.host}:{shared.port}") as client,
        client.spawn("!wait") as run,
    ):
        wait_until_waiting(run)
        client.close()
        _ = 1 / 0
    with Client(f"http://{shared.host}:{shared.port}") as client, client.spawn("!wait") as run:
        wait_until_waiting(run)
        client.close()
    assert wait_for(lambda: shared.client.get("/runs").json()["runs"], lambda runs: not runs, SECONDS) == []
