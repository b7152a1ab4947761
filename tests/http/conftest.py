"""Connections to the server that a module shares, and programs."""

from __future__ import annotations

import functools
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from in_process import q9gent_server
from program import Q9GENT, Program
from raw_client import RawClient
from running import wait_for_runs

from q9gent import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from in_process import Running
    from server_process import LiveServer


@pytest.fixture(autouse=True)
def no_run_is_left(shared_servers: list[LiveServer]) -> Iterator[None]:
    """The next test of a shared server finds no run of this one's, whatever the order."""
    yield
    for server in shared_servers:
        wait_for_runs(server, 0)


@pytest.fixture
def client(shared: LiveServer) -> Iterator[RawClient]:
    """A fresh connection to the shared server."""
    with RawClient((shared.host, shared.port)) as connection:
        yield connection


@pytest.fixture
def start_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Program]]:
    """Start programs; afterwards each is stopped, and proven to have left nothing."""
    programs: list[Program] = []

    def start(
        *argv: str, pass_fds: Sequence[int] = (), out: int | None = None, **environment: str | None
    ) -> Program:
        folder = str(tmp_path_factory.mktemp("program"))
        programs.append(Program(folder, argv, environment=environment, pass_fds=pass_fds, out=out))
        return programs[-1]

    yield start
    for program in programs:
        program.close()


@pytest.fixture
def q9gent(start_program: Callable[..., Program]) -> Callable[..., Program]:
    """Start `python -m q9gent` on a free port with further options."""
    return functools.partial(start_program, *Q9GENT, "--port", "0")


@pytest.fixture
def in_process_settings(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings for a server in this process; its agents keep their state in the test's folder."""
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path))
    return Settings(port=0, simulate=True, session_dir=str(tmp_path / "sessions"))


@pytest.fixture
def running(in_process_settings: Settings) -> Iterator[Running]:
    """A server in this process."""
    with q9gent_server(in_process_settings) as server:
        yield server


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs the certificates here."""
    return trustme.CA()


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> str:
    """A folder with a short path, which holds `cert.pem` and `key.pem`."""
    made = tmp_path_factory.mktemp("h")
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(str(made / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(made / "key.pem"))
    authority.cert_pem.write_to_path(str(made / "ca.pem"))
    return str(made)


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    """A client that trusts the authority and would rather speak HTTP/2."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context
