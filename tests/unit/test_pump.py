"""From a pipe to events: nothing is lost when a run ends, whenever that is."""

from __future__ import annotations

import json
import logging

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from q9gent.output import pump as pump_module
from q9gent.output.outbox import Outbox
from q9gent.output.pump import StderrPump, StdoutPump
from q9gent.output.spool import Spool, SpoolFull
from q9gent.wire.lines import LineTooLong


class Pipe:
    """A pipe in memory; open for ever unless closed."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []
        self.closed = False
        self._news = trio.Event()

    def write(self, data: bytes) -> None:
        self.waiting.append(data)
        self._news.set()

    def close(self) -> None:
        self.closed = True
        self._news.set()

    def fileno(self) -> None:
        return None

    async def receive(self, max_bytes: int) -> bytes:
        while not self.waiting and not self.closed:
            self._news = trio.Event()
            await self._news.wait()
        return self.receive_nowait(max_bytes)

    def receive_nowait(self, max_bytes: int) -> bytes:
        if not self.waiting:
            return b""
        data = self.waiting.pop(0)
        if len(data) > max_bytes:
            self.waiting.insert(0, data[max_bytes:])
        return data[:max_bytes]


class Tree:
    """As much of a tree as a pump needs."""

    def __init__(self) -> None:
        self.stdout = Pipe()
        self.stderr = Pipe()


class SlowOutbox(Outbox):
    """Gives the stop a chance while a block is being put."""

    async def put(self, events: bytes) -> None:
        await trio.lowlevel.checkpoint()
        await super().put(events)


@settings(max_examples=60)
@given(
    pieces=st.lists(
        st.binary(min_size=1, max_size=20).map(lambda data: data.replace(b"a", b"\n")), max_size=8
    ),
    steps_before_stop=st.integers(0, 12),
)
def test_a_stopped_pump_has_put_all_that_was_written(pieces: list[bytes], steps_before_stop: int) -> None:
    """Stopped at any moment, while waiting or while putting; the pipe stays open, held by somebody else."""

    async def main() -> None:
        tree, outbox = Tree(), SlowOutbox(1 << 20, Spool(0, None))
        pump = StdoutPump(tree, outbox, line_bytes=1 << 20)  # type: ignore[arg-type]
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump.run)
                for piece in pieces:
                    tree.stdout.write(piece)
                for _step in range(steps_before_stop):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()  # as the end of a run does: the pump is shielded
                pump.stop()
        outbox.finish(b"")
        assert pump.bytes == sum(map(len, pieces))
        whole = b"".join(pieces).split(b"\n")
        expected = [line.removesuffix(b"\r") for line in whole[:-1]] + whole[-1:]
        assert pump.lines == len([line for line in expected if line])

    trio.run(main)


def test_a_line_that_is_too_long_ends_the_pump() -> None:
    """The run makes `overflow` of it."""

    async def main() -> None:
        tree = Tree()
        pump = StdoutPump(tree, Outbox(1 << 20, Spool(0, None)), line_bytes=64 * 1024)  # type: ignore[arg-type]
        tree.stdout.write(b"x" * (64 * 1024 + 1))
        with pytest.raises(LineTooLong), trio.fail_after(60):
            await pump.run()

    trio.run(main)


def test_a_client_too_far_behind_ends_the_pump() -> None:
    """The run makes `overflow` of it."""

    async def main() -> None:
        tree = Tree()
        pump = StdoutPump(tree, Outbox(10, Spool(10, None)), line_bytes=64 * 1024)  # type: ignore[arg-type]
        tree.stdout.write(b"x" * 100 + b"\n")
        with pytest.raises(SpoolFull), trio.fail_after(60):
            await pump.run()

    trio.run(main)


@pytest.mark.parametrize(
    "line", [b'{"type":"result","is_error":false}\n', b'{"duration_ms":1,"type":"result"}\n']
)
def test_the_result_line_is_recognised_wherever_its_type_stands(line: bytes) -> None:
    """Versions of the CLI differ in the order of its members."""

    async def main() -> None:
        tree = Tree()
        pump = StdoutPump(tree, Outbox(1 << 20, Spool(0, None)), line_bytes=64 * 1024)  # type: ignore[arg-type]
        tree.stdout.write(line)
        tree.stdout.close()
        with trio.fail_after(60):
            await pump.run()
        assert pump.saw_result

    trio.run(main)


def log_stderr(written: list[bytes]) -> None:
    async def main() -> None:
        tree = Tree()
        for data in written:
            tree.stderr.write(data)
        tree.stderr.close()
        with trio.fail_after(60):
            await StderrPump(tree).run()  # type: ignore[arg-type]

    trio.run(main)


def test_stderr_is_logged_line_by_line(caplog: pytest.LogCaptureFixture) -> None:
    """As data, in the field `text`."""
    with caplog.at_level(logging.WARNING, "q9gent.run"):
        log_stderr([b"one\ntw", b"o\r\n\n\xff"])
    assert [record.msg["text"] for record in caplog.records] == ["one", "two", "\ufffd"]  # type: ignore[index]


def test_a_flood_of_stderr_is_counted_and_not_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log says how much is missing."""
    monkeypatch.setattr(pump_module, "STDERR_LOG_BYTES", 10)
    with caplog.at_level(logging.WARNING, "q9gent.run"):
        log_stderr([b"12345678\n", b"abcdefgh\n"])
    first, last = (record.msg for record in caplog.records)
    assert first["text"] == "12345678"  # type: ignore[index]
    assert last["bytes"] == 8  # type: ignore[index]


