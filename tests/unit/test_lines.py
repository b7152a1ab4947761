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


@pytest.mark.parametrize("trailing", [b"", b"x", b"\n", b"\r", b"\r\n", b"\xe2\x80"])
@pytest.mark.parametrize("first", [b"a\n", b"a\r\n", b"a\r\r\n", b"\n\n", b"\r\n"])
def test_trailing_bytes_wait_for_their_end(first: bytes, trailing: bytes) -> None:
    """What follows the last line end is not given before its own, or before the end of the file."""
    framer = LineFramer(100)
    assert framer.feed(first + trailing) == (first + trailing).rpartition(b"\n")[0]
    if b"\n" not in trailing:
        assert framer.feed(b"\nnext") == trailing
        assert framer.finish() == b"next"


def test_a_framer_is_empty_after_its_end() -> None:
    """The last line comes once."""
    framer = LineFramer(100)
    assert framer.feed(b"last") == b""
    assert framer.finish() == b"last"
    assert framer.finish() == b""


@pytest.mark.parametrize("at", range(5))
def test_a_carriage_return_is_cut_off_only_before_its_newline(at: int) -> None:
    """`CRLF` ends a line, `CR` does not, even when the pieces part them."""
    data = b"a\rb\r\n"
    assert lines_of([data[:at], data[at:]]) == [b"a\rb"]


@given(
    limit=st.integers(1, 12),
    pieces=st.lists(st.text(alphabet="xyz\n\r", max_size=12).map(str.encode), max_size=10),
)
def test_it_is_too_long_exactly_if_a_line_is_longer_than_the_limit(limit: int, pieces: list[bytes]) -> None:
    """However it is cut, ended or not; as promised for pieces that are no longer than the limit."""
    pieces = [piece[:limit] for piece in pieces]
    longest = max(map(len, b"".join(pieces).split(b"\n")))
    if longest > limit:
        with pytest.raises(LineTooLong) as caught:
            lines_of(pieces, limit)
        assert caught.value.limit_bytes == limit
        assert str(limit) in str(caught.value)
    else:
        assert lines_of(pieces, limit) == model(b"".join(pieces))


def test_no_more_than_the_limit_is_ever_held() -> None:
    """A line that never ends is refused before it is kept."""
    framer = LineFramer(100)
    for _piece in range(10):
        framer.feed(b"x" * 10)
    with pytest.raises(LineTooLong):
        framer.feed(b"x" * 10)
    assert len(framer.finish()) == 100
