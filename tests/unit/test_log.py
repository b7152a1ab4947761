"""Log lines: for people or for machines, and what a caller sent is data in them."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest
from structlog.contextvars import bound_contextvars

from q9gent.log import configure_logging, get_logger, printable

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level


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
