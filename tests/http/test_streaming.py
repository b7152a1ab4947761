"""What an agent prints reaches its client, all of it and in order, however fast, large or odd it is."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from printed import data_of, numbered
from raw_client import DEADLINE_SECONDS, RawClient, spawn_bytes
from running import agents, begin, connect, log_lines, runs, wait_for_log
from sse_events import events, messages

from q9gent.output.outbox import Outbox
from q9gent.output.pump import StdoutPump
from q9gent.output.spool import Spool

if TYPE_CHECKING:
    from server_process import LiveServer

MIB = 1024 * 1024


def test_burst_arrives_exactly(client: RawClient) -> None:
    """20,000 lines printed at once come in order, none lost, none changed."""
    client.send(spawn_bytes("!lines 20000 120"))
    assert data_of(client.whole()) == numbered(20_000, 120)


class OneReadSource:
    """A pipe from which one read is made, when the test says so."""

    def __init__(self) -> None:
        self.readable = trio.Event()

    def fileno(self) -> None:
        return None

    async def receive(self, _: int) -> bytes:
        await self.readable.wait()
        return b"one\ntwo\n"

    def receive_nowait(self, _: int) -> bytes:
        return b""


def test_what_was_read_when_the_tree_died_is_kept() -> None:
    """Stopped in the very moment in which a read succeeds, the pump still passes on what was read."""

    async def main() -> bytes:
        source = OneReadSource()
        outbox = Outbox(0, Spool(MIB, None))  # no memory: each event goes to the disk, which waits
        pump = StdoutPump(SimpleNamespace(stdout=source), outbox, line_bytes=MIB)  # type: ignore[arg-type]
        with trio.fail_after(DEADLINE_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump.run)
                await trio.testing.wait_all_tasks_blocked()
                source.readable.set()
                pump.stop()
            outbox.finish(b"")
            taken = await outbox.take()
            outbox.close()
            return taken

    assert [event["data"] for event in events([trio.run(main)])] == ["one", "two"]


def test_a_line_of_8_mib_passes(client: RawClient) -> None:
    """A tool's result may be one enormous line."""
    client.send(spawn_bytes(f"!big {8 * MIB}"))
    found = client.whole()
    (line,) = data_of(found)
    assert len(line) == 8 * MIB - 1
    assert set(json.loads(line)["pad"]) == {"x"}
    assert found[-1]["type"] == "completed"


@pytest.mark.parametrize(
    ("printed", "arriving"),
    [
        (b"\xff\xfe\xe2\x82\n", ["\ufffd\ufffd\ufffd"]),
        (b"a\xed\xa0\x80b\n", ["a\ufffd\ufffd\ufffdb"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"a\rb\n", ["a\rb"]),
        (b"\n\r\n\n  \n", ["  "]),
        (b"nul\0tab\tesc\x1b\n", ["nul\0tab\tesc\x1b"]),
        ("\x85 \u2028 \u2029 \x0b \x0c".encode() + b"\n", ["\x85 \u2028 \u2029 \x0b \x0c"]),
        (b"data: {}\n\ndata: x\n: c\nevent: y\n", ["data: {}", "data: x", ": c", "event: y"]),
        ("\U0001f600 \U0010ffff é".encode() + b"\n", ["\U0001f600 \U0010ffff é"]),
        (b'not "json" \\ {\n', ['not "json" \\ {']),
    ],
)
def test_odd_lines_arrive_as_they_are(client: RawClient, printed: bytes, arriving: list[str]) -> None:
    """Line ends go, invalid UTF-8 becomes U+FFFD, empty lines are skipped, everything else stays."""
    client.send(spawn_bytes(f"!hex {printed.hex()}"))
    assert data_of(client.whole()) == arriving


def test_no_client_can_take_a_character_for_a_line_end(client: RawClient) -> None:
    """What Unicode counts as a line end stands escaped in the stream."""
    odd = "\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e\r"
    client.send(spawn_bytes(f"!hex {(odd + 'x').encode().hex()}0a"))
    text = client.answer().body.decode()
    assert text.splitlines() == text.split("\n")[:-1]


def test_last_line_needs_no_line_end(client: RawClient) -> None:
    """A CLI that ends without a newline loses nothing."""
    client.send(spawn_bytes("!no-newline\nhello"))
    found = client.whole()
    assert messages(found)[-1]["type"] == "result"
    assert found[-1]["type"] == "completed"


def test_events_come_as_they_are_printed(shared: LiveServer) -> None:
    """A line is not held back until more come: the first is here while the agent still waits."""
    with connect(shared) as client:
        begin(client, "!say first")
        assert len(runs(shared)) == 1


def test_stderr_is_logged_and_never_sent(client: RawClient, shared: LiveServer) -> None:
    """Stderr stays out of the stream and does not end it; the log has it as data."""
    client.send(spawn_bytes('!stderr oops {"event":"forged"}\nhello'))
    found = client.whole()
    assert "oops" not in json.dumps(found)
    assert found[-1]["type"] == "completed"
    wait_for_log(shared, "agent stderr")
    assert log_lines(shared, "agent stderr")[-1]["text"] == 'oops {"event":"forged"}'
    assert log_lines(shared, "forged") == []


@pytest.mark.parametrize(
    ("prompt", "code", "fields"),
    [
        ("!exit 3", "exit", {"exit_code": 3}),
        ("!signal 9", "signal", {"signal": 9}),
        ("!signal 11", "signal", {"signal": 11}),
    ],
)
def test_failure_is_told_with_its_code(
    client: RawClient, prompt: str, code: str, fields: dict[str, int]
) -> None:
    """A process that fails ends the stream with the reason, after all that it printed."""
    client.send(spawn_bytes(f"!say before\n{prompt}"))
    *outputs, last = client.whole()
    assert len(outputs) == 2
    assert last == {
        "type": "error",
        "error": last["error"],
        "code": code,
        **fields,
        "duration_ms": last["duration_ms"],
        "killed": 0,
    }
    assert last["error"].startswith("Process execution failed: ")


def test_what_stays_behind_is_killed_before_completed(client: RawClient, shared: LiveServer) -> None:
    """The terminal event comes after the last death, and counts who had to be killed."""
    client.send(spawn_bytes("!child setsid 2\n!child hold-stdout\nhello"))
    found = client.whole()
    assert found[-1]["type"] == "completed"
    assert found[-1]["killed"] == 3
    assert agents(shared) == []


def test_no_heartbeat_while_there_is_output(client: RawClient) -> None:
    """With the default of 15 s a short turn has none."""
    client.send(spawn_bytes("!sleep 0.2"))
    assert b"heartbeat" not in client.answer().body
