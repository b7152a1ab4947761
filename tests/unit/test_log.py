"""Log lines: for people or for machines, and what a caller sent is data in them."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING

import pytest
from structlog.contextvars import bound_contextvars

from q9gent.http.app import create_app
from q9gent.log import configure_logging, get_logger, printable
from q9gent.settings import Settings, parse_log_level

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)  # which, unlike the attribute, forgets what each logger has remembered of it


def test_a_json_line_carries_the_fields_and_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    """One line, one object."""
    configure_logging("info", "json")
    with bound_contextvars(run_id="r1"):
        get_logger("q9gent.x").info("it happened", count=3)
        logging.getLogger("hypercorn.error").warning("theirs")
    ours, theirs = map(json.loads, capsys.readouterr().err.splitlines())
    assert {"event": "it happened", "count": 3, "run_id": "r1", "level": "info"}.items() <= ours.items()
    assert {"event": "theirs", "run_id": "r1", "logger": "hypercorn.error"}.items() <= theirs.items()


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_text_forges_a_line_or_drives_a_terminal(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Control characters are written as escapes."""
    configure_logging("info", log_format)
    get_logger("q9gent.x").info("said", text="a\nFORGED\x1b[31m\r\u2028")
    logging.getLogger("quart").warning("path %s", "/\nFORGED\x1b[2J")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert not any("\x1b" in line for line in lines)


def test_the_level_is_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    """By ours and by others."""
    configure_logging("error", "json")
    get_logger("q9gent.x").warning("quiet")
    logging.getLogger("other").warning("quiet")
    get_logger("q9gent.x").error("loud")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["loud"]


def test_an_embedding_application_keeps_its_handlers(caplog: pytest.LogCaptureFixture) -> None:
    """Without `configure_logging`, everything goes through `logging` alone."""
    with caplog.at_level(logging.INFO, "q9gent.x"):
        get_logger("q9gent.x").info("hello", field=1)
    (record,) = caplog.records
    assert record.msg["event"] == "hello"  # type: ignore[index]
    assert record.msg["field"] == 1  # type: ignore[index]


def test_what_is_printable_stays() -> None:
    """Emoji and letters of any script too."""
    assert printable("é🎯 ok") == "é🎯 ok"
    assert printable("a\tb\0") == "a\\tb\\x00"


def test_a_traceback_is_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever its exception says."""
    configure_logging("info", "json")
    error = ValueError("a\nFORGED\x1b[2J")
    get_logger("q9gent.x").error("failed", exc_info=error)
    logging.getLogger("theirs").error("failed too", exc_info=error)
    captured = capsys.readouterr().err
    lines = [json.loads(line) for line in captured.splitlines()]
    assert [line["event"] for line in lines] == ["failed", "failed too"]
    assert all("ValueError" in line["exception"] for line in lines)
    assert "\x1b" not in captured


def test_an_exception_drives_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Its text may be a caller's, and tracebacks are shown on consoles."""
    configure_logging("info", "console")
    get_logger("q9gent.x").error("failed", exc_info=ValueError("caller\x1b[2Jtext"))
    captured = capsys.readouterr().err
    assert "ValueError" in captured
    assert len(captured.splitlines()) > 1  # still a traceback for people
    assert "\x1b" not in captured


@pytest.mark.parametrize(
    "character", [*map(chr, range(32)), "\x7f", "\x85", "\x9b", "\u2028", "\u202e", "\ud800"]
)
@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_control_character_reaches_the_log(
    character: str, log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """C0, DEL, C1, line ends of Unicode, text direction, half of a surrogate pair."""
    configure_logging("info", log_format)
    get_logger("q9gent.x").info("said", text=f"before{character}after")
    captured = capsys.readouterr().err.removesuffix("\n")
    assert "before" in captured
    assert "after" in captured
    assert character not in captured


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "log_format", "is_json"),
    [
        (Terminal, "auto", False),
        (io.StringIO, "auto", True),
        (Terminal, "json", True),
        (io.StringIO, "console", False),
    ],
)
def test_the_format_is_as_asked_or_fits_the_reader(
    stream: type[io.StringIO], log_format: str, is_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto`: people at a terminal, machines elsewhere; colours on a terminal alone."""
    written = stream()
    monkeypatch.setattr("sys.stderr", written)
    configure_logging("info", log_format)
    get_logger("q9gent.x").info("hello")
    assert written.getvalue().startswith("{") == is_json
    assert ("\x1b[" in written.getvalue()) == (stream is Terminal and not is_json)


@pytest.mark.parametrize("name", ["q9gent=info", "info", "INFO"])
def test_the_level_may_be_written_as_for_the_original(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`Q9GENT_LOG=q9gent=info` shows info and hides debug."""
    configure_logging(parse_log_level(name), "json")
    get_logger("q9gent.x").debug("quiet")
    get_logger("q9gent.x").info("loud")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["loud"]


def test_logging_can_be_configured_again_without_doubling_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """The demo and a test do so."""
    for _time in range(3):
        configure_logging("info", "json")
    get_logger("q9gent.x").info("once")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_making_the_application_touches_no_handler_and_no_level() -> None:
    """Who embeds it has configured logging."""
    root = logging.getLogger()
    handler = logging.NullHandler()
    root.handlers = [handler]
    root.setLevel(logging.CRITICAL)
    create_app(Settings(simulate=True))
    assert root.handlers == [handler]
    assert root.level == logging.CRITICAL
    assert logging.getLogger("q9gent").handlers == []


def test_a_line_of_an_embedded_server_is_the_embedding_applications_to_format() -> None:
    """A plain handler of the application's own gets it, once, with its fields."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("THEIRS %(name)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    get_logger("q9gent.x").warning("hello", text="a\nFORGED")
    (line,) = written.getvalue().splitlines()
    assert line.startswith("THEIRS q9gent.x WARNING ")
    assert "hello" in line
