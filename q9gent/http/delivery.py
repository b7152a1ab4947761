"""A run's events, from its outbox to its client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from q9gent.wire.events import HEARTBEAT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from q9gent.output.outbox import Outbox

STREAM_HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx: pass each write on at once
}


async def deliver(
    outbox: Outbox, send: Callable[[bytes], Awaitable[None]], *, heartbeat_seconds: float
) -> None:
    """Send everything, the terminal event last, and a comment after each silence.

    Args:
        outbox: Where the events come from.
        send: Takes bytes; returns when the next may come, raises or is cancelled if none may.
        heartbeat_seconds: How long a silence is.

    Cancellation: what was taken and not sent is lost, with the client it was for.
    """
    while True:
        data: bytes | None = None
        with trio.move_on_after(heartbeat_seconds):
            data = await outbox.take()
        if data is None:
            await send(HEARTBEAT)
        elif data:
            await send(data)
        else:
            return
