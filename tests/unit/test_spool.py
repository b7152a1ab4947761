"""Bytes in temporary files: first in, first out, bounded, and given back to the disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO, Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from q9gent.output import spool as spool_module
from q9gent.output.spool import Spool, SpoolFull

DEADLINE_SECONDS = 60


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(DEADLINE_SECONDS):
            await main()

    trio.run(bounded)


async def drain(spool: Spool, piece: int = 1 << 20) -> bytes:
    taken = b""
    while data := await spool.read(piece):
        taken += data
    return taken


@settings(max_examples=80)
@given(
    steps=st.lists(st.tuples(st.sampled_from(["write", "read"]), st.integers(1, 60)), max_size=40),
    limit=st.integers(1, 300),
    segment=st.integers(1, 40),
)
def test_it_behaves_like_a_bounded_queue_of_bytes(
    steps: list[tuple[str, int]], limit: int, segment: int
) -> None:
    """Against a byte string, whatever the segments: what is refused is not there, all else in order."""

    async def main() -> None:
        spool, model, number = Spool(limit, None), b"", 0
        for action, size in steps:
            if action == "write":
                number = (number + 1) % 256
                data = bytes([number]) * size
                if len(model) + size > limit:
                    with pytest.raises(SpoolFull):
                        await spool.write(data)
                else:
                    await spool.write(data)
                    model += data
            else:
                data = await spool.read(size)
                assert model.startswith(data)
                assert bool(data) == bool(model)
                assert len(data) <= size
                model = model[len(data) :]
            assert spool.waiting_bytes == len(model)
        assert await drain(spool) == model
        spool.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_module, "MIN_SEGMENT_BYTES", segment)
        run(main)


def test_it_is_full_at_its_limit_and_not_before() -> None:
    """What waits counts, not what ever passed; a refused write leaves nothing of itself."""

    async def main() -> None:
        spool = Spool(100, None)
        await spool.write(b"x" * 100)
        with pytest.raises(SpoolFull, match="100 bytes behind"):
            await spool.write(b"y")
        assert await spool.read(60) == b"x" * 60
        await spool.write(b"z" * 60)
        assert spool.waiting_bytes == 100
        assert await drain(spool) == b"x" * 40 + b"z" * 60
        spool.close()

    run(main)


def test_a_limit_of_zero_takes_nothing() -> None:
    """Spooling can be switched off."""

    async def main() -> None:
        with pytest.raises(SpoolFull):
            await Spool(0, None).write(b"x")

    run(main)


def test_a_reader_and_a_writer_at_once_lose_nothing() -> None:
    """Both in threads of their own, on the same files."""
    pieces = [b"%05d" % number for number in range(400)]

    async def main() -> None:
        spool, done, taken = Spool(1 << 20, None), trio.Event(), b""

        async def write() -> None:
            for piece in pieces:
                await spool.write(piece)
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            while not done.is_set() or spool.waiting_bytes:
                taken += await spool.read(7)
                await trio.lowlevel.checkpoint()
        assert taken == b"".join(pieces)
        spool.close()

    run(main)


def test_segments_are_released_as_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A steady client needs only the disk for what it is behind."""
    monkeypatch.setattr(spool_module, "MIN_SEGMENT_BYTES", 10)
    opened = spy_on_files(monkeypatch)

    async def main() -> None:
        spool = Spool(160, None)
        for _round in range(50):
            await spool.write(b"0123456789")
            await spool.write(b"0123456789")
            assert await spool.read(10) == b"0123456789"
            assert await spool.read(10) == b"0123456789"
            assert len([file for file in opened if not file.closed]) <= 2
        assert len(opened) > 10
        spool.close()
        assert all(file.closed for file in opened)

    run(main)


def test_few_descriptors_hold_the_whole_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """One a segment, and one that is being read out, however small the writes."""
    monkeypatch.setattr(spool_module, "MIN_SEGMENT_BYTES", 1)
    opened = spy_on_files(monkeypatch)

    async def main() -> None:
        spool = Spool(1600, None)
        for _round in range(160):
            await spool.write(b"0123456789")
        assert len([file for file in opened if not file.closed]) == spool_module.SEGMENTS
        for _round in range(320):
            await spool.read(10)
            await spool.write(b"0123456789")
            assert len([file for file in opened if not file.closed]) <= spool_module.SEGMENTS + 1
        spool.close()

    run(main)


