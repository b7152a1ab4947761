"""The benchmarks: that they work, and that what went wrong is no figure."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the benchmarks read /proc", allow_module_level=True)

from benchmarks.__main__ import make_parser
from benchmarks.build import COMPILERS, build
from benchmarks.load import Turn, check, loading
from benchmarks.processes import executable
from benchmarks.report import table
from benchmarks.results import Results
from benchmarks.servers import BrokenRun, Contestant, Server, Tools
from benchmarks.targets import Target
from benchmarks.workloads import WORKLOADS, streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20.0

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="there is no C compiler")

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
OUTPUT_FIRST = (
    rb'data: {"type":"output","data":"{\"type\":\"assistant\",\"t\":5,\"x\":\"completed\"}"}' + b"\n\n"
)
OUTPUT_LAST = rb'data: {"data":"{\"t\":7}","type":"output"}' + b"\n\n"
COMPLETED = b'data: {"type":"completed","duration_ms":1}\n\n'


def chunked(*events: bytes, size: int = 1000) -> bytes:
    """A whole response with these events, in chunks of that size."""
    stream = b"".join(events)
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    return HEAD + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that gives each connection, one after another, to a function; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(SECONDS)
                    answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(SECONDS)
        assert not thread.is_alive()


def took_request(connection: socket.socket) -> bool:
    """Read one request; false at the end."""
    data = b""
    while not data.endswith(b'"}'):
        more = connection.recv(4096)
        if not more:
            return False
        data += more
    return True


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    """The client and the agent."""
    folder = str(tmp_path_factory.mktemp("bench"))
    return Tools(folder, build("agent", folder), build("load", folder))


def ask(tools: Tools, port: int, **how: object) -> tuple[list[Turn], list[tuple[int, int]]]:
    """Let the client make turns: these, and the time stamps."""
    server = Server(Contestant("fake", ()), os.getpid(), port, tools.agent, os.devnull)
    with loading(server, tools, "turn", stamps=True, **how) as load:
        return load.turns(), list(load.stamps())


@needs_compiler
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_client_reads_events_however_they_are_cut(tools: Tools, size: int) -> None:
    """Chunks of any size, types first or last: all events and stamps are found, on one kept connection."""
    connections = []

    def answer(connection: socket.socket) -> None:
        connections.append(connection)
        while took_request(connection):
            connection.sendall(chunked(OUTPUT_FIRST, b": beat\n\n", OUTPUT_LAST, COMPLETED, size=size))

    with answering(answer) as port:
        turns, stamps = ask(tools, port, turns=3)
    assert [(turn.why, turn.status, turn.events) for turn in turns] == [("ok", 200, 2)] * 3
    assert {turn.bytes for turn in turns} == {len(OUTPUT_FIRST + OUTPUT_LAST + COMPLETED)}
    assert [made for made, _read in stamps] == [5, 7] * 3
    assert len(connections) == 1


@needs_compiler
def test_client_opens_a_new_connection_when_the_kept_one_was_closed(tools: Tools) -> None:
    """A connection that the server closes between two turns is no failure."""

    def answer(connection: socket.socket) -> None:
        assert took_request(connection)
        connection.sendall(chunked(OUTPUT_LAST, COMPLETED))

    with answering(answer) as port:
        turns, _ = ask(tools, port, turns=3)
    assert [turn.why for turn in turns] == ["ok"] * 3


@needs_compiler
@pytest.mark.parametrize(
    ("response", "why"),
    [
        (chunked(OUTPUT_LAST), "not completed"),
        (chunked(OUTPUT_LAST, COMPLETED)[:-1], "cut off"),
        (HEAD[:40], "cut off"),
        (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", "refused"),
        (HEAD + b"0" * 20_000, "malformed response"),
    ],
)
def test_client_tells_failed_turns(tools: Tools, response: bytes, why: str) -> None:
    """A turn that does not end as it must is told as failed."""

    def answer(connection: socket.socket) -> None:
        assert took_request(connection)
        connection.sendall(response)

    with answering(answer) as port:
        turns, _ = ask(tools, port)
    assert [turn.why for turn in turns] == [why]


@pytest.mark.parametrize(
    "turns",
    [
        [Turn(0, 1, 2, 10, 100, 200, "not completed")],
        [Turn(0, 1, 2, 9, 100, 200, "ok")],
        [],
    ],
)
def test_broken_runs_give_no_figure(turns: list[Turn]) -> None:
    """A turn that failed, lost an event or is missing is an error."""
    server = Server(Contestant("fake", ()), os.getpid(), 0, "", os.devnull)
    check([Turn(0, 1, 2, 10, 100, 200, "ok")], 10, 1, server)
    with pytest.raises(BrokenRun):
        check(turns, 10, 1, server)


class Late:
    """A client at work on streams that were over before they were looked at."""

    def wait_ready(self) -> None:
        """They had begun."""

    def turns(self) -> list[Turn]:
        return []

    def stamps(self) -> list[tuple[int, int]]:
        return [(0, 1_000_000)]


@pytest.mark.parametrize("quick", [True, False])
def test_a_window_without_events_is_forgiven_a_quick_run_alone(
    monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    """It shows that the benchmarks work, also where the system holds a process for seconds."""
    server = Server(Contestant("fake", ()), os.getpid(), 0, "", os.devnull)
    tools = Tools("", "", "", quick=quick)
    monkeypatch.setattr(streams, "started", lambda *_: nullcontext(server))
    monkeypatch.setattr(streams, "loading", lambda *_, **__: nullcontext(Late()))
    monkeypatch.setattr(streams, "warm_up", lambda *_: None)
    monkeypatch.setattr(streams, "check", lambda *_: None)
    monkeypatch.setattr(streams, "time", SimpleNamespace(sleep=lambda _: None))
    if quick:
        assert streams.live(server.contestant, tools, streams=20)["latency_p99_ms"] == 1
    else:
        with pytest.raises(BrokenRun, match="0 events came"):
            streams.live(server.contestant, tools, streams=20)


def test_ratios_are_taken_within_a_round() -> None:
    """The median of each round's ratio, not the ratio of medians; a round that one lacks is left out."""
    results = Results()
    for number, (ours, theirs) in enumerate([(10, 1), (20, 10), (30, 30)]):
        results.add("burst", "q9gent", number, {"events_per_s": ours})
        results.add("burst", "peer", number, {"events_per_s": theirs})
    results.add("burst", "q9gent", 3, {"events_per_s": 1000})
    ratio = results.ratio("burst.events_per_s", "q9gent", "burst.events_per_s", "peer")
    assert ratio is not None
    assert (ratio.least, ratio.median, ratio.greatest) == (1, 2, 10)


