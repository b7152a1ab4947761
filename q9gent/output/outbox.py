"""The events of a run that its client has not taken yet.

The pump puts, the delivery takes; neither waits for the other. A client that reads slowly neither slows
the process down (the CLI loses output when its reader does) nor costs memory without bound: what is
more than ``memory_bytes`` behind goes to the spool.

Most clients are never behind. While the delivery waits here for events, it can lend an *express*: a function
that writes events to the client at once. The pump then hands them over in its own step, and nobody is woken.
As the express is lent only while its owner waits, never two write to one client.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from q9gent.output.spool import Spool, SpoolFull

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE_BYTES = 256 * 1024
"""How much is taken at once: large enough that sending a piece costs little more than its copying, small
enough that a stalled client holds little."""

__all__ = ["Outbox", "SpoolFull"]


class Outbox:
    """A queue of encoded events with one producer and one consumer.

    Args:
        memory_bytes: How much may wait in memory.
        spool: What takes the rest.

    Attributes:
        is_finished: Whether the terminal event has been taken.
    """

    def __init__(self, memory_bytes: int, spool: Spool) -> None:
        self._memory_bytes = memory_bytes
        self._spool = spool
        self._pieces: deque[bytes] = deque()
        self._in_memory = 0
        self._spooling = False
        self._writing = False
        self._last: bytes | None = None
        self._discarding = False
        self._express: Callable[[bytes], bool] | None = None
        self._express_holds = False  # something back, which its owner has yet to send
        self._arrival = trio.Event()
        self.is_finished = False

    @property
    def waiting_bytes(self) -> int:
        """How much the client has not taken."""
        return self._in_memory + self._spool.waiting_bytes

    @property
    def is_spooling(self) -> bool:
        """Whether the client is so far behind that what comes goes to the spool."""
        return self._spooling

    def offer(self, events: bytes) -> bool:
        """Append whole events if that takes no waiting.

        Returns:
            Whether they were taken; else they must be ``put``.
        """
        if self._express is not None and not self._pieces:  # nothing is before them
            if not self._express(events):
                self._express = None
                self._express_holds = True
                self._arrival.set()
            return True
        if self._discarding:
            return True
        # Once spooling, memory is older than the spool and must not grow until both are empty.
        if self._spooling or self._in_memory + len(events) > self._memory_bytes:
            return False
        self.put_nowait(events)
        return True

    async def put(self, events: bytes) -> None:
        """Append whole events.

        Raises:
            SpoolFull: There is no room.

        Cancellation: the events may or may not have been appended.
        """
        if self.offer(events):
            return
        self._spooling = self._writing = True
        try:
            await self._spool.write(events)
        finally:
            self._writing = False
            self._arrival.set()

    def put_nowait(self, events: bytes) -> None:
        """Append whole events, in memory and at any rate: for the few that are the server's own."""
        self._pieces.append(events)
        self._in_memory += len(events)
        self._arrival.set()

    def finish(self, last_event: bytes) -> None:
        """Append the terminal event. Nothing can be put afterwards."""
        self._last = last_event
        self._arrival.set()

    def discard(self) -> None:
        """Drop everything that waits or comes: the client is gone."""
        self._discarding = True
        self._express = None
        self._pieces.clear()
        self._in_memory = 0

    def lose(self) -> None:
        """Drop all but the terminal event: what was spooled cannot be read."""
        self.discard()
        self._spooling = False

    def take_nowait(self) -> bytes:
        """Return what is there in memory, perhaps nothing, at most about ``PIECE_BYTES``."""
        return self._take_from_memory() if self._pieces else b""

    async def take(self, express: Callable[[bytes], bool] | None = None) -> bytes:
        """Wait for events and return what is there, at most about ``PIECE_BYTES``.

        Args:
            express: Writes events to the client without waiting; False if it holds some of them back. It is
                called only while this waits.

        Returns:
            Bytes, not always whole events; the terminal event comes with the last of them, and then
            ``is_finished`` is true. ``b""`` when the express holds something back, or after the last.

        Cancellation: nothing is lost while waiting.
        """
        while True:
            if self._express_holds:  # asked first, as a cancelled wait must not forget it
                self._express_holds = False
                return b""
            if self._pieces:
                return self._take_from_memory()
            if self._spooling:
                if self._spool.waiting_bytes:
                    return await self._spool.read(PIECE_BYTES)
                if not self._writing:  # caught up; else what comes next is on its way to the spool
                    self._spooling = False
                    continue
            elif self._last is not None:
                self.is_finished = True
                data, self._last = self._last, b""
                return data
            self._arrival = trio.Event()
            if not self._spooling and not self._discarding:
                self._express = express
            try:
                await self._arrival.wait()
            finally:
                self._express = None

    def _take_from_memory(self) -> bytes:
        if self._in_memory <= PIECE_BYTES:
            data = b"".join(self._pieces)
            self._pieces.clear()
            if self._last and not self._spooling:
                data += self._last
                self._last = b""
                self.is_finished = True
        else:
            taken = [self._pieces.popleft()]
            size = len(taken[0])
            while self._pieces and size + len(self._pieces[0]) <= PIECE_BYTES:
                size += len(self._pieces[0])
                taken.append(self._pieces.popleft())
            data = b"".join(taken)
        self._in_memory = self._in_memory - len(data) if self._pieces else 0
        return data

    def close(self) -> None:
        """Delete what nobody will take; only when producer and consumer have ended."""
        self._spool.close()
