"""The programs of docs/how-to/extend.md: each is run as it stands there, and does what the page says."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from process_scan import wait_for
from program import listening
from raw_client import DEADLINE_SECONDS, RawClient, request_bytes
from sse_events import answer, session_of, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from program import Program

PAGE = Path(__file__).resolve().parents[2] / "docs/how-to/extend.md"
PROGRAMS = dict(
    re.findall(r'^```python title="(\w+)\.py"\n(.*?)^```$', PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
)


class Served:
    """A program of the page that serves, and a client of it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        found = wait_for(self._ports, bool, DEADLINE_SECONDS)
        assert found, f"{program.out}\n{program.err}"
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{found[0]}", trust_env=False, timeout=DEADLINE_SECONDS
        )

    def spawn(self, path: str = "/spawn", **fields: object) -> list[dict[str, Any]]:
        body = (
            {"prompt": "Hello!", **fields}
            if "message" in path
            else {"agent_type": "t", "prompt": "Hello!", **fields}
        )
        with self.client.stream("POST", path, json=body) as response:
            assert response.status_code == 200, response.read()
            return whole(response.iter_raw())

    def _ports(self) -> list[int]:
        assert self.program.process.poll() is None, f"{self.program.out}\n{self.program.err}"
        return listening(self.program.process.pid)


@pytest.fixture
def serve(start_program: Callable[..., Program]) -> Iterator[Callable[..., Served]]:
    """Run a program of the page; afterwards it must stop in order."""
    served: list[Served] = []

    def start(name: str, **environment: str) -> Served:
        program = start_program(
            *(sys.executable, "-c", PROGRAMS[name]), Q9GENT_PORT="0", Q9GENT_SIMULATE="1", **environment
        )
        served.append(Served(program))
        return served[-1]

    yield start
    for one in served:
        one.client.close()
        assert one.program.stop() == 0, one.program.err
        assert "Traceback" not in one.program.err, one.program.err


def test_the_page_has_these_programs() -> None:
    """One for each extension point; each is run below."""
    assert set(PROGRAMS) == {"minimal", "routes", "middleware", "store", "beside"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_application_is_served_and_stops_at_a_signal(serve: Callable[..., Served], number: int) -> None:
    """In order: a live run's stream is told, and nothing it started is left."""
    served = serve("minimal")
    body = {"agent_type": "t", "prompt": "!child setsid\n!wait"}
    with served.client.stream("POST", "/spawn", json=body) as response:
        chunks = response.iter_raw()
        first = next(chunks)
        served.program.process.send_signal(number)
        events = whole([first, *chunks])
    assert events[-1]["code"] == "shutdown"
    assert served.program.exit_status() == 0


def test_a_taken_port_is_one_exception(start_program: Callable[..., Program]) -> None:
    """A bind error with its reason, not a group of others."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = start_program(sys.executable, "-c", PROGRAMS["minimal"], Q9GENT_PORT=str(port))
        assert program.exit_status() == 1
    last = program.err.splitlines()[-1]
    assert last.startswith(f"q9gent.http.serve.BindError: cannot listen on 127.0.0.1:{port}: ")


def test_added_routes_are_served(serve: Callable[..., Served]) -> None:
    """Of the application and of a blueprint, beside q9gent's own."""
    served = serve("routes")
    assert served.client.get("/whoami").json() == {"service": "reviews"}
    assert served.client.get("/health").json()["status"] == "ok"
    with served.client.stream("POST", "/spawn", json={"agent_type": "t", "prompt": "!wait"}) as response:
        chunks = response.iter_raw()
        first = next(chunks)
        assert served.client.post("/admin/terminate-all").json() == {"terminated": 1}
        assert whole([first, *chunks])[-1]["code"] == "terminated"
    assert served.client.get("/whoami", headers={"host": "evil.example"}).status_code == 421
    assert set(served.client.post("/whoami").json()) == {"error"}


def test_middleware_sees_each_request_first(serve: Callable[..., Served]) -> None:
    """Without the token nobody passes; with it, everything works as ever, streams too."""
    served = serve("middleware", API_TOKEN="secret")
    refused = served.client.post("/spawn", json={"agent_type": "t", "prompt": "Hello!"})
    assert refused.status_code == 401
    assert set(refused.json()) == {"error"}
    served.client.headers["authorization"] = "Bearer secret"
    assert "Hello!" in answer(served.spawn())


def test_an_answer_before_the_whole_request_says_that_it_is_the_last(serve: Callable[..., Served]) -> None:
    """A client that did not know would send its next request to a connection that is being closed."""
    served = serve("middleware", API_TOKEN="secret")
    with RawClient(("127.0.0.1", served.client.base_url.port or 0)) as client:
        address = client.sock.getpeername()
        client.send(request_bytes("POST", "/spawn", None, "Content-Length: 2"))
        refused = client.answer()
        assert (refused.status, refused.headers["connection"]) == (401, "close")
        client.send(b"{}")
        assert client.end() == b""
    with RawClient(address) as client:
        assert "connection" not in client.ask("POST", "/spawn", "{}").headers
        assert "connection" not in client.ask("POST", "/spawn", "{}").headers


def test_sessions_are_kept_elsewhere(serve: Callable[..., Served]) -> None:
    """Stored, listed, continued and forgotten through the store that was given, and no file is made."""
    served = serve("store")
    session_id = session_of(served.spawn(create_session=True))
    (listed,) = served.client.get("/sessions").json()["sessions"]
    assert listed["session_id"] == session_id
    assert "Hello!" in json.dumps(served.spawn(f"/message/{session_id}", prompt="And?"))
    assert served.client.delete(f"/sessions/{session_id}").status_code == 200
    assert served.client.get("/sessions").json() == {"sessions": []}
    assert served.client.delete(f"/sessions/{session_id}").status_code == 404
    assert {path.name for path in Path(served.program.folder).glob("sessions*")} == {"sessions.db"}


def test_a_store_that_fails_is_told_as_one(serve: Callable[..., Served]) -> None:
    """With its reason."""
    served = serve("store")
    assert served.client.get("/sessions").status_code == 200  # it listens before it has looked at its store
    (Path(served.program.folder) / "sessions.db").write_bytes(b"no database" * 100)
    failed = served.client.get("/sessions")
    assert failed.status_code == 500
    assert failed.json()["error"].startswith("Session storage failed: ")


def test_a_server_is_a_task_beside_others(start_program: Callable[..., Program]) -> None:
    """It tells where it listens, and ends when its trigger does."""
    program = start_program(sys.executable, "-c", PROGRAMS["beside"])
    assert program.exit_status() == 0, program.err
    assert "Hello!" in program.out
    assert '"type":"completed"' in program.out
