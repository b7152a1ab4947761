"""When a run ends, for whatever reason, nothing that it started is alive.

The stand-in has the CLI run a real Bash tool, whose children try to get away: a new session, a
double fork, a scrubbed environment, deafness to signals. Each carries the run's token in its
command line, by which the process table is searched; the server has no part in the proof.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import struct
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
from api_script import Call, Held, Reply, Text, ToolUse, tool_then_text
from process_scan import GONE_SECONDS, Found, descendants, still_alive, stop, wait_for, with_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from messages_api import MessagesApi
    from server_process import LiveServer

APPEAR_SECONDS = 30.0

# What gets away from a process group, from a session, and from a search of the environment. `%s` is
# a command that runs for ever and carries the token.
ESCAPES = {
    "session": "setsid nohup %s >/dev/null 2>&1 </dev/null &",
    "scrubbed": "env -i setsid -f %s >/dev/null 2>&1 </dev/null",
    "double fork": "( ( %s >/dev/null 2>&1 </dev/null & ) & )",
    "deaf": "setsid -f sh -c 'trap \"\" TERM INT HUP; while :; do %s; done' >/dev/null 2>&1",
}


class Tree:
    """A run's wished-for processes: the escapees, and, unless it is to end, one in front."""

    def __init__(self, server: LiveServer, *, front: str) -> None:
        self.token = server.run_token()
        file = os.path.join(server.work_folder, f"{self.token}.log")
        with open(file, "wb"):
            self._tail = f"tail -f {file}"
        escapes = [escape % self._tail for escape in ESCAPES.values()]
        self.command = "\n".join([*escapes, front.replace("TAIL", self._tail)])

    @property
    def prompt(self) -> str:
        """A short prompt, so that the CLI's own command line carries the token too."""
        return f"go {self.token}"

    def alive(self) -> list[Found]:
        return with_token(self.token)

    def wait_until_there(self, tails: int) -> list[Found]:
        """Wait for the processes that were wished for, and return all that carry the token."""
        found = wait_for(
            self.alive,
            lambda seen: sum(one.command.startswith("tail -f") for one in seen) >= tails,
            APPEAR_SECONDS,
        )
        count = sum(one.command.startswith("tail -f") for one in found)
        assert count >= tails, f"{count} of {tails}:\n" + "\n".join(map(str, found))
        return found


def shown(found: list[Found]) -> str:
    return "alive:\n" + "\n".join(map(str, found))


@pytest.fixture
def trees(server: LiveServer, api: MessagesApi) -> Callable[..., Tree]:
    """Make trees: the stand-in asks for each one's command when its prompt comes."""
    known: dict[str, Tree] = {}

    def script(call: Call) -> Reply:
        for token, tree in list(known.items()):  # the test may plant another meanwhile
            if token in call.prompt:
                use = ToolUse("Bash", {"command": tree.command, "description": "start"})
                return tool_then_text(use)(call)
        return Text("aside")

    api.script = script

    def plant(front: str = "TAIL") -> Tree:
        tree = Tree(server, front=front)
        known[tree.token] = tree
        return tree

    return plant


ALLOW = {"tools_allowed": ["Bash"], "flags": ["--dangerously-skip-permissions"]}
TAILS = len(ESCAPES) + 1


def spawn_body(tree: Tree) -> dict[str, object]:
    return {"agent_type": "test", "prompt": tree.prompt, **ALLOW}


