"""From a process's pipes: stdout becomes events in the outbox, stderr becomes log lines.

A pump goes on while its tree is being ended, as what a process prints on its way out counts too: it is
shielded from the cancellation that ends the run, and stopped by the run once the tree is dead. Then it
takes what is left in the pipe and never waits again, as somebody outside the tree may hold the pipe open.
"""

from __future__ import annotations

import operator
from contextvars import copy_context
from typing import TYPE_CHECKING

import trio

from q9gent.log import get_logger
from q9gent.wire.events import encode_output
from q9gent.wire.lines import LineFramer, LineTooLong

if TYPE_CHECKING:
    from collections.abc import Callable

    from q9gent.containment import Tree
    from q9gent.containment.protocol import ByteSource
    from q9gent.hub import Hub
    from q9gent.output.outbox import Outbox

READ_BYTES = 64 * 1024
"""One read: what a default pipe holds. Larger reads gained nothing."""

LEFT_BYTES = 2 * 1024 * 1024
"""The most that is read once the tree is dead: twice what a run without privileges can make of its pipe,
which has 256 KiB (pipe-max-size, pipe(7)). More comes from a writer outside the tree, and has no end."""

STDERR_LINE_BYTES = 8 * 1024
"""A longer line of stderr is cut in the log."""

STDERR_LOG_BYTES = 1024 * 1024
"""More stderr than this of one run is counted and no longer logged: a log is no place for a flood."""

RESULT_MARK = b'"type":"result"'
"""Stands somewhere in the CLI's last line; where, depends on its version."""

logger = get_logger("q9gent.run")


class _Pump:
    """Reads a pipe until its end, or until stopped and empty.

    With a hub it mostly *rides*: the hub reads, calls ``_take`` and ``_hand_on``, and no task is needed.
    Without a hub, or while what was read has to wait for a disk, a task reads, until the pump can ride again.
    """

    def __init__(self, source: ByteSource, hub: Hub | None) -> None:
        self._source = source
        self._offer: Callable[[bytes], bool] = operator.not_  # puts what takes no waiting; else false
        self._hub = hub if source.fileno() is not None else None
        self._need_task: Callable[[], None] = lambda: None
        self._receiving: trio.CancelScope | None = None
        self._riding = False
        self._failure: Exception | None = None
        self._taken = b""  # and not handed on yet
        self._refused = b""
        self._at_end = False
        self._stopped = False

    def start(self, need_task: Callable[[], None]) -> None:
        """Begin to read.

        Args:
            need_task: Called whenever ``run`` is needed, in a task that it starts.
        """
        self._need_task = need_task
        if not self._ride():
            need_task()

    async def run(self) -> None:
        """Read until the end, or until the pump can ride.

        Cancellation: it goes on, until ``stop``.
        """
        with trio.CancelScope(shield=True):
            if self._failure is not None:
                raise self._failure
            refused, self._refused = self._refused, b""
            await self._put(refused)
            while not self._stopped and not self._at_end:
                if self._ride():
                    return
                await self._read()
            if self._stopped and not self._at_end:
                await self._read_what_is_left()
            await self._put(self._digest_rest())

    async def _read_what_is_left(self) -> None:
        left = LEFT_BYTES
        while data := self._source.receive_nowait(READ_BYTES):
            await self._put(self._digest(data))
            left -= len(data)
            if left <= 0:
                logger.warning("somebody outside the run still writes to its output, which is not read on")
                return
            await trio.lowlevel.checkpoint()

    async def _read(self) -> None:
        # Only the wait can be cancelled: what was read must be handled.
        with trio.CancelScope() as self._receiving:
            data = await self._source.receive(READ_BYTES)
        if self._receiving.cancelled_caught:
            return
        self._receiving = None
        self._at_end = not data
        await self._put(self._digest(data))

    def _ride(self) -> bool:
        """Have the hub read, if it can now."""
        fd = self._source.fileno()
        if self._hub is None or fd is None or not self._may_ride():
            return False
        try:
            self._hub.add(fd, self._take, self._hand_on)
        except OSError:  # the system watches enough already: a task of its own takes less
            self._hub = None
            return False
        self._riding = True
        return True

    def _get_off(self) -> None:
        assert self._hub is not None
        self._riding = False
        self._hub.forget(self._source.fileno() or 0)

    def _take(self, data: bytes) -> None:
        """Be handed what the hub has read."""
        self._at_end = not data
        try:
            self._taken = self._digest_rest() if self._at_end else self._digest(data)
        except Exception as error:
            self._failure = error
            self._leave_to_task()

    def _hand_on(self) -> None:
        """Pass on what was taken; it may be a few other pipes' turn in between, but no task's."""
        output, self._taken = self._taken, b""
        try:
            if not output or self._offer(output):
                if self._at_end:
                    self._get_off()
                return
            self._refused = output
        except Exception as error:
            self._failure = error
        self._leave_to_task()

    def _leave_to_task(self) -> None:
        """Have ``run`` put what was refused, or raise what has failed."""
        self._get_off()
        self._need_task()

    def stop(self) -> bool:
        """Read no more than what is there: the tree is dead, nobody can write any more.

        Returns:
            Whether ``run`` has to be called for that; else its task does it, or nothing is left.
        """
        self._stopped = True
        self._need_task = lambda: None  # it held the run, which holds this: a circle
        if self._receiving is not None:
            self._receiving.cancel()
        if self._riding:
            self._get_off()
            return True
        return False

    def _may_ride(self) -> bool:
        return True

    def _digest(self, data: bytes) -> bytes:
        """Take what was read, and return what is to be put."""
        raise NotImplementedError

    def _digest_rest(self) -> bytes:
        """Return what is to be put when nothing follows."""
        raise NotImplementedError

    async def _put(self, output: bytes) -> None:
        """Put it."""
        raise NotImplementedError


