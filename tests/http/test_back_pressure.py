"""Clients that read slowly, or not at all: what is kept for them, and for how long."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from printed import data_of, numbered
from process_scan import still_alive, wait_for
from raw_client import DEADLINE_SECONDS, spawn_bytes
from running import agents, connect, descriptors, runs, wait_for_log, wait_for_runs
from sse_events import events

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_process import LiveServer


SMALL_BUFFER = 4096


MIB = 1024 * 1024
STEADY_BYTES, STEADY_PAUSE = 4096, 0.01


@pytest.fixture(scope="module")
def spooling(
    start_shared: Callable[..., LiveServer], tmp_path_factory: pytest.TempPathFactory
) -> tuple[LiveServer, str]:
    """A server and the folder of its spool files."""
    folder = str(tmp_path_factory.mktemp("spool"))
    return start_shared("--simulate", "--spool-dir", folder, "--memory-bytes", "65536"), folder


def spooled(server: LiveServer, folder: str) -> list[str]:
    """The spool files that a server has open."""
    return [name for name in descriptors(server) if name.startswith(folder)]


def test_slow_reader_loses_nothing_and_slows_nothing(spooling: tuple[LiveServer, str]) -> None:
    """40 MB are printed and the process is gone before the client reads; then it reads all of it."""
    server, folder = spooling
    with connect(server, receive_buffer=SMALL_BUFFER) as client:
        client.send(spawn_bytes("!lines 40000 1000"))
        status, headers = client.head()
        assert status == 200
        wait_for_log(server, "run ended")
        wait_for_runs(server, 0)
        assert agents(server) == []
        files = spooled(server, folder)
        assert files
        assert all(name.endswith(" (deleted)") for name in files)
        assert os.listdir(folder) == []
        found = list(events(client.parts(headers)))
    assert data_of(found) == numbered(40_000, 1000)
    assert found[-1]["type"] == "completed"
    assert wait_for(lambda: spooled(server, folder), lambda names: not names, DEADLINE_SECONDS) == []


def test_spool_goes_with_its_client(spooling: tuple[LiveServer, str]) -> None:
    """A client that leaves with megabytes unread leaves no file and no descriptor."""
    server, folder = spooling
    with connect(server, receive_buffer=SMALL_BUFFER) as client:
        client.send(spawn_bytes("!lines 20000 1000\n!wait"))
        client.head()
        wait_for(lambda: runs(server)[0]["lines"], lambda lines: lines > 20_000, DEADLINE_SECONDS)
        assert spooled(server, folder)
    wait_for_runs(server, 0)
    assert wait_for(lambda: spooled(server, folder), lambda names: not names, DEADLINE_SECONDS) == []


@pytest.fixture(scope="module")
def narrow(start_shared: Callable[..., LiveServer]) -> LiveServer:
    """A server with a spool of 1 MiB, lines of 64 KiB and many heartbeats."""
    return start_shared(
        *("--simulate", "--memory-bytes", "65536", "--spool-bytes", str(MIB), "--line-bytes", "65536"),
        *("--heartbeat-seconds", "0.1"),
    )


def test_full_spool_ends_the_run_with_overflow(narrow: LiveServer) -> None:
    """A client that is too far behind is told so, after what could be kept; the process is dead."""
    with connect(narrow, receive_buffer=SMALL_BUFFER) as client:
        client.send(spawn_bytes("!lines 60000 1000\n!wait"))
        _, headers = client.head()
        wait_for_runs(narrow, 0)
        assert agents(narrow) == []
        found = list(events(client.parts(headers)))
    *outputs, last = found
    assert last["code"] == "overflow"
    assert str(MIB) in last["error"]
    kept = [event["data"] for event in outputs][1:]
    assert kept == numbered(len(kept), 1000)


def test_longest_line_passes_and_a_longer_one_is_overflow(narrow: LiveServer) -> None:
    """The limit is exact enough: a line of it passes, one far over it ends the run and is not cut."""
    with connect(narrow) as client:
        client.send(spawn_bytes("!big 65536"))
        assert len(data_of(client.whole())[0]) == 65535
        client.send(spawn_bytes("!big 200000\n!wait"))
        *outputs, last = client.whole()
        assert last["code"] == "overflow"
        assert "65536" in last["error"]
        assert len(outputs) == 1


def test_heartbeat_in_silence(narrow: LiveServer) -> None:
    """A comment line is sent after each silence, before any output and between."""
    with connect(narrow) as client:
        client.send(spawn_bytes("!wait"))
        _, headers = client.head()
        body = b""
        for part in client.parts(headers):
            body += part
            if body.count(b": heartbeat\n\n") >= 3:
                break
    assert body.split(b"\n\n").count(b": heartbeat") >= 3


@pytest.fixture(scope="module")
def strict(start_shared: Callable[..., LiveServer]) -> LiveServer:
    """A server that gives a client that takes nothing one second."""
    return start_shared("--simulate", "--client-stall-seconds", "1")


def test_stalled_client_ends_its_run(strict: LiveServer) -> None:
    """A client that takes no byte for too long loses its run: the process dies, the log says why."""
    with connect(strict, receive_buffer=SMALL_BUFFER) as client:
        client.send(spawn_bytes("!lines 20000 1000\n!wait"))
        client.head()
        tree = agents(strict)
        (ended,) = wait_for_log(strict, "run ended")
        assert ended["code"] == "stalled"
        assert still_alive(tree) == []
        assert agents(strict) == []
        assert client.is_ended()


def test_slow_but_steady_client_is_not_stalled(start_server: Callable[..., LiveServer]) -> None:
    """A client that keeps taking a little is served to the end, however long it needs."""
    server = start_server("--simulate", "--client-stall-seconds", "5")
    with connect(server, receive_buffer=SMALL_BUFFER) as client:
        client.send(spawn_bytes("!lines 20000 1000\nhello"))
        _, headers = client.head()
        end = time.monotonic() + 8
        while time.monotonic() < end:  # the pace is the point here
            client.rest += client.sock.recv(STEADY_BYTES)
            time.sleep(STEADY_PAUSE)
        found = list(events(client.parts(headers)))
    assert found[-1]["type"] == "completed"
    assert len(found) == 20_004
