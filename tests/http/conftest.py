"""Connections to the server that a module shares, and programs."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest
from program import Q9GENT, Program
from raw_client import RawClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from server_process import LiveServer


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
