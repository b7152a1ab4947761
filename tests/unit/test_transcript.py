"""What the CLI's lines say to people: of each kind, of none, and of what is shaped otherwise."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from q9gent.cli.transcript import SUMMARY_CHARACTERS, Piece, Transcript
from q9gent.wire.events import Output

if TYPE_CHECKING:
    from collections.abc import Iterator


def take(*messages: Any) -> list[Piece]:
    """The pieces of a turn's lines."""
    transcript = Transcript()
    lines = [line if isinstance(line, str) else json.dumps(line) for line in messages]
    return [piece for line in lines for piece in transcript.take(line, Output(line).json())]


def assistant(*blocks: Any, **more: Any) -> dict[str, Any]:
    return {"type": "assistant", "message": {"id": "m1", "content": list(blocks)}, **more}


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "user", "message": {"content": [{"type": "tool_result", "content": content, **more}]}}


def partial(event: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "stream_event", "event": event, **more}


def delta(text: str, **more: Any) -> dict[str, Any]:
    return partial({"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}}, **more)


START = partial({"type": "message_start", "message": {"id": "m1"}})
STOP = partial({"type": "content_block_stop"})
TEXT = {"type": "text", "text": "Hello"}


@pytest.mark.parametrize(
    ("message", "pieces"),
    [
        (
            {"type": "system", "subtype": "init", "model": "m", "cwd": "/w", "tools": ["Read"]},
            [Piece("note", "m in /w")],
        ),
        (
            {"type": "system", "subtype": "api_retry", "attempt": 2, "max_retries": 10},
            [Piece("note", "the model's API does not answer, trying again (2 of 10)")],
        ),
        (assistant(TEXT), [Piece("text", "Hello\n")]),
        (assistant({"type": "text", "text": "line\n"}), [Piece("text", "line\n")]),
        (assistant({"type": "thinking", "thinking": "Hm"}), [Piece("thinking", "Hm")]),
        (
            assistant({"type": "tool_use", "name": "Read", "input": {"limit": 3, "file_path": "/a"}}),
            [Piece("tool", "Read /a")],
        ),
        (assistant({"type": "tool_use", "name": "Odd", "input": {"n": 1}}), [Piece("tool", 'Odd {"n":1}')]),
        (assistant({"type": "tool_use", "name": "Bare"}), [Piece("tool", "Bare")]),
        (assistant(TEXT, {"type": "tool_use", "name": "X"}), [Piece("text", "Hello\n"), Piece("tool", "X")]),
        (assistant(TEXT, parent_tool_use_id="t"), [Piece("thinking", "Hello")]),
        (user("one"), [Piece("outcome", "one")]),
        (user("one\ntwo"), [Piece("outcome", "one (and 1 more line)")]),
        (user("one\ntwo\nthree"), [Piece("outcome", "one (and 2 more lines)")]),
        (user([{"type": "text", "text": "a"}, {"type": "image"}]), [Piece("outcome", "a (and 1 more line)")]),
        (user(""), [Piece("outcome", "no output")]),
        (user("bad", is_error=True), [Piece("error", "bad")]),
        ("plain text", [Piece("note", "plain text")]),
    ],
)
def test_a_line_says(message: Any, pieces: list[Piece]) -> None:
    """One line of each kind."""
    assert take(message) == pieces


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"type": "new"},
        {"type": 7},
        {"type": "system"},
        {"type": "assistant"},
        {"type": "assistant", "message": "x"},
        {"type": "assistant", "message": {"content": 7}},
        assistant("x", None, {}, {"type": "new"}),
        {"type": "user", "message": {"content": "typed by somebody"}},
        partial({"type": "ping"}),
        {"type": "stream_event"},
        partial({"type": "content_block_delta", "delta": "x"}),
        partial({"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{"}}),
    ],
)
def test_what_is_not_known_says_nothing(message: Any) -> None:
    """The format grows with the CLI."""
    assert take(message) == []


