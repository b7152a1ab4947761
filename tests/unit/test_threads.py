"""Threads that wait for a disk, and what is said when there are none."""

from __future__ import annotations

import errno
import threading

import pytest
import trio
import trio.testing

from q9gent.threads import no_thread_is_an_oserror, wait_for_disk

DEADLINE_SECONDS = 60.0


def test_a_disk_that_hangs_blocks_only_its_own_threads() -> None:
    """Eight may hang, a ninth waits for one of them, and the rest of the server has other threads."""
    begun, go = threading.Semaphore(0), threading.Event()

    def hang() -> None:
        begun.release()
        assert go.wait(DEADLINE_SECONDS)

    async def main() -> None:
        with trio.fail_after(DEADLINE_SECONDS):
            async with trio.open_nursery() as nursery:
                try:
                    for _ in range(9):
                        nursery.start_soon(wait_for_disk, hang)
                    for _ in range(8):
                        assert await trio.to_thread.run_sync(begun.acquire, True, DEADLINE_SECONDS)
                    await trio.testing.wait_all_tasks_blocked()
                    assert not begun.acquire(blocking=False)
                finally:
                    go.set()
        assert begun.acquire(blocking=False)

    trio.run(main)


def test_no_thread_is_said_as_the_system_says_it() -> None:
    """As an error that passes, with its number; any other comes out as it was."""
    with (
        pytest.raises(OSError, match="Resource temporarily unavailable") as caught,
        no_thread_is_an_oserror(),
    ):
        raise RuntimeError("can't start new thread")
    assert caught.value.errno == errno.EAGAIN
    with pytest.raises(RuntimeError, match="another"), no_thread_is_an_oserror():
        raise RuntimeError("another")
