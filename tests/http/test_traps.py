"""The traps of hypercorn, quart-trio and trio that the server has closed: one test each.

Servers run in this process here, so that a fix can be taken out. Where the trap shows itself quickly
then, a test beside says so (`..._without_the_fix`): it proves that its neighbour can fail.
"""

from __future__ import annotations

import os
import socket

import pytest
from hypercorn.protocol.h11 import H11Protocol
from in_process import Running, live_runs, plain_server, q9gent_server, wait_until_no_run
from process_scan import Found, descendants, still_alive, wait_for
from raw_client import DEADLINE_SECONDS, RawClient, request_bytes, spawn_bytes, within
from running import is_dead, next_line

from q9gent import Settings
from q9gent.http.exchange import Exchange
from q9gent.http.http1 import READ_AHEAD_BYTES, Http1

PROMPT_SECONDS = 10.0
SHORT_SECONDS = 0.5


def my_agents() -> list[Found]:
    """Agents below this process."""
    return [found for found in descendants(os.getpid()) if "simulator.py" in found.command]


def begin(server: Running, prompt: str = "") -> tuple[RawClient, int]:
    """Start a run that waits for ever; its connection, and the agent's pid."""
    client = RawClient(server.address)
    client.send(spawn_bytes(f"{prompt}\n!wait"))
    return client, next_line(client.stream(), "waiting")["pid"]


UPGRADES = {
    "h2c with odd bytes": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(range(256)),
    "websocket with an odd protocol": request_bytes(
        "GET",
        "/health",
        None,
        *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
        *("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol: \xff"),
    ),
    "h2c upgrade with odd settings": request_bytes(
        "GET", "/health", None, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: \xff!"
    ),
}


@pytest.mark.parametrize("upgrade", UPGRADES)
def test_upgrades_end_at_most_their_connection(running: Running, upgrade: str) -> None:
    """Trap 2 and 6: nobody is upgraded, and what is odd about it harms no other connection."""
    other, pid = begin(running)
    with other, RawClient(running.address) as client:
        client.send(UPGRADES[upgrade])
        assert client.head()[0] in (200, 400)
        with RawClient(running.address) as third:
            assert third.ask("GET", "/health").status == 200
        assert os.path.exists(f"/proc/{pid}")


def test_a_bad_upgrade_ends_a_plain_hypercorn(in_process_settings: Settings) -> None:
    """Trap 2, shown: one request for a websocket ends the whole server."""
    with pytest.raises(BaseExceptionGroup) as raised, plain_server(in_process_settings) as plain:
        with RawClient(plain.address) as client:
            client.send(UPGRADES["websocket with an odd protocol"])
            assert client.is_ended()
        assert plain.ended.wait(DEADLINE_SECONDS)
    assert raised.group_contains(UnicodeError)


@pytest.mark.parametrize("upgrade", [name for name in UPGRADES if "h2c" in name])
def test_a_plain_hypercorn_switches_to_http2(in_process_settings: Settings, upgrade: str) -> None:
    """Trap 6, shown: clear-text HTTP/2 is spoken, and no setting forbids it."""
    with plain_server(in_process_settings) as plain, RawClient(plain.address) as client:
        client.send(UPGRADES[upgrade])
        first = client.sock.recv(100)
        assert first.startswith(b"HTTP/1.1 101") or not first.startswith(b"HTTP/1.1")


CLOSING = [
    request_bytes("GET", "/health", None, "Connection: close"),
    request_bytes("GET", "/nowhere", None, "Connection: close"),
    request_bytes("GET", "/health", version="HTTP/1.0", host=None),
    spawn_bytes("hello", "Connection: close"),
]


@pytest.mark.parametrize("number", range(len(CLOSING)))
def test_connection_closes_when_told(running: Running, number: int) -> None:
    """Trap 3: `Connection: close` and HTTP/1.0 answers end with the end of the connection."""
    with RawClient(running.address) as client, within(PROMPT_SECONDS):
        client.send(CLOSING[number])
        client.answer()
        assert client.end() == b""


def never_answered(self: Exchange, value: object) -> None:
    """Take the fix for trap 3 out: the disconnect after an answer counts as a disconnect."""


def test_connection_stays_open_without_the_fix(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 3, shown: cancelled by its own end, the answering task never recycles the connection."""
    monkeypatch.setattr(Exchange, "_answered", property(lambda _: False, never_answered), raising=False)
    with RawClient(running.address) as client:
        client.send(CLOSING[0])
        client.answer()
        client.sock.settimeout(SHORT_SECONDS)
        with pytest.raises(TimeoutError):
            client.end()


def test_idle_connection_times_out(in_process_settings: Settings) -> None:
    """Trap 3: kept alive after a stream, a connection is closed when it was idle long enough."""
    settings = Settings(port=0, simulate=True, session_dir=in_process_settings.session_dir, header_seconds=3)
    with q9gent_server(settings) as server, RawClient(server.address) as client:
        client.send(spawn_bytes("hello"))
        client.whole()
        assert client.ask("GET", "/health").status == 200
        with within(PROMPT_SECONDS):
            assert client.end() == b""


def test_disconnect_is_seen_behind_extra_bytes(running: Running) -> None:
    """Trap 4: a client that sent something behind its request, and then goes, ends its run at once."""
    client, pid = begin(running)
    client.send(request_bytes("GET", "/health") + b"GET / HT")
    client.close()
    with within(PROMPT_SECONDS):
        wait_until_no_run(running)
    assert is_dead(pid)


def test_disconnect_is_missed_without_the_fix(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 4, shown: hypercorn's own reading pauses at the extra bytes, and the run goes on."""
    monkeypatch.setattr(Http1, "handle", H11Protocol.handle)
    monkeypatch.setattr(Http1, "_handle_events", H11Protocol._handle_events)
    client, pid = begin(running)
    client.send(request_bytes("GET", "/health"))
    client.close()
    wait_for(lambda: live_runs(running), lambda found: not found, SHORT_SECONDS)
    (run,) = live_runs(running)
    running.call(lambda: run.end("terminated"))
    assert is_dead(pid)


def test_what_is_read_ahead_is_bounded(running: Running) -> None:
    """Trap 4: reading on costs no memory: a client that sends more and more is cut off, its run ended."""
    client, pid = begin(running)
    with client, within(PROMPT_SECONDS):
        client.send(b"x" * (READ_AHEAD_BYTES + 1))
        assert client.is_ended()
    assert is_dead(pid)


@pytest.mark.parametrize("how", ["close", "reset", "half_close"])
def test_every_way_to_go_ends_the_run(running: Running, how: str) -> None:
    """Trap 5: a close, a reset and a half-close each end the run, as the documentation says."""
    client, pid = begin(running, "!child daemon\n!child setsid")
    tree = my_agents()
    getattr(client, how)()
    with within(PROMPT_SECONDS):
        wait_until_no_run(running)
    assert is_dead(pid)
    assert still_alive(tree) == []
    client.close()


def test_nagle_is_off(running: Running) -> None:
    """Trap 9: short events are not held back until the client has acknowledged the last."""
    with RawClient(running.address) as client:
        client.ask("GET", "/health")
        assert running.server is not None
        (connection,) = running.server._connections
        raw = connection._transport.socket
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
