"""What is written where: on a terminal nothing obeys the agent, a pipe gets its text as it is."""

from __future__ import annotations

import io
import json

import pytest

from q9gent.cli.terminal import Screen, one_line, printable
from q9gent.cli.transcript import Piece

EVIL = "\x1b]0;name\x07\x1b[2J\x9b1mred\x7f\x00\u202eleft"


@pytest.fixture(autouse=True)
def _ordinary_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the tester's own, whatever that can or wants."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


class Tty(io.StringIO):
    """A terminal, as far as `isatty` goes."""

    def isatty(self) -> bool:
        return True


def shown(*pieces: Piece, out: io.StringIO, err: io.StringIO, quiet: bool = False) -> tuple[str, str]:
    """What a screen writes to its two streams."""
    screen = Screen(quiet=quiet, out=out, err=err)
    screen.show(pieces)
    screen.end_line()
    assert not screen.is_writing
    return out.getvalue(), err.getvalue()


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("a\r\nb", "a\nb"),
        ("a\rb", "a\\x0db"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b", "\\x9b"),
        ("\u202e", "\\u202e"),
        ("é🎯\u200d", "é🎯\u200d"),
    ],
)
def test_control_characters_are_shown(text: str, seen: str) -> None:
    """Line ends and tabs stay, Unicode stays, nothing that a terminal obeys does."""
    assert printable(text) == seen


def test_every_control_character_is_covered() -> None:
    """C0, DEL and C1, each by itself."""
    for number in [*range(0x20), *range(0x7F, 0xA0)]:
        if chr(number) not in "\t\n":
            assert printable(chr(number)) == f"\\x{number:02x}"


def test_a_line_has_no_line_ends() -> None:
    """Not those of Unicode either."""
    assert one_line("a\nb\u2028c\x85d\te") == "a b c d e"


def test_on_a_terminal_the_answer_is_shown_and_not_obeyed() -> None:
    """No escape character reaches it but ours, which colour the notes."""
    out, err = shown(Piece("text", EVIL), Piece("tool", EVIL), out=Tty(), err=Tty())
    assert "\x1b" not in out
    assert err.startswith("\x1b[36m● ")
    assert err.endswith("\x1b[0m\n")
    assert not set(err[5:-5]) & set("\x1b\x07\x9b\x7f\x00\u202e")


def test_a_pipe_gets_the_answer_as_it_is() -> None:
    """And notes that are plain."""
    out, err = shown(Piece("text", EVIL + "\n"), Piece("tool", "X"), out=io.StringIO(), err=io.StringIO())
    assert out == EVIL + "\n"
    assert err == "● X\n"


@pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_refused(monkeypatch: pytest.MonkeyPatch, variable: tuple[str, str]) -> None:
    """As https://no-color.org has it, and on terminals that know none."""
    monkeypatch.setenv(*variable)
    assert shown(Piece("note", "x"), out=Tty(), err=Tty())[1] == "x\n"


def test_a_note_never_stands_in_a_line_of_the_answer() -> None:
    """That line is ended first; an empty one of the agent's is kept."""
    both = Tty()
    shown(
        Piece("text", "a\n\npart"),
        Piece("note", "n"),
        Piece("end", ""),
        Piece("text", "rest"),
        out=both,
        err=both,
    )
    assert both.getvalue().replace("\x1b[2m", "").replace("\x1b[0m", "") == "a\n\npart\nn\nrest\n"


def test_quiet_shows_errors_alone() -> None:
    """And the answer."""
    pieces = (Piece("text", "a\n"), Piece("note", "n"), Piece("tool", "t"), Piece("error", "e"))
    out, err = shown(*pieces, out=io.StringIO(), err=io.StringIO(), quiet=True)
    assert (out, err) == ("a\n", "  ✗ e\n")


def test_json_stays_json_and_drives_no_terminal() -> None:
    """DEL, C1 and the like, which JSON leaves as they are, become escapes of the same value."""
    out = Tty()
    Screen(out=out, err=Tty()).write_json(json.dumps({"data": EVIL}, ensure_ascii=False))
    assert json.loads(out.getvalue()) == {"data": EVIL}
    assert out.getvalue().removesuffix("\n").isprintable()


def test_what_an_encoding_lacks_is_no_failure() -> None:
    """It is written as an escape."""
    raw = io.BytesIO()
    screen = Screen(out=io.TextIOWrapper(raw, "ascii"), err=io.StringIO())
    screen.write("é🎯\n")
    assert raw.getvalue() == b"\\xe9\\U0001f3af\n"