@pytest.mark.parametrize(("value", "word"), [(3.0, "yes (3)"), (2.0, "NO (2)"), (None, "unknown")])
def test_table_tells_whether_a_target_is_reached(value: float | None, word: str) -> None:
    """A target stands beside its figure with the verdict; one that could not be measured is unknown."""
    results = Results()
    if value is None:
        results.broken.append(("burst", "q9gent", 0, "why not"))
    else:
        results.add("burst", "q9gent", 0, {"events_per_s": value})
        results.add("burst", "peer", 0, {"events_per_s": 1.0})
    lines = table(results, "peer").splitlines()
    [row] = [line for line in lines if line.startswith("burst.events_per_s ")]
    assert row.endswith(word)
    assert str(Target("burst.events_per_s", ">=", 2.5, "peer")) in row
    assert (value is None) == any("why not" in line for line in lines)


def test_page_has_every_workload_and_option() -> None:
    """The page's tables name the workloads and options that there are."""
    text = (ROOT / "docs/how-to/benchmarks.md").read_text(encoding="utf-8")
    first_cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = [name for cell in first_cells for name in re.findall(r"`([\w-]+)", cell)]
    options = [option for action in make_parser()._actions[1:] for option in action.option_strings]
    assert sorted(named) == sorted(options + [workload.name for workload in WORKLOADS])


@needs_compiler
@pytest.mark.timeout(320)
def test_benchmarks_run(tmp_path: Path) -> None:
    """A quick run of four workloads gives their figures, and leaves no agent alive."""
    file = tmp_path / "figures.json"
    wanted = ["burst", "live20", "turns16", "kill1"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--only", *wanted, "--json", str(file)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(file.read_text())
    assert told["broken"] == []
    assert all("q9gent" in servers for servers in told["samples"].values())
    assert {figure.partition(".")[0] for figure in told["samples"]} == set(wanted)
    assert told["samples"]["turns16.failures"]["q9gent"] == {"0": 0.0}
    programs = [executable(int(name)) for name in os.listdir("/proc") if name.isdigit()]
    assert [program for program in programs if str(tmp_path) in program] == []
