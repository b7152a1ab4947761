"""A program in a terminal of its own: a pty that is read all the time, and typed into."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from typing import TYPE_CHECKING

from process_scan import wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

DEADLINE_SECONDS = 30.0
COLUMNS, ROWS = 100, 30


class TerminalProgram:
    """A program whose standard streams, and controlling terminal, are a pty."""

    def __init__(self, argv: Sequence[str], *, environment: dict[str, str], folder: str) -> None:
        self._pty, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *argv],
            cwd=folder,
            env={**environment, "TERM": "xterm-256color"},  # the pty's, and not the tester's
            stdin=inner,
            stdout=inner,
            stderr=inner,
        )
        os.close(inner)
        self._read: list[bytes] = []
        self._reader = threading.Thread(target=self._read_all, daemon=True)
        self._reader.start()

    def _read_all(self) -> None:
        while True:
            try:
                data = os.read(self._pty, 65536)
            except OSError:  # Linux: nobody has the other side any more
                return
            if not data:
                return
            self._read.append(data)

    @property
    def raw(self) -> str:
        """All that it has written, escape sequences too."""
        return b"".join(self._read).decode(errors="replace")

    def wait_for(self, text: str) -> None:
        """Wait until a text was written."""
        wait_for(lambda: text in self.raw or self.process.poll() is not None, bool, DEADLINE_SECONDS)
        assert text in self.raw, f"{text!r} is not in {self.raw!r}"

    def type(self, keys: str) -> None:
        """Press keys; the terminal makes a signal of ^C."""
        os.write(self._pty, keys.encode())

    def exit_status(self) -> int:
        """Wait for its end, and until all that it wrote is read."""
        status = self.process.wait(DEADLINE_SECONDS)
        self._reader.join(DEADLINE_SECONDS)
        return status

    def close(self) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.exit_status()
        os.close(self._pty)
