"""How many runs may be live, and how requests wait for their turn: first come, first served."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from q9gent.errors import AtCapacity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Admission:
    """The places for live runs.

    Args:
        max_runs: How many there are.
        queue_seconds: How long a request waits for one.
    """

    def __init__(self, max_runs: int, queue_seconds: float) -> None:
        self._max_runs = max_runs
        self._queue_seconds = queue_seconds
        self._places = trio.Semaphore(max_runs)  # serves who waits in the order of arrival

    @property
    def waiting(self) -> int:
        """How many requests wait. Bounded by the connections, each of which waits at most once."""
        return self._places.statistics().tasks_waiting

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place for a block.

        Raises:
            AtCapacity: None became free in time.

        Cancellation: gives the place, or the wait, up.
        """
        try:
            self._places.acquire_nowait()
        except trio.WouldBlock:
            await self._wait()
        try:
            yield
        finally:
            self._places.release()

    async def _wait(self) -> None:
        with trio.move_on_after(self._queue_seconds) as wait:
            await self._places.acquire()
        if wait.cancelled_caught:
            raise AtCapacity(
                f"{self._max_runs} runs are live, and none ended within {self._queue_seconds:g} s",
                retry_after_seconds=max(1, math.ceil(self._queue_seconds)),
            )
