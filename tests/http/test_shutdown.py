"""How the server stops: in order, told to every client, within its time, and leaving nothing."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
from process_scan import wait_for
from raw_client import DEADLINE_SECONDS, JSON, open_port, request_bytes, spawn_bytes, within
from running import (
    address_of,
    agents,
    begin,
    connect,
    log_lines,
    runs,
    wait_for_log,
    wait_for_runs,
    wait_until_dead,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from server_process import LiveServer

PROMPT_SECONDS = 8.0
EXIT_SECONDS = 30.0


def stop(server: LiveServer, number: int = signal.SIGTERM) -> None:
    """Send the signal and wait until the server has taken it."""
    server.note_descendants()
    server.process.send_signal(number)
    wait_for_log(server, "stopping")


@contextmanager
def ignored(number: int) -> Iterator[None]:
    """Ignore a signal here, so that a server started meanwhile inherits that."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_every_stream_and_exits_0(server: LiveServer, number: int) -> None:
    """Every client is told `shutdown`, its connection closed; the exit status is 0."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(3)]
        streams = [begin(client, "!child daemon") for client in clients]
        tree = agents(server)
        with within(PROMPT_SECONDS):
            assert server.signal(number) == 0
        for client, stream in zip(clients, streams, strict=True):
            *_, last = stream
            assert (last["type"], last["code"]) == ("error", "shutdown")
            assert client.end() == b""
        wait_until_dead(tree)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_idle_server_stops_at_once(server: LiveServer, number: int) -> None:
    """Without runs, and with connections that do nothing, a stop takes no time at all."""
    with connect(server) as fresh, connect(server) as used, within(PROMPT_SECONDS):
        assert used.ask("GET", "/health").status == 200
        assert server.signal(number) == 0
        assert fresh.end() == used.end() == b""


def test_sigint_stops_a_server_started_in_the_background(start_server: Callable[..., LiveServer]) -> None:
    """A shell starts `q9gent &` with SIGINT ignored; asked to stop with it, the server stops all the same."""
    with ignored(signal.SIGINT):
        server = start_server("--simulate")
    assert server.signal(signal.SIGINT) == 0


@pytest.mark.parametrize("containment", ["auto", "posix"])
def test_hangup_is_ignored_under_nohup(start_server: Callable[..., LiveServer], containment: str) -> None:
    """What `nohup` has made ignored stays ignored."""
    with ignored(signal.SIGHUP):
        server = start_server("--simulate", "--containment", containment)
    server.process.send_signal(signal.SIGHUP)
    assert server.spawn("!exit 0")[-1]["type"] == "completed"
    assert server.signal(signal.SIGTERM) == 0
    told = [line["signal"] for line in log_lines(server, "signal received")]
    assert told == ["SIGTERM"]


def test_nothing_new_while_stopping(start_server: Callable[..., LiveServer]) -> None:
    """The port is closed at once, idle connections too; a request on its way in is refused with 503."""
    server = start_server("--simulate", "--grace-seconds", "60", "--shutdown-seconds", "100")
    with connect(server) as busy, connect(server) as idle, connect(server) as late:
        stream = begin(busy, "!ignore-term")
        assert idle.ask("GET", "/health").status == 200
        body = '{"agent_type": "a", "prompt": "x"}'
        late.send(
            request_bytes("POST", "/spawn", None, f"Content-Type: {JSON}", f"Content-Length: {len(body)}")
        )
        stop(server)
        assert not open_port(address_of(server))
        assert idle.end() == b""
        late.send(body.encode())
        refused = late.answer()
        assert refused.status == 503
        assert refused.error == "The server is shutting down"
        assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
        assert late.end() == b""
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)  # cuts the grace
        assert list(stream)[-1]["code"] == "shutdown"
        assert server.process.wait(EXIT_SECONDS) == 0


def test_request_in_the_queue_is_told(start_server: Callable[..., LiveServer]) -> None:
    """A request that waits for a free run gets a 503, not an empty stream."""
    server = start_server("--simulate", "--max-runs", "1", "--queue-seconds", "60")
    with connect(server) as busy, connect(server) as waiting:
        begin(busy, "")
        waiting.send(spawn_bytes("!wait"))
        wait_for_runs(server, 2)
        stop(server)
        assert waiting.answer().status == 503
        assert server.process.wait(EXIT_SECONDS) == 0


def test_deaf_agent_does_not_hold_it_up(server: LiveServer) -> None:
    """An agent that ignores SIGTERM, with children that do too, is killed after the grace."""
    with connect(server) as client:
        stream = begin(client, "!ignore-term\n!child ignore-term 3\n!child stopped")
        with within(PROMPT_SECONDS):
            assert server.signal(signal.SIGTERM) == 0
        last = list(stream)[-1]
        assert (last["code"], last["signal"]) == ("shutdown", signal.SIGKILL)


def test_stalled_client_does_not_hold_it_up(server: LiveServer) -> None:
    """Trap 1: a client that reads nothing cannot wedge the stop, though megabytes wait for it."""
    with connect(server, receive_buffer=4096) as live, connect(server, receive_buffer=4096) as done:
        live.send(spawn_bytes("!lines 20000 1000\n!wait"))
        live.head()
        done.send(spawn_bytes("!lines 20000 1000"))
        done.head()
        wait_for_log(server, "run ended")
        wait_for(lambda: runs(server)[0]["lines"], lambda lines: lines > 20_000, DEADLINE_SECONDS)
        with within(8):
            assert server.signal(signal.SIGTERM) == 0
        assert live.is_ended()
        assert done.is_ended()


def test_slow_client_is_still_served(server: LiveServer) -> None:
    """What a run printed before the stop is delivered to a client that reads, within the stop's time."""
    with connect(server) as client:
        client.send(spawn_bytes("!lines 20000 1000\nhello"))
        status, headers = client.head()
        assert status == 200
        wait_for_log(server, "run ended")
        stop(server)
        body = b"".join(client.parts(headers))
        assert body.count(b"\n\n") == 20_004
        assert b'"type":"completed"' in body[-100:]
        assert server.process.wait(EXIT_SECONDS) == 0


