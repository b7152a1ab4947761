"""HTTP callers of a server under test: each a socket of its own, to be left in any way."""

from __future__ import annotations

import functools
import http.client
import json
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Self

from process_scan import GONE_SECONDS, Found, everyone, wait_for
from server_process import belonging
from sse_events import Event, events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from server_process import LiveServer

READ_SECONDS = 45.0


class Caller:
    """One request on a connection of its own; closed when the block is left."""

    def __init__(self, server: LiveServer, method: str, path: str, body: object = None) -> None:
        self._desk = desk_of(server)
        self._connection = http.client.HTTPConnection(server.host, server.port, timeout=READ_SECONDS)
        self._connection.connect()
        assert self._connection.sock is not None
        self.socket = self._connection.sock
        content = None if body is None else json.dumps(body).encode()
        headers = {} if content is None else {"Content-Type": "application/json"}
        self._connection.request(method, path, content, headers)
        self._response: http.client.HTTPResponse | None = None
        self._events: Iterator[Event] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    @property
    def response(self) -> http.client.HTTPResponse:
        """The answer's head, waited for."""
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    def answer(self) -> tuple[int, Any]:
        """The status and the JSON of the answer."""
        return self.response.status, json.loads(self.response.read())

    def events(self) -> Iterator[Event]:
        """The events that are still to come."""
        if self._events is None:
            assert self.response.status == 200, self.response.read()
            self._events = events(iter(lambda: self.response.read1(65536), b""))
        return self._events

    def until(self, subtype: str) -> dict[str, Any]:
        """Read on to a line of the agent's."""
        for event in self.events():
            assert event["type"] in {"output", "session_created"}, event
            if event["type"] == "output":
                line: dict[str, Any] = json.loads(event["data"])
                self._desk.sessions.add(line["session_id"])
                if line.get("subtype") == subtype:
                    return line
        raise AssertionError(f"the stream ended without {subtype!r}")

    def last(self) -> Event:
        """Read to the end: the terminal event, which there is exactly one of."""
        rest = list(self.events())
        assert [event["type"] in {"completed", "error"} for event in rest].count(True) == 1, rest
        return rest[-1]

    def leave(self) -> None:
        """Close the connection: the server sees an orderly end."""
        if self._response is not None:
            self._response.close()
        self.socket.close()
        self._connection.close()

    def reset(self) -> None:
        """Close without lingering: the server sees a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.leave()

    def half_close(self) -> None:
        """Close the sending side alone."""
        self.socket.shutdown(socket.SHUT_WR)


class Desk:
    """Makes callers of one server."""

    def __init__(self, server: LiveServer) -> None:
        self._server = server
        self._folder = os.readlink(f"/proc/{server.process.pid}/cwd")  # which its runs inherit
        self.sessions: set[str] = set()  # which a run's processes have on their command lines

    def spawn(self, prompt: str, **fields: object) -> Caller:
        """Ask for a run."""
        return Caller(self._server, "POST", "/spawn", {"agent_type": "t", "prompt": prompt, **fields})

    def message(self, session: str, prompt: str) -> Caller:
        """Ask for a session's next turn."""
        return Caller(self._server, "POST", f"/message/{session}", {"prompt": prompt})

    def asking(self, method: str, path: str) -> Caller:
        """Ask for something without a body."""
        return Caller(self._server, method, path)

    def run_id(self, caller: Caller) -> str:
        """The id of a run that has begun."""
        assert caller.response.status == 200, caller.response.read()
        return str(caller.response.headers["x-q9gent-run-id"])

    def get(self, path: str) -> tuple[int, Any]:
        """Get something."""
        with self.asking("GET", path) as caller:
            return caller.answer()

    def terminate(self, run: str) -> tuple[int, Any]:
        """Have a run ended."""
        with self.asking("POST", f"/terminate/{run}") as caller:
            return caller.answer()

    def assert_serves(self) -> None:
        """Prove that a run can be had."""
        with self.spawn("!exit 0") as caller:
            assert caller.last()["type"] == "completed"

    def agents(self) -> list[Found]:
        """The agents and all that they started, zombies left out, by the process table."""
        found = [one for one in belonging(self._server.token, self._folder) if "simulator.py" in one.command]
        found += [one for one in everyone() if any(session in one.command for session in self.sessions)]
        server = self._server.process.pid  # which may name the simulator as its `--claude-path`
        return list({one.pid: one for one in found if one.pid != server}.values())

    def assert_no_agents(self, seconds: float = GONE_SECONDS) -> None:
        """Prove that none is left by then."""
        left = wait_for(self.agents, lambda found: not found, seconds)
        assert not left, "alive:\n" + "\n".join(map(str, left))

    def runs(self) -> list[dict[str, Any]]:
        """The live runs, as the server lists them."""
        return list(self.get("/runs")[1]["runs"])

    def assert_no_runs(self) -> None:
        """Prove that none is listed in the end."""
        assert wait_for(self.runs, lambda found: not found, GONE_SECONDS) == []


@functools.cache
def desk_of(server: LiveServer) -> Desk:
    """Where a server is called at."""
    return Desk(server)


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Do something ``count`` times at once, and have the first failure out."""
    failures: list[BaseException] = []
    gate = threading.Barrier(count)

    def one(number: int) -> None:
        try:
            gate.wait(READ_SECONDS)
            work(number)
        except BaseException as error:  # raised below
            failures.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(READ_SECONDS)
    assert not any(thread.is_alive() for thread in threads)
    if failures:
        raise failures[0]
