r"""Where commands write: a terminal, a pipe or a file, each in its way.

What comes from an agent may hold control characters, and those that a terminal obeys could move its cursor,
rename its window or paste into its input. On a terminal all but line ends and tabs are therefore shown, not
obeyed (``\x1b``), and so are the marks that turn the direction of text. A pipe or a file gets them as they
are: what reads it wants what was said.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable

    from q9gent.cli.transcript import Piece, Style

# C0 without tab and line feed, DEL, C1, and Unicode's bidirectional controls.
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

COLOURS: dict[Style, str] = {
    "note": "2",
    "thinking": "2;3",
    "tool": "36",
    "outcome": "2",
    "error": "31",
    "summary": "2",
}
MARKS: dict[Style, str] = {"tool": "● ", "outcome": "  ⎿ ", "error": "  ✗ "}


def printable(text: str) -> str:
    r"""Return a text that no terminal obeys: control characters as ``\x1b``, ``\u202e``."""
    return OBEYED.sub(_shown, text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """Return a text on one line, fit for a terminal."""
    return printable(" ".join(text.split()))


def _shown(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


class Screen:
    """Standard output for the agent's answer, standard error for what happens meanwhile.

    Args:
        quiet: Of the latter show nothing but errors.
        out: In place of standard output.
        err: In place of standard error.

    Attributes:
        is_writing: Whether a write is under way; one that is stuck, as nobody reads, must not be waited
            for when the program ends.
    """

    def __init__(self, *, quiet: bool = False, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._quiet = quiet
        self._plain = not self._out.isatty()
        self._coloured = wants_colour(self._err)
        self._at_line_start = True
        self.is_writing = False

    def show(self, pieces: Iterable[Piece]) -> None:
        """Show pieces, in their order."""
        for piece in pieces:
            if piece.style == "text":
                self.write(piece.text)
            elif piece.style == "end":
                self.end_line()
            elif piece.text.strip() and (piece.style == "error" or not self._quiet):
                self.note(piece.text, piece.style)

    def write(self, text: str) -> None:
        """Write a part of the answer."""
        self._at_line_start = text.endswith("\n")
        self._put(self._out, text if self._plain else printable(text))

    def write_json(self, text: str) -> None:
        """Write one line of JSON, in which the characters that a terminal may obey are escapes."""
        self._put(self._out, OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")

    def note(self, text: str, style: Style = "note") -> None:
        """Write one line about what happens."""
        self.end_line()
        line = MARKS.get(style, "") + one_line(text)
        if self._coloured and style in COLOURS:
            line = f"\x1b[{COLOURS[style]}m{line}\x1b[0m"
        self._put(self._err, line + "\n")

    def fail(self, text: str) -> None:
        """Write what went wrong, also while another thread is stuck in writing the answer."""
        if not self.is_writing:
            self.end_line()
        self._put(self._err, f"q9gent: {one_line(text)}\n")

    def interrupt(self, text: str) -> None:
        """Write what ^C does; on a terminal below the line in which that key was echoed."""
        if self._err.isatty():
            self._at_line_start = True
            self._put(self._err, "\n")
        self.fail(text)

    def end_line(self) -> None:
        """End a line of the answer that has begun."""
        if not self._at_line_start:
            self.write("\n")

    def _put(self, stream: TextIO, text: str) -> None:
        encoding = stream.encoding or "utf-8"
        before, self.is_writing = self.is_writing, True
        try:
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
        finally:
            self.is_writing = before


def wants_colour(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal whose user has nothing against colours (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def silence_stdout() -> None:
    """Let nothing fail any more as nobody reads standard output: what is buffered is written at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
