"""The limits: what happens at each of them, and what goes on working there."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from process_scan import wait_for
from raw_client import DEADLINE_SECONDS, RawClient, request_bytes, spawn_bytes, within
from running import agents, begin, connect, log_lines, next_line, runs, wait_for_runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_process import LiveServer

PROMPT_SECONDS = 10.0


@pytest.fixture(scope="module")
def queueing(start_shared: Callable[..., LiveServer]) -> LiveServer:
    """A server for one run at a time, in which requests wait long."""
    return start_shared("--simulate", "--max-runs", "1", "--queue-seconds", "60")


@pytest.fixture(scope="module")
def refusing(start_shared: Callable[..., LiveServer]) -> LiveServer:
    """A server for two runs at a time, in which requests wait shortly."""
    return start_shared("--simulate", "--max-runs", "2", "--queue-seconds", "0.3")


def test_requests_wait_in_the_order_they_came(queueing: LiveServer) -> None:
    """First come, first served: each run that ends lets exactly the next request start."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(queueing)) for _ in range(5)]
        for count, client in enumerate(clients, 1):
            client.send(spawn_bytes("!wait"))
            wait_for_runs(queueing, count)
        for left in range(5, 0, -1):
            first, *others = wait_for(
                lambda: runs(queueing), lambda found: found[0]["pid"] is not None, DEADLINE_SECONDS
            )
            assert [run["pid"] for run in others] == [None] * (left - 1)
            assert len(agents(queueing)) <= 1
            client = clients[-left]
            status, headers = client.head()
            assert (status, headers["x-q9gent-run-id"]) == (200, first["run_id"])
            assert queueing.terminate(first["run_id"]).status_code == 200


def test_client_that_leaves_the_queue_takes_nobodys_place(queueing: LiveServer) -> None:
    """A waiting client that goes is forgotten; the one behind it is served."""
    with connect(queueing) as busy, connect(queueing) as leaving, connect(queueing) as staying:
        begin(busy, "")
        for count, client in enumerate((leaving, staying), 2):
            client.send(spawn_bytes("hello"))
            (run, *_) = wait_for_runs(queueing, count)
        leaving.close()
        wait_for_runs(queueing, 2)
        queueing.terminate(run["run_id"])
        assert staying.whole()[-1]["type"] == "completed"
    wait_for_runs(queueing, 0)


def test_a_waiting_run_can_be_terminated(queueing: LiveServer) -> None:
    """What has not started is ended too: its client is told, and its session is not kept."""
    with connect(queueing) as busy, connect(queueing) as waiting:
        begin(busy, "")
        waiting.send(spawn_bytes("!wait", create_session=True))
        _, queued = wait_for_runs(queueing, 2)
        answer = queueing.terminate(queued["session_id"])
        assert answer.status_code == 200
        assert answer.json()["code"] == "terminated"
        assert waiting.whole()[-1]["code"] == "terminated"
        assert queueing.sessions() == []


def test_at_capacity_is_503_with_retry_after(refusing: LiveServer) -> None:
    """Who waited in vain is told to come again; health, lists and termination answer all the while."""
    with connect(refusing) as one, connect(refusing) as two, connect(refusing) as third:
        begin(one, "")
        begin(two, "")
        third.send(spawn_bytes("x"))
        with connect(refusing) as other, within(PROMPT_SECONDS):
            assert other.ask("GET", "/health").status == 200
            assert other.ask("GET", "/sessions").status == 200
        answer = third.answer()
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.error.startswith("At capacity: ")
        first, _ = runs(refusing)
        assert third.ask("POST", f"/terminate/{first['run_id']}").status == 200
        third.send(spawn_bytes("x"))
        assert third.whole()[-1]["type"] == "completed"


def test_no_place_is_lost(refusing: LiveServer) -> None:
    """Runs that complete, fail, or lose their client give their places back."""
    for prompt in ("hello", "!exit 1", "!signal 9", "!wait") * 2:
        with connect(refusing) as client:
            client.send(spawn_bytes(prompt))
            assert client.head()[0] == 200
            if prompt != "!wait":
                wait_for_runs(refusing, 0)
    wait_for_runs(refusing, 0)
    with connect(refusing) as one, connect(refusing) as two:
        begin(one, "")
        begin(two, "")


@pytest.fixture(scope="module")
def hasty(start_shared: Callable[..., LiveServer]) -> LiveServer:
    """A server with little time for headers."""
    return start_shared("--simulate", "--header-seconds", "0.5")


