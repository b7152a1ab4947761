"""The two ways to a client: the same bytes, whatever its socket takes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import h11
import pytest
import trio
import trio.testing
from hypercorn.events import RawData
from hypothesis import given, settings
from hypothesis import strategies as st

from q9gent.http.delivery import OrdinaryLane, deliver
from q9gent.http.lane import DirectLane, chunk
from q9gent.output.outbox import Outbox
from q9gent.output.spool import Spool
from q9gent.wire.events import HEARTBEAT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from q9gent.http.connection import Connection
    from q9gent.http.delivery import Lane

DEADLINE_SECONDS = 60
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
SILENCE_SECONDS = 10.0


class FakeConnection:
    """A connection whose socket takes at once what the test says.

    Args:
        takes: How much each attempt takes; everything when there are no more.

    Attributes:
        writes: What was written, each write apart.
    """

    def __init__(self, *takes: int) -> None:
        self.takes = list(takes)
        self.writes: list[bytes] = []
        self.is_sending = False
        self._before = self._after = b""

    @property
    def wire(self) -> bytes:
        return b"".join(self.writes)

    def send_nowait(self, data: bytes) -> int:
        assert not self.is_sending, "two write at once"
        size = min(self.takes.pop(0), len(data)) if self.takes else len(data)
        if size:
            self.writes.append(data[:size])
        return size

    def enclose_next(self, *, before: bytes = b"", after: bytes = b"") -> None:
        self._before, self._after = before, after

    async def protocol_send(self, event: RawData) -> None:
        data = self._before + event.data + self._after
        self._before = self._after = b""
        self.is_sending = True
        await trio.lowlevel.checkpoint()
        self.is_sending = False
        if data:
            self.writes.append(data)


def direct_lane(connection: FakeConnection) -> DirectLane:
    def send(data: bytes) -> Callable[[], Awaitable[None]]:
        return lambda: connection.protocol_send(RawData(data))

    return DirectLane(cast("Connection", connection), send(HEAD), send(LAST_CHUNK))


def ordinary_lane(connection: FakeConnection) -> OrdinaryLane:
    async def send_last(data: bytes) -> None:
        await connection.protocol_send(RawData(chunk(data) + LAST_CHUNK))

    return OrdinaryLane(
        lambda: connection.protocol_send(RawData(HEAD)),
        lambda data: connection.protocol_send(RawData(chunk(data))),
        send_last,
    )


def body_of(wire: bytes) -> bytes:
    """Read a response as a strict client does, to its end and no further."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "localhost")]))
    client.send(h11.EndOfMessage())
    client.receive_data(wire)
    body = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        assert isinstance(event, (h11.Response, h11.Data)), event
        if isinstance(event, h11.Data):
            body += event.data
    assert client.trailing_data == (b"", False)
    return body


def run(main: Callable[[], Awaitable[None]], clock: trio.testing.MockClock | None = None) -> None:
    async def bounded() -> None:
        with trio.fail_after(DEADLINE_SECONDS * (1000 if clock else 1)):
            await main()

    trio.run(bounded, clock=clock)


def test_a_chunk_is_what_the_standard_says_and_never_the_last_by_mistake() -> None:
    """An empty chunk would end the stream."""
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert chunk(b"") == b""


EVENT = b"data: one\n\n"


@pytest.mark.parametrize("split", range(len(chunk(EVENT))))
def test_what_the_socket_does_not_take_is_sent_first(split: int) -> None:
    """Cut anywhere, within the size or the last line end: the rest, then what came after it."""

    async def main() -> None:
        connection = FakeConnection(split)
        lane, outbox = direct_lane(connection), Outbox(1 << 20, Spool(0, None))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_deliver, outbox, lane)
            await trio.testing.wait_all_tasks_blocked()
            assert outbox.offer(EVENT)
            assert outbox.offer(b"data: two\n\n")  # before anybody had a turn
            await trio.testing.wait_all_tasks_blocked()
            assert outbox.offer(b"data: three\n\n")
            outbox.finish(b"data: end\n\n")
        assert body_of(connection.wire) == EVENT + b"data: two\n\ndata: three\n\ndata: end\n\n"

    run(main)


async def _deliver(outbox: Outbox, lane: Lane, heartbeat_seconds: float = SILENCE_SECONDS) -> None:
    await deliver(outbox, lane, heartbeat_seconds=heartbeat_seconds, lose_output=pytest.fail)
    outbox.close()


