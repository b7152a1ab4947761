"""``q9gent``: serve until told to stop."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING

import trio
from hypercorn.utils import LifespanFailureError

from q9gent._version import __version__
from q9gent.containment.environment import raise_descriptor_limit
from q9gent.http.app import ExtraMissing, create_app
from q9gent.http.embedding import stop_on_signals, stopping_signals
from q9gent.http.serve import BindError, Server, Sockets, make_config, serve_until
from q9gent.log import configure_logging, get_logger
from q9gent.settings import parse_log_level

if TYPE_CHECKING:
    from q9gent.settings import Settings

ENDPOINTS = "/health, /spawn, /message/:id, /terminate/:id, /sessions"

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_CANNOT_BIND = 3

logger = get_logger("q9gent")


def serve_command(settings: Settings) -> int:
    """Serve, and return the exit status."""
    open_standard_streams()
    configure_logging(parse_log_level(settings.log), settings.log_format)
    try:
        config = make_config(settings)
    except (OSError, ValueError) as error:
        print_error(f"cannot read {settings.hypercorn_config}: {error}")
        return EXIT_USAGE
    try:
        app = create_app(settings)
    except ExtraMissing as error:
        print_error(str(error))
        return EXIT_FAILURE
    print_line(f"🎯 Q9gent v{__version__} starting...")
    print_line(f"📂 Session directory: {settings.session_dir}")
    agent = "simulated agent" if settings.simulate else settings.claude_path
    print_line(f"🔧 Claude CLI path: {agent}")
    try:
        sockets = Sockets(config)
    except BindError as error:
        print_error(str(error))
        return EXIT_CANNOT_BIND

    def on_started() -> None:
        print_line(f"🚀 Server listening on {', '.join(sockets.urls)}")
        print_line(f"📍 Endpoints: {ENDPOINTS}{', /console' if settings.console else ''}")
        if not sockets.are_loopback_only:
            logger.warning(
                "not bound to a loopback address alone: whoever reaches this port can run agents as"
                " this user",
                urls=sockets.urls,
            )

    server = Server(app, config, sockets)
    raise_descriptor_limit()
    status = 0
    try:
        watch = partial(stop_on_signals, stopping_signals())
        trio.run(lambda: serve_until(server, watch, on_started=on_started))
    except* (LifespanFailureError, OSError) as group:
        print_error("; ".join(dict.fromkeys(str(error) for error in _leaves(group))))
        status = EXIT_FAILURE
    return status


def open_standard_streams() -> None:
    """Put the null device where a standard stream is closed: a socket must not get its number."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (for good)


def print_line(text: str) -> None:
    """Print a line to stdout, on a console that cannot show all of it too."""
    encoding = sys.stdout.encoding or "utf-8"
    printable = text.encode(encoding, "replace").decode(encoding)
    try:
        print(printable, flush=True)  # noqa: T201
    except OSError:  # nobody reads it any more; what is buffered must not fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def print_error(text: str) -> None:
    """Print what went wrong, in one line on stderr."""
    print(f"q9gent: {text}".encode("ascii", "replace").decode(), file=sys.stderr)  # noqa: T201


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves
