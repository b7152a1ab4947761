"""Raw bytes and damaged requests on a live server: it goes on, and keeps nothing of it."""

from __future__ import annotations

import itertools
import os
import random
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from process_scan import wait_for
from raw_client import RawClient, request_bytes, spawn_bytes
from running import DEADLINE_SECONDS, UNKNOWN_ID, agents, connect, log_lines, runs, sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from server_process import LiveServer

LIVE = settings(
    max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)
VALID = [
    request_bytes("GET", "/health"),
    request_bytes("GET", "/sessions", None, "Connection: close"),
    request_bytes("GET", "/health", version="HTTP/1.0", host=None),
    spawn_bytes("hello"),
    spawn_bytes("!lines 50 200", create_session=True),
    spawn_bytes("hello", "Expect: 100-continue"),
    request_bytes("POST", f"/message/{UNKNOWN_ID}", '{"prompt":"x"}', "Content-Type: application/json"),
    request_bytes("POST", f"/terminate/{UNKNOWN_ID}"),
    request_bytes(
        "POST",
        "/spawn",
        b"2\r\n{}\r\n0\r\n\r\n",
        "Content-Type: application/json",
        "Transfer-Encoding: chunked",
    ),
    request_bytes(
        "GET", "/health", None, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"
    ),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
]
HOSTILE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
    b"\r\n\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 2000,
    b"A" * 100_000,
    b"GET /" + b"%00" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    request_bytes("POST", "/spawn", b"1\r\na\r\n" * 5000, "Transfer-Encoding: chunked"),
    request_bytes("POST", "ftp://x/y", b"1\r\na\r\n" * 5000, "Transfer-Encoding: chunked"),
    request_bytes("POST", "/spawn", b"ffffffffffffffff\r\n", "Transfer-Encoding: chunked"),
    request_bytes("POST", "/spawn", b"1;" + b"x" * 70_000, "Transfer-Encoding: chunked"),
    b"".join(VALID) * 3,
]


@pytest.fixture(scope="module")
def target(start_shared: Callable[..., LiveServer]) -> Iterator[LiveServer]:
    """A server with short limits; after the module nothing of its requests may be left in it."""
    server = start_shared("--simulate", "--header-seconds", "2", "--body-seconds", "1")
    quiet = sockets(server)
    yield server
    assert server.client.get("/health").status_code == 200
    server.client.close()
    left = wait_for(lambda: sockets(server), lambda count: count <= quiet, DEADLINE_SECONDS)
    assert left <= quiet, "connections are left open"
    assert agents(server) == []
    defects = [line for line in log_lines(server) if line["level"] in ("error", "critical")]
    assert not defects, defects[0]


def throw(server: LiveServer, pieces: list[bytes], *, how: str) -> None:
    """Send pieces, go away as told, and check that the server answers the next client."""
    with connect(server) as client:
        try:
            for piece in pieces:
                client.send(piece)
            if how == "half-close":
                client.half_close()
                assert client.is_ended()
            elif how == "reset":
                client.reset()
        except ConnectionError:
            pass  # the server has closed it first, which is its right
    assert_serving(server)


def assert_serving(server: LiveServer) -> None:
    with connect(server) as other:
        assert other.ask("GET", "/health").status == 200


@LIVE
@given(
    data=st.lists(st.binary(max_size=200), max_size=4), how=st.sampled_from(["half-close", "reset", "close"])
)
def test_random_bytes(target: LiveServer, data: list[bytes], how: str) -> None:
    """Bytes without any sense end their connection at most."""
    throw(target, data, how=how)


@pytest.mark.parametrize("how", ["half-close", "reset", "close"])
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_bytes(target: LiveServer, number: int, how: str) -> None:
    """Bytes with bad sense end their connection at most."""
    throw(target, [HOSTILE[number]], how=how)


@LIVE
@example(number=0, position=0.5, change="cut", noise=b"", how="half-close")
@given(
    number=st.integers(0, len(VALID) - 1),
    position=st.floats(0, 1),
    change=st.sampled_from(["insert", "replace", "cut", "repeat", "drop a line"]),
    noise=st.binary(max_size=8) | st.sampled_from([b"\r\n", b"\n", b"\0", b":", b" ", b"\xff", b"chunked"]),
    how=st.sampled_from(["half-close", "reset", "close"]),
)
def test_damaged_requests(
    target: LiveServer, number: int, position: float, change: str, noise: bytes, how: str
) -> None:
    """A good request with one thing wrong somewhere."""
    data = VALID[number]
    at = int(position * len(data))
    match change:
        case "insert":
            data = data[:at] + noise + data[at:]
        case "replace":
            data = data[:at] + noise + data[at + len(noise) :]
        case "cut":
            data = data[:at]
        case "repeat":
            data = data[:at] + data[max(0, at - 20) :]
        case "drop a line":
            lines = data.split(b"\r\n")
            del lines[int(position * (len(lines) - 1))]
            data = b"\r\n".join(lines)
    throw(target, [data], how=how)


@LIVE
@given(
    numbers=st.lists(st.integers(0, len(VALID) - 1), min_size=1, max_size=5),
    cuts=st.lists(st.floats(0, 1), max_size=4),
    how=st.sampled_from(["half-close", "reset", "close"]),
)
def test_pipelined_requests_in_pieces(
    target: LiveServer, numbers: list[int], cuts: list[float], how: str
) -> None:
    """Several requests at once, cut anywhere."""
    data = b"".join(VALID[number] for number in numbers)
    places = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
    throw(target, [data[a:b] for a, b in itertools.pairwise(places)], how=how)


def test_a_thousand_connections_of_noise(target: LiveServer) -> None:
    """Many odd connections at once, none of which is read to its end."""
    seed = random.Random(zlib.crc32(b"noise"))
    clients: list[RawClient] = []
    for _ in range(1000):
        clients.append(connect(target))
        try:
            clients[-1].send(seed.choice(VALID)[: seed.randrange(1, 80)] + seed.randbytes(5))
        except ConnectionError:
            continue
        if len(clients) > 200:
            clients.pop(0).reset()
    for client in clients:
        client.close()
    assert_serving(target)
    live = wait_for(lambda: runs(target), lambda found: not found, DEADLINE_SECONDS)
    assert live == []
    assert os.path.exists(f"/proc/{target.process.pid}")
