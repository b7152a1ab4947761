"""Two ways to a client, one stream: the same bytes, and the same ends, on both.

The direct lane writes chunks to the socket itself; the ordinary one sends ASGI messages, as under TLS, a plain
hypercorn, HTTP/1.0 or middleware. Each test here runs on both, but for those that say which one is taken.
"""

from __future__ import annotations

import functools
import re
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import h11
import pytest
import trio
from in_process import live_runs, plain_server, q9gent_server, wait_until_no_run
from printed import data_of, numbered
from process_scan import wait_for
from raw_client import DEADLINE_SECONDS, RawClient, request_bytes, spawn_bytes
from running import next_line
from sse_events import events, whole
from structlog.contextvars import get_contextvars

from q9gent import Settings
from q9gent.http import exchange as exchange_module
from q9gent.http.lane import DirectLane
from q9gent.output import pump as pump_module
from q9gent.run import Run

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from in_process import Running

MIB = 1024 * 1024
LANES = ("direct", "ordinary")

CHANGING = re.compile(
    rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    rb'|(?<="duration_ms":)\d+|(?<=duration_ms\\":)\d+|(?<=\npid: )\d+|(?<=\ndate: )[^\r]+'
    rb'|(?<=\\"pid\\":)\d+|(?<=: )\d+(?= ms)'
)
"""What differs between two runs of the same prompt."""


class LaneServer:
    """A server whose streams take one lane.

    Attributes:
        running: The server.
        taken: The lanes that were made, newest last.
    """

    def __init__(self, running: Running) -> None:
        self.running = running
        self.taken: list[str] = []

    def connect(self, **options: Any) -> RawClient:
        return RawClient(self.running.address, **options)


@contextmanager
def lane_server(lane: str, settings: Settings) -> Iterator[LaneServer]:
    """Run a server whose streams take `lane`, and note which they take."""
    made = DirectLane
    with pytest.MonkeyPatch.context() as patch, q9gent_server(settings) as running:
        server = LaneServer(running)

        class NotedDirect(made):  # type: ignore[misc, valid-type]
            async def start(self, data: bytes) -> None:
                server.taken.append("direct")
                await super().start(data)

        class NotedOrdinary(exchange_module.OrdinaryLane):
            async def start(self, data: bytes) -> None:
                server.taken.append("ordinary")
                await super().start(data)

        patch.setattr(exchange_module, "DirectLane", NotedDirect)
        patch.setattr(exchange_module, "OrdinaryLane", NotedOrdinary)
        if lane == "ordinary":
            patch.setattr(exchange_module, "can_be_direct", lambda *_: False)
        yield server


@pytest.fixture(scope="module", autouse=True)
def agents_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The agents keep their state in a folder of the module's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def make_settings(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Settings]:
    folder = str(tmp_path_factory.mktemp("sessions"))
    return functools.partial(Settings, port=0, simulate=True, session_dir=folder)


