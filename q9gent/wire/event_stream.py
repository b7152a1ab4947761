r"""The bytes of a stream, made events again. Sans-IO: feed it what was read, take the events.

Server-sent events as far as q9gent sends them, and as far as a proxy may change them: comments are
passed over, ``\r\n`` ends a line too, an event may have several ``data`` lines. What a newer server adds
does not disturb: members that are not known are dropped, so are events of a type that is not known.
"""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from q9gent.wire.events import Completed, Event, Failed

EVENT_BYTES = 384 * 1024 * 1024
"""The longest line of a stream: one of ``line_bytes``' default, 64 MiB, has 6 times as many bytes if JSON
must write each of them as ``\\u0000``."""

_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_KNOWN_TYPES = {kind.__struct_config__.tag for kind in get_args(Event)}


class MalformedStream(Exception):
    """These are not the bytes of an event stream, or an event is longer than the limit."""


class EventDecoder:
    """Collects the bytes of one stream and gives its events.

    Args:
        limit_bytes: The longest line.

    Attributes:
        ending: The terminal event, once it was there. What follows it is ignored.
    """

    def __init__(self, limit_bytes: int = EVENT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._partial = bytearray()
        self._data: list[bytes] = []
        self.ending: Completed | Failed | None = None

    def feed(self, data: bytes) -> list[Event]:
        """Take what was read and return the events that are now complete.

        Raises:
            MalformedStream: See there.
        """
        end = data.rfind(b"\n")
        if end < 0:
            self._partial += data
            self._measure()
            return []
        lines = (bytes(self._partial) + data[:end]).split(b"\n")
        self._partial = bytearray(data[end + 1 :])
        self._measure()
        return [event for line in lines if (event := self._take(line.removesuffix(b"\r"))) is not None]

    def _measure(self) -> None:
        if len(self._partial) > self._limit_bytes:
            raise MalformedStream(f"an event is longer than {self._limit_bytes} bytes")

    def _take(self, line: bytes) -> Event | None:
        if line:
            field, _, value = line.partition(b":")
            if field == b"data":
                self._data.append(value.removeprefix(b" "))
            return None
        if not self._data or self.ending is not None:
            return None
        text = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data = []
        event = decode_event(text)
        if isinstance(event, Completed | Failed):
            self.ending = event
        return event


def decode_event(text: bytes) -> Event | None:
    """Return the event that a JSON text stands for; ``None`` for one of a type that is not known.

    Raises:
        MalformedStream: It is no event.
    """
    try:
        return _DECODER.decode(text)
    except msgspec.ValidationError as error:
        return _decode_unknown(text, error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedStream(f"an event is not JSON: {error}") from error


def _decode_unknown(text: bytes, error: msgspec.ValidationError) -> Event | None:
    """Return what can be understood of an event by a newer server."""
    try:
        found: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None
    if isinstance(found, dict) and isinstance(found.get("type"), str):
        if found["type"] not in _KNOWN_TYPES:
            return None
        code = found.get("code")
        if found["type"] == "error" and isinstance(code, str):
            # A code that is not in our set: kept, as hiding a failure is worse than an unknown word.
            try:
                known = msgspec.convert({**found, "code": "internal"}, Failed)
            except msgspec.ValidationError as other:
                raise MalformedStream(f"an event is not what it must be: {other}") from other
            return msgspec.structs.replace(known, code=code)
    raise MalformedStream(f"an event is not what it must be: {error}")
