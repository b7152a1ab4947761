"""The events of a stream, and their bytes as server-sent events.

The JSON of an event is one line, so an event is ``data: {json}`` and a blank line. Three characters
that JSON leaves as they are (U+0085, U+2028, U+2029) are escaped all the same: clients that split
text where Unicode ends lines (``httpx``, Python's ``str.splitlines``) would cut the event there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from q9gent.wire.fields import Count, Uuid

FAILED = "Process execution failed: "
"""How the text of every ``error`` event begins."""

CONTAINMENT_LOST = "containment was lost: "
"""How it goes on if nobody can say what of the run lives; there are no ``survivors`` then."""

Code = Literal[
    "exit",
    "signal",
    "terminated",
    "disconnected",
    "timeout",
    "stalled",
    "overflow",
    "shutdown",
    "survivors",
    "internal",
]
"""Why a run that did not complete ended: the closed set of the ``error`` event's codes."""


class SessionCreated(msgspec.Struct, frozen=True, tag_field="type", tag="session_created"):
    """The first event of a run with ``create_session``: sent before the process prints anything."""

    session_id: Annotated[Uuid, Meta(description="The id for /message and /terminate.")]


class Output(msgspec.Struct, frozen=True, tag_field="type", tag="output"):
    """One line of the CLI's output, without its line end. Encoded in bulk by ``encode_output``."""

    data: Annotated[str, Meta(description="The line as it is; nearly always JSON, to be decoded again.")]

    def json(self) -> dict[str, Any] | None:
        """Return the line decoded; ``None`` if it is no JSON object, as the CLI prints a few plain lines."""
        try:
            message = _LINE_DECODER.decode(self.data)
        except (msgspec.DecodeError, RecursionError):
            return None
        return message if isinstance(message, dict) else None


class Completed(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="completed"
):
    """The last event: the process exited with status 0 and its whole tree is dead."""

    duration_ms: Annotated[
        Count, Meta(description="Milliseconds from the request to the death of the last process.")
    ]
    killed: Annotated[Count, Meta(description="How many processes had to be killed.")]


class Failed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="error"):
    """The last event: anything else happened, and the tree is dead unless ``survivors`` says not."""

    error: Annotated[str, Meta(description="The reason in words, for people: branch on `code`.")]
    code: Annotated[Code, Meta(description="The reason, of a closed set.")]
    duration_ms: Annotated[
        Count, Meta(description="Milliseconds from the request to the death of the last process.")
    ]
    killed: Annotated[Count, Meta(description="How many processes had to be killed.")]
    exit_code: Annotated[int | None, Meta(description="The exit status, if the process exited.")] = None
    signal: Annotated[int | None, Meta(description="The signal's number, if one ended it.")] = None
    survivors: Annotated[
        tuple[int, ...] | None,
        Meta(description="Pids that could not be killed; only with the code `survivors`."),
    ] = None


Event = SessionCreated | Output | Completed | Failed

HEARTBEAT = b": heartbeat\n\n"
"""A comment: clients skip it, and a write to a client that is gone fails."""

_ENCODER = msgspec.json.Encoder()
_LINE_DECODER = msgspec.json.Decoder()
_START = b'data: {"type":"output","data":'
_END = b"}\n\n"
_BETWEEN = _END + _START


def encode_event(event: Event) -> bytes:
    """Return one event as it stands in the stream."""
    return b"data: " + _escape_line_ends(_ENCODER.encode(event)) + b"\n\n"


def encode_output(block: bytes) -> tuple[bytes, int]:
    r"""Return the ``output`` events of a block of lines, and their number.

    Args:
        block: Lines separated by ``\n``, as from ``LineFramer.feed``. Empty lines are skipped, a
            ``\r`` before a line end is part of it, invalid UTF-8 becomes U+FFFD.
    """
    # A line end is never part of a multi-byte sequence: decoding all at once cuts no line anew.
    text = block.decode("utf-8", "replace")
    encode = _ENCODER.encode
    if "\n" not in text and not text.endswith("\r"):  # most reads of a live stream
        if not text:
            return b"", 0
        return _escape_line_ends(_START + encode(text) + _END), 1
    lines = text.split("\n")
    if b"\r" in block:
        lines = [line.removesuffix("\r") for line in lines]
    encoded = [encode(line) for line in lines if line]
    if not encoded:
        return b"", 0
    return _escape_line_ends(_START + _BETWEEN.join(encoded) + _END), len(encoded)


def _escape_line_ends(json: bytes) -> bytes:
    if json.isascii():
        return json
    return (
        json.replace(b"\xc2\x85", b"\\u0085")
        .replace(b"\xe2\x80\xa8", b"\\u2028")
        .replace(b"\xe2\x80\xa9", b"\\u2029")
    )