@pytest.fixture(params=LANES)
def lane(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(lane: str, make_settings: Callable[..., Settings]) -> Iterator[LaneServer]:
    """A server for each lane, which little fits into the memory of."""
    with lane_server(lane, make_settings(memory_bytes=65_536, heartbeat_seconds=0.2)) as made:
        yield made
        assert set(made.taken) <= {lane}


def dechunked(wire: bytes) -> tuple[bytes, bytes]:
    """Read a response as a strict client does, and return its head and its body."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
    client.send(h11.EndOfMessage())
    client.receive_data(wire)
    head, body = b"", []
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        assert isinstance(event, (h11.Response, h11.Data)), event
        if isinstance(event, h11.Response):
            assert (b"transfer-encoding", b"chunked") in list(event.headers)
            names = [name for name, _value in event.headers]
            assert len(names) == len(set(names))
            head = b"".join(b"\n%b: %b\r" % pair for pair in event.headers)
        else:
            body.append(bytes(event.data))
    assert client.trailing_data[0] == b""
    return head, b"".join(body)


def wire_of(client: RawClient, request: bytes) -> bytes:
    """Send a request that is the connection's last, and return all that comes."""
    client.send(request)
    return client.end()


OUTPUTS = {
    "a short turn": ("hello", {}),
    "a session is told first": ("hello", {"create_session": True}),
    "a burst": ("!lines 5000 120", {}),
    "large lines": ("!lines 300 10000", {}),
    "one line of 8 MiB": (f"!big {8 * MIB}", {}),
    "odd bytes": ("!hex " + b"\xff\xfe\0\x1b \r a\r\n\n\xe2\x80\xa8\x85\n".hex(), {}),
    "what looks like frames": ("!hex " + b"data: {}\n\n0\r\n\r\nHTTP/1.1 200 OK\n".hex(), {}),
    "no newline at the end": ("!no-newline\nhello", {}),
    "no result": ("!no-result", {}),
    "a failure": ("!say before\n!exit 3", {}),
    "stderr beside it": ("!stderr oops\nhello", {}),
}


@pytest.mark.parametrize("output", OUTPUTS)
def test_both_lanes_send_the_same_bytes(make_settings: Callable[..., Settings], output: str) -> None:
    """Head and body, after the few values that no two runs share; the chunks are valid HTTP/1.1."""
    prompt, fields = OUTPUTS[output]
    sent = {}
    for lane in LANES:
        with lane_server(lane, make_settings()) as server, server.connect() as client:
            wire = wire_of(client, spawn_bytes(prompt, "Connection: close", **fields))
            assert server.taken == [lane]
        head, body = dechunked(wire)
        whole([body])
        sent[lane] = CHANGING.sub(b"*", head), CHANGING.sub(b"*", body)
    assert sent["direct"] == sent["ordinary"]
    assert sent["direct"][1].count(b"data: ") >= 2


def test_tls_and_a_plain_hypercorn_send_the_same_events(
    make_settings: Callable[..., Settings], folder: str, client_tls: ssl.SSLContext, tmp_path: Any
) -> None:
    """The ordinary lane where nothing forces it."""
    prompt = "!lines 2000 200\n!hex fffe0a\nhello"
    config = tmp_path / "tls.toml"
    config.write_text(f'certfile = "{folder}/cert.pem"\nkeyfile = "{folder}/key.pem"\n')
    bodies = []
    with ExitStack() as stack:
        direct = stack.enter_context(lane_server("direct", make_settings()))
        tls = stack.enter_context(q9gent_server(make_settings(hypercorn_config=str(config))))
        plain = stack.enter_context(plain_server(make_settings()))
        for address, context in (
            (direct.running.address, None),
            (tls.address, client_tls),
            (plain.address, None),
        ):
            client = stack.enter_context(RawClient(address, tls=context))
            client.send(spawn_bytes(prompt))
            bodies.append(CHANGING.sub(b"*", client.answer().body))
        assert direct.taken.count("direct") == 1
    assert bodies[0] == bodies[1] == bodies[2]
    assert bodies[0].count(b"data: ") == 2005


def test_a_client_that_reads_slowly_gets_everything(server: LaneServer) -> None:
    """The agent is done, the rest is on disk, and then the client reads; and then it asks again."""
    with server.connect(receive_buffer=4096) as client:
        client.send(spawn_bytes("!lines 20000 1000"))
        _status, headers = client.head()
        wait_until_no_run(server.running)
        found = whole(client.parts(headers))
        assert data_of(found) == numbered(20_000, 1000)
        assert client.ask("GET", "/health").status == 200


def test_a_client_that_stops_and_goes_on_reading_gets_everything(server: LaneServer) -> None:
    """Behind and caught up by turns, while the agent prints: express, memory, disk, and express again."""
    with server.connect(receive_buffer=4096) as client:
        client.send(spawn_bytes("!lines 3000 1000\n!tick 5 0.02\n!lines 3000 1000\n!tick 5 0.02\n!say end"))
        _status, headers = client.head()
        found = []
        for number, event in enumerate(events(client.parts(headers))):
            found.append(event)
            if number in {10, 3001, 3500, 6000}:
                time.sleep(0.1)  # it falls behind: the pace is the point here
    outputs = [event["data"] for event in found if event["type"] == "output"]
    lines = [data for data in outputs if '"type":"line"' in data]
    assert lines == numbered(3000, 1000) * 2
    assert sum('"tick"' in data for data in outputs) == 10
    assert found[-1]["type"] == "completed"


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_goes_in_the_middle_of_a_line_ends_its_run(server: LaneServer, how: str) -> None:
    """Nothing is left, and the server serves others."""
    client = server.connect(receive_buffer=4096)
    client.send(spawn_bytes(f"!big {8 * MIB}\n!wait"))
    client.head()
    client.sock.recv(1000)
    getattr(client, how)()
    wait_until_no_run(server.running)
    with server.connect() as other:
        other.send(spawn_bytes("hello"))
        assert other.whole()[-1]["type"] == "completed"


def begin(client: RawClient, prompt: str) -> Iterator[Any]:
    client.send(spawn_bytes(f"{prompt}\n!wait"))
    stream = client.stream()
    next_line(stream, "waiting")
    return stream


def test_a_terminated_stream_ends_in_order(server: LaneServer) -> None:
    """Everything printed, the reason, the end of the stream; and the connection is used again."""
    with server.connect() as client, server.connect() as other:
        stream = begin(client, "!say one")
        (run,) = live_runs(server.running)
        assert other.ask("POST", f"/terminate/{run.run_id}").status == 200
        assert [event["code"] for event in stream] == ["terminated"]
        assert client.ask("GET", "/health").status == 200


def test_a_terminated_stream_whose_client_is_behind_is_whole(server: LaneServer) -> None:
    """What was printed before comes before the reason."""
    with server.connect(receive_buffer=4096) as client, server.connect() as other:
        client.send(spawn_bytes("!lines 5000 1000\n!wait"))
        _status, headers = client.head()
        assert (
            wait_for(lambda: live_runs(server.running)[0].lines, lambda n: n > 5001, DEADLINE_SECONDS) > 5001
        )
        (run,) = live_runs(server.running)
        assert other.ask("POST", f"/terminate/{run.run_id}").status == 200
        found = whole(client.parts(headers))
    assert [event["data"] for event in found[1:5001]] == numbered(5000, 1000)
    assert found[-1]["code"] == "terminated"


def test_heartbeats_come_in_silence_and_between_whole_events(server: LaneServer) -> None:
    """Each is a frame of its own."""
    with server.connect() as client:
        client.send(spawn_bytes("!sleep 0.5\n!say one\n!sleep 0.5\ntwo"))
        frames = client.answer().body.split(b"\n\n")
    assert frames.count(b": heartbeat") >= 2
    kinds = [frame[:1] for frame in frames[:-1]]
    assert set(kinds) == {b":", b"d"}


def test_requests_behind_a_stream_are_answered_after_it(server: LaneServer) -> None:
    """Sent while it runs, in one piece with it; nothing of theirs comes into it."""
    with server.connect() as client:
        client.send(spawn_bytes("!lines 500 100") + request_bytes("GET", "/health") + spawn_bytes("hello"))
        assert data_of(client.whole()) == numbered(500, 100)
        assert client.answer().status == 200
        assert client.whole()[-1]["type"] == "completed"
        assert client.rest == b""


def test_a_request_that_comes_while_the_stream_runs_waits(server: LaneServer) -> None:
    """Read ahead while chunks are being written."""
    with server.connect() as client, server.connect() as other:
        stream = begin(client, "!say one")
        client.send(request_bytes("GET", "/health"))
        (run,) = live_runs(server.running)
        assert other.ask("POST", f"/terminate/{run.run_id}").status == 200
        assert len(list(stream)) == 1
        assert client.answer().status == 200


def test_one_connection_has_many_streams(server: LaneServer) -> None:
    """Each in chunks of its own, with other answers between."""
    with server.connect() as client:
        for size in (1, 300, 2, 3000):
            client.send(spawn_bytes(f"!lines {size} 100"))
            assert data_of(client.whole()) == numbered(size, 100)
            assert client.ask("GET", "/nothing").status == 404
            assert client.rest == b""


def test_a_body_that_waits_to_be_asked_for(server: LaneServer) -> None:
    """`Expect: 100-continue`: the interim answer, and then the stream."""
    request = spawn_bytes("hello", "Expect: 100-continue")
    head, _, body = request.partition(b"\r\n\r\n")
    with server.connect() as client:
        client.send(head + b"\r\n\r\n")
        assert client.head()[0] == 100
        client.send(body)
        assert client.whole()[-1]["type"] == "completed"
        assert client.ask("GET", "/health").status == 200


def test_http_1_0_gets_no_chunks(make_settings: Callable[..., Settings]) -> None:
    """The end of the connection is the end of its stream."""
    with lane_server("direct", make_settings()) as server, server.connect() as client:
        head, body = wire_of(client, spawn_bytes("hello").replace(b"HTTP/1.1", b"HTTP/1.0", 1)).split(
            b"\r\n\r\n", 1
        )
        assert server.taken == ["ordinary"]
    assert b"transfer-encoding" not in head.lower()
    assert whole([body])[-1]["type"] == "completed"


def test_head_gets_no_stream(server: LaneServer) -> None:
    """Neither a body nor a run, and the connection goes on."""
    with server.connect() as client:
        assert client.ask("HEAD", "/health").status == 200
        assert client.ask("HEAD", "/spawn").status == 405
        client.send(spawn_bytes("hello"))
        assert client.whole()[-1]["type"] == "completed"


def test_middleware_that_wraps_send_sees_every_byte(make_settings: Callable[..., Settings]) -> None:
    """It stands between the application and the client, so nothing may go past it."""
    seen: list[bytes] = []
    with lane_server("direct", make_settings()) as server, server.connect() as client:
        app: Any = server.running.app
        inner = app.asgi_app

        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            async def noted(message: Any) -> None:
                seen.append(message.get("body", b""))
                await send(message)

            await inner(scope, receive, noted)

        app.asgi_app = middleware
        client.send(spawn_bytes("!lines 2000 100"))
        body = client.answer().body
        app.asgi_app = inner
        assert server.taken == ["ordinary"]
        assert b"".join(seen) == body
        client.send(spawn_bytes("hello"))
        client.whole()
        assert server.taken == ["ordinary", "direct"]


def test_a_defect_found_on_the_hub_is_logged_as_its_runs(
    server: LaneServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised in the hub's task, which belongs to no run; the stream tells it, the hub and others go on."""
    logged: list[object] = []
    fail = Run._fail

    def noted(run: Run) -> None:
        logged.append((get_contextvars().get("run_id"), run.run_id))
        fail(run)

    def defect(_block: bytes) -> None:
        raise RuntimeError("defect")

    monkeypatch.setattr(Run, "_fail", noted)
    with server.connect() as client, monkeypatch.context() as patch:
        patch.setattr(pump_module, "encode_output", defect)
        client.send(spawn_bytes("!wait"))
        _status, headers = client.head()
        run_id = headers["x-q9gent-run-id"]
        assert [event["code"] for event in events(client.parts(headers))] == ["internal"]
    assert set(logged) == {(run_id, run_id)}
    with server.connect() as client:
        client.send(spawn_bytes("hello"))
        assert client.whole()[-1]["type"] == "completed"


def test_a_request_that_ends_with_much_unread_lets_its_connection_go(
    make_settings: Callable[..., Settings],
) -> None:
    """Answered without a look at a body of many small chunks; its reader waits for nobody."""

    def tasks() -> int:
        waiting, count = [trio.lowlevel.current_root_task()], 0
        while waiting:
            task = waiting.pop()
            assert task is not None
            count += 1
            waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        return count

    with lane_server("direct", make_settings()) as server:
        before = server.running.call(tasks)
        for _client in range(3):
            with server.connect() as client:
                client.send(
                    b"POST http://[x/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
                    + b"1\r\nx\r\n" * 300
                )
                assert client.head()[0] == 400
        assert wait_for(lambda: server.running.call(tasks), lambda n: n == before, DEADLINE_SECONDS) == before
