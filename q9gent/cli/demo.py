"""``q9gent demo``: the main job on a simulated agent, shown and checked.

A real server on a free port, real HTTP, real processes; only the agent is simulated. Each step is checked,
so the demo is also the shortest proof that an installation works.
"""

from __future__ import annotations

import http.client
import json
import os
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import trio

from q9gent._version import __version__
from q9gent.cli.serve import print_error, print_line
from q9gent.http.app import create_app
from q9gent.http.serve import Server, Sockets, make_config
from q9gent.log import configure_logging
from q9gent.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

STEP_SECONDS = 30.0
"""Far above what a step takes: a demo must not hang."""

SHOWN_COLUMNS = 96

HOSTILE = {
    "plain": "a child, as any tool is",
    "setsid": "in a session of its own: killpg misses it",
    "daemon": "a daemon: forked twice, its parent is gone",
    "scrubbed": "a daemon with an empty environment: no mark to know it by",
    "ignore-term": "ignores SIGTERM, SIGINT and SIGHUP",
    "hold-stdout": "holds the agent's stdout open",
}


class DemoFailed(Exception):
    """A step did not do what it must."""


def demo_command() -> int:
    """Show the main job, and return the exit status: 0 if every step did what it must."""
    configure_logging("error", "console")
    try:
        with tempfile.TemporaryDirectory(prefix="q9gent-demo-", ignore_cleanup_errors=True) as folder:
            os.environ["CLAUDE_CONFIG_DIR"] = folder  # where the simulated agent keeps its history
            settings = Settings(
                port=0, simulate=True, session_dir=os.path.join(folder, "sessions"), grace_seconds=0.5
            )
            trio.run(_demo, settings)
    except* DemoFailed as group:
        print_error(f"the demo failed: {group.exceptions[0]}")
        status = 1
    else:
        status = 0
    return status


async def _demo(settings: Settings) -> None:
    config = make_config(settings)
    sockets = Sockets(config)
    app = create_app(settings)
    server = Server(app, config, sockets)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        assert app.containment is not None
        print_line(
            f"q9gent {__version__} on {sockets.urls[0]}, with a simulated agent: no account, no network"
        )
        print_line(f"containment: {app.containment.name} ({app.containment.guarantee})")
        port = int(sockets.urls[0].rpartition(":")[2])
        modes = [mode for mode in HOSTILE if app.containment.name != "posix" or mode != "scrubbed"]
        try:
            with trio.fail_after(4 * STEP_SECONDS):
                await trio.to_thread.run_sync(_tour, Client(port), modes, abandon_on_cancel=True)
        except trio.TooSlowError:
            raise DemoFailed("it took too long") from None
        finally:
            server.stop()


def _tour(client: Client, modes: list[str]) -> None:
    _title("1. A turn: POST /spawn, its output streams back")
    events = client.turn("/spawn", agent_type="demo", prompt="Hello!", create_session=True)
    session_id = str(events[0].get("session_id"))
    _check(events[-1]["type"] == "completed", "the turn did not complete")

    _title(f"2. The session goes on: POST /message/{session_id}")
    events = client.turn(f"/message/{session_id}", prompt="What did I say before?")
    _check("Hello!" in json.dumps(events), "the session was not continued")

    _title("3. A run whose agent leaves a hostile process tree")
    prompt = "\n".join(["!ignore-term", *(f"!child {mode}" for mode in modes), "!wait"])
    with client.stream("/spawn", {"agent_type": "demo", "prompt": prompt}) as (run_id, stream):
        found = _announced(stream)
        for process, mode in found:
            _check(_lives(process), f"{mode} ({process.pid}) is not there")
            print_line(
                f"   pid {process.pid:<8} alive   {HOSTILE.get(mode, 'the agent, which ignores SIGTERM')}"
            )

        _title(f"4. POST /terminate/{run_id}")
        answer = client.post(f"/terminate/{run_id}")
        print_line("   " + json.dumps(answer))
        for process, mode in found:
            _check(not _lives(process), f"{mode} ({process.pid}) is still alive")
            print_line(f"   pid {process.pid:<8} dead")
        last = list(stream)[-1]
        print_line(f"   the stream's last event: {json.dumps(last)}")
        _check(last.get("code") == "terminated", "the stream did not say that it was terminated")
    print_line("")
    print_line("Every process is dead. Next: q9gent --simulate, or q9gent with the Claude CLI installed.")


def _announced(stream: Iterator[dict[str, Any]]) -> list[tuple[psutil.Process, str]]:
    """Read until the agent waits, and return the processes it told of, itself the last."""
    found = []
    for event in stream:
        line = json.loads(event["data"]) if event["type"] == "output" else {}
        if line.get("subtype") == "child":
            found.append((psutil.Process(line["pid"]), str(line["mode"])))
        elif line.get("subtype") == "waiting":
            found.append((psutil.Process(line["pid"]), "agent"))
            return found
    raise DemoFailed("the run ended before its agent waited")


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _title(text: str) -> None:
    print_line("")
    print_line(text)


def _check(condition: object, failure: str) -> None:
    if not condition:
        raise DemoFailed(failure)


class Client:
    """As much of a client as the demo needs."""

    def __init__(self, port: int) -> None:
        self._port = port

    def post(self, path: str) -> dict[str, Any]:
        """Send a request without a body and return the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=STEP_SECONDS)
        try:
            connection.request("POST", path)
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return answer

    @contextmanager
    def stream(self, path: str, body: dict[str, object]) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
        """Start a run; gives its id and its events."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=STEP_SECONDS)
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise DemoFailed(f"{path} answered {response.status}: {response.read().decode()}")
            yield response.headers["x-q9gent-run-id"], _events(response)
        finally:
            connection.close()

    def turn(self, path: str, **body: object) -> list[dict[str, Any]]:
        """Do a turn, show its events and return them."""
        with self.stream(path, body) as (_run_id, stream):
            events = list(stream)
        for event in events:
            print_line(f"   {_shortened(event)}")
        return events


def _shortened(event: dict[str, Any]) -> str:
    """Return an event for people: of the agent's lines only what it says."""
    if event["type"] != "output":
        return json.dumps(event)
    line = json.loads(event["data"])
    said = [part["text"] for part in line.get("message", {}).get("content", [])]
    text = f"output: {line['type']} {' '.join(said) or line.get('result') or line.get('subtype')}"
    return text if len(text) <= SHOWN_COLUMNS else text[: SHOWN_COLUMNS - 1] + "…"


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in response:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))
