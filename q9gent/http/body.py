"""A request's body, counted while it arrives.

Quart checks the size of a chunked body only once it has all of it, and the inside of its body class
differs between versions: this one is the same for all, and never holds more than the limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from quart_trio.wrappers import TrioRequest
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator


class RequestBody:
    """What ``await request.body`` waits for; fed by the exchange.

    Args:
        expected_content_length: As the client declared it.
        max_content_length: The limit, in bytes.

    Attributes:
        complete: Set once all has arrived, or the client is gone.
    """

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        self._limit = max_content_length
        self._data = bytearray()
        self._too_large = self._limit is not None and (expected_content_length or 0) > self._limit
        self._disconnected = False
        self._decided = trio.Event()  # nothing can change the outcome any more
        self.complete = trio.Event()
        if self._too_large:
            self._decided.set()

    def feed(self, data: bytes) -> None:
        """Take what arrived; past the limit it is dropped."""
        if self._too_large:
            return
        self._data += data
        if self._limit is not None and len(self._data) > self._limit:
            self._too_large = True
            self._data.clear()
            self._decided.set()

    def finish(self) -> None:
        """All has arrived."""
        self._decided.set()
        self.complete.set()

    def disconnect(self) -> None:
        """The client is gone; of a body that was complete before, nothing is lost."""
        self._disconnected = not self.complete.is_set()
        self.finish()

    def __await__(self) -> Generator[object, None, bytes]:
        """Wait for the whole body.

        Raises:
            RequestEntityTooLarge: It is over the limit; told as soon as that is known.
            ClientDisconnected: It will never be whole.
        """
        yield from self._decided.wait().__await__()
        if self._too_large:
            raise RequestEntityTooLarge
        if self._disconnected:
            raise ClientDisconnected
        return bytes(self._data)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body, for routes that iterate; all at once, as it is bounded."""
        yield await self

    def clear(self) -> None:
        """Drop what was read."""
        self._data.clear()


class BodyRequest(TrioRequest):
    """A request with such a body."""

    body_class = RequestBody  # type: ignore[assignment]
    body: RequestBody  # type: ignore[assignment]
