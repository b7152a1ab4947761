"""One task that reads many pipes: each gets its own bytes, all of them, and none can harm another."""

from __future__ import annotations

import sys

import pytest

if sys.platform != "linux":
    pytest.skip("only Linux has a hub", allow_module_level=True)

import errno
import logging
import os
import select
import socket
import struct
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from q9gent import _linux_hub
from q9gent._linux_hub import READ_BYTES, READS_AT_ONCE, EpollHub, open_epoll_hub
from q9gent.hub import open_hub

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

DEADLINE_SECONDS = 60
MANY = _linux_hub.PIPES_TO_SHARE
FOR_EVER = 1e9


class Pipe:
    """A pipe whose reading end the hub has.

    Attributes:
        got: What was handed over, piece by piece.
        log: Where it notes each call of the hub's: its descriptor, and whether it is to hand on.
    """

    def __init__(self) -> None:
        self.fd, self.write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        self.got: list[bytes] = []
        self.log: list[tuple[int, bool]] = []

    def take(self, data: bytes) -> None:
        self.got.append(data)
        self.log.append((self.fd, False))

    def hand_on(self) -> None:
        self.log.append((self.fd, True))

    @property
    def text(self) -> bytes:
        return b"".join(self.got)

    @property
    def ended(self) -> bool:
        return b"" in self.got

    def write(self, data: bytes) -> None:
        os.write(self.write_fd, data)

    def close_write(self) -> None:
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def close(self) -> None:
        self.close_write()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@contextmanager
def pipes(count: int) -> Iterator[list[Pipe]]:
    made = [Pipe() for _ in range(count)]
    try:
        yield made
    finally:
        for pipe in made:
            pipe.close()


