"""What is asked of a live server beside HTTP: its log, its runs, its descriptors and its processes."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from process_scan import Found, descendants, links, still_alive, wait_for
from raw_client import DEADLINE_SECONDS, RawClient, spawn_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server_process import LiveServer
    from sse_events import Event

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


def address_of(server: LiveServer) -> tuple[str, int]:
    """Where a server listens."""
    return server.host, server.port


def connect(server: LiveServer, *, receive_buffer: int | None = None) -> RawClient:
    """Open a connection."""
    return RawClient(address_of(server), receive_buffer=receive_buffer)


def log_lines(server: LiveServer, event: str | None = None) -> list[dict[str, Any]]:
    """The server's log lines, each of which must be JSON; those of one event if it is named."""
    found = [json.loads(line) for line in server.log.splitlines() if line.endswith("}")]
    return [line for line in found if event is None or line["event"] == event]


def wait_for_log(server: LiveServer, event: str, count: int = 1) -> list[dict[str, Any]]:
    """Wait until a line of that event has been written `count` times."""
    found = wait_for(lambda: log_lines(server, event), lambda seen: len(seen) >= count, DEADLINE_SECONDS)
    assert len(found) >= count, server.log
    return found


def runs(server: LiveServer) -> list[dict[str, Any]]:
    """What `GET /runs` lists."""
    return list(server.client.get("/runs").json()["runs"])


def wait_for_runs(server: LiveServer, count: int) -> list[dict[str, Any]]:
    """Wait until exactly `count` runs are live."""
    found = wait_for(lambda: runs(server), lambda seen: len(seen) == count, DEADLINE_SECONDS)
    assert len(found) == count, found
    return found


def next_line(stream: Iterator[Event], subtype: str) -> dict[str, Any]:
    """Read events until the simulated agent's line of that subtype."""
    for event in stream:
        if event["type"] == "output":
            line = json.loads(event["data"])
            if line.get("subtype") == subtype:
                return dict(line)
    raise AssertionError(f"no {subtype!r} line")


def begin(client: RawClient, prompt: str = "", **fields: object) -> Iterator[Event]:
    """Start a run that waits for ever, and read until it does; `prompt` comes before that."""
    client.send(spawn_bytes(f"{prompt}\n!wait", **fields))
    stream = client.stream()
    next_line(stream, "waiting")
    return stream


def agents(server: LiveServer) -> list[Found]:
    """The simulated agents and their descendants that live below a server."""
    return [
        found
        for found in descendants(server.process.pid)
        if "simulator.py" in found.command and found.state != "Z"
    ]


def wait_until_dead(processes: list[Found]) -> None:
    """Wait until none of them runs."""
    assert processes, "there must be something that can die"
    left = wait_for(lambda: still_alive(processes), lambda found: not found, DEADLINE_SECONDS)
    assert not left, left


def descriptors(server: LiveServer) -> list[str]:
    """What the server's open descriptors are."""
    return links(server.process.pid)


def sockets(server: LiveServer) -> int:
    """How many sockets the server has open."""
    return sum(target.startswith("socket:") for target in descriptors(server))


def is_dead(pid: int) -> bool:
    """Wait until the system knows no such process, not even a zombie."""
    return bool(wait_for(lambda: not os.path.exists(f"/proc/{pid}"), bool, DEADLINE_SECONDS))
