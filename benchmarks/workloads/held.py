"""Streams that are held open: what they cost while nothing happens, and how fast their runs die."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Callable, Iterator

from benchmarks.load import warm_up
from benchmarks.processes import running
from benchmarks.servers import BrokenRun, Contestant, Server, Tools, started, tail

DEADLINE_SECONDS = 60.0
HOLD_SECONDS = 3.0
DONE = b"\r\n0\r\n\r\n"  # the last chunk
RUN_ID = b"x-q9gent-run-id: "


class Exchange:
    """A request on a connection of its own, and what has come back."""

    def __init__(self, port: int, path: str, body: object) -> None:
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        self.request = f"{head}content-length: {len(content)}\r\n\r\n".encode() + content
        self.received = b""
        self.ended = False
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS)

    def send(self) -> None:
        """Send the request."""
        self.socket.sendall(self.request)

    def read(self) -> None:
        """Take what has come."""
        data = self.socket.recv(65536)
        self.received += data
        self.ended = self.ended or not data

    @property
    def run_id(self) -> str:
        """The run's id, from the head of the response."""
        return self.received.partition(RUN_ID)[2].partition(b"\r")[0].decode()


def read_until(exchanges: list[Exchange], wanted: Callable[[Exchange], bool]) -> None:
    """Read all until each has what is wanted.

    Raises:
        BrokenRun: It has not within ``DEADLINE_SECONDS``, or has ended before.
    """
    end = time.monotonic() + DEADLINE_SECONDS
    poll = select.epoll(max(1, len(exchanges)))
    by_fd = {exchange.socket.fileno(): exchange for exchange in exchanges if not wanted(exchange)}
    with contextlib.closing(poll):
        for fd in by_fd:
            poll.register(fd, select.EPOLLIN)
        while by_fd:
            ready = poll.poll(end - time.monotonic()) if time.monotonic() < end else []
            if not ready:
                raise BrokenRun(f"{len(by_fd)} of {len(exchanges)} streams do not come to what is awaited")
            for fd, _events in ready:
                exchange = by_fd[fd]
                exchange.read()
                if wanted(exchange):
                    poll.unregister(by_fd.pop(fd).socket)
                elif exchange.ended:
                    raise BrokenRun(f"a stream ended early: {exchange.received[-200:]!r}")


@contextlib.contextmanager
def holding(server: Server, count: int) -> Iterator[list[Exchange]]:
    """Open streams whose agents have said one line and wait."""
    exchanges: list[Exchange] = []
    try:
        for _number in range(count):
            exchange = Exchange(server.port, "/spawn", {"agent_type": "bench", "prompt": "sleep"})
            exchanges.append(exchange)
            exchange.send()
        read_until(exchanges, lambda exchange: b'output"' in exchange.received)
        yield exchanges
    finally:
        for exchange in exchanges:
            exchange.socket.close()


def idle(contestant: Contestant, tools: Tools, *, streams: int) -> dict[str, float]:
    """Streams that say nothing: whether they are held, and what they take."""
    streams = min(streams, 20) if tools.quick else streams
    with started(contestant, tools) as server:
        warm_up(server, tools)
        begin = time.monotonic()
        with holding(server, streams) as exchanges:
            opened_seconds = time.monotonic() - begin
            before = server.cpu()
            time.sleep(HOLD_SECONDS)
            after = server.cpu()
            memory = server.memory()
            held = _still_open(exchanges)
            alive = len(running(tools.agent))
        if held != streams or alive != streams:
            raise BrokenRun(f"{held} of {streams} streams are open, {alive} agents alive; {tail(server.log)}")
    return {
        "held": float(held),
        "open_s": opened_seconds,
        "server_rss_mb": memory.server_rss,
        "server_pss_mb": memory.server_pss,
        "helpers_pss_mb_per_run": memory.helpers_pss / streams,
        "cpu_ms_per_s": after.since(before) / 1e6 / ((after.at - before.at) / 1e9),
    }


def memory(contestant: Contestant, tools: Tools, *, streams: int) -> dict[str, float]:
    """What a server takes when idle, and what each stream and each run add."""
    streams = min(streams, 10) if tools.quick else streams
    with started(contestant, tools) as server:
        warm_up(server, tools)
        idle_memory = server.memory()
        with holding(server, streams):
            busy = server.memory()
    return {
        "idle_rss_mb": idle_memory.server_rss,
        "idle_pss_mb": idle_memory.pss,
        "server_pss_mb_per_stream": (busy.server_pss - idle_memory.server_pss) / streams,
        "helpers_pss_mb_per_run": busy.helpers_pss / streams,
        "pss_mb_per_stream": (busy.pss - idle_memory.pss) / streams,
    }


def terminate(contestant: Contestant, tools: Tools, *, runs: int) -> dict[str, float]:
    """Runs terminated at once: the time until every answer has come, when every process must be dead."""
    runs = min(runs, 20) if tools.quick else runs
    if not contestant.ends_runs:
        raise BrokenRun("not possible: this server leaves a run's processes alive")
    with started(contestant, tools) as server:
        warm_up(server, tools)
        with holding(server, runs) as streams:
            asking = [Exchange(server.port, f"/terminate/{stream.run_id}", {}) for stream in streams]
            with contextlib.ExitStack() as stack:
                for exchange in asking:
                    stack.callback(exchange.socket.close)
                begin = time.monotonic()
                for exchange in asking:
                    exchange.send()
                read_until(asking, lambda exchange: b"terminated successfully" in exchange.received)
                answered = time.monotonic() - begin
                alive = running(tools.agent)
                read_until(streams, lambda stream: DONE in stream.received or stream.ended)
                ended = time.monotonic() - begin
        if alive:
            raise BrokenRun(f"{len(alive)} agents were alive when all had been answered")
        if not all(b'"code":"terminated"' in stream.received for stream in streams):
            raise BrokenRun("a stream did not end with `terminated`")
    return {"dead_and_answered_ms": answered * 1e3, "streams_ended_ms": ended * 1e3}


def _still_open(exchanges: list[Exchange]) -> int:
    for exchange in exchanges:
        exchange.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            exchange.read()  # a heartbeat perhaps
    return sum(not exchange.ended and DONE not in exchange.received for exchange in exchanges)