ODD: list[Any] = [None, True, 7, 1.5, "x", [], [None], ["x"], {}, {"type": "text"}, {"x": [7]}]
WELL_SHAPED: list[Any] = [
    {"type": "system", "subtype": "init", "model": "m", "cwd": "/w"},
    assistant(
        TEXT, {"type": "thinking", "thinking": "x"}, {"type": "tool_use", "name": "X", "input": {"url": "x"}}
    ),
    user([{"type": "text", "text": "a"}], is_error=False),
    START,
    delta("x"),
    {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "result": "x",
        "num_turns": 1,
        "duration_ms": 1,
        "total_cost_usd": 1,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    },
]


def misshaped(value: Any) -> Iterator[Any]:
    """The value with each part of it, one at a time, replaced by something odd."""
    yield from ODD
    if isinstance(value, dict):
        for name, part in value.items():
            yield from ({**value, name: other} for other in misshaped(part))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from ([*value[:index], other, *value[index + 1 :]] for other in misshaped(part))


@pytest.mark.parametrize("message", WELL_SHAPED, ids=lambda message: message["type"])
def test_no_shape_breaks_it(message: dict[str, Any]) -> None:
    """Whatever stands in the place of what is expected."""
    found = [odd for odd in misshaped(message) if isinstance(odd, dict)]
    assert len(found) > 20
    for odd in found:
        transcript = Transcript()
        for line in (odd, message):
            assert all(isinstance(piece.text, str) for piece in transcript.take("x", line))


def test_parts_are_shown_as_they_come_and_not_again() -> None:
    """The whole message that follows its parts adds only its tools."""
    pieces = take(
        START, delta("Hel"), delta("lo"), STOP, assistant(TEXT), assistant({"type": "tool_use", "name": "X"})
    )
    assert pieces == [Piece("text", "Hel"), Piece("text", "lo"), Piece("end", ""), Piece("tool", "X")]


def test_a_message_without_parts_is_shown_beside_one_with() -> None:
    """Only what was streamed is known already."""
    other = {"type": "assistant", "message": {"id": "m2", "content": [TEXT]}}
    assert take(START, delta("Hi"), STOP, other)[-1] == Piece("text", "Hello\n")


def test_parts_of_an_agent_of_the_agents_are_not_the_answer() -> None:
    """Its text comes as a whole, as a note."""
    assert take(START, delta("Hi", parent_tool_use_id="t")) == []


def test_a_result_sums_up() -> None:
    """Turns, time, cost and tokens, as far as they are told."""
    result = {
        "type": "result",
        "result": "Hello",
        "num_turns": 2,
        "duration_ms": 8123,
        "total_cost_usd": 0.01234,
        "usage": {"input_tokens": 4, "cache_read_input_tokens": 1200, "output_tokens": 310},
    }
    assert take(assistant(TEXT), result)[1:] == [
        Piece("summary", "2 turns, 8.1 s, $0.0123, 1,204 tokens in, 310 out")
    ]


def test_a_result_is_shown_if_nothing_was_said() -> None:
    """Else it would be said twice."""
    assert take({"type": "result", "result": "Hello"}) == [Piece("text", "Hello\n"), Piece("summary", "done")]


def test_a_result_that_is_an_error_is_one() -> None:
    """With the text, or with the CLI's word for it."""
    assert take({"type": "result", "is_error": True, "result": "bad"})[0] == Piece(
        "error", "the agent failed: bad"
    )
    told = take({"type": "result", "is_error": True, "subtype": "error_max_turns"})
    assert told[0] == Piece("error", "the agent failed: error_max_turns")


def test_what_a_tool_is_given_is_shortened() -> None:
    """To one line of bounded length."""
    (piece,) = take(assistant({"type": "tool_use", "name": "Bash", "input": {"command": "a\nb " * 10_000}}))
    assert "\n" not in piece.text
    assert len(piece.text) == len("Bash ") + SUMMARY_CHARACTERS
    assert piece.text.endswith("…")