async def taken_from(outbox: Outbox) -> list[str]:
    """Return what the events of an outbox carry."""
    outbox.finish(b"")
    stream = b""
    while data := await outbox.take():
        stream += data
    outbox.close()
    return [json.loads(frame.removeprefix(b"data: "))["data"] for frame in stream.split(b"\n\n") if frame]


@pytest.mark.parametrize("memory_bytes", [1 << 20, 0], ids=["in memory", "on disk"])
def test_what_arrives_in_the_step_of_the_stop_is_not_lost(memory_bytes: int) -> None:
    """The pipe became readable and the tree was found dead at once: the last line is often the result."""

    async def main() -> None:
        tree, outbox = Tree(), Outbox(memory_bytes, Spool(1 << 20, None))
        pump = StdoutPump(tree, outbox, line_bytes=1 << 20)  # type: ignore[arg-type]
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump.run)
                await trio.testing.wait_all_tasks_blocked()
                tree.stdout.write(b"one\ntwo\nlast without newline")
                pump.stop()
            assert await taken_from(outbox) == ["one", "two", "last without newline"]

    trio.run(main)


@settings(max_examples=100)
@given(
    moments=st.lists(
        st.binary(min_size=1, max_size=12).map(lambda data: data.replace(b"a", b"\n")) | st.integers(1, 4),
        max_size=10,
    ),
    memory_bytes=st.sampled_from([0, 80, 1 << 20]),
)
def test_every_line_is_in_the_outbox_whenever_the_pump_is_stopped(
    moments: list[bytes | int], memory_bytes: int
) -> None:
    """Written and stopped between any two steps of the pump; content and order, not just counts."""

    async def main() -> None:
        tree, outbox = Tree(), SlowOutbox(memory_bytes, Spool(1 << 20, None))
        pump = StdoutPump(tree, outbox, line_bytes=1 << 20)  # type: ignore[arg-type]
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump.run)
                for moment in moments:
                    if isinstance(moment, bytes):
                        tree.stdout.write(moment)
                    else:
                        for _step in range(moment):
                            await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
                pump.stop()
            *ended, last = b"".join(one for one in moments if isinstance(one, bytes)).split(b"\n")
            lines = [*(line.removesuffix(b"\r") for line in ended), last]
            assert await taken_from(outbox) == [line.decode("utf-8", "replace") for line in lines if line]

    trio.run(main)


