"""A transport that answers as a test tells it: for what no server of ours would do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import sniffio
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

HEADERS = {"content-type": "text/event-stream", "x-q9gent-run-id": "r1"}
OUTPUT = b'data: {"type":"output","data":"x"}\n\n'
COMPLETED = b'data: {"type":"completed","duration_ms":1,"killed":0}\n\n'


class Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Chunks, and then an end, an error, or nothing for ever (asynchronously alone)."""

    def __init__(self, *chunks: bytes, error: Exception | None = None, forever: bool = False) -> None:
        self._chunks = chunks
        self._error = error
        self._forever = forever
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks
        if self._error:
            raise self._error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk
        if self._error:
            raise self._error
        if self._forever:
            await sleep_forever()

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


async def sleep_forever() -> None:
    """Wait to be cancelled, in whichever world."""
    if sniffio.current_async_library() == "trio":
        await trio.sleep_forever()
    await asyncio.Event().wait()


class Scripted(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Answers `POST /spawn` with a stream, and `/terminate` with what `terminate` returns.

    Attributes:
        asked: The requests, as `POST /spawn`.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        terminate: Callable[[], httpx.Response] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.asked: list[str] = []
        self._stream = stream
        self._terminate = terminate
        self._headers = HEADERS if headers is None else headers

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path}")
        if request.url.path == "/spawn":
            return httpx.Response(200, headers=self._headers, stream=self._stream)
        assert self._terminate is not None
        return self._terminate()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/spawn" and self._terminate is None:
            self.asked.append(f"{request.method} {request.url.path}")
            await sleep_forever()
        return self.handle_request(request)


class Recording(httpx.HTTPTransport):
    """A real transport that remembers what was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path}")
        return super().handle_request(request)
