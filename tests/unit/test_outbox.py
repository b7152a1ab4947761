"""What a client has not taken: kept in order, bounded, and lost only when told."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from q9gent.output import spool as spool_module
from q9gent.output.outbox import Outbox
from q9gent.output.spool import Spool, SpoolFull

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_SECONDS = 20


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


@settings(max_examples=60, deadline=None)
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
        pieces = [b"%06d" % number for number in range(3000)]

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
        taken = b""
        while not taken.endswith(b"END"):
            with trio.move_on_after(0.001):
                taken += await outbox.take()
        assert taken == b"a" * 8 + b"b" * 8 + b"END"
        outbox.close()

    run(main)


def test_the_spool_is_full_at_its_limit_and_not_before() -> None:
    """What waits counts, not what ever passed."""

    async def main() -> None:
        spool = Spool(100, None)
        await spool.write(b"x" * 100)
        with pytest.raises(SpoolFull, match="100 bytes behind"):
            await spool.write(b"y")
        assert await spool.read(60) == b"x" * 60
        await spool.write(b"z" * 60)
        assert spool.waiting_bytes == 100
        spool.close()

    run(main)


def test_files_are_given_back_as_they_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A steady client needs only the disk for what it is behind."""
    monkeypatch.setattr(spool_module, "MIN_SEGMENT_BYTES", 10)

    async def main() -> None:
        spool = Spool(160, str(tmp_path))
        for _round in range(50):
            await spool.write(b"0123456789")
            await spool.write(b"0123456789")
            assert await spool.read(10) == b"0123456789"
            assert await spool.read(10) == b"0123456789"
            assert len(spool._segments) <= 2
        spool.close()

    run(main)


def test_no_file_has_a_name(tmp_path: Path) -> None:
    """So a killed server leaves none."""

    async def main() -> None:
        spool = Spool(100, str(tmp_path))
        await spool.write(b"x")
        assert os.listdir(tmp_path) == []
        spool.close()

    if os.name == "posix":
        run(main)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """The run ends with `overflow`, which names the reason."""

    async def main() -> None:
        with pytest.raises(SpoolFull, match="cannot be written"):
            await Spool(100, str(tmp_path / "missing")).write(b"x")

    run(main)


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC is not a defect of ours."""
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    monkeypatch.setattr(
        spool_module.tempfile, "TemporaryFile", lambda **_kwargs: open("/dev/full", "wb", buffering=0)
    )

    async def main() -> None:
        spool = Spool(100, None)
        with pytest.raises(SpoolFull, match="No space left"):
            await spool.write(b"x")
        spool.close()

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
