"""deploy/nginx.conf in a real nginx, in front of a real server."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import trustme
from process_scan import still_alive, wait_for
from sse_events import events

from q9gent.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_process import LiveServer

NAME = "q9gent.example.com"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
SITE = Path(__file__).resolve().parents[2] / "deploy" / "nginx.conf"
USER, PASSWORD = "somebody", "secret"
SECONDS = 30.0

MAIN = """
{user}
daemon off;
error_log {folder}/error.log info;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/q9gent.conf;
}}
"""


class Nginx:
    """An nginx that serves the site of deploy/ on a Unix socket: no port can be taken."""

    def __init__(self, folder: Path, server: LiveServer) -> None:
        assert NGINX is not None
        authority = trustme.CA()
        authority.issue_cert(NAME).private_key_and_cert_chain_pem.write_to_path(str(folder / "q9gent.pem"))
        (folder / "htpasswd").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n", encoding="utf-8")
        self.socket = str(folder / "nginx.sock")
        site = SITE.read_text(encoding="utf-8")
        for old, new in {
            "server 127.0.0.1:8080;": f"server 127.0.0.1:{server.port};",
            "listen 443 ssl;": f"listen unix:{self.socket} ssl;",
            "/etc/ssl/certs/q9gent.crt": f"{folder}/q9gent.pem",
            "/etc/ssl/private/q9gent.key": f"{folder}/q9gent.pem",
            "/etc/nginx/q9gent.htpasswd": f"{folder}/htpasswd",
        }.items():
            assert site.count(old) == 1, old
            site = site.replace(old, new)
        (folder / "q9gent.conf").write_text(site, encoding="utf-8")
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(MAIN.format(folder=folder, user=user), encoding="utf-8")
        self._folder = folder
        self._process = subprocess.Popen(
            [NGINX, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
        )
        self._context = ssl.create_default_context()
        authority.configure_trust(self._context)
        self._wait()

    def client(self, *, known: bool = True) -> httpx.Client:
        """A client, with the password or without."""
        return httpx.Client(
            transport=httpx.HTTPTransport(uds=self.socket, verify=self._context),
            base_url=f"https://{NAME}",
            auth=(USER, PASSWORD) if known else None,
            timeout=SECONDS,
            trust_env=False,
        )

    def status_of(self, *head: str) -> int:
        """What a request of which only the head is sent is answered."""
        credentials = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        lines = [*head, f"host: {NAME}", f"authorization: Basic {credentials}", "", ""]
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(SECONDS)
            plain.connect(self.socket)
            with self._context.wrap_socket(plain, server_hostname=NAME) as connection:
                connection.sendall("\r\n".join(lines).encode())
                with connection.makefile("rb") as answer:
                    return int(answer.readline().split()[1])

    def _wait(self) -> None:
        deadline = time.monotonic() + SECONDS
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(self.socket)
                except OSError:
                    assert self._process.poll() is None, (self._folder / "error.log").read_text(
                        encoding="utf-8"
                    )
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                else:
                    return

    def close(self) -> None:
        """End it and its workers."""
        self._process.terminate()
        self._process.wait(SECONDS)


@pytest.fixture
def start_nginx(tmp_path: Path) -> Iterator[Callable[[LiveServer], Nginx]]:
    """Start nginx in front of a server."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    started: list[Nginx] = []

    def start(server: LiveServer) -> Nginx:
        started.append(Nginx(tmp_path, server))
        return started[-1]

    yield start
    for nginx in started:
        nginx.close()


@pytest.fixture
def server(start_server: Callable[..., LiveServer]) -> LiveServer:
    """A server as the how-to starts it."""
    return start_server("--simulate", "--allowed-host", NAME, "--heartbeat-seconds", "0.2")


@pytest.fixture
def client(start_nginx: Callable[[LiveServer], Nginx], server: LiveServer) -> Iterator[httpx.Client]:
    """A client of the server, by way of nginx."""
    with start_nginx(server).client() as client:
        yield client


def body(prompt: str) -> dict[str, str]:
    return {"agent_type": "proxied", "prompt": prompt}


