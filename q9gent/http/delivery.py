"""A run's events, from its outbox to its client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

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


class Lane(Protocol):
    """A way to a client; ``OrdinaryLane`` is one, ``q9gent.http.lane`` has a faster one."""

    @property
    def express(self) -> Callable[[bytes], bool] | None:
        """See ``Outbox.take``; ``None`` where every send has to be waited for."""
        ...

    @property
    def sent_at(self) -> float:
        """When it last sent something (``trio.current_time``)."""
        ...

    async def start(self, events: bytes) -> None:
        """Send the head, and what there is."""
        ...

    async def send(self, events: bytes) -> None:
        """Send what the express held back, and then these.

        Cancellation: some may have been sent.
        """
        ...

    async def finish(self, events: bytes) -> None:
        """The same, and the end of the stream."""
        ...


class OrdinaryLane:
    """An ASGI message for each piece: what every server understands.

    Args:
        send_start: Sends the head.
        send_part: Sends bytes of the body.
        send_last: Sends the last bytes of the body.
    """

    express = None

    def __init__(
        self,
        send_start: Callable[[], Awaitable[None]],
        send_part: Callable[[bytes], Awaitable[None]],
        send_last: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._send_start = send_start
        self._send_part = send_part
        self._send_last = send_last
        self.sent_at = trio.current_time()

    async def start(self, events: bytes) -> None:
        """See ``Lane.start``."""
        await self._send_start()
        await self.send(events)

    async def send(self, events: bytes) -> None:
        """See ``Lane.send``."""
        if events:
            await self._send_part(events)
        self.sent_at = trio.current_time()

    async def finish(self, events: bytes) -> None:
        """See ``Lane.finish``."""
        await self._send_last(events)


async def deliver(
    outbox: Outbox, lane: Lane, *, heartbeat_seconds: float, lose_output: Callable[[str], None]
) -> None:
    """Send everything, the terminal event last, and a comment after each silence.

    Args:
        outbox: Where the events come from.
        lane: The way to the client.
        heartbeat_seconds: How long a silence is.
        lose_output: Called with the reason when what waits in the outbox cannot be had (``Run.lose_output``).

    Cancellation: what was taken and not sent is lost, with the client it was for.
    """
    await lane.start(outbox.take_nowait())
    while True:
        events: bytes | None = None
        try:
            with trio.CancelScope(deadline=lane.sent_at + heartbeat_seconds):
                events = await outbox.take(lane.express)
        except OSError as error:
            lose_output(f"the spool cannot be read: {error.strerror}")
            continue
        if outbox.is_finished:
            break
        if events is None and trio.current_time() >= lane.sent_at + heartbeat_seconds:
            events = HEARTBEAT
        if events is not None:
            await lane.send(events)
    await lane.finish(events or b"")
