"""A request's body, counted while it arrives."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from q9gent.http.body import RequestBody


@given(st.lists(st.binary(max_size=10)), st.integers(0, 40))
def test_a_body_is_its_pieces_or_too_large(pieces: list[bytes], limit: int) -> None:
    """At the limit it passes, one byte over it does not, and never more than the limit is held."""

    async def main() -> None:
        body = RequestBody(None, limit)
        for piece in pieces:
            body.feed(piece)
            assert len(body._data) <= limit
        body.finish()
        whole = b"".join(pieces)
        if len(whole) > limit:
            with pytest.raises(RequestEntityTooLarge):
                await body
        else:
            assert await body == whole

    trio.run(main)


def test_a_body_declared_too_large_is_refused_at_once() -> None:
    """Before it arrives; it is still drained."""

    async def main() -> None:
        body = RequestBody(11, 10)
        with trio.fail_after(1), pytest.raises(RequestEntityTooLarge):
            await body
        assert not body.complete.is_set()
        body.finish()
        assert body.complete.is_set()

    trio.run(main)


def test_half_a_body_is_no_body() -> None:
    """A client that goes meanwhile is not taken for one that has sent all."""

    async def main() -> None:
        body = RequestBody(None, 10)
        body.feed(b"half")
        body.disconnect()
        with pytest.raises(ClientDisconnected):
            await body

    trio.run(main)


def test_a_whole_body_survives_its_client() -> None:
    """It can be read, and iterated over."""

    async def main() -> None:
        body = RequestBody(None, None)
        body.feed(b"whole")
        body.finish()
        body.disconnect()
        assert await body == b"whole"
        assert [part async for part in body] == [b"whole"]
        body.clear()

    trio.run(main)