def test_a_pump_that_is_stopped_waits_for_nobody() -> None:
    """Somebody outside the tree holds the pipe open, and prints nothing more."""

    async def main() -> None:
        tree, outbox = Tree(), Outbox(1 << 20, Spool(0, None))
        pump = StdoutPump(tree, outbox, line_bytes=1 << 20)  # type: ignore[arg-type]
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump.run)
                await trio.testing.wait_all_tasks_blocked()
                pump.stop()
        assert (pump.bytes, pump.lines, pump.saw_result) == (0, 0, False)

    trio.run(main)


@pytest.mark.parametrize("kind", [StdoutPump, StderrPump])
def test_who_writes_on_after_the_run_stops_nobody(
    kind: type[StdoutPump | StderrPump], caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody outside the tree holds the pipe and floods it: what a pipe can hold is read, and no more."""

    async def main() -> None:
        tree, outbox, others = Tree(), Outbox(1 << 20, Spool(0, None)), 0
        outbox.discard()  # the client is gone as well: nothing slows the reading down
        flood = (b"y" * 1023 + b"\n") * 64
        for pipe in (tree.stdout, tree.stderr):
            pipe.receive_nowait = lambda max_bytes: flood[:max_bytes]  # type: ignore[method-assign]
        options = {"outbox": outbox, "line_bytes": 1 << 20} if kind is StdoutPump else {}
        pump = kind(tree, **options)  # type: ignore[arg-type]

        async def others_turn() -> None:
            nonlocal others
            while True:
                await trio.lowlevel.checkpoint()
                others += 1

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(others_turn)
                pump.stop()
                await pump.run()
                nursery.cancel_scope.cancel()
        assert others > 10
        if isinstance(pump, StdoutPump):
            assert 1 << 20 <= pump.bytes <= 1 << 22

    with caplog.at_level(logging.WARNING, "q9gent.run"):
        trio.run(main)
    assert "somebody outside the run still writes to its output" in caplog.text


def test_what_a_process_prints_while_it_is_being_ended_counts() -> None:
    """The cancellation that ends a run does not reach its pumps."""

    async def main() -> None:
        tree, outbox = Tree(), Outbox(1 << 20, Spool(0, None))
        pump = StdoutPump(tree, outbox, line_bytes=1 << 20)  # type: ignore[arg-type]
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump.run)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()
                    tree.stdout.write(b"last words\n")
                    await trio.testing.wait_all_tasks_blocked()
                    assert pump.lines == 1
                pump.stop()
            assert await taken_from(outbox) == ["last words"]

    trio.run(main)


def test_a_line_that_merely_mentions_a_result_in_a_string_is_none() -> None:
    """Inside a JSON string its quotes are escaped."""

    async def main() -> None:
        tree = Tree()
        pump = StdoutPump(tree, Outbox(1 << 20, Spool(0, None)), line_bytes=64 * 1024)  # type: ignore[arg-type]
        tree.stdout.write(json.dumps({"type": "user", "text": '"type":"result"'}).encode() + b"\n")
        tree.stdout.close()
        with trio.fail_after(60):
            await pump.run()
        assert not pump.saw_result

    trio.run(main)


@pytest.mark.parametrize("end", [b"", b"\n", b"\nnext\n"], ids=["no end", "an end", "a next line"])
def test_a_long_line_of_stderr_is_cut_in_the_log(caplog: pytest.LogCaptureFixture, end: bytes) -> None:
    """In one piece or in many, and the log says that it was cut."""
    limit = pump_module.STDERR_LINE_BYTES
    with caplog.at_level(logging.WARNING, "q9gent.run"):
        log_stderr([b"x" * (limit + 1) + end])
    told = [record.msg for record in caplog.records]
    assert told[0]["text"] == "x" * limit  # type: ignore[index]
    assert told[0]["cut"] is True  # type: ignore[index]
    assert [record["text"] for record in told[1:]] == (["next"] if b"next" in end else [])  # type: ignore[index]


def test_stderr_without_line_ends_takes_no_memory_without_bound() -> None:
    """It is logged in pieces as it comes."""

    async def main() -> None:
        tree = Tree()
        pump = StderrPump(tree)  # type: ignore[arg-type]
        for _piece in range(100):
            pump._digest(b"x" * 1000)
            assert len(pump._framer._partial) <= pump_module.STDERR_LINE_BYTES

    trio.run(main)