def test_time_limit_holds_against_a_reader_without_end(start_server: Callable[..., LiveServer]) -> None:
    """A client that takes a little for ever is cut off when `--shutdown-seconds` are over."""
    server = start_server("--simulate", "--shutdown-seconds", "1")
    with connect(server, receive_buffer=4096) as client:
        client.send(spawn_bytes("!lines 60000 1000"))
        client.head()
        wait_for_log(server, "run ended")
        stop(server)
        with within(PROMPT_SECONDS):
            while server.process.poll() is None:
                client.sock.recv(4096)
                time.sleep(0.01)  # the pace is the point here
        assert server.process.wait(0) == 0


def test_fifty_runs_end_together(server: LiveServer) -> None:
    """Fifty runs, a third of them deaf, each with a daemon: all told, all dead, in one grace."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(50)]
        for number, client in enumerate(clients):
            deaf = "!ignore-term\n" if number % 3 == 0 else ""
            client.send(spawn_bytes(f"{deaf}!child daemon\n!wait"))
        wait_for(
            lambda: [run["lines"] for run in runs(server)],
            lambda lines: len(lines) == 50 and min(lines) == 3,
            2 * DEADLINE_SECONDS,
        )
        tree = agents(server)
        assert len(tree) == 100
        with within(15):
            assert server.signal(signal.SIGTERM) == 0
        assert [client.whole()[-1]["code"] for client in clients] == ["shutdown"] * 50
        wait_until_dead(tree)


def test_second_signal_cuts_the_grace(start_server: Callable[..., LiveServer]) -> None:
    """Asked twice, the server kills at once, and still tells its client and exits 0."""
    server = start_server("--simulate", "--grace-seconds", "60", "--shutdown-seconds", "100")
    with connect(server) as client:
        stream = begin(client, "!ignore-term\n!child ignore-term")
        stop(server)
        with within(PROMPT_SECONDS):
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(EXIT_SECONDS) == 0
        assert list(stream)[-1]["code"] == "shutdown"


def test_grace_longer_than_the_stop_is_bounded(start_server: Callable[..., LiveServer]) -> None:
    """`--shutdown-seconds` bounds the stop also when the grace is longer."""
    server = start_server("--simulate", "--grace-seconds", "60", "--shutdown-seconds", "1")
    with connect(server) as client:
        begin(client, "!ignore-term")
        with within(PROMPT_SECONDS):
            assert server.signal(signal.SIGTERM) == 0


def test_terminate_during_the_stop_is_answered(server: LiveServer) -> None:
    """Who waits for a termination when the stop begins gets the answer."""
    with connect(server) as busy, connect(server) as other:
        stream = begin(busy, "!ignore-term")
        (run,) = runs(server)
        other.send(request_bytes("POST", f"/terminate/{run['run_id']}"))
        stop(server)
        assert other.answer().json["code"] == "terminated"
        assert list(stream)[-1]["code"] == "terminated"
        assert server.process.wait(EXIT_SECONDS) == 0
