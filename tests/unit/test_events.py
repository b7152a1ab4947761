"""Events on the wire: one JSON line each, whatever is in them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from q9gent.wire.events import (
    HEARTBEAT,
    Completed,
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
