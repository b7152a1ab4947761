"""Commands and a run that has ended by itself: what may have survived it is not said to be dead.

The server is a scripted one, as no run of ours leaves survivors.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from q9gent.containment.protocol import Death, ExitStatus
from q9gent.ending import Ending
from q9gent.wire.events import encode_event, encode_output

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    Q9gent = Callable[..., subprocess.CompletedProcess[str]]

SECONDS = 60.0
RUN_ID = "0b0e4f5c-58a5-4d35-9f5c-2f1f4f3b6c11"
OUTPUT = encode_output(b"x" * 100)[0] * 5000
"""More than a pipe takes from a command whose output nobody reads."""


def ends(death: Death | None) -> bytes:
    """The terminal event of a run that ended by itself, as the server writes it."""
    ending = Ending(cause=None, detail="", status=ExitStatus(code=0), death=death, duration_ms=1)
    return encode_event(ending.terminal_event())


PATIENT = """
import importlib
for name in "q9gent.cli.run", "q9gent.client._protocol":
    importlib.import_module(name).REST_SECONDS = 60.0
importlib.import_module("q9gent.cli").main()
"""
"""q9gent that gives the rest of a stream more time, as a busy system can hold it for longer."""

FAILED = ": Process execution failed"
SURVIVED = ends(Death(killed=1, survivors=(7,)))


class Ended(BaseHTTPRequestHandler):
    """Lists one run, streams it, and says that there is none to be terminated."""

    ending = b""

    def do_GET(self) -> None:
        run = {"run_id": RUN_ID, "session_id": None, "agent_type": "a", "pid": 7, "started_at": 0}
        self._answer(200, {"runs": [{**run, "lines": 0, "bytes": 0, "processes": 1}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/spawn":
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("x-q9gent-run-id", RUN_ID)
            self.end_headers()
            self.wfile.write(OUTPUT + self.ending)
        else:
            self._answer(404, {"error": f"No running process for: {RUN_ID}"})

    def _answer(self, status: int, content: object) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(ending: bytes = b"") -> Iterator[str]:
    """Serve; gives the address."""
    handler = type("Ended", (Ended,), {"ending": ending})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(SECONDS)


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (SURVIVED, f"{FAILED}: processes could not be killed: 7 (code: survivors)"),
        (
            ends(None),
            f"{FAILED}: containment was lost: whether any of its processes lives is not known (code: internal)",
        ),
        (ends(Death()), ": every process of it is dead, none had to be killed (code: completed)"),
        (b"", "; whether all of its processes are dead is not known"),
    ],
)
def test_an_interrupt_tells_what_survived_an_end_that_was_not_shown(
    start: Any, ending: bytes, words: str
) -> None:
    """As with `q9gent run … | less`: output that nobody reads stands before the event that tells."""
    with serving(ending) as url:
        process = start("run", "--json", "--url", url, "x", program=[sys.executable, "-c", PATIENT])
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
        assert process.stderr.read().splitlines() == [
            "q9gent: interrupted: ending the run; ^C again does not wait for it",
            f"q9gent: interrupted: the run had ended already{words}",
        ]


def test_survivors_are_told_although_the_reader_has_gone(start: Any) -> None:
    """As with `q9gent run … | head -1`: standard error is still there."""
    with serving(SURVIVED) as url:
        process = start("run", "--json", "--url", url, "x", program=[sys.executable, "-c", PATIENT])
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(SECONDS) == 1
        (told,) = process.stderr.read().splitlines()
    assert told.endswith("processes could not be killed: 7")


@pytest.mark.parametrize("argument", ["--all", RUN_ID[:8]])
def test_kill_does_not_call_a_run_dead_that_it_did_not_end(q9gent: Q9gent, argument: str) -> None:
    """It was live when it was looked up: no failure, and no id as of a run that is dead."""
    with serving() as url:
        done = q9gent("kill", "--url", url, argument)
    name = RUN_ID if argument == "--all" else argument
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"q9gent: {name}: the run had ended already\n"