def test_time_limit_of_a_run(start_server: Callable[..., LiveServer]) -> None:
    """A run that takes too long is ended with `timeout`, and its tree with it."""
    server = start_server("--simulate", "--max-run-seconds", "4", "--grace-seconds", "30")
    with connect(server) as client, within(DEADLINE_SECONDS):
        client.send(spawn_bytes("!child daemon\n!wait"))
        last = client.whole()[-1]
    assert (last["code"], last["exit_code"], last["killed"]) == ("timeout", 143, 1)
    assert "4 s" in last["error"]
    assert agents(server) == []


def test_grace_is_for_who_listens(start_server: Callable[..., LiveServer]) -> None:
    """An agent that ignores SIGTERM is killed when the grace is over, and the event says so."""
    server = start_server("--simulate", "--max-run-seconds", "4", "--grace-seconds", "0.3")
    with connect(server) as client, within(DEADLINE_SECONDS):
        client.send(spawn_bytes("!ignore-term\n!wait"))
        last = client.whole()[-1]
    assert (last["code"], last["signal"]) == ("timeout", signal.SIGKILL)


def test_grace_is_as_long_as_was_set(start_server: Callable[..., LiveServer]) -> None:
    """An agent that takes seconds to end, more than the default grant it, ends by itself."""
    server = start_server("--simulate", "--max-run-seconds", "4", "--grace-seconds", "300")
    with connect(server) as client, within(DEADLINE_SECONDS):
        client.send(spawn_bytes("!ignore-term\n!sleep 8\n!exit 5"))
        last = client.whole()[-1]
    assert (last["code"], last["exit_code"], last["killed"]) == ("timeout", 5, 0)


def test_short_runs_do_not_meet_the_time_limit(start_server: Callable[..., LiveServer]) -> None:
    """A turn within its time completes."""
    server = start_server("--simulate", "--max-run-seconds", "60")
    with connect(server) as client:
        client.send(spawn_bytes("hello"))
        assert client.whole()[-1]["type"] == "completed"


@pytest.mark.parametrize("sent", [b"", b"GET", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_headers_that_do_not_come_end_the_connection(hasty: LiveServer, sent: bytes) -> None:
    """Trap 10: an idle or half-sent request is not waited for for ever."""
    with connect(hasty) as client, within(PROMPT_SECONDS):
        client.send(sent)
        assert client.is_ended()


def test_trickling_headers_end_the_connection(hasty: LiveServer) -> None:
    """Trap 10: a byte now and then does not lengthen the time for the headers."""
    with connect(hasty) as client, within(PROMPT_SECONDS):
        client.send(b"GET /health HTTP/1.1\r\n")
        client.sock.settimeout(0.05)
        ended = False
        while not ended:
            try:
                client.send(b"X: y\r\n")
                ended = client.sock.recv(100) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True


def test_a_long_run_is_not_idle(start_server: Callable[..., LiveServer]) -> None:
    """The time for headers does not run while a run streams, nor in its silence."""
    server = start_server("--simulate", "--header-seconds", "3")
    with connect(server) as client:
        client.send(spawn_bytes("!sleep 4\nhello"))
        assert client.whole()[-1]["type"] == "completed"


@pytest.mark.parametrize(
    ("request_line", "status"),
    [("GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + "a" * 200_000 + "\r\n\r\n", 431)],
)
def test_huge_headers_are_431(refusing: LiveServer, request_line: str, status: int) -> None:
    """Headers without end are cut off with an answer that the client can read."""
    with connect(refusing) as client:
        client.send(request_line.encode())
        answer = client.answer()
        assert answer.status == status
        assert answer.error
        assert client.end() == b""


def test_connections_over_the_limit_wait(start_server: Callable[..., LiveServer]) -> None:
    """A connection too many is answered as soon as another has ended, and none is refused."""
    server = start_server("--simulate", "--max-connections", "2")
    with connect(server) as first, connect(server) as second, connect(server) as third:
        begin(first, "")
        assert second.ask("GET", "/health").status == 200
        third.send(request_bytes("GET", "/health"))
        third.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            third.head()
        third.sock.settimeout(DEADLINE_SECONDS)
        first.close()
        assert third.answer().status == 200


def test_a_run_needs_no_second_connection_to_end(start_server: Callable[..., LiveServer]) -> None:
    """At the limit of connections a client that goes still ends its run and frees its place."""
    server = start_server("--simulate", "--max-connections", "1")
    server.client.close()
    for _ in range(3):
        with RawClient((server.host, server.port)) as client:
            client.send(spawn_bytes("!wait"))
            next_line(client.stream(), "waiting")
    ended = wait_for(lambda: log_lines(server, "run ended"), lambda found: len(found) == 3, DEADLINE_SECONDS)
    assert [line["code"] for line in ended] == ["disconnected"] * 3
    assert agents(server) == []
