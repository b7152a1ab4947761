"""What a client has not taken: kept in order, bounded, and lost only when told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from q9gent.output import outbox as outbox_module
from q9gent.output import spool as spool_module
from q9gent.output.outbox import Outbox
from q9gent.output.spool import Spool, SpoolFull

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_SECONDS = 60
PIECES = 300
"""Each may take a thread, which takes its time on a busy machine, and under Wine."""


async def take_all(outbox: Outbox) -> bytes:
    taken = b""
    while data := await outbox.take():
        taken += data
    return taken


def run(main: object, *args: object) -> None:
    async def bounded() -> None:
        with trio.fail_after(DEADLINE_SECONDS):
            await main(*args)  # type: ignore[operator]

    trio.run(bounded)


@settings(max_examples=60)
@given(
    script=st.lists(
        st.one_of(st.integers(1, 40).map(lambda size: ("put", size)), st.just(("take", 0))), max_size=30
    ),
    memory_bytes=st.sampled_from([0, 16, 64, 10_000]),
)
def test_everything_comes_out_in_order_however_it_is_taken(
    script: list[tuple[str, int]], memory_bytes: int
) -> None:
    """Through memory and files, with the reader ahead or behind; the terminal event last and once."""

    async def main() -> None:
        outbox = Outbox(memory_bytes, Spool(1 << 20, None))
        written, taken, number = b"", b"", 0
        for action, size in script:
            if action == "put":
                number += 1
                piece = (b"%d." % number) * size
                written += piece
                await outbox.put(piece)
            else:
                with trio.move_on_after(0):
                    taken += await outbox.take()
        outbox.finish(b"END")
        taken += await take_all(outbox)
        assert taken == written + b"END"
        assert await outbox.take() == b""
        outbox.close()

    run(main)


def test_a_reader_and_a_writer_at_once_keep_the_order(tmp_path: Path) -> None:
    """The switch between memory and files is where the order could break."""

    async def main() -> None:
        outbox = Outbox(100, Spool(1 << 20, str(tmp_path)))
        pieces = [b"%06d" % number for number in range(PIECES)]

        async def write() -> None:
            for piece in pieces:
                await outbox.put(piece)
            outbox.finish(b"END")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            assert await take_all(outbox) == b"".join(pieces) + b"END"
        outbox.close()

    run(main)


def test_a_cancelled_take_loses_nothing() -> None:
    """A heartbeat cancels the wait for events every time."""

    async def main() -> None:
        outbox = Outbox(10, Spool(1 << 20, None))
        with trio.move_on_after(0.01):
            await outbox.take()
        await outbox.put(b"a" * 8)
        await outbox.put(b"b" * 8)
        outbox.finish(b"END")
        taken, patience_seconds = b"", 0.0
        while not taken.endswith(b"END"):
            patience_seconds += 0.001  # a machine that needs longer than any given time still gets there
            with trio.move_on_after(patience_seconds):
                taken += await outbox.take()
        assert taken == b"a" * 8 + b"b" * 8 + b"END"
        outbox.close()

    run(main)


def test_nothing_is_kept_for_a_client_that_is_gone() -> None:
    """Its run is being ended, and still prints."""

    async def main() -> None:
        outbox = Outbox(10, Spool(20, None))
        await outbox.put(b"x" * 10)
        outbox.discard()
        for _round in range(10):
            await outbox.put(b"y" * 10)
        assert outbox.waiting_bytes == 0
        outbox.close()

    run(main)


def test_a_piece_that_is_sent_is_bounded() -> None:
    """However much waits."""

    async def main() -> None:
        outbox = Outbox(10 << 20, Spool(0, None))
        for _round in range(100):
            await outbox.put(b"x" * 65_536)
        assert len(await outbox.take()) <= 256 * 1024
        outbox.close()

    run(main)


steps = st.integers(0, 6)


async def rest(count: int) -> None:
    """Let others run for some steps."""
    for _step in range(count):
        await trio.lowlevel.checkpoint()


@settings(max_examples=120)
@given(
    puts=st.lists(st.tuples(st.integers(1, 40), steps), max_size=20),
    takes=st.lists(st.tuples(steps, st.none() | steps), min_size=1, max_size=20),
    memory_bytes=st.integers(0, 60),
    piece_bytes=st.integers(1, 60),
    segment_bytes=st.integers(1, 60),
)
def test_no_interleaving_breaks_the_order(
    puts: list[tuple[int, int]],
    takes: list[tuple[int, int | None]],
    memory_bytes: int,
    piece_bytes: int,
    segment_bytes: int,
) -> None:
    """A writer and a reader that rest, and a reader that is cancelled, between any two steps.

    Nothing lost, nothing twice, the terminal event last and exactly once.
    """

    async def main() -> None:
        outbox, taken = Outbox(memory_bytes, Spool(1 << 20, None)), b""
        pieces = [b"%d:" % number + b"x" * size + b"|" for number, (size, _rest) in enumerate(puts)]

        async def write() -> None:
            for piece, (_size, pause) in zip(pieces, puts, strict=True):
                await outbox.put(piece)
                await rest(pause)
            outbox.finish(b"END")

        async def cancel(scope: trio.CancelScope, after: int) -> None:
            await rest(after)
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            number = 0
            while True:
                pause, patience = takes[number % len(takes)]
                # Patience never ends at the last: a reader that always gives up would never end.
                patience = None if number > 200 else patience
                number += 1
                await rest(pause)
                data: bytes | None = None
                async with trio.open_nursery() as attempt:
                    if patience is not None:
                        attempt.start_soon(cancel, attempt.cancel_scope, patience)
                    data = await outbox.take()
                    attempt.cancel_scope.cancel()
                if data == b"":
                    break
                taken += data or b""
        assert taken == b"".join(pieces) + b"END"
        assert outbox.waiting_bytes == 0
        outbox.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox_module, "PIECE_BYTES", piece_bytes)
        patch.setattr(spool_module, "MIN_SEGMENT_BYTES", segment_bytes)
        run(main)


def test_memory_is_bounded_by_its_limit_whatever_waits() -> None:
    """At the limit it is in memory, one byte over it on disk."""

    async def main() -> None:
        outbox = Outbox(100, Spool(1 << 20, None))
        await outbox.put(b"x" * 100)
        assert (outbox._in_memory, outbox._spool.waiting_bytes) == (100, 0)
        await outbox.put(b"y")
        for _round in range(20):
            await outbox.put(b"z" * 50)
            assert outbox._in_memory <= 100
        assert outbox.waiting_bytes == 100 + 1 + 20 * 50
        outbox.close()

    run(main)


def test_a_client_that_has_caught_up_is_served_from_memory_again() -> None:
    """One slow moment does not cost the disk for the rest of the run."""

    async def main() -> None:
        outbox = Outbox(10, Spool(1 << 20, None))
        await outbox.put(b"x" * 20)
        assert await outbox.take() == b"x" * 20
        with trio.move_on_after(0):
            await outbox.take()
        await outbox.put(b"y" * 10)
        assert (outbox._in_memory, outbox._spool.waiting_bytes) == (10, 0)
        outbox.close()

    run(main)


def test_a_run_that_overflows_still_delivers_what_fitted_and_its_end() -> None:
    """The client hears what there was, and then why it ended."""

    async def main() -> None:
        outbox = Outbox(10, Spool(20, None))
        await outbox.put(b"a" * 10)
        await outbox.put(b"b" * 20)
        with pytest.raises(SpoolFull):
            await outbox.put(b"c")
        outbox.finish(b"END")
        assert await take_all(outbox) == b"a" * 10 + b"b" * 20 + b"END"
        outbox.close()

    run(main)


@pytest.mark.parametrize("waiting", [b"", b"x" * 5, b"x" * 500], ids=["nothing", "in memory", "on disk"])
def test_the_end_comes_once_and_after_it_nothing(waiting: bytes) -> None:
    """Whatever waited before it."""

    async def main() -> None:
        outbox = Outbox(10, Spool(1 << 20, None))
        if waiting:
            await outbox.put(waiting)
        outbox.finish(b"END")
        assert await take_all(outbox) == waiting + b"END"
        for _round in range(3):
            assert await outbox.take() == b""
        outbox.close()

    run(main)


@pytest.mark.parametrize("memory_bytes", [0, 100])
def test_a_reader_that_waits_is_woken(memory_bytes: int) -> None:
    """By an event, in memory or on disk, and by the end."""

    async def main() -> None:
        outbox, taken = Outbox(memory_bytes, Spool(1 << 20, None)), list[bytes]()

        async def read() -> None:
            while data := await outbox.take():
                taken.append(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await outbox.put(b"one")
            with trio.fail_after(30):
                while taken != [b"one"]:
                    await trio.lowlevel.checkpoint()
            outbox.finish(b"END")
        assert taken == [b"one", b"END"]
        outbox.close()

    run(main)


def test_a_closed_outbox_holds_no_file() -> None:
    """What nobody will take is deleted with the request."""

    async def main() -> None:
        outbox = Outbox(0, Spool(1 << 20, None))
        await outbox.put(b"x")
        file = outbox._spool._segments[0].file
        outbox.close()
        assert file.closed
        assert outbox.waiting_bytes == 0

    run(main)


class Express:
    """A way to the client that takes all of it, a part or nothing, as the test says.

    Args:
        takes: How much each call takes; everything when there are no more.

    Attributes:
        sent: What the client has.
        held: What was not taken, to be sent first by whoever lent it.
    """

    def __init__(self, takes: list[int]) -> None:
        self.takes = takes
        self.sent = b""
        self.held = b""
        self.lent = False

    def __call__(self, events: bytes) -> bool:
        assert self.lent, "called while its owner does not wait"
        assert not self.held, "called while it holds something"
        size = self.takes.pop(0) if self.takes else len(events)
        self.sent += events[:size]
        self.held = events[size:]
        return not self.held

    def send(self, events: bytes) -> None:
        """What its owner does with what it has taken."""
        self.sent += self.held + events
        self.held = b""


@settings(max_examples=150)
@given(
    puts=st.lists(st.tuples(st.integers(1, 40), steps, st.sampled_from(["put", "own"])), max_size=20),
    takes=st.lists(st.tuples(steps, st.none() | steps, st.booleans()), min_size=1, max_size=20),
    express_takes=st.lists(st.integers(0, 50), max_size=20),
    memory_bytes=st.integers(0, 100),
)
def test_express_memory_and_files_keep_the_order_together(
    puts: list[tuple[int, int, str]],
    takes: list[tuple[int, int | None, bool]],
    express_takes: list[int],
    memory_bytes: int,
) -> None:
    """Written by express in part or whole, kept in memory or on disk, by a reader that is cancelled.

    Everything comes once, in order; the express is called only while its owner waits.
    """

    async def main() -> None:
        outbox, express = Outbox(memory_bytes, Spool(1 << 20, None)), Express(list(express_takes))
        pieces = [b"%d:" % number + b"x" * size + b"|" for number, (size, _, _) in enumerate(puts)]

        async def write() -> None:
            for piece, (_size, pause, how) in zip(pieces, puts, strict=True):
                if how == "own" and not outbox.is_spooling:  # as the server's own events: before any output
                    outbox.put_nowait(piece)
                else:
                    await outbox.put(piece)
                await rest(pause)
            outbox.finish(b"END")

        async def cancel(scope: trio.CancelScope, after: int) -> None:
            await rest(after)
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            number = 0
            while not outbox.is_finished:
                pause, patience, lend = takes[number % len(takes)]
                patience = None if number > 200 else patience
                number += 1
                await rest(pause)
                data: bytes | None = None
                async with trio.open_nursery() as attempt:
                    if patience is not None:
                        attempt.start_soon(cancel, attempt.cancel_scope, patience)
                    express.lent = True
                    data = await outbox.take(express if lend else None)
                    attempt.cancel_scope.cancel()
                express.lent = False
                if data is not None:  # nothing is something, too: the express holds some
                    express.send(data)
        assert express.sent == b"".join(pieces) + b"END"
        assert outbox.waiting_bytes == 0
        outbox.close()

    run(main)


def test_the_express_is_called_in_the_step_of_the_offer_and_wakes_nobody() -> None:
    """What a client that keeps up costs."""

    async def main() -> None:
        outbox, express = Outbox(10, Spool(0, None)), Express([])
        express.lent = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.take, express)
            await trio.testing.wait_all_tasks_blocked()
            for _event in range(3):
                assert outbox.offer(b"x" * 100)
            assert express.sent == b"x" * 300
            await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1
            outbox.finish(b"END")
        outbox.close()

    run(main)


def test_what_the_express_holds_is_told_though_the_wait_was_cancelled() -> None:
    """In the step of a heartbeat: else the next event would overtake the rest of this one."""

    async def main() -> None:
        outbox, express = Outbox(100, Spool(0, None)), Express([1])
        express.lent = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.take, express)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()  # the wait is over; its task has not run yet
            assert outbox.offer(b"one")
        assert express.held == b"ne"
        assert await outbox.take(express) == b""
        outbox.close()

    run(main)


def test_what_the_server_puts_itself_is_not_overtaken_by_an_express() -> None:
    """Both in one step, before the reader has a turn."""

    async def main() -> None:
        outbox, express = Outbox(100, Spool(0, None)), Express([])
        express.lent = True
        taken: list[bytes] = []

        async def take() -> None:
            taken.append(await outbox.take(express))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            outbox.put_nowait(b"own")
            assert outbox.offer(b"output")
        assert (express.sent, taken) == (b"", [b"ownoutput"])
        outbox.close()

    run(main)