@contextmanager
def connection(server: LiveServer, tree: Tree) -> Iterator[socket.socket]:
    """A plain socket on which a spawn has been asked for."""
    body = json.dumps(spawn_body(tree)).encode()
    head = (
        f"POST /spawn HTTP/1.1\r\nHost: {server.host}:{server.port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((server.host, server.port), timeout=APPEAR_SECONDS) as opened:
        opened.sendall(head.encode() + body)
        yield opened


def close(opened: socket.socket) -> None:
    """Read what has come, then close: the server sees an orderly end."""
    opened.recv(1 << 20)
    opened.close()


def reset(opened: socket.socket) -> None:
    """Close without lingering: the server sees a reset."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    opened.close()


def half_close(opened: socket.socket) -> None:
    """Close the sending side alone, which counts as going away."""
    opened.shutdown(socket.SHUT_WR)


def assert_gone(server: LiveServer, tree: Tree, before: list[Found], seconds: float) -> None:
    """Prove that nothing of the tree is alive by then: by the table and by the pids seen."""
    # Both at once: a process that is dying has lost its command line before it is a zombie.
    left = wait_for(lambda: tree.alive() + still_alive(before), lambda found: not found, seconds)
    assert not left, f"{shown(left)}\n{server.log}"


def assert_no_zombie(server: LiveServer, seconds: float = 0) -> None:
    """Prove that what died under the server was also reaped by then."""

    def zombies() -> list[Found]:
        return [one for one in descendants(server.process.pid) if one.state == "Z"]

    left = wait_for(zombies, lambda found: not found, seconds)
    assert not left, shown(left)


def test_terminate_answers_when_all_are_dead(server: LiveServer, trees: Callable[..., Tree]) -> None:
    """There is no waiting after the 200; the stream ends with `terminated`; the session is free."""
    tree = trees()
    with server.started(tree.prompt, **ALLOW) as (session, stream):
        before = tree.wait_until_there(TAILS)
        ended = server.terminate(session)
        assert_gone(server, tree, before, 0)
        assert_no_zombie(server)
        assert ended.status_code == 200, ended.text
        assert ended.json()["message"] == "Process terminated successfully"
        last = list(stream)[-1]
    assert last["type"] == "error"
    assert last["code"] == "terminated"
    assert server.terminate(session).status_code == 404


def test_terminate_twice_at_once(server: LiveServer, trees: Callable[..., Tree]) -> None:
    """Both answer 200, and neither before all are dead."""
    tree = trees()
    with server.started(tree.prompt, **ALLOW) as (session, stream), ExitStack() as closing:
        before = tree.wait_until_there(TAILS)
        ends = [http.client.HTTPConnection(server.host, server.port, timeout=45) for _ in range(2)]
        for one in ends:
            closing.callback(one.close)
            one.request("GET", "/health")
            one.getresponse().read()
        stop(server.process.pid)  # it finds both when it goes on
        for one in ends:
            one.request("POST", f"/terminate/{session}")
        server.process.send_signal(signal.SIGCONT)
        assert select.select([one.sock for one in ends], [], [], 45)[0]
        assert tree.alive() == []
        assert [one.getresponse().status for one in ends] == [200, 200]
        assert list(stream)[-1]["code"] == "terminated"
    assert_gone(server, tree, before, 0)


@pytest.mark.parametrize("leave", [close, reset, half_close])
def test_client_that_goes_away_ends_its_run(
    server: LiveServer, trees: Callable[..., Tree], leave: Callable[[socket.socket], None]
) -> None:
    """A closed, a reset and a half-closed connection each end the run; the server serves on."""
    tree = trees()
    with connection(server, tree) as opened:
        before = tree.wait_until_there(TAILS)
        leave(opened)
        assert_gone(server, tree, before, GONE_SECONDS)
    assert_no_zombie(server, GONE_SECONDS)
    assert server.client.get("/health").status_code == 200


def test_client_that_goes_away_at_once(server: LiveServer, trees: Callable[..., Tree]) -> None:
    """Five clients leave when they have asked, five when their CLI starts: no CLI stays, or comes later.

    Nor is it an error of the server.
    """
    planted = [trees() for _ in range(10)]
    for number, tree in enumerate(planted):
        with connection(server, tree) as opened:
            if number % 2:
                assert wait_for(tree.alive, bool, APPEAR_SECONDS)
            reset(opened)
    for tree in planted:
        assert_gone(server, tree, [], GONE_SECONDS)
    probe = trees(front="echo done")
    assert server.spawn(probe.prompt, **ALLOW)[-1]["type"] == "completed"
    for tree in planted:  # a request that was read late started its CLI late
        assert_gone(server, tree, [], GONE_SECONDS)
    assert '"level": "error"' not in server.log, server.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_shutdown_ends_every_run(server: LiveServer, trees: Callable[..., Tree], number: int) -> None:
    """Each stream is told `shutdown`; when the server has exited, with 0, all are dead."""
    planted = [trees() for _ in range(3)]
    with ExitStack() as stack:
        streams = [stack.enter_context(server.started(tree.prompt, **ALLOW)) for tree in planted]
        before = [one for tree in planted for one in tree.wait_until_there(TAILS)]
        status = server.signal(number)
        assert not still_alive(before), shown(still_alive(before))
        assert status == 0, server.log
        lasts = [list(stream)[-1] for _, stream in streams]
    assert [(last["type"], last["code"]) for last in lasts] == [("error", "shutdown")] * 3
    for tree in planted:
        assert_gone(server, tree, [], 0)


def test_killed_server_takes_every_run_along(server: LiveServer, trees: Callable[..., Tree]) -> None:
    """SIGKILL leaves the server no chance to clean up; its runs die all the same, in 5 seconds."""
    planted = [trees() for _ in range(3)]
    with ExitStack() as stack:
        for tree in planted:
            stack.enter_context(server.post("/spawn", spawn_body(tree)))
        before = [one for tree in planted for one in tree.wait_until_there(TAILS)]
        assert server.signal(signal.SIGKILL) == -signal.SIGKILL
        for tree in planted:
            assert_gone(server, tree, before, GONE_SECONDS)


# What stands in front of a turn that is to end: nothing more; the tool's output held open; the CLI's
# own output, the pipe that the server reads, held open by way of its descriptor.
FRONTS = {
    "nothing": "echo started",
    "the tool's output": "setsid -f TAIL; echo started",
    "the CLI's output": "setsid -f TAIL >/proc/$PPID/fd/1; echo started",
}


@pytest.mark.parametrize("front", FRONTS.values(), ids=FRONTS.keys())
def test_exit_that_leaves_children_behind(
    server: LiveServer, api: MessagesApi, trees: Callable[..., Tree], front: str
) -> None:
    """The turn ends well; `completed` comes after the death of all that it left running."""
    tree = trees(front=front)
    ask, released = api.script, threading.Event()
    api.script = lambda call: Held(released) if call.tool_results else ask(call)
    with server.started(tree.prompt, **ALLOW) as (_, stream):
        before = tree.wait_until_there(len(ESCAPES) + ("TAIL" in front))
        released.set()
        found = list(stream)
        assert_gone(server, tree, before, 0)
    assert_no_zombie(server)
    assert found[-1]["type"] == "completed"


def test_crash_of_the_cli(server: LiveServer, trees: Callable[..., Tree]) -> None:
    """The CLI is killed by its own tool: the signal is told when all it left is dead."""
    tree = trees(front="until [ -e go ]; do sleep 0.05; done; kill -9 $PPID; TAIL")
    with server.started(tree.prompt, **ALLOW) as (_, stream):
        before = tree.wait_until_there(len(ESCAPES))
        with open(os.path.join(server.work_folder, "go"), "wb"):
            found = list(stream)
        assert_gone(server, tree, before, 0)
    assert_no_zombie(server)
    assert found[-1]["type"] == "error"
    assert found[-1]["code"] == "signal"
    assert found[-1]["signal"] == signal.SIGKILL