@pytest.mark.parametrize("make_lane", [direct_lane, ordinary_lane])
@settings(max_examples=60)
@given(
    script=st.lists(st.tuples(st.integers(1, 60), st.integers(0, 4)), max_size=20),
    takes=st.lists(st.integers(0, 80), max_size=20),
    memory_bytes=st.sampled_from([0, 100, 1 << 20]),
)
def test_both_lanes_send_every_event_once_and_in_order(
    make_lane: Callable[[FakeConnection], Lane],
    script: list[tuple[int, int]],
    takes: list[int],
    memory_bytes: int,
) -> None:
    """Through express, memory and spool, with a socket that takes all, a part or nothing."""

    async def main() -> None:
        connection = FakeConnection(*takes)
        outbox, expected = Outbox(memory_bytes, Spool(1 << 20, None)), b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_deliver, outbox, make_lane(connection))
            for number, (size, pause) in enumerate(script):
                event = b"data: %d%s\n\n" % (number, b"x" * size)
                expected += event
                await outbox.put(event)
                for _step in range(pause):
                    await trio.lowlevel.checkpoint()
            outbox.finish(b"data: end\n\n")
        assert body_of(connection.wire) == expected + b"data: end\n\n"

    run(main)


def test_the_head_goes_with_what_is_there_and_the_last_event_with_the_end() -> None:
    """A short turn is two writes."""

    async def main() -> None:
        connection, outbox = FakeConnection(), Outbox(1 << 20, Spool(0, None))
        outbox.put_nowait(EVENT)
        outbox.finish(b"data: end\n\n")
        await _deliver(outbox, direct_lane(connection))
        assert len(connection.writes) == 2
        assert body_of(connection.wire) == EVENT + b"data: end\n\n"

    run(main)


def test_the_last_event_and_the_end_are_one_write() -> None:
    """After a stream that was written by express."""

    async def main() -> None:
        connection, outbox = FakeConnection(), Outbox(1 << 20, Spool(0, None))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_deliver, outbox, direct_lane(connection))
            await trio.testing.wait_all_tasks_blocked()
            outbox.offer(EVENT)
            outbox.finish(b"data: end\n\n")
        assert connection.writes == [HEAD, chunk(EVENT), chunk(b"data: end\n\n") + LAST_CHUNK]

    run(main)


@pytest.mark.parametrize("make_lane", [direct_lane, ordinary_lane])
def test_a_heartbeat_comes_only_after_a_silence(make_lane: Callable[[FakeConnection], Lane]) -> None:
    """Counted from the last thing that was sent, by whichever way."""

    async def main() -> None:
        connection, outbox = FakeConnection(), Outbox(1 << 20, Spool(0, None))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_deliver, outbox, make_lane(connection))
            for _event in range(5):
                await trio.sleep(SILENCE_SECONDS * 0.9)
                await outbox.put(EVENT)
            await trio.sleep(SILENCE_SECONDS * 0.9)
            assert HEARTBEAT not in connection.wire
            await trio.sleep(SILENCE_SECONDS * 1.2)
            assert connection.wire.count(HEARTBEAT) == 2
            outbox.finish(b"data: end\n\n")
        assert body_of(connection.wire) == EVENT * 5 + HEARTBEAT * 2 + b"data: end\n\n"

    run(main, trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("taken", [0, 1, 7])
def test_what_is_held_back_in_the_moment_of_a_heartbeat_is_not_overtaken(taken: int) -> None:
    """The wait for events is over and not yet left, when a part of an event is written."""

    async def main() -> None:
        connection, outbox = FakeConnection(taken), Outbox(1 << 20, Spool(0, None))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_deliver, outbox, direct_lane(connection))
            await trio.testing.wait_all_tasks_blocked()
            # In one step: the delivery's wait is cancelled, and before its task runs the pump has a line.
            (task,) = nursery.child_tasks
            _expire(task)
            assert outbox.offer(EVENT)
            await trio.testing.wait_all_tasks_blocked()
            assert outbox.offer(b"data: two\n\n")
            outbox.finish(b"data: end\n\n")
        assert body_of(connection.wire).replace(HEARTBEAT, b"") == EVENT + b"data: two\n\ndata: end\n\n"

    run(main)


def _expire(task: Any) -> None:
    """Cancel the innermost scope that a task waits in, as its deadline does."""
    task._cancel_status._scope.cancel()


def test_a_client_that_is_gone_is_written_to_no_more() -> None:
    """Its run is being ended, and still prints."""

    async def main() -> None:
        connection, outbox = FakeConnection(), Outbox(10, Spool(20, None))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_deliver, outbox, direct_lane(connection))
            await trio.testing.wait_all_tasks_blocked()
            outbox.offer(EVENT)
            before = connection.wire
            outbox.discard()
            for _event in range(100):
                await outbox.put(b"data: late\n\n")
            assert outbox.waiting_bytes == 0
            assert connection.wire == before
            nursery.cancel_scope.cancel()

    run(main)


def test_a_client_that_goes_before_the_head_leaves_nothing_for_the_next_write() -> None:
    """Nothing of this stream is sent with what the connection sends next."""

    async def main() -> None:
        connection = FakeConnection()

        async def fail() -> None:
            raise OSError("gone")

        lane = DirectLane(cast("Connection", connection), fail, fail)
        with pytest.raises(OSError, match="gone"):
            await lane.start(EVENT)
        assert connection._after == b""

    run(main)
