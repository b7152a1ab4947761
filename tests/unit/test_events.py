"""Events on the wire: one JSON line each, whatever is in them."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from q9gent.wire.events import (
    HEARTBEAT,
    Code,
    Completed,
    Event,
    Failed,
    Output,
    SessionCreated,
    encode_event,
    encode_output,
)


def decode(stream: bytes) -> list[dict[str, object]]:
    """Return the events of a stream, read as strictly as a client may."""
    assert stream.endswith(b"\n\n") or not stream
    frames = stream.split(b"\n\n")[:-1]
    assert all(frame.startswith(b"data: ") and b"\n" not in frame and b"\r" not in frame for frame in frames)
    return [json.loads(frame.removeprefix(b"data: ")) for frame in frames]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (SessionCreated(session_id="x"), {"type": "session_created", "session_id": "x"}),
        (Output(data="{}"), {"type": "output", "data": "{}"}),
        (Completed(duration_ms=5, killed=0), {"type": "completed", "duration_ms": 5, "killed": 0}),
        (
            Failed(error="e", code="exit", duration_ms=5, killed=1, exit_code=3),
            {"type": "error", "error": "e", "code": "exit", "duration_ms": 5, "killed": 1, "exit_code": 3},
        ),
        (
            Failed(error="e", code="survivors", duration_ms=5, killed=1, survivors=(4, 5)),
            {
                "type": "error",
                "error": "e",
                "code": "survivors",
                "duration_ms": 5,
                "killed": 1,
                "survivors": [4, 5],
            },
        ),
    ],
)
def test_an_event_is_its_json(event: object, expected: dict[str, object]) -> None:
    """Absent facts are left out."""
    assert decode(encode_event(event)) == [expected]  # type: ignore[arg-type]


@given(st.binary().map(lambda data: data.replace(b"a", b"\n").replace(b"b", b"\xe2\x80\xa8")))
def test_output_carries_every_line_and_nothing_else(block: bytes) -> None:
    """Against decoding line by line, under arbitrary bytes."""
    expected = [line.removesuffix(b"\r").decode("utf-8", "replace") for line in block.split(b"\n")]
    expected = [line for line in expected if line]
    stream, count = encode_output(block)
    events = decode(stream)
    assert [event["data"] for event in events] == expected
    assert count == len(expected)
    assert all(event.keys() == {"type", "data"} and event["type"] == "output" for event in events)


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_no_line_end_of_unicode_stands_raw_in_an_event(character: str) -> None:
    """Clients that split text at those would cut the event."""
    stream, _count = encode_output(f"a{character}b".encode())
    assert len(stream.decode().splitlines()) == 2
    assert decode(stream)[0]["data"] == f"a{character}b"
    assert len(encode_event(SessionCreated(session_id=character)).decode().splitlines()) == 2


def test_a_heartbeat_is_a_comment() -> None:
    """Clients skip it."""
    assert HEARTBEAT.startswith(b":")
    assert HEARTBEAT.endswith(b"\n\n")


def test_every_kind_of_event_has_a_type_of_its_own() -> None:
    """The closed set that clients branch on."""
    kinds = get_args(Event)
    assert [kind.__struct_config__.tag for kind in kinds] == [
        "session_created",
        "output",
        "completed",
        "error",
    ]


@given(
    text=st.text(),
    code=st.sampled_from(get_args(Code)),
    exit_code=st.none() | st.integers(0, 2**32 - 1),
    signal=st.none() | st.integers(1, 64),
    survivors=st.none() | st.lists(st.integers(1), min_size=1).map(tuple),
)
def test_a_failure_says_what_was_put_in(
    text: str, code: Code, exit_code: int | None, signal: int | None, survivors: tuple[int, ...] | None
) -> None:
    """Whatever the reason's text; what is not known is left out, and zero is known."""
    facts = {"exit_code": exit_code, "signal": signal, "survivors": survivors}
    event = Failed(error=text, code=code, duration_ms=0, killed=0, **facts)  # type: ignore[arg-type]
    (told,) = decode(encode_event(event))
    expected = {"type": "error", "error": text, "code": code, "duration_ms": 0, "killed": 0}
    known = {name: value for name, value in facts.items() if value is not None}
    assert told == expected | known | ({"survivors": list(survivors)} if survivors else {})
    assert next(iter(told)) == "type"


@given(st.text())
@example("a\r\n\r")
def test_a_line_is_the_same_event_alone_and_in_bulk(text: str) -> None:
    """`encode_output` is `encode_event` for many."""
    line = text.replace("\n", "").rstrip("\r")
    if line:
        assert encode_output(line.encode()) == (encode_event(Output(data=line)), 1)


@given(st.binary())
def test_invalid_utf_8_is_replaced_and_swallows_no_neighbour(garbage: bytes) -> None:
    """A sequence that a line end interrupts takes nothing from the next line."""
    garbage = garbage.replace(b"\n", b"")
    events = decode(encode_output(b"before\n" + garbage + b"\nafter")[0])
    assert events[0]["data"] == "before"
    assert events[-1]["data"] == "after"
    assert len(events) <= 3


@pytest.mark.parametrize("block", [b"", b"\n", b"\n\n\n", b"\r", b"\r\n\r", b"\n\r\n"])
def test_empty_lines_are_no_events(block: bytes) -> None:
    """With and without a carriage return."""
    assert encode_output(block) == (b"", 0)


def test_a_line_of_many_mebibytes_is_one_event() -> None:
    """Cut nowhere."""
    line = b'{"content":"' + bytes(range(35, 91)) * 150_000 + b'"}'
    stream, count = encode_output(line + b"\n" + line)
    assert count == 2
    assert [event["data"] for event in decode(stream)] == [line.decode()] * 2


def test_control_characters_are_escaped() -> None:
    """So that no event holds a NUL, an escape sequence or a line end of any kind."""
    stream, _count = encode_output(bytes(set(range(32)) - {10}) + b"\x7f")
    assert not any(byte < 32 for byte in stream.removesuffix(b"\n\n"))
    assert decode(stream)[0]["data"] == "".join(chr(code) for code in range(32) if code != 10) + "\x7f"


def test_a_heartbeat_between_events_is_no_event() -> None:
    """It stands alone, and is one line."""
    assert HEARTBEAT.count(b"\n") == 2
    assert b"data" not in HEARTBEAT