async def until(condition: Callable[[], object]) -> None:
    """Let the hub go on until something is true of what it has done."""
    with trio.fail_after(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 (the hub tells nobody)
            await trio.sleep(0.001)


async def quiet() -> None:
    """Let it go on for some rounds: for what must not happen."""
    await trio.sleep(4 * _linux_hub.LONGEST_TICK_SECONDS)


def run(main: Callable[[EpollHub], Awaitable[None]], *, moderate: bool = True) -> None:
    """Run something with a hub; afterwards as many descriptors are open as before."""

    async def bounded() -> None:
        before = os.listdir("/proc/self/fd")
        with trio.fail_after(DEADLINE_SECONDS):
            async with open_epoll_hub(moderate=moderate) as hub:
                await main(hub)
        assert os.listdir("/proc/self/fd") == before

    trio.run(bounded)


def settled(hub: EpollHub, pipe: Pipe) -> bool:
    return hub._pipes[pipe.fd].is_settled


def set_quiet(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """Say how long a pipe brings nothing until it is young again: 0 always, or never."""
    patch.setattr(_linux_hub, "QUIET_SECONDS", seconds)
    patch.setattr(_linux_hub, "SHARED_QUIET_SECONDS", seconds)


async def settle(hub: EpollHub, group: list[Pipe], patch: pytest.MonkeyPatch) -> None:
    """Have them settle, and wait until no round is due."""
    set_quiet(patch, FOR_EVER)
    for pipe in group:
        hub.add(pipe.fd, pipe.take, pipe.hand_on)
        pipe.write(b"little")
    await until(lambda: all(settled(hub, pipe) for pipe in group))
    await no_rounds(hub)


async def no_rounds(hub: EpollHub) -> None:
    await until(lambda: hub._timer._seconds == 0)


async def bring(group: list[Pipe], data: bytes) -> None:
    """Write something into each, and wait until it has come."""
    sizes = [len(pipe.text) + len(data) for pipe in group]
    for pipe in group:
        pipe.write(data)
    await until(lambda: [len(pipe.text) for pipe in group] == sizes)


def test_what_is_added_is_read_until_its_end_and_then_forgotten() -> None:
    """Each piece comes as it is written; the end of file is said once, as nothing."""

    async def main(hub: EpollHub) -> None:
        with pipes(1) as (pipe,):
            hub.add(pipe.fd, pipe.take)
            for number, piece in enumerate((b"one", b"two"), 1):
                pipe.write(piece)
                await until(lambda number=number: len(pipe.got) == number)  # type: ignore[misc]
            pipe.close_write()
            await until(lambda: pipe.ended)
            await quiet()
            assert pipe.got == [b"one", b"two", b""]
            assert hub._pipes == {}

    run(main)


def test_what_was_written_before_the_end_comes_before_it() -> None:
    """More than a round takes, and the writer has gone already."""

    async def main(hub: EpollHub) -> None:
        with pipes(1) as (pipe,):
            size = _enlarge(pipe, READ_BYTES * (READS_AT_ONCE + 2))
            pipe.write(b"x" * size)
            pipe.close_write()
            hub.add(pipe.fd, pipe.take)
            await until(lambda: pipe.ended)
            assert pipe.text == b"x" * size
            assert pipe.got.index(b"") == len(pipe.got) - 1

    run(main)


def _enlarge(pipe: Pipe, size: int) -> int:
    import fcntl  # noqa: PLC0415

    try:
        return fcntl.fcntl(pipe.write_fd, fcntl.F_SETPIPE_SZ, size)
    except PermissionError:
        pytest.skip("this user's pipes hold too much already")


def test_a_reset_is_an_end() -> None:
    """A socket whose peer has broken the connection ends like one that was closed."""

    async def main(hub: EpollHub) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            peer = socket.create_connection(listener.getsockname())
            sock, _address = listener.accept()
            got: list[bytes] = []
            with sock:
                sock.setblocking(False)
                hub.add(sock.fileno(), got.append)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.close()
                await until(lambda: got)
                await quiet()
                assert got == [b""]
                assert hub._pipes == {}

    run(main)


def test_a_forgotten_pipe_is_read_no_more() -> None:
    """Whatever it holds is left to others; to forget again, or what was never known, does nothing."""

    async def main(hub: EpollHub) -> None:
        with pipes(1) as (pipe,):
            hub.add(pipe.fd, pipe.take)
            hub.forget(pipe.fd)
            hub.forget(pipe.fd)
            hub.forget(0)
            pipe.write(b"kept")
            await quiet()
            assert pipe.got == []
            assert os.read(pipe.fd, 100) == b"kept"

    run(main)


@pytest.mark.parametrize("are", ["young", "settled", "settled and quiet"])
@pytest.mark.parametrize("number_is_used_again", [False, True])
def test_a_handler_may_forget_others_that_are_ready(  # noqa: C901 (the moments are the point)
    are: str, number_is_used_again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of a round ends the others: none of them is read, though all were ready together.

    What gets one of their numbers in the same moment is not taken for it.
    """

    async def main(hub: EpollHub) -> None:  # noqa: C901
        with pipes(MANY) as group, pipes(1) as (new,):
            calls: list[Pipe] = []
            again: list[int] = []
            armed = False

            def handler(pipe: Pipe) -> Callable[[bytes], None]:
                def take(data: bytes) -> None:
                    pipe.take(data)
                    if not armed or calls:
                        return
                    calls.append(pipe)
                    for other in group:
                        if other is not pipe:
                            hub.forget(other.fd)
                            again.append(other.fd)
                            other.close()
                    if number_is_used_again:
                        os.dup2(new.fd, again[-1], inheritable=False)
                        hub.add(again[-1], new.take)

                return take

            takes = [handler(pipe) for pipe in group]
            set_quiet(monkeypatch, 0 if are == "young" else FOR_EVER)
            for pipe, take in zip(group, takes, strict=True):
                hub.add(pipe.fd, take)
            await bring(group, b"little")
            assert [settled(hub, pipe) for pipe in group] == [are != "young"] * MANY
            await no_rounds(hub)
            if are == "settled and quiet":
                set_quiet(monkeypatch, 0)
            armed = True
            for pipe in group:
                pipe.write(b"x")
            await until(lambda: calls)
            if number_is_used_again:
                new.write(b"new")
                await until(lambda: new.got == [b"new"])
                hub.forget(again[-1])
                os.close(again[-1])
            await quiet()
            assert sum(pipe.text.endswith(b"x") for pipe in group) == 1
            assert list(hub._pipes) == [calls[0].fd]

    run(main)


@pytest.mark.parametrize("forget_at", [1, 3])
def test_a_handler_may_forget_its_own_pipe(forget_at: int) -> None:
    """Between two reads of one turn, too."""

    async def main(hub: EpollHub) -> None:
        with pipes(1) as (pipe,):
            size = _enlarge(pipe, READ_BYTES * READS_AT_ONCE)
            pipe.write(b"x" * size)

            def take(data: bytes) -> None:
                pipe.take(data)
                if len(pipe.got) == forget_at:
                    hub.forget(pipe.fd)

            hub.add(pipe.fd, take)
            await until(lambda: pipe.got)
            await quiet()
            assert pipe.text == b"x" * READ_BYTES * forget_at
            assert len(os.read(pipe.fd, size)) == size - READ_BYTES * forget_at

    run(main)


@pytest.mark.parametrize("in_rounds", [False, True], ids=["young", "settled"])
def test_the_number_of_a_forgotten_pipe_can_be_anothers(
    in_rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system gives numbers out again: the new one gets its own bytes, the old one none of them."""

    async def main(hub: EpollHub) -> None:
        with pipes(MANY) as group:
            if in_rounds:
                await settle(hub, group, monkeypatch)
            else:
                hub.add(group[0].fd, group[0].take)
            old = group[0]
            before = list(old.got)
            number = old.fd
            old.write(b"unread")
            new = Pipe()
            hub.forget(old.fd)
            old.close()
            os.dup2(new.fd, number)
            try:
                hub.add(number, new.take)
                new.write(b"new")
                await until(lambda: new.got)
                assert (new.text, old.got) == (b"new", before)
                new.close_write()
                await until(lambda: new.ended)
            finally:
                hub.forget(number)
                os.close(number)
                new.close()

    run(main)


def test_a_handler_that_raises_is_logged_and_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """It is forgotten; the hub goes on."""

    async def main(hub: EpollHub) -> None:
        with pipes(2) as (bad, good):

            def fail(data: bytes) -> None:
                bad.take(data)
                raise RuntimeError("defect")

            hub.add(bad.fd, fail)
            hub.add(good.fd, good.take)
            bad.write(b"x")
            await until(lambda: bad.got)
            bad.write(b"y")
            good.write(b"one")
            await until(lambda: good.got)
            await quiet()
            assert (bad.got, good.got) == ([b"x"], [b"one"])

    with caplog.at_level(logging.ERROR, "q9gent.hub"):
        run(main)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "defect"


def test_what_cannot_be_handed_on_is_logged_and_harms_no_other(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a round as well the pipe is forgotten, and the others' turn comes."""

    async def main(hub: EpollHub) -> None:
        with pipes(MANY) as group:
            await settle(hub, group, monkeypatch)
            bad, *good = group

            def fail() -> None:
                raise RuntimeError("defect")

            hub._pipes[bad.fd].hand_on = fail
            for pipe in good:
                pipe.log.clear()
            await bring(group, b"one")
            await bring(good, b"two")
            bad.write(b"two")
            await quiet()
            assert bad.text == b"littleone"
            assert all(len(pipe.log) == 4 for pipe in good)

    with caplog.at_level(logging.ERROR, "q9gent.hub"):
        run(main)
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["defect"]


def test_a_young_pipe_hands_on_at_once() -> None:
    """Nobody else's output comes between."""

    async def main(hub: EpollHub) -> None:
        with pipes(2) as group:
            log = group[0].log = group[1].log
            for pipe in group:
                hub.add(pipe.fd, pipe.take, pipe.hand_on)
                pipe.write(b"x")
            await until(lambda: len(log) == 4)
            assert log[::2] == [(fd, False) for fd, _handing in log[1::2]]

    run(main, moderate=False)


def test_a_round_reads_first_and_then_hands_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many at a time that none waits for hundreds; what brings much does not wait, as it takes memory."""
    together = _linux_hub.HANDED_ON_TOGETHER

    async def main(hub: EpollHub) -> None:
        with pipes(together + 4) as group:
            await settle(hub, group, monkeypatch)
            log: list[tuple[int, bool]] = []
            for pipe in group:
                pipe.log = log
            await bring(group, b"x")  # without a wait: one round has them all
            read, handed = [fd for fd, handing in log if not handing], [fd for fd, handing in log if handing]
            assert read == handed
            expected = [*[False] * together, *[True] * together, *[False] * 4, *[True] * 4]
            assert [handing for _fd, handing in log] == expected
            log.clear()
            group[0].write(b"x" * _linux_hub.SMALL_BYTES)
            await bring(group[1:3], b"x")
            assert log.index((group[0].fd, True)) == log.index((group[0].fd, False)) + 1
            assert [handing for fd, handing in log if fd != group[0].fd] == [False, False, True, True]

    run(main)


def test_a_pipe_that_brings_little_and_again_at_once_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that brings much does not, and neither does one that was quiet in between."""

    async def main(hub: EpollHub) -> None:
        with pipes(3) as (little, much, seldom):
            set_quiet(monkeypatch, FOR_EVER)
            for pipe in (little, much):
                hub.add(pipe.fd, pipe.take)
            await bring([little], b"x")
            for _round in range(3):
                await bring([much], b"x" * _linux_hub.SMALL_BYTES)
            assert (settled(hub, little), settled(hub, much)) == (True, False)
            set_quiet(monkeypatch, 0)
            hub.add(seldom.fd, seldom.take)
            for _round in range(3):
                await bring([seldom], b"x")
            assert not settled(hub, seldom)

    run(main)


def test_without_moderation_none_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    """As asked for."""

    async def main(hub: EpollHub) -> None:
        set_quiet(monkeypatch, FOR_EVER)
        with pipes(MANY) as group:
            for pipe in group:
                hub.add(pipe.fd, pipe.take)
            for _round in range(3):
                await bring(group, b"x")
            assert not any(settled(hub, pipe) for pipe in group)

    run(main, moderate=False)


def test_settled_pipes_are_still_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """One alone and all together, after a pause and without, and each to its end."""

    async def main(hub: EpollHub) -> None:
        with pipes(MANY) as group:
            await settle(hub, group, monkeypatch)
            for pipe in [*group, *group[:2]]:
                await bring([pipe], b"alone")
                assert settled(hub, pipe)
            for _round in range(5):
                await bring(group, b"together")
            await no_rounds(hub)
            await bring(group, b"after a pause")
            for pipe in group:
                pipe.close_write()
            await until(lambda: all(pipe.ended for pipe in group))
            assert hub._pipes == {}

    run(main)


def test_a_settled_pipe_that_was_quiet_is_young_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its next line is read at once, by no round."""

    async def main(hub: EpollHub) -> None:
        with pipes(MANY) as group:
            await settle(hub, group, monkeypatch)
            set_quiet(monkeypatch, 0)
            await bring(group[:1], b"x")
            assert [settled(hub, pipe) for pipe in group] == [False] + [True] * (MANY - 1)
            await no_rounds(hub)
            await bring(group[:2], b"y")
            assert [settled(hub, pipe) for pipe in group] == [False] * 2 + [True] * (MANY - 2)

    run(main)


@pytest.mark.parametrize(
    "size",
    [_linux_hub.ROUND_BYTES * 2, READ_BYTES, READ_BYTES * READS_AT_ONCE],
    ids=["much", "a read", "a turn"],
)
def test_rounds_are_as_frequent_as_the_fullest_pipe_needs(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A burst is not cut into long rounds, also when it fills every read to the last byte."""

    async def main(hub: EpollHub) -> None:
        with pipes(MANY) as group:
            for pipe in group:
                _enlarge(pipe, READ_BYTES * READS_AT_ONCE)
            await settle(hub, group, monkeypatch)
            hub._tick = _linux_hub.LONGEST_TICK_SECONDS
            await bring(group[:1], b"x" * size)
            assert hub._tick < _linux_hub.LONGEST_TICK_SECONDS
            for _round in range(30):
                await bring(group[:1], b"y")
            assert hub._tick == _linux_hub.LONGEST_TICK_SECONDS

    run(main)


@settings(max_examples=15)
@given(
    scripts=st.lists(
        st.lists(st.tuples(st.sampled_from([1, 100, 9_000, 65_536, 70_000]), st.integers(0, 3)), max_size=6),
        min_size=1,
        max_size=24,
    )
)
def test_each_of_many_pipes_gets_its_own_bytes_in_order(scripts: list[list[tuple[int, int]]]) -> None:
    """Whatever is written when: settled, young again, ended."""

    async def write(pipe: Pipe, letter: bytes, script: list[tuple[int, int]]) -> None:
        os.set_blocking(pipe.write_fd, False)
        for number, (size, pause) in enumerate(script):
            view = memoryview((letter + b"%d " % number) * size)[:size]
            while view:
                try:
                    view = view[os.write(pipe.write_fd, view) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(pipe.write_fd)
            await trio.sleep(pause * 0.003)
        pipe.close_write()

    async def main(hub: EpollHub) -> None:
        with pipes(len(scripts)) as group:
            expected = []
            async with trio.open_nursery() as nursery:
                for number, (pipe, script) in enumerate(zip(group, scripts, strict=True)):
                    letter = bytes([65 + number])
                    expected.append(
                        b"".join(((letter + b"%d " % n) * size)[:size] for n, (size, _) in enumerate(script))
                    )
                    hub.add(pipe.fd, pipe.take)
                    nursery.start_soon(write, pipe, letter, script)
            await until(lambda: all(pipe.ended for pipe in group))
            assert [pipe.text for pipe in group] == expected
            assert all(pipe.got.count(b"") == 1 for pipe in group)

    run(main)


def test_it_reads_on_under_a_cancellation_until_its_block_is_left() -> None:
    """Runs that are being ended still print."""

    async def main() -> None:
        with pipes(1) as (pipe,), trio.fail_after(DEADLINE_SECONDS):
            with trio.CancelScope() as scope:
                async with open_epoll_hub(moderate=True) as hub:
                    hub.add(pipe.fd, pipe.take)
                    scope.cancel()
                    with trio.CancelScope(shield=True):
                        await quiet()
                        pipe.write(b"last words")
                        await until(lambda: pipe.got)
                        hub.forget(pipe.fd)
                    await trio.lowlevel.checkpoint()
            assert scope.cancelled_caught
            assert pipe.got == [b"last words"]

    trio.run(main)


def test_an_exception_in_its_block_ends_it() -> None:
    """And is what one hears of."""

    async def main() -> None:
        with trio.fail_after(DEADLINE_SECONDS):
            async with open_epoll_hub(moderate=True):
                raise KeyError("mine")

    with pytest.raises(ExceptionGroup) as caught:
        trio.run(main)
    assert caught.group_contains(KeyError, match="mine")


@pytest.mark.parametrize("wrong", ["a file", "twice", "closed"])
def test_what_cannot_be_watched_is_refused(wrong: str) -> None:
    """With what the system says, and nothing has changed."""

    async def main(hub: EpollHub) -> None:
        with pipes(1) as (pipe,), tempfile.TemporaryFile() as file:
            fd = {"a file": file.fileno(), "twice": pipe.fd, "closed": 1 << 20}[wrong]
            hub.add(pipe.fd, pipe.take)
            with pytest.raises(OSError) as caught:  # noqa: PT011 (each its own)
                hub.add(fd, pipe.take)
            assert caught.value.errno in {errno.EPERM, errno.EEXIST, errno.EBADF}
            assert list(hub._pipes) == [pipe.fd]
            pipe.write(b"x")
            await until(lambda: pipe.got == [b"x"])

    run(main)


class FullEpoll:
    """An epoll beyond what the system allows: it takes no more."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def register(self, *_: object) -> None:
        raise OSError(errno.ENOSPC, "fs.epoll.max_user_watches")


def test_a_pipe_that_cannot_settle_for_want_of_room_stays_young(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's limit on what may be watched costs neither the pipe nor the hub."""

    async def main(hub: EpollHub) -> None:
        set_quiet(monkeypatch, FOR_EVER)
        hub._settled = FullEpoll(hub._settled)  # type: ignore[assignment]
        with pipes(MANY) as group:
            for pipe in group:
                hub.add(pipe.fd, pipe.take)
            for _round in range(5):
                await bring(group, b"x")
            assert not any(settled(hub, pipe) for pipe in group)

    run(main)


def test_a_pipe_that_cannot_be_young_for_want_of_room_stays_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other way round."""

    async def main(hub: EpollHub) -> None:
        with pipes(MANY) as group:
            await settle(hub, group, monkeypatch)
            set_quiet(monkeypatch, 0)
            hub._ready = FullEpoll(hub._ready)  # type: ignore[assignment]
            for _round in range(5):
                await bring(group, b"x")
            assert all(settled(hub, pipe) for pipe in group)

    run(main)


def test_beyond_what_the_system_allows_nothing_is_added() -> None:
    """The pump then reads by a task of its own."""

    async def main(hub: EpollHub) -> None:
        hub._ready = FullEpoll(hub._ready)  # type: ignore[assignment]
        with pipes(1) as (pipe,):
            with pytest.raises(OSError, match="max_user_watches"):
                hub.add(pipe.fd, pipe.take)
            assert hub._pipes == {}

    run(main)


def test_linux_has_a_hub_that_moderates() -> None:
    """What the application gets."""

    async def main() -> None:
        async with open_hub() as hub:
            assert isinstance(hub, EpollHub)
            assert hub._moderate

    trio.run(main)


def test_where_the_system_has_none_to_give_there_is_no_hub(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server starts all the same, and says why each pipe has a task."""

    def refuse() -> None:
        raise OSError(errno.ENOSYS, "timerfd_create")

    monkeypatch.setattr(_linux_hub, "_Timer", refuse)

    async def main() -> None:
        async with open_hub() as hub:
            assert hub is None

    with caplog.at_level(logging.WARNING, "q9gent.hub"):
        trio.run(main)
    assert len(caplog.records) == 1


def test_its_descriptors_are_not_inherited() -> None:
    """A process that the server starts gets none of them."""

    async def main(hub: EpollHub) -> None:
        for fd in (hub._ready.fileno(), hub._settled.fileno(), hub._timer.fd):
            assert not os.get_inheritable(fd)
        assert isinstance(hub._ready, select.epoll)

    run(main)
