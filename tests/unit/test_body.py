"""A request's body, counted while it arrives."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from q9gent.http.body import RequestBody


def a_body(declared: int | None, limit: int | None, messages: list[dict[str, Any]]) -> RequestBody:
    """Return a body whose messages come one a step; after the last nothing comes."""
    body = RequestBody(declared, limit)
    waiting = iter(messages)

    async def receive() -> Any:
        await trio.lowlevel.checkpoint()
        message = next(waiting, None)
        return message if message is not None else await trio.sleep_forever()

    body.receive = receive
    return body


def piece(data: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


GONE = {"type": "http.disconnect"}


@given(st.lists(st.binary(max_size=10)), st.integers(0, 40))
def test_a_body_is_its_pieces_or_too_large(pieces: list[bytes], limit: int) -> None:
    """At the limit it passes, one byte over it does not, and never more than the limit is held."""

    async def main() -> None:
        whole = b"".join(pieces)
        body = a_body(None, limit, [*map(piece, pieces), piece(b"", more=False)])
        if len(whole) > limit:
            with pytest.raises(RequestEntityTooLarge):
                await body
            assert body._data == b""
        else:
            assert await body == whole

    trio.run(main)


def test_a_body_declared_too_large_is_refused_at_once() -> None:
    """Before it arrives; it is still drained, and not held."""

    async def main() -> None:
        body = a_body(11, 10, [piece(b"eleven "), piece(b"bytes", more=False)])
        with trio.fail_after(1), pytest.raises(RequestEntityTooLarge):
            await body
        assert not body.is_complete
        await body.read()
        assert body.is_complete
        assert body._data == b""

    trio.run(main)


def test_half_a_body_is_no_body() -> None:
    """A client that goes meanwhile is not taken for one that has sent all."""

    async def main() -> None:
        body = a_body(None, 10, [piece(b"half"), GONE])
        with pytest.raises(ClientDisconnected):
            await body

    trio.run(main)


def test_a_whole_body_survives_its_client() -> None:
    """It can be read, and iterated over."""

    async def main() -> None:
        body = a_body(None, None, [piece(b"whole", more=False), GONE])
        assert await body == b"whole"
        assert [part async for part in body] == [b"whole"]
        body.clear()

    trio.run(main)
