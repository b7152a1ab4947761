"""A request's messages: in order, bounded, and nobody waits for who has ended."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from q9gent.http.inbox import MESSAGES_AHEAD, Inbox

DEADLINE_SECONDS = 60
GONE: Any = {"type": "http.disconnect"}


def message(number: int) -> Any:
    return {"type": "http.request", "body": b"%d" % number, "more_body": True}


def run(main: Any) -> None:
    async def bounded() -> None:
        with trio.fail_after(DEADLINE_SECONDS):
            await main()

    trio.run(bounded)


@settings(max_examples=60)
@given(count=st.integers(0, 30), pauses=st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_messages_come_in_order_whoever_is_faster(count: int, pauses: list[int]) -> None:
    """However sender and receiver alternate; a receiver that is cancelled while it waits loses none."""

    async def main() -> None:
        inbox, got = Inbox(), []

        async def put() -> None:
            for number in range(count):
                await inbox.put(message(number))
                for _step in range(pauses[number % len(pauses)]):
                    await trio.lowlevel.checkpoint()
            await inbox.put(GONE)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put)
            while GONE not in got:
                with trio.move_on_after(0):
                    got.append(await inbox.receive())
                await trio.lowlevel.checkpoint()
        assert got == [*(message(number) for number in range(count)), GONE]

    run(main)


def test_a_sender_too_far_ahead_waits_until_one_is_read() -> None:
    """A client cannot fill the memory with a body that nobody reads."""

    async def main() -> None:
        inbox, put = Inbox(), []

        async def send() -> None:
            for number in range(MESSAGES_AHEAD + 2):
                await inbox.put(message(number))
                put.append(number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            for read in range(2):
                await trio.testing.wait_all_tasks_blocked()
                assert len(put) == MESSAGES_AHEAD + read
                await inbox.receive()

    run(main)


def test_a_disconnect_waits_for_nothing() -> None:
    """It comes after what was sent before, and at once."""

    async def main() -> None:
        inbox = Inbox()
        for number in range(MESSAGES_AHEAD):
            await inbox.put(message(number))
        await inbox.put(GONE)
        assert [await inbox.receive() for _ in range(MESSAGES_AHEAD + 1)][-1] == GONE

    run(main)


def test_a_cancelled_put_appends_nothing() -> None:
    """The reader of a connection may be woken while it waits."""

    async def main() -> None:
        inbox = Inbox()
        for number in range(MESSAGES_AHEAD):
            await inbox.put(message(number))
        with trio.move_on_after(0) as scope:
            await inbox.put(message(99))
        assert scope.cancelled_caught
        got = [await inbox.receive() for _ in range(MESSAGES_AHEAD)]
        assert message(99) not in got
        with trio.move_on_after(0) as scope:
            await inbox.receive()
        assert scope.cancelled_caught

    run(main)


@pytest.mark.parametrize("waiting", [False, True], ids=["later", "while it waits"])
def test_nobody_waits_for_a_receiver_that_has_ended(waiting: bool) -> None:
    """What is left is dropped, and so is what still comes."""

    async def main() -> None:
        inbox = Inbox()
        for number in range(MESSAGES_AHEAD):
            await inbox.put(message(number))
        async with trio.open_nursery() as nursery:
            if waiting:
                nursery.start_soon(inbox.put, message(99))
                await trio.testing.wait_all_tasks_blocked()
            inbox.close()
        for number in range(2 * MESSAGES_AHEAD):
            await inbox.put(message(number))
        assert not inbox._messages

    run(main)
