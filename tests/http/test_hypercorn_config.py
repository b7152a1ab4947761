"""`--hypercorn-config`: TLS, Unix sockets, inherited sockets, several binds, the access log."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from configured import TLS, configured, ended
from raw_client import RawClient, request_bytes, spawn_bytes
from running import begin, next_line

if TYPE_CHECKING:
    import ssl

    from configured import Start


UNIX = 'bind = ["unix:FOLDER/s"]\n'


def test_unix_socket_serves_any_host(q9gent: Start, folder: str) -> None:
    """Turns and disconnects over a Unix socket; its clients may name any host."""
    program = configured(q9gent, folder, UNIX)
    assert program.wait_started() == [f"http://unix:{folder}/s"]
    with RawClient(f"{folder}/s") as client:
        client.send(request_bytes("GET", "/health", host="agents.example"))
        assert client.answer().status == 200
        client.send(spawn_bytes("!lines 5000 100"))
        assert len(client.whole()) == 5003
        begin(client)
    assert ended(program, 2)[-1] == "disconnected"
    assert "whoever reaches this port" not in program.err


def test_unix_sockets_mode_is_the_umasks(q9gent: Start, folder: str) -> None:
    """`umask = 0o177` makes it the user's own."""
    configured(q9gent, folder, UNIX + "umask = 0o177\n").wait_started()
    assert stat.S_IMODE(os.stat(f"{folder}/s").st_mode) == 0o600


def test_inherited_socket_is_served(q9gent: Start, folder: str) -> None:
    """`fd://N` takes a listening socket that a service manager has made; no run inherits it."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        number = listening.fileno()
        address = listening.getsockname()
        program = configured(q9gent, folder, f'bind = ["fd://{number}"]\n', pass_fds=[number])
        assert program.wait_started() == [f"http://127.0.0.1:{address[1]}"]
    with RawClient(address) as client:
        client.send(spawn_bytes("!report"))
        stream = client.stream()
        assert [found for found, _ in next_line(stream, "report")["fds"]] == [0, 1, 2]


def test_several_binds_are_all_served(q9gent: Start, folder: str, client_tls: ssl.SSLContext) -> None:
    """Two ports with TLS, one without, and a Unix socket: all named at the start, all answer, all close."""
    text = TLS.replace('"127.0.0.1:0"', '"127.0.0.1:0", "127.0.0.1:0"')
    program = configured(q9gent, folder, text + 'insecure_bind = ["127.0.0.1:0", "unix:FOLDER/s"]\n')
    urls = program.wait_started()
    assert [url.partition("://")[0] for url in urls] == ["https", "https", "http", "http"]
    with ExitStack() as stack:
        clients = [program.connect(url, tls=client_tls) for url in urls[:2]]
        clients += [program.connect(urls[2]), RawClient(f"{folder}/s")]
        streams = [begin(stack.enter_context(client)) for client in clients]
        assert program.stop() == 0
        assert [list(stream)[-1]["code"] for stream in streams] == ["shutdown"] * 4


def test_host_is_judged_by_the_bind_it_came_by(q9gent: Start, folder: str) -> None:
    """The loopback bind is guarded; the one that others reach cannot be, and is warned of."""
    program = configured(q9gent, folder, 'bind = ["127.0.0.1:0", "0.0.0.0:0"]\n')
    guarded, open_to_all = program.wait_started()
    for url, status in ((guarded, 421), (open_to_all, 200)):
        with program.connect(url) as client:
            client.send(request_bytes("GET", "/health", host="agents.example"))
            assert client.answer().status == status
    program.wait_until(lambda one: "whoever reaches this port" in one.err)


def test_access_log_cannot_be_forged(q9gent: Start, folder: str) -> None:
    """A line a request, with what the client sent escaped; prompts are not in it."""
    text = 'bind = ["127.0.0.1:0"]\naccesslog = "FOLDER/access.log"\n'
    program = configured(q9gent, folder, text + "access_log_format = '%(m)s %(U)s %(s)s %(a)s'\n")
    (url,) = program.wait_started()
    with program.connect(url) as client:
        client.ask("GET", "/health", None, "User-Agent: me\x1b[31m\x85")
        client.ask("GET", "/%0aGET%20/forged%20200")
        client.send(spawn_bytes("the secret prompt"))
        client.whole()
    assert program.stop() == 0
    with open(os.path.join(folder, "access.log"), encoding="utf-8") as file:
        lines = file.read().splitlines()
    assert len(lines) == 3, lines
    assert lines[0].endswith("GET /health 200 me\\x1b[31m\\x85")
    assert "GET /\\nGET /forged 200 404" in lines[1]
    assert "secret" not in "".join(lines)


def test_no_access_log_by_default(q9gent: Start, folder: str) -> None:
    """Nothing is written of a request unless it is asked for."""
    program = configured(q9gent, folder, "")
    (url,) = program.wait_started()
    with program.connect(url) as client:
        client.ask("GET", "/health")
    program.stop()
    assert "/health" not in program.err
    assert len(program.out.splitlines()) == 5


def test_unused_settings_are_warned_of(q9gent: Start, folder: str) -> None:
    """What q9gent decides itself is not taken silently."""
    program = configured(q9gent, folder, 'workers = 4\nquic_bind = ["127.0.0.1:0"]\n')
    program.wait_started()
    warned = [json.loads(line) for line in program.err.splitlines() if '"not used' in line]
    assert sorted(line["setting"] for line in warned) == ["quic_bind", "workers"]


@pytest.mark.parametrize(
    ("text", "status", "told"),
    [
        ("bind = [", 2, "h.toml"),
        ('bind = ["127.0.0.1:99999"]\n', 3, "cannot listen on 127.0.0.1:99999"),
        ('bind = ["203.0.113.1:0"]\n', 3, "cannot listen on 203.0.113.1:0"),
        ('bind = ["unix:/nonexistent/s"]\n', 3, "cannot listen on unix:/nonexistent/s"),
        ('bind = ["fd://999"]\n', 3, "cannot listen on fd://999"),
        ('bind = ["fd://x"]\n', 3, "cannot listen on fd://x"),
        ('bind = ["127.0.0.1:x"]\n', 3, "cannot listen on 127.0.0.1:x"),
        (TLS.replace("cert.pem", "none.pem"), 1, "No such file"),
        (TLS.replace("cert.pem", "key.pem"), 1, ""),
        (TLS.replace("key.pem", "h.toml"), 1, ""),
    ],
)
def test_what_is_wrong_with_it_is_one_line(
    q9gent: Start, folder: str, text: str, status: int, told: str
) -> None:
    """An unreadable file is 2, a bind that does not work 3, a certificate that does not 1; never a traceback."""
    program = configured(q9gent, folder, text)
    assert program.exit_status() == status, program.err
    errors = [line for line in program.err.splitlines() if not line.startswith("{")]
    assert len(errors) == 1, program.err
    assert errors[0].startswith("q9gent: ")
    assert told in errors[0]


def test_missing_file_is_2(q9gent: Start) -> None:
    """A configuration that is not there is bad usage."""
    program = q9gent("--simulate", "--hypercorn-config", "/nonexistent/h.toml")
    assert program.exit_status() == 2
    assert "/nonexistent/h.toml" in program.err
    assert len(program.err.splitlines()) == 1


def test_curl_over_a_unix_socket(q9gent: Start, folder: str) -> None:
    """The documented command."""
    configured(q9gent, folder, UNIX).wait_started()
    command = ["curl", "-sS", "--max-time", "20", "--unix-socket", f"{folder}/s", "http://localhost/health"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(done.stdout)["status"] == "ok"
