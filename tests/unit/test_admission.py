"""Places for runs: never more than allowed, first come first served, and a bounded wait."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from q9gent.admission import Admission
from q9gent.errors import AtCapacity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def on_a_mock_clock(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run a test whose waiting is pure: time jumps when nothing else can happen."""

    @functools.wraps(test)
    def run() -> None:
        trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))

    return run


@on_a_mock_clock
async def test_places_are_given_in_the_order_of_asking() -> None:
    """However long each is held."""
    admission = Admission(2, queue_seconds=100)
    order: list[int] = []
    most = live = 0

    async def work(number: int) -> None:
        nonlocal most, live
        async with admission.place():
            order.append(number)
            live += 1
            most = max(most, live)
            await trio.sleep(1 + number % 3)
            live -= 1

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(work, number)
            await trio.testing.wait_all_tasks_blocked()
    assert order == list(range(20))
    assert most == 2


@on_a_mock_clock
async def test_a_wait_that_is_too_long_is_refused_with_when_to_come_again() -> None:
    """And takes no place."""
    admission = Admission(1, queue_seconds=2.5)
    async with admission.place():
        began = trio.current_time()
        with pytest.raises(AtCapacity, match=r"1 runs are live.* 2.5 s") as caught:
            async with admission.place():
                pytest.fail("there is no place")
        assert trio.current_time() - began == pytest.approx(2.5)
        assert caught.value.headers["retry-after"] == "3"
        assert admission.waiting == 0
    async with admission.place():
        pass


@on_a_mock_clock
async def test_no_queue_means_no_wait() -> None:
    """A free place is given all the same."""
    admission = Admission(1, queue_seconds=0)
    async with admission.place():
        with pytest.raises(AtCapacity):
            async with admission.place():
                pytest.fail("there is no place")


@on_a_mock_clock
async def test_who_gives_up_waiting_holds_up_nobody() -> None:
    """The next in the queue gets the place."""
    admission = Admission(1, queue_seconds=100)

    async def wait(scope: trio.CancelScope) -> None:
        with scope:
            async with admission.place():
                pytest.fail("it was cancelled while waiting")

    served = trio.Event()

    async def wait_and_serve() -> None:
        async with admission.place():
            served.set()

    async with trio.open_nursery() as nursery:
        async with admission.place():
            scope = trio.CancelScope()
            nursery.start_soon(wait, scope)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(wait_and_serve)
            await trio.testing.wait_all_tasks_blocked()
            assert admission.waiting == 2
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(1):
            await served.wait()


@on_a_mock_clock
async def test_a_run_that_fails_gives_its_place_back() -> None:
    """Whatever it raised."""
    admission = Admission(1, queue_seconds=0)
    for _round in range(3):
        with pytest.raises(RuntimeError):
            async with admission.place():
                raise RuntimeError


@on_a_mock_clock
async def test_a_newcomer_does_not_take_the_place_of_one_who_waits() -> None:
    """A place that was just given back belongs to the first in the queue."""
    admission = Admission(1, queue_seconds=100)
    order: list[str] = []

    async def wait() -> None:
        async with admission.place():
            order.append("waited")

    async with trio.open_nursery() as nursery:
        async with admission.place():
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
        async with admission.place():  # asked for in the same step as the other is given back
            order.append("newcomer")
    assert order == ["waited", "newcomer"]


@on_a_mock_clock
async def test_the_time_in_the_queue_does_not_limit_the_run() -> None:
    """Only the wait has a deadline."""
    admission = Admission(1, queue_seconds=1)
    async with admission.place():
        await trio.sleep(500)
    assert trio.current_time() >= 500


@on_a_mock_clock
async def test_a_run_that_is_cancelled_gives_its_place_back() -> None:
    """Also in the very step in which it was given."""
    admission = Admission(1, queue_seconds=100)

    async def hold() -> None:
        async with admission.place():
            await trio.sleep_forever()

    with trio.move_on_after(1):
        await hold()
    async with trio.open_nursery() as nursery:
        async with admission.place():
            nursery.start_soon(hold)
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()  # the place has been handed over, its new holder has not run yet
    with trio.fail_after(1):
        async with admission.place():
            pass


@settings(max_examples=80)
@given(
    max_runs=st.integers(1, 4),
    queue_seconds=st.sampled_from([0, 3, 50]),
    requests=st.lists(
        st.tuples(
            st.integers(0, 20),  # when it comes
            st.integers(0, 10),  # how long it holds its place
            st.sampled_from([*range(25), float("inf")]),  # how long until its client goes
        ),
        max_size=15,
    ),
)
def test_never_more_than_allowed_and_none_lost(
    max_runs: int, queue_seconds: float, requests: list[tuple[float, float, float]]
) -> None:
    """Whoever comes, waits, gives up or is cancelled in its place, in any order."""

    @on_a_mock_clock
    async def main() -> None:
        admission, live = Admission(max_runs, queue_seconds), 0

        async def request(comes: float, holds: float, goes: float) -> None:
            nonlocal live
            await trio.sleep(comes)
            with trio.move_on_after(goes), contextlib.suppress(AtCapacity):
                async with admission.place():
                    live += 1
                    try:
                        assert live <= max_runs
                        await trio.sleep(holds)
                    finally:
                        live -= 1

        async with trio.open_nursery() as nursery:
            for times in requests:
                nursery.start_soon(request, *times)
        assert admission.waiting == 0
        async with contextlib.AsyncExitStack() as stack:
            for _place in range(max_runs):  # every place is free again, and not one more
                await stack.enter_async_context(admission.place())
            with pytest.raises(AtCapacity):
                await stack.enter_async_context(admission.place())

    main()
