"""Bytes made events again: however they are cut, and whatever a newer server or a proxy adds."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from q9gent.wire.event_stream import EventDecoder, MalformedStream
from q9gent.wire.events import (
    HEARTBEAT,
    Completed,
    Event,
    Failed,
    Output,
    SessionCreated,
    encode_event,
    encode_output,
)

ENDING = Completed(duration_ms=5, killed=0)
EVENTS: list[Event] = [SessionCreated("s"), Output('{"a":"é🎯\u2028"}'), Output("x\\n"), ENDING]
STREAM = (
    HEARTBEAT + b"".join(map(encode_event, EVENTS[:2])) + HEARTBEAT + b"".join(map(encode_event, EVENTS[2:]))
)
PROXIED = STREAM.replace(b"\n", b"\r\n")

both_line_ends = pytest.mark.parametrize("stream", [STREAM, PROXIED], ids=["as sent", "CRLF"])


def decode(*chunks: bytes) -> list[Event]:
    decoder = EventDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def test_a_whole_stream_is_its_events() -> None:
    """Heartbeats are passed over; what is encoded is decoded."""
    assert decode(STREAM) == EVENTS


@both_line_ends
def test_byte_by_byte_is_the_same(stream: bytes) -> None:
    """An event spans reads, and so does a character."""
    assert decode(*(stream[index : index + 1] for index in range(len(stream)))) == EVENTS


@both_line_ends
def test_any_two_cuts_change_nothing(stream: bytes) -> None:
    """Wherever reads end."""
    for first, second in itertools.combinations(range(len(stream) + 1), 2):
        assert decode(stream[:first], stream[first:second], stream[second:]) == EVENTS


@given(st.lists(st.integers(0, len(PROXIED))).map(sorted), st.sampled_from([STREAM, PROXIED]))
def test_any_number_of_cuts_changes_nothing(cuts: list[int], stream: bytes) -> None:
    """Many reads, empty ones among them."""
    assert (
        decode(*(stream[first:last] for first, last in itertools.pairwise([0, *cuts, len(PROXIED)])))
        == EVENTS
    )


def test_the_ending_is_kept_and_what_follows_ignored() -> None:
    """There is one terminal event."""
    decoder = EventDecoder()
    assert decoder.ending is None
    assert decoder.feed(STREAM + encode_event(Output("more")))[-1] == ENDING
    assert decoder.ending == ENDING
    assert decoder.feed(encode_event(ENDING)) == []


def test_an_event_without_its_empty_line_is_no_event() -> None:
    """A stream that was cut there has not ended."""
    assert decode(encode_event(ENDING)[:-1]) == []


def test_bulk_output_is_decoded() -> None:
    """What the server sends in one write."""
    block, count = encode_output(b"one\r\ntwo\n\nthree")
    assert count == 3
    assert decode(block) == [Output("one"), Output("two"), Output("three")]


@pytest.mark.parametrize(
    ("text", "event"),
    [
        (b'data: {"type":"output","data":"x","later":[1]}\r\n\r\n', Output("x")),
        (b'data:{"type":"output","data":"x"}\n\n', Output("x")),
        (b'event: output\nid: 7\nretry: 3\ndata: {"type":"output","data":"x"}\n\n', Output("x")),
        (b'data: {"type":"output",\ndata: "data":"x"}\n\n', Output("x")),
        (b'data: {"type":"completed","duration_ms":5,"killed":0,"more":{}}\n\n', ENDING),
    ],
)
def test_what_proxies_and_newer_servers_change_is_understood(text: bytes, event: Event) -> None:
    """Members that are not known, other line ends, other fields, an event of several lines."""
    assert decode(text) == [event]


def test_an_event_of_an_unknown_type_is_passed_over() -> None:
    """A newer server may send more kinds."""
    assert decode(b'data: {"type":"progress","percent":3}\n\n' + STREAM) == EVENTS


def test_an_unknown_code_is_kept() -> None:
    """A failure is not hidden because its word is new."""
    (event,) = decode(b'data: {"type":"error","error":"E","code":"frozen","duration_ms":1,"killed":2}\n\n')
    assert isinstance(event, Failed)
    assert (event.error, event.code, event.killed) == ("E", "frozen", 2)


@pytest.mark.parametrize(
    "text",
    [
        b"data: <html>\n\n",
        b"data: [1]\n\n",
        b'data: {"data":"x"}\n\n',
        b'data: {"type":"output","data":7}\n\n',
        b'data: {"type":"error","code":"frozen"}\n\n',
        b'data: {"type":"output","data":"\xff"}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
    ],
)
def test_what_is_no_event_is_malformed(text: bytes) -> None:
    """It is told, and not passed over."""
    with pytest.raises(MalformedStream):
        decode(text)


def test_an_event_without_end_is_refused() -> None:
    """The memory for it is bounded."""
    decoder = EventDecoder(limit_bytes=1000)
    with pytest.raises(MalformedStream, match="longer than 1000 bytes"):
        for _ in range(100):
            decoder.feed(b"x" * 100)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"type":"result"}', {"type": "result"}),
        ("plain text", None),
        ("[1, 2]", None),
        ("7", None),
        ("", None),
        ("[" * 100_000, None),
        ('{"a":"\\ud800"}', None),
    ],
)
def test_a_line_is_decoded_if_it_is_an_object(line: str, message: object) -> None:
    """The CLI prints a few lines of plain text: they are no error."""
    assert Output(line).json() == message


def test_decoding_leaves_the_encoding_as_it_is() -> None:
    """The helper adds nothing to the wire."""
    assert msgspec.json.encode(Output("x")) == b'{"type":"output","data":"x"}'
