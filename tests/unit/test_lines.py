"""Lines are cut the same however the bytes arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from q9gent.wire.events import encode_output
from q9gent.wire.lines import LineFramer, LineTooLong

SAMPLE = b'{"a":1}\n\n{"b":"\xc3\xa9"}\r\nlone\rreturn\n\xff\xfe\nlast without newline'


def lines_of(pieces: list[bytes], limit: int = 1 << 20) -> list[bytes]:
    """Return the lines that a framer finds, as the events would carry them."""
    framer = LineFramer(limit)
    blocks = [framer.feed(piece) for piece in pieces]
    blocks.append(framer.finish())
    found = [line for block in blocks for line in block.split(b"\n")]
    return [line.removesuffix(b"\r") for line in found if line.removesuffix(b"\r")]


def model(data: bytes) -> list[bytes]:
    """Return the lines of the whole: the simple way."""
    *ended, last = data.split(b"\n")
    return [line for line in [*(line.removesuffix(b"\r") for line in ended), last] if line]


def test_the_whole_and_every_split_give_the_same_lines() -> None:
    """Whole, byte by byte, and cut in two at every place."""
    expected = model(SAMPLE)
    assert lines_of([SAMPLE]) == expected
    assert lines_of([SAMPLE[at : at + 1] for at in range(len(SAMPLE))]) == expected
    for at in range(len(SAMPLE) + 1):
        assert lines_of([SAMPLE[:at], SAMPLE[at:]]) == expected, at


@given(st.lists(st.binary(max_size=30).map(lambda data: data.replace(b"a", b"\n").replace(b"b", b"\r\n"))))
def test_any_pieces_give_the_lines_of_their_sum(pieces: list[bytes]) -> None:
    """Against the simple model, under arbitrary bytes."""
    assert lines_of(pieces) == model(b"".join(pieces))


def test_a_return_at_the_end_of_the_file_is_kept() -> None:
    """It ends no line: it is output."""
    assert lines_of([b"text\r"]) == [b"text\r"]


def test_a_line_may_be_as_long_as_the_limit() -> None:
    """The limit itself passes, in one piece or in many."""
    line = b"x" * 100
    assert lines_of([line + b"\n"], limit=100) == [line]
    assert lines_of([line[:50], line[50:], b"\n"], limit=100) == [line]


@pytest.mark.parametrize(
    "pieces", [[b"x" * 60, b"x" * 41], [b"x" * 100, b"x\n"], [b"\n" + b"x" * 100, b"x\ny"]]
)
def test_a_longer_line_is_refused(pieces: list[bytes]) -> None:
    """One byte over is too long, whether its end has come or not."""
    framer = LineFramer(100)
    with pytest.raises(LineTooLong):
        for piece in pieces:
            framer.feed(piece)


def test_the_events_of_a_block_carry_its_lines() -> None:
    """The framer's blocks are what the encoder takes."""
    framer = LineFramer(1 << 20)
    events, count = encode_output(framer.feed(b"one\ntwo\r\n\nthree"))
    assert count == 2
    assert events.count(b"data: ") == 2
    assert encode_output(framer.finish()) == (b'data: {"type":"output","data":"three"}\n\n', 1)
