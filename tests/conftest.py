"""What all tests share: a server on the simulated agent, which must leave nothing behind."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from server_process import LiveServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A process that the system holds for a second is no defect of what it tests.
settings.register_profile(
    "held", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("held")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's `&` starts what it starts so, and each program that a test starts would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., LiveServer]]:
    """Start servers with options of the test's own; afterwards each is stopped and proven clean."""
    servers: list[LiveServer] = []

    def start(*options: str, environment: dict[str, str] | None = None) -> LiveServer:
        folder = tmp_path_factory.mktemp("server")
        server = LiveServer(str(folder), *options, environment=environment)
        servers.append(server)
        return server

    yield start
    with ExitStack() as stack:  # all of them, whatever one of them has to say
        for server in servers:
            stack.callback(server.close)


@pytest.fixture
def server(start_server: Callable[..., LiveServer]) -> LiveServer:
    """A server with the defaults, on the simulated agent."""
    return start_server("--simulate")


@pytest.fixture(scope="module")
def shared_servers() -> Iterator[list[LiveServer]]:
    """The servers that live as long as the module; afterwards each is stopped and proven clean."""
    servers: list[LiveServer] = []
    yield servers
    with ExitStack() as stack:  # all of them, whatever one of them has to say
        for server in servers:
            stack.callback(_close, server)


def _close(server: LiveServer) -> None:
    server.close()
    log = server.log
    assert "Traceback" not in log, log[log.index("Traceback") :][:4000]


@pytest.fixture(scope="module")
def start_shared(
    shared_servers: list[LiveServer], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., LiveServer]:
    """Start servers that live as long as the module."""

    def start(*options: str, environment: dict[str, str] | None = None) -> LiveServer:
        folder = tmp_path_factory.mktemp("shared")
        shared_servers.append(LiveServer(str(folder), *options, environment=environment))
        return shared_servers[-1]

    return start


@pytest.fixture(scope="module")
def shared(start_shared: Callable[..., LiveServer]) -> LiveServer:
    """A server with the defaults, on the simulated agent, shared by the module."""
    return start_shared("--simulate")