def test_events_pass_while_the_run_goes_on(client: httpx.Client, server: LiveServer) -> None:
    """The first ones are here, and the run that will print more is still live."""
    with client.stream("POST", "/spawn", json=body("!say first\n!wait")) as response:
        assert response.status_code == 200
        stream = events(response.iter_raw())
        seen = next(event for event in stream if "first" in event.get("data", ""))
        assert seen["type"] == "output"
        (run,) = server.client.get("/runs").json()["runs"]
        assert run["run_id"] == response.headers["x-q9gent-run-id"]
        assert client.post(f"/terminate/{run['run_id']}").json()["code"] == "terminated"
        assert list(stream)[-1]["code"] == "terminated"


def test_heartbeats_pass(client: httpx.Client) -> None:
    """So that nginx's read time-out never ends a silent run."""
    with client.stream("POST", "/spawn", json=body("!wait")) as response:
        received = b""
        for chunk in response.iter_raw():
            received += chunk
            if received.count(b": heartbeat\n\n") >= 3:
                return
    raise AssertionError(received)


def test_a_client_that_leaves_nginx_ends_its_run(client: httpx.Client, server: LiveServer) -> None:
    """Nginx passes the disconnect on, and every process of the run dies."""
    with client.stream("POST", "/spawn", json=body("!child daemon\n!child setsid\n!wait")) as response:
        stream = events(response.iter_raw())
        next(event for event in stream if "waiting" in event.get("data", ""))
        doomed = [found for found in server.note_descendants() if "simulator.py" in found.command]
        assert len(doomed) == 3
    assert wait_for(lambda: still_alive(doomed), lambda found: not found, SECONDS) == []
    assert '"disconnected"' in wait_for(lambda: server.log, lambda log: '"disconnected"' in log, SECONDS)


def test_nobody_gets_in_without_a_password(
    start_nginx: Callable[[LiveServer], Nginx], server: LiveServer
) -> None:
    """Nginx asks for it before the server hears of the request."""
    with start_nginx(server).client(known=False) as client:
        assert client.post("/spawn", json=body("Hello!")).status_code == 401
        assert client.get("/health").status_code == 401


def test_the_password_is_not_passed_on(client: httpx.Client, server: LiveServer) -> None:
    """Neither the server nor an agent has a use for it."""
    assert client.get("/health").status_code == 200
    assert PASSWORD not in server.log
    assert 'proxy_set_header Authorization "";' in SITE.read_text(encoding="utf-8")


def test_the_host_must_be_allowed(
    start_nginx: Callable[[LiveServer], Nginx], start_server: Callable[..., LiveServer]
) -> None:
    """Without --allowed-host the answer names the flag."""
    with start_nginx(start_server("--simulate")).client() as client:
        answer = client.get("/health")
    assert answer.status_code == 421
    assert "--allowed-host" in answer.json()["error"]


def test_a_large_prompt_passes_and_a_larger_one_does_not(
    start_nginx: Callable[[LiveServer], Nginx], server: LiveServer
) -> None:
    """Nginx's limit is the server's own."""
    most = Settings().body_bytes
    prompt = "x" * (most - len(json.dumps(body(""))))
    nginx = start_nginx(server)
    with nginx.client() as client:
        response = client.post(
            "/spawn", content=json.dumps(body(prompt)), headers={"content-type": "application/json"}
        )
    assert list(events([response.content]))[-1]["type"] == "completed"
    # Declared, not sent: nginx answers at once, and gives somebody who sends slowly 5 s until it closes.
    assert nginx.status_of("POST /spawn HTTP/1.1", f"content-length: {most + 1}") == 413


def test_who_asks_too_often_is_told_so(client: httpx.Client) -> None:
    """429, from nginx: the server has no rate limit."""
    statuses: set[int] = set()
    end = time.monotonic() + SECONDS

    def ask() -> None:  # several at once, as 10 a second are allowed: one alone may be slower
        while 429 not in statuses and time.monotonic() < end:
            statuses.add(client.get("/health").status_code)

    with ThreadPoolExecutor(20) as pool:
        for asking in [pool.submit(ask) for _thread in range(20)]:
            asking.result()
    assert statuses == {200, 429}