class StdoutPump(_Pump):
    """Puts a process's lines into the outbox.

    ``run`` raises:
        LineTooLong: A line cannot be held.
        SpoolFull: The client is too far behind.

    Args:
        tree: The process.
        outbox: Where its events go.
        line_bytes: The longest line.
        hub: What reads for the pump, if there is one.

    Attributes:
        lines: How many output events there were.
        bytes: How many bytes were read.
        saw_result: Whether the CLI's closing ``result`` line was among them.
    """

    def __init__(self, tree: Tree, outbox: Outbox, *, line_bytes: int, hub: Hub | None = None) -> None:
        super().__init__(tree.stdout, hub)
        self._outbox = outbox
        self._offer = outbox.offer
        self._framer = LineFramer(line_bytes)
        self.lines = 0
        self.bytes = 0
        self.saw_result = False

    def _may_ride(self) -> bool:
        return not self._outbox.is_spooling

    def _digest(self, data: bytes) -> bytes:
        self.bytes += len(data)
        block = self._framer.feed(data)
        return self._encode(block) if block else b""

    def _digest_rest(self) -> bytes:
        return self._encode(self._framer.finish())

    def _encode(self, block: bytes) -> bytes:
        if RESULT_MARK in block:
            self.saw_result = True
        events, count = encode_output(block)
        self.lines += count
        return events

    async def _put(self, output: bytes) -> None:
        if output:
            await self._outbox.put(output)


class StderrPump(_Pump):
    """Logs a process's stderr, a line a message, as data: it is never sent and never ends a run."""

    def __init__(self, tree: Tree, *, hub: Hub | None = None) -> None:
        super().__init__(tree.stderr, hub)
        self._framer = LineFramer(STDERR_LINE_BYTES)
        self._context = copy_context()  # the hub's own task knows nothing of the run
        self._logged = 0
        self._dropped = 0

    def _digest(self, data: bytes) -> bytes:
        try:
            self._log(self._framer.feed(data))
        except LineTooLong:
            self._log(self._framer.finish() + data)
        return b""

    def _digest_rest(self) -> bytes:
        self._log(self._framer.finish())
        if self._dropped:
            self._context.run(self._log_dropped)
        return b""

    async def _put(self, output: bytes) -> None:
        """Nothing: lines are logged as they come."""

    def _log(self, block: bytes) -> None:
        if block:
            self._context.run(self._log_lines, block)

    def _log_dropped(self) -> None:
        logger.warning("more stderr, not logged", bytes=self._dropped)

    def _log_lines(self, block: bytes) -> None:
        for line in block.split(b"\n"):
            if not line.strip():
                continue
            if self._logged + len(line) > STDERR_LOG_BYTES:
                self._dropped += len(line)
                continue
            self._logged += len(line)
            text = line[:STDERR_LINE_BYTES].decode("utf-8", "replace").rstrip("\r")
            logger.warning("agent stderr", text=text, cut=len(line) > STDERR_LINE_BYTES)
