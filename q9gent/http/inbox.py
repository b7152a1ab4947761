"""How a request's ASGI messages get from the connection's task to the application's.

Hypercorn's own way, a memory channel, costs the sender a wait for each message, and a short request has but
two or three. Here only who is too far ahead waits.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import trio
from hypercorn.trio.task_group import TaskGroup, _handle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hypercorn.config import Config
    from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, Scope

MESSAGES_AHEAD = 10
"""How many messages wait unread before the connection reads no further; each is at most one read, 64 KiB.
Hypercorn's own number (``max_app_queue_size``)."""


class Inbox:
    """A queue of one request's messages, with one sender and one receiver."""

    def __init__(self) -> None:
        self._messages: deque[ASGIReceiveEvent] = deque()
        self._closed = False
        self._changed = trio.lowlevel.ParkingLot()

    async def put(self, message: ASGIReceiveEvent) -> None:
        """Append a message; waits only while many are unread. Once closed, it is dropped.

        Cancellation: it was not appended.
        """
        while self._is_full and message["type"] != "http.disconnect":
            await self._changed.park()
        if self._closed:
            return
        self._messages.append(message)
        self._changed.unpark_all()

    @property
    def _is_full(self) -> bool:
        return len(self._messages) >= MESSAGES_AHEAD and not self._closed

    async def receive(self) -> ASGIReceiveEvent:
        """Wait for a message and return it. Cancellation: nothing is lost."""
        while not self._messages:
            await self._changed.park()
        message = self._messages.popleft()
        self._changed.unpark_all()
        return message

    def close(self) -> None:
        """Keep nobody waiting any more: the receiver has ended, perhaps with much unread."""
        self._closed = True
        self._messages.clear()
        self._changed.unpark_all()


class InboxTaskGroup(TaskGroup):
    """Hypercorn's, with such inboxes."""

    _nursery: trio.Nursery

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start the application for one request, and return what takes its messages."""
        inbox = Inbox()
        arguments: tuple[Any, ...] = (inbox.receive, send, trio.to_thread.run_sync, trio.from_thread.run)

        async def handle() -> None:
            try:
                await _handle(app, config, scope, *arguments)
            finally:
                inbox.close()

        self._nursery.start_soon(handle)
        return inbox.put
