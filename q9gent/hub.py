"""The hub: one task that reads the pipes of all runs; ``_linux_hub`` says how and why.

Only Linux has one. Elsewhere each pump reads by a task of its own: the same bytes, at more cost a line.
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from q9gent.log import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


logger = get_logger("q9gent.hub")


class Hub(Protocol):
    """What reads many descriptors."""

    def add(
        self, fd: int, handler: Callable[[bytes], None], hand_on: Callable[[], None] | None = None
    ) -> None:
        """Read a non-blocking descriptor from now on.

        Args:
            fd: A pipe, or a socket of packets.
            handler: Called with each piece read, and with ``b""`` at the end of file or after an error; then
                it is forgotten. It must neither wait nor raise.
            hand_on: Called after that, perhaps only once others' handlers have been, and before any task
                runs: the place to send what the handler made. It must neither wait nor raise.

        Raises:
            OSError: The system has no room to watch it.
        """
        ...

    def forget(self, fd: int) -> None:
        """Read it no more; nothing happens if it is not known. To be called before it is closed."""
        ...


@asynccontextmanager
async def open_hub() -> AsyncIterator[Hub | None]:
    """Run the hub for as long as the block, where there is one.

    Cancellation: it reads on until the block is left, as runs that are being ended still print.
    """
    async with AsyncExitStack() as stack:
        hub: Hub | None = None
        if sys.platform == "linux":
            from q9gent._linux_hub import open_epoll_hub  # noqa: PLC0415 (it imports what only Linux has)

            try:
                hub = await stack.enter_async_context(open_epoll_hub(moderate=True))
            except OSError as error:  # a sandbox may forbid its system calls
                logger.warning("pipes are read one by one", reason=str(error))
        yield hub
