"""Bytes from a pipe, cut at line ends. Sans-IO: feed it what was read, take what is complete."""

from __future__ import annotations


class LineTooLong(Exception):
    """A line is longer than the limit: it cannot be held, and must not be cut silently."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"a line of output is longer than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


class LineFramer:
    """Collects bytes and gives them back in blocks of whole lines.

    A block and not a list: a burst of output is decoded and encoded in one go, which is what makes
    many small lines cheap.

    Args:
        limit_bytes: The longest line. At least as long as the longest piece fed, so that only a
            line that spans pieces has to be measured.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._partial = bytearray()

    def feed(self, data: bytes) -> bytes:
        r"""Take what was read and return the lines that are now complete.

        Returns:
            Whole lines, separated by ``\n`` and without the last one's; ``b""`` if there is none.

        Raises:
            LineTooLong: The line in progress has outgrown the limit.
        """
        end = data.rfind(b"\n")
        if end < 0:
            self._measure(len(data))
            self._partial += data
            return b""
        if not self._partial:
            self._partial += data[end + 1 :]
            return data[:end]
        self._measure(data.find(b"\n"))
        block = bytes(self._partial) + data[:end]
        self._partial = bytearray(data[end + 1 :])
        return block

    def finish(self) -> bytes:
        """Return the last line, if it had no line end; the framer is empty afterwards."""
        block = bytes(self._partial)
        self._partial = bytearray()
        # A carriage return before the end of the file ends no line: doubled, one of the two stays.
        return block + b"\r" if block.endswith(b"\r") else block

    def _measure(self, more_bytes: int) -> None:
        if len(self._partial) + more_bytes > self._limit_bytes:
            raise LineTooLong(self._limit_bytes)
