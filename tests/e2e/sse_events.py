"""The server's event streams, read strictly: whatever the contract does not foresee fails."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Event = dict[str, Any]

TERMINAL = ("completed", "error")


def events(chunks: Iterable[bytes]) -> Iterator[Event]:
    """Yield the events of a stream as they arrive; heartbeats (comment lines) are passed over.

    Raises:
        AssertionError: a frame is not exactly `data: {json}` or a comment, or the stream ends
            inside one.
    """
    rest = b""
    for chunk in chunks:
        *frames, rest = (rest + chunk).split(b"\n\n")
        for frame in frames:
            if frame.startswith(b":"):
                assert b"\n" not in frame, f"more than a comment in {frame!r}"
                continue
            assert frame.startswith(b"data: {"), f"not an event: {frame[:200]!r}"
            assert b"\n" not in frame, f"more than one line in {frame[:200]!r}"
            yield json.loads(frame.removeprefix(b"data: "))
    assert not rest, f"the stream ended inside an event: {rest[:200]!r}"


def whole(chunks: Iterable[bytes]) -> list[Event]:
    """Read a stream to its end and check its shape.

    Raises:
        AssertionError: there is not exactly one terminal event, at the end; a `session_created`
            stands elsewhere than first; an `output` carries no text.
    """
    found = list(events(chunks))
    kinds = [event["type"] for event in found]
    assert kinds, "a stream without an event"
    assert [kind for kind in kinds if kind in TERMINAL] == kinds[-1:], kinds
    assert "session_created" not in kinds[1:], kinds
    assert set(kinds) <= {"session_created", "output", *TERMINAL}, kinds
    assert all(isinstance(event["data"], str) for event in found if event["type"] == "output")
    return found


def completed(last: Event) -> None:
    """Prove that this event tells of a process that exited with status 0."""
    assert last["type"] == "completed", last


def messages(found: Iterable[Event]) -> list[Any]:
    """What the CLI printed, decoded: each `output` is one JSON line of it."""
    return [json.loads(event["data"]) for event in found if event["type"] == "output"]


def answer(found: Iterable[Event]) -> str:
    """The text of the CLI's `result` line."""
    results = [line["result"] for line in messages(found) if line["type"] == "result"]
    assert len(results) == 1, f"{len(results)} result lines"
    return str(results[0])


def session_of(found: list[Event]) -> str:
    """The id that `session_created`, the first event, tells."""
    assert found[0]["type"] == "session_created", found[0]
    return str(found[0]["session_id"])
