"""A request's body, counted while it arrives.

Quart checks the size of a chunked body only once it has all of it, and the inside of its body class
differs between versions: this one is the same for all, and never holds more than the limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart_trio.wrappers import TrioRequest
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

    from hypercorn.typing import ASGIReceiveCallable


class RequestBody:
    """What ``await request.body`` reads, from where the exchange says. One task at a time may read.

    Args:
        expected_content_length: As the client declared it.
        max_content_length: The limit, in bytes.

    Attributes:
        receive: Returns the next ASGI message of the request.
        is_complete: Whether all has arrived, or the client is gone.
    """

    receive: ASGIReceiveCallable

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        self._limit = max_content_length
        self._data = bytearray()
        self._too_large = self._limit is not None and (expected_content_length or 0) > self._limit
        self._disconnected = False
        self.is_complete = False

    async def read(self) -> None:
        """Wait for the rest, and drop what is over the limit. Cancellation: nothing is lost."""
        while not self.is_complete:
            await self._read_some()

    async def _read_some(self) -> None:
        message = await self.receive()
        if message["type"] == "http.request":
            self.feed(message.get("body", b""))
            self.is_complete = not message.get("more_body", False)
        elif message["type"] == "http.disconnect":
            self._disconnected = self.is_complete = True

    def feed(self, data: bytes) -> None:
        """Take what arrived; past the limit it is dropped."""
        if self._too_large:
            return
        self._data += data
        if self._limit is not None and len(self._data) > self._limit:
            self._too_large = True
            self._data.clear()

    def __await__(self) -> Generator[object, None, bytes]:
        """Wait for the whole body.

        Raises:
            RequestEntityTooLarge: It is over the limit; told as soon as that is known.
            ClientDisconnected: It will never be whole.
        """
        while not self.is_complete and not self._too_large:
            yield from self._read_some().__await__()
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
