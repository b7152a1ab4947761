"""Process trees that surely die. ``protocol`` is the promise, the other modules keep it.

=========== =================================== ==================================================
strategy    module                              how
=========== =================================== ==================================================
``linux``   ``linux``, ``helper``               a subreaper for each run: proof by ``waitpid``
``posix``   ``posix``                           process group, descendants, a mark: best effort
``windows`` ``windows``, ``_job_objects``       a Job Object for each run
=========== =================================== ==================================================
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from q9gent.containment.protocol import (
    KILL_TIMEOUT_SECONDS,
    Containment,
    ContainmentLost,
    ContainmentUnavailable,
    Death,
    ExitStatus,
    Launch,
    SpawnError,
    Tree,
)
from q9gent.log import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

__all__ = [
    "KILL_TIMEOUT_SECONDS",
    "Containment",
    "ContainmentLost",
    "ContainmentUnavailable",
    "Death",
    "ExitStatus",
    "Launch",
    "SpawnError",
    "Tree",
    "open_containment",
]

logger = get_logger("q9gent.containment")


@asynccontextmanager
async def open_containment(strategy: str = "auto") -> AsyncIterator[Containment]:
    """Open the strongest strategy of this system, or the one named.

    Args:
        strategy: ``auto``, ``linux``, ``posix`` or ``windows``.

    Raises:
        ContainmentUnavailable: The one named does not work here.
    """
    async with AsyncExitStack() as stack:
        yield await _enter(stack, strategy)


async def _enter(stack: AsyncExitStack, strategy: str) -> Containment:
    if strategy == "auto" and sys.platform == "linux":
        try:
            return await stack.enter_async_context(open_named("linux"))
        except ContainmentUnavailable as error:
            logger.warning(
                "what a run starts may escape: falling back to --containment posix",
                reason=str(error),
            )
            strategy = "posix"
    if strategy == "auto":
        strategy = "windows" if sys.platform == "win32" else "posix"
    return await stack.enter_async_context(open_named(strategy))


def open_named(strategy: str) -> AbstractAsyncContextManager[Containment]:
    """Return the strategy of that name, to be entered.

    Raises:
        ContainmentUnavailable: It is for another system.
    """
    # Each imports what only its own system has.
    if sys.platform == "win32":
        if strategy == "windows":
            from q9gent.containment.windows import open_windows  # noqa: PLC0415

            return open_windows()
    else:
        if strategy == "posix":
            from q9gent.containment.posix import open_posix  # noqa: PLC0415

            return open_posix()
        if sys.platform == "linux" and strategy == "linux":
            from q9gent.containment.linux import open_linux  # noqa: PLC0415

            return open_linux()
    raise ContainmentUnavailable(f"containment {strategy!r} is not available on {sys.platform}")
