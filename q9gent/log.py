"""Logging: structlog in front, the standard library's handlers behind.

Every logger of q9gent goes through ``logging``, so an application that embeds it keeps its own handlers.
``configure_logging`` is for q9gent as the application: one handler on stderr, for its own lines and
those of hypercorn, quart and trio alike. What a caller sent appears only as the value of a field, with
control characters escaped: it can neither forge a line nor drive a terminal.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog
from structlog.stdlib import BoundLogger, ProcessorFormatter

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

_BEFORE: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def get_logger(name: str) -> BoundLogger:
    """Return a logger: ``logger.info("what happened", field=value)``."""
    logger: BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        wrapper_class=BoundLogger,
        cache_logger_on_first_use=True,  # else each line builds its logger anew
        processors=[
            structlog.stdlib.filter_by_level,
            *_BEFORE,
            structlog.processors.format_exc_info,
            ProcessorFormatter.wrap_for_formatter,
        ],
    )
    return logger


def configure_logging(level: str, log_format: str) -> None:
    """Send all log lines to stderr.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        log_format: ``console``, ``json``, or ``auto`` for whether stderr is a terminal.
    """
    is_terminal = sys.stderr.isatty()
    if log_format == "auto":
        log_format = "console" if is_terminal else "json"
    renderer: Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=is_terminal)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[*_BEFORE, structlog.processors.format_exc_info],
            processors=[ProcessorFormatter.remove_processors_meta, _escape_control, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())


def _escape_control(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if isinstance(value, str):
            lines = value.split("\n") if key == "exception" else [value]  # a traceback keeps its lines
            event[key] = "\n".join(map(printable, lines))
    return event


def printable(text: str) -> str:
    """Return text with what is not printable written as in a Python string."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
