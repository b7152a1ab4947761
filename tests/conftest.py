"""What all tests share: a server on the simulated agent, which must leave nothing behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from server_process import LiveServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
    for server in servers:
        server.close()


@pytest.fixture
def server(start_server: Callable[..., LiveServer]) -> LiveServer:
    """A server with the defaults, on the simulated agent."""
    return start_server("--simulate")