def test_a_write_longer_than_a_segment_comes_out_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line may be longer than the limit divided by the segments."""
    monkeypatch.setattr(spool_module, "MIN_SEGMENT_BYTES", 10)
    data = bytes(range(256)) * 50

    async def main() -> None:
        spool = Spool(1 << 20, None)
        await spool.write(data)
        await spool.write(b"next")
        assert await drain(spool, 1000) == data + b"next"
        spool.close()

    run(main)


@pytest.mark.skipif(os.name != "posix", reason="on Windows the file goes when it is closed")
def test_no_file_has_a_name(tmp_path: Path) -> None:
    """So a killed server leaves none."""

    async def main() -> None:
        spool = Spool(100, str(tmp_path))
        await spool.write(b"x")
        assert os.listdir(tmp_path) == []
        assert await spool.read(9) == b"x"
        spool.close()

    run(main)


def test_the_files_are_made_in_the_folder_that_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--spool-dir` decides which disk fills."""
    asked: list[object] = []
    real = tempfile.TemporaryFile

    def note(**options: Any) -> IO[bytes]:
        asked.append(options["dir"])
        return real(**options)

    monkeypatch.setattr(spool_module.tempfile, "TemporaryFile", note)

    async def main() -> None:
        spool = Spool(100, str(tmp_path))
        await spool.write(b"x")
        spool.close()

    run(main)
    assert asked == [str(tmp_path)]


def test_what_was_never_needed_costs_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most runs have a client that keeps up."""
    opened = spy_on_files(monkeypatch)

    async def main() -> None:
        spool = Spool(100, None)
        assert await spool.read(10) == b""
        spool.close()

    run(main)
    assert opened == []


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    """The run ends with `overflow`, which names the reason."""

    async def main() -> None:
        with pytest.raises(SpoolFull, match="cannot be written: No such file"):
            await Spool(100, str(tmp_path / "missing")).write(b"x")

    run(main)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions bind no administrator")
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """The run ends with `overflow`, which names the reason."""
    tmp_path.chmod(0o500)

    async def main() -> None:
        with pytest.raises(SpoolFull, match="Permission denied"):
            await Spool(100, str(tmp_path)).write(b"x")

    run(main)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC is the disk's limit, not a defect of ours."""
    monkeypatch.setattr(
        spool_module.tempfile,
        "TemporaryFile",
        lambda **_options: open("/dev/full", "wb", buffering=0),  # noqa: SIM115
    )

    async def main() -> None:
        spool = Spool(100, None)
        with pytest.raises(SpoolFull, match="No space left"):
            await spool.write(b"x")
        assert spool.waiting_bytes == 0
        spool.close()

    run(main)


class FillingFile:
    """A file whose disk takes `room` bytes more, a few at a time."""

    def __init__(self, file: IO[bytes], room: int) -> None:
        self._file, self.room = file, room

    def write(self, data: memoryview) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        taken = self._file.write(data[: min(3, self.room)])
        self.room -= taken
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_disk_that_fills_in_the_middle_of_a_write_keeps_what_was_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half of a write is never read, and what is written once there is room follows what was whole."""
    real, files = tempfile.TemporaryFile, list[FillingFile]()

    def make(**options: Any) -> FillingFile:
        files.append(FillingFile(real(**options), room=15))
        return files[-1]

    monkeypatch.setattr(spool_module.tempfile, "TemporaryFile", make)

    async def main() -> None:
        spool = Spool(1000, None)
        await spool.write(b"0123456789")
        with pytest.raises(SpoolFull):
            await spool.write(b"abcdefghij")
        files[0].room = 100
        await spool.write(b"XYZ")
        assert await drain(spool) == b"0123456789XYZ"
        spool.close()

    run(main)


def test_a_cancelled_read_loses_nothing() -> None:
    """It was waiting for its turn, or it has the bytes: a client's stream has no hole."""

    async def main() -> None:
        spool, taken = Spool(1 << 20, None), b""
        data = bytes(range(256)) * 4
        await spool.write(data)
        patience_seconds = 0.0
        while spool.waiting_bytes:
            patience_seconds += 0.0001  # a machine that needs longer than any given time still gets there
            with trio.move_on_after(patience_seconds):
                taken += await spool.read(50)
        assert taken == data
        spool.close()

    run(main)


def spy_on_files(monkeypatch: pytest.MonkeyPatch) -> list[IO[bytes]]:
    """Have the files that are opened from now on collected."""
    real, opened = tempfile.TemporaryFile, list[IO[bytes]]()

    def make(**options: Any) -> IO[bytes]:
        opened.append(real(**options))
        return opened[-1]

    monkeypatch.setattr(spool_module.tempfile, "TemporaryFile", make)
    return opened
