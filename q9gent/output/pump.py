"""From a process's pipes: stdout becomes events in the outbox, stderr becomes log lines.

A pump goes on while its tree is being ended, as what a process prints on its way out counts too: it is
shielded from the cancellation that ends the run, and stopped by the run once the tree is dead. Then it
takes what is left in the pipe and never waits again, as somebody outside the tree may hold the pipe open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from q9gent.log import get_logger
from q9gent.wire.events import encode_output
from q9gent.wire.lines import LineFramer, LineTooLong

if TYPE_CHECKING:
    from q9gent.containment import Tree
    from q9gent.containment.protocol import ByteSource
    from q9gent.output.outbox import Outbox

READ_BYTES = 64 * 1024
"""One read: what a default pipe holds. Larger reads gained nothing."""

STDERR_LINE_BYTES = 8 * 1024
"""A longer line of stderr is cut in the log."""

STDERR_LOG_BYTES = 1024 * 1024
"""More stderr than this of one run is counted and no longer logged: a log is no place for a flood."""

RESULT_MARK = b'"type":"result"'
"""Stands somewhere in the CLI's last line; where, depends on its version."""

logger = get_logger("q9gent.run")


class _Pump:
    """Reads a pipe until its end, or until stopped and empty."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._receiving: trio.CancelScope | None = None
        self._stopped = False

    async def run(self) -> None:
        """Read until the end."""
        with trio.CancelScope(shield=True):  # bounded: the run stops us when its tree is dead
            while not self._stopped:
                # Only the wait can be cancelled: what was read must be handled.
                with trio.CancelScope() as self._receiving:
                    data = await self._source.receive(READ_BYTES)
                if self._receiving.cancelled_caught or not data:
                    break
                await self._handle(data)
            self._receiving = None
            if self._stopped:
                while data := self._source.receive_nowait(READ_BYTES):
                    await self._handle(data)
            await self._finish()

    def stop(self) -> None:
        """Read what is there and end: the tree is dead, nobody can write any more."""
        self._stopped = True
        if self._receiving is not None:
            self._receiving.cancel()

    async def _handle(self, data: bytes) -> None:
        raise NotImplementedError

    async def _finish(self) -> None:
        raise NotImplementedError


class StdoutPump(_Pump):
    """Puts a process's lines into the outbox.

    ``run`` raises:
        LineTooLong: A line cannot be held.
        SpoolFull: The client is too far behind.

    Attributes:
        lines: How many output events there were.
        bytes: How many bytes were read.
        saw_result: Whether the CLI's closing ``result`` line was among them.
    """

    def __init__(self, tree: Tree, outbox: Outbox, *, line_bytes: int) -> None:
        super().__init__(tree.stdout)
        self._outbox = outbox
        self._framer = LineFramer(line_bytes)
        self.lines = 0
        self.bytes = 0
        self.saw_result = False

    async def _handle(self, data: bytes) -> None:
        self.bytes += len(data)
        block = self._framer.feed(data)
        if block:
            await self._put(block)

    async def _finish(self) -> None:
        block = self._framer.finish()
        if block:
            await self._put(block)

    async def _put(self, block: bytes) -> None:
        if RESULT_MARK in block:
            self.saw_result = True
        events, count = encode_output(block)
        self.lines += count
        if events:
            await self._outbox.put(events)


class StderrPump(_Pump):
    """Logs a process's stderr, a line a message, as data: it is never sent and never ends a run."""

    def __init__(self, tree: Tree) -> None:
        super().__init__(tree.stderr)
        self._framer = LineFramer(STDERR_LINE_BYTES)
        self._logged = 0
        self._dropped = 0

    async def _handle(self, data: bytes) -> None:
        try:
            block = self._framer.feed(data)
        except LineTooLong:
            block = self._framer.finish() + data
        self._log(block)

    async def _finish(self) -> None:
        self._log(self._framer.finish())
        if self._dropped:
            logger.warning("more stderr, not logged", bytes=self._dropped)

    def _log(self, block: bytes) -> None:
        for line in block.split(b"\n"):
            if not line.strip():
                continue
            if self._logged + len(line) > STDERR_LOG_BYTES:
                self._dropped += len(line)
                continue
            self._logged += len(line)
            text = line[:STDERR_LINE_BYTES].decode("utf-8", "replace").rstrip("\r")
            logger.warning("agent stderr", text=text, cut=len(line) > STDERR_LINE_BYTES)
