"""An application served by q9gent's own server, in a program of the user's own."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import trio
from hypercorn.utils import LifespanFailureError

from q9gent.containment.environment import raise_descriptor_limit
from q9gent.http.serve import Server, Sockets, make_config, serve_until
from q9gent.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from q9gent.http.app import Q9gentApp

logger = get_logger("q9gent")


class StartError(Exception):
    """The application cannot start; the text says why."""


async def serve(
    app: Q9gentApp,
    *,
    shutdown_trigger: Callable[[], Awaitable[object]] | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an application as the command line does, until told to stop; under trio.

    It listens where the application's settings say. The limit of descriptors of this process is raised, as
    each run needs four.

    Args:
        app: From ``create_app``, with whatever was added to it.
        shutdown_trigger: Waits for what shall stop the server in order, as in Hypercorn; by default the
            signals of the command line, which only a program's main thread can receive.
        task_status: Told once connections are accepted, where it listens: a list of URLs.

    Raises:
        BindError: It cannot listen there.
        StartError: The application cannot start.
        OSError: The hypercorn configuration, or a certificate, cannot be read.
        ValueError: The hypercorn configuration is no TOML.

    Cancellation: like a stop without ``shutdown_seconds``; every tree is dead when it returns.
    """
    config = make_config(app.settings)
    sockets = Sockets(config)
    server = Server(app, config, sockets)
    wanted = stopping_signals()

    async def wait_for_stop(stop: Callable[[], None]) -> None:
        if shutdown_trigger is None:
            await stop_on_signals(wanted, stop)
        else:
            await shutdown_trigger()
            stop()

    raise_descriptor_limit()
    try:
        await serve_until(server, wait_for_stop, on_started=lambda: task_status.started(sockets.urls))
    except BaseExceptionGroup as group:
        failures, others = group.split((LifespanFailureError, OSError))
        if failures is None or others is not None:
            raise
        error = _first(failures)
        raise (error if isinstance(error, OSError) else StartError(str(error))) from group
    finally:
        for sock in sockets.all:
            sock.close()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def stopping_signals() -> list[signal.Signals]:
    """Return the signals that ask this server to end. Asked before the containment sets its handlers."""
    wanted = [signal.SIGINT, signal.SIGTERM]
    if sys.platform == "win32":
        wanted.append(signal.SIGBREAK)
    elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup it stays ignored
        wanted.append(signal.SIGHUP)
    return wanted


async def stop_on_signals(wanted: Iterable[signal.Signals], stop: Callable[[], None]) -> None:
    """Call ``stop`` for each of these signals."""
    with trio.open_signal_receiver(*wanted) as signals:
        async for number in signals:
            logger.info("signal received", signal=signal.Signals(number).name)
            stop()
