"""Servers that the tests of a module share, and what is asked of their logs."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from program import Q9GENT, Program
from raw_client import RawClient
from server_process import LiveServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@pytest.fixture(scope="module")
def start_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., LiveServer]]:
    """Start servers that live as long as the module; afterwards each is stopped and proven clean."""
    servers: list[LiveServer] = []

    def start(*options: str, environment: dict[str, str] | None = None) -> LiveServer:
        folder = tmp_path_factory.mktemp("shared")
        servers.append(LiveServer(str(folder), *options, environment=environment))
        return servers[-1]

    yield start
    with ExitStack() as stack:  # all of them, whatever one of them has to say
        for server in servers:
            stack.callback(_close, server)


def _close(server: LiveServer) -> None:
    server.close()
    log = server.log
    assert "Traceback" not in log, log[log.index("Traceback") :][:4000]


@pytest.fixture(scope="module")
def shared(start_shared: Callable[..., LiveServer]) -> LiveServer:
    """A server with the defaults, on the simulated agent, shared by the module."""
    return start_shared("--simulate")


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
