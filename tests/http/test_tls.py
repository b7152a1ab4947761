"""TLS, configured by `--hypercorn-config`: the same streams, disconnects and stops as without."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
from configured import TLS, configured, ended
from raw_client import request_bytes, spawn_bytes, within
from running import begin

if TYPE_CHECKING:
    import trustme
    from configured import Start


PROMPT_SECONDS = 8.0


def test_tls_streams_and_offers_http_1_1(q9gent: Start, folder: str, client_tls: ssl.SSLContext) -> None:
    """Several turns over one TLS connection, among them a burst; HTTP/2 is not negotiated."""
    program = configured(q9gent, folder, TLS)
    (url,) = program.wait_started()
    assert url.startswith("https://127.0.0.1:")
    with program.connect(url, tls=client_tls) as client:
        assert isinstance(client.sock, ssl.SSLSocket)
        assert client.sock.selected_alpn_protocol() == "http/1.1"
        for _ in range(3):
            client.send(spawn_bytes("!lines 5000 200"))
            found = client.whole()
            assert found[-1]["type"] == "completed"
            assert len(found) == 5003
        assert client.ask("GET", "/health", None, "Connection: close").status == 200
        assert client.end() == b""


def test_tls_pipelined_requests_are_answered(q9gent: Start, folder: str, client_tls: ssl.SSLContext) -> None:
    """What comes behind a request waits for its turn under TLS too."""
    program = configured(q9gent, folder, TLS)
    (url,) = program.wait_started()
    with program.connect(url, tls=client_tls) as client:
        client.send(spawn_bytes("one") + request_bytes("GET", "/health") + spawn_bytes("two"))
        assert client.whole()[-1]["type"] == "completed"
        assert client.answer().status == 200
        assert client.whole()[-1]["type"] == "completed"


def test_tls_disconnects_end_the_run(q9gent: Start, folder: str, client_tls: ssl.SSLContext) -> None:
    """A client that says goodbye, one that just closes and one that resets: each ends its run."""
    program = configured(q9gent, folder, TLS)
    (url,) = program.wait_started()
    for count, how in enumerate(("unwrap", "close", "reset"), 1):
        client = program.connect(url, tls=client_tls)
        begin(client, "!child daemon")
        with within(PROMPT_SECONDS):
            if how == "unwrap":
                assert isinstance(client.sock, ssl.SSLSocket)
                client.sock.settimeout(PROMPT_SECONDS)
                try:
                    client.sock.unwrap()
                except (OSError, ssl.SSLError):
                    pass  # the server's own goodbye may not be read
                client.close()
            else:
                getattr(client, how)()
            assert ended(program, count)[-1] == "disconnected"
    assert not [found for found in program.descendants() if "simulator.py" in found.command]
    assert '"error"' not in program.err


def test_tls_stop_is_told(q9gent: Start, folder: str, client_tls: ssl.SSLContext) -> None:
    """The last event reaches a TLS client when the server stops, and then a proper end."""
    program = configured(q9gent, folder, TLS)
    (url,) = program.wait_started()
    with program.connect(url, tls=client_tls) as client:
        stream = begin(client)
        with within(PROMPT_SECONDS):
            assert program.stop() == 0
        assert list(stream)[-1]["code"] == "shutdown"
        assert client.end() == b""


def test_a_handshake_in_progress_does_not_disturb_a_stop(
    q9gent: Start, folder: str, client_tls: ssl.SSLContext
) -> None:
    """Connections that have no TLS yet are closed with the idle ones, and the runs are told as ever."""
    program = configured(q9gent, folder, TLS)
    (url,) = program.wait_started()
    with program.connect(url) as silent, program.connect(url, tls=client_tls) as client:
        stream = begin(client)
        with within(PROMPT_SECONDS):
            assert program.stop() == 0
        assert list(stream)[-1]["code"] == "shutdown"
        assert silent.is_ended()
    assert "Traceback" not in program.err
    assert '"error"' not in program.err


@pytest.mark.parametrize(
    "sent", [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01", b"\xff" * 100]
)
def test_what_is_no_tls_harms_nothing(
    q9gent: Start, folder: str, client_tls: ssl.SSLContext, sent: bytes
) -> None:
    """Clients that speak no TLS, or stop within the handshake, are let go without a trace."""
    program = configured(q9gent, folder, TLS)
    (url,) = program.wait_started()
    with program.connect(url) as odd:
        odd.send(sent)
        odd.half_close()
        assert odd.is_ended()
    with program.connect(url, tls=client_tls) as client:
        assert client.ask("GET", "/health").status == 200
    assert "Traceback" not in program.err
    assert '"error"' not in program.err


def test_client_certificates_can_be_required(
    q9gent: Start, folder: str, authority: trustme.CA, client_tls: ssl.SSLContext
) -> None:
    """As documented: a client without a certificate is cut off, one with it is served."""
    program = configured(q9gent, folder, TLS + 'ca_certs = "FOLDER/ca.pem"\nverify_mode = 2\n')
    (url,) = program.wait_started()
    with (
        pytest.raises(OSError, match=r"(?i)certificate|reset|eof"),
        program.connect(url, tls=client_tls) as bad,
    ):
        bad.send(request_bytes("GET", "/health"))
        if not bad.sock.recv(100):
            raise ConnectionResetError("reset")
    authority.issue_cert("client").configure_cert(client_tls)
    with program.connect(url, tls=client_tls) as good:
        assert good.ask("GET", "/health").status == 200
