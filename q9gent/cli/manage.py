"""``q9gent ps``, ``kill`` and ``sessions``: what lives, and its end."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import msgspec
import trio

from q9gent.cli.ids import BadId, find_run, find_session, is_whole
from q9gent.cli.outcome import EXIT_FAILURE, EXIT_USAGE, status_of_error, words_for
from q9gent.cli.tables import aligned, run_rows, session_rows
from q9gent.cli.terminal import one_line
from q9gent.client import AsyncClient, Client, ClientError, RunNotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

REFRESH_SECONDS = 1.0


def ps_command(url: str, *, as_json: bool, quiet: bool, whole_ids: bool) -> int:
    """Show the live runs once."""
    with Client(url) as client:
        runs = client.runs()
    if as_json:
        _print_json(runs)
    elif quiet:
        _say("".join(f"{run.run_id}\n" for run in runs))
    else:
        _say(aligned(run_rows(runs, time.time(), whole_ids=whole_ids)))
    return 0


def watch_command(url: str, *, whole_ids: bool) -> int:
    """Show the live runs until ^C, which is the way to end it and no failure."""
    try:
        from rich.live import Live  # noqa: PLC0415 (an extra, and slow to import)
        from rich.text import Text  # noqa: PLC0415
    except ImportError:
        sys.stderr.write("q9gent: --watch needs rich: pip install 'q9gent[cli]'\n")
        return EXIT_USAGE

    def table() -> Text:
        rows = run_rows(client.runs(), time.time(), whole_ids=whole_ids)
        shown = Text(no_wrap=True, overflow="crop")
        shown.append(f"{url}   {time.strftime('%X')}   ^C leaves\n\n", style="dim")
        head, _, rest = aligned(rows).partition("\n")
        return shown.append(head + "\n", style="bold").append(rest or "no live runs\n")

    try:
        with Client(url) as client, Live(table(), screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(REFRESH_SECONDS)
                live.update(table(), refresh=True)
    except KeyboardInterrupt:
        return 0


def kill_command(url: str, names: Sequence[str], *, everything: bool) -> int:
    """End runs, each told when it is dead; the exit status is 1 if one could not be ended."""
    return trio.run(_kill, url, names, everything)


async def _kill(url: str, names: Sequence[str], everything: bool) -> int:  # noqa: FBT001 (trio.run's)
    failed: list[int] = []

    async def end(name: str, run_id: str) -> None:
        try:
            await client.terminate(run_id)
        except RunNotFound as error:
            if run_id == name and not everything:
                failed.append(_complain(str(error)))
            else:  # it was live when we looked; what it may have left alive, only its own client is told
                _complain(f"{name}: the run had ended already")
            return
        except ClientError as error:
            _complain(f"{name}: {words_for(error)}")
            failed.append(status_of_error(error))
            return
        _say(f"{one_line(name)}\n")

    async with AsyncClient(url) as client:
        wanted: list[tuple[str, str]] = []
        runs = [] if all(map(is_whole, names)) and not everything else await client.runs()
        for name in [run.run_id for run in runs] if everything else names:
            try:
                wanted.append((name, name if is_whole(name) else find_run(name, runs)))
            except BadId as error:
                failed.append(_complain(str(error)))
        async with trio.open_nursery() as nursery:
            for name, run_id in wanted:
                nursery.start_soon(end, name, run_id)
    return max(failed, default=0)


def sessions_command(url: str, *, as_json: bool, quiet: bool) -> int:
    """Show the stored sessions."""
    with Client(url) as client:
        sessions = client.sessions()
    if as_json:
        _print_json(sessions)
    elif quiet:
        _say("".join(f"{session.session_id}\n" for session in sessions))
    else:
        _say(aligned(session_rows(sessions, time.time())))
    return 0


def remove_command(url: str, names: Sequence[str]) -> int:
    """Forget sessions, each told when it is gone; the exit status is 1 if one was not."""
    status = 0
    with Client(url) as client:
        for name in names:
            try:
                client.delete_session(name if is_whole(name) else find_session(name, client.sessions()))
            except BadId as error:
                status = _complain(str(error))
            except ClientError as error:
                status = max(status, status_of_error(error))
                _complain(words_for(error))
            else:
                _say(f"{one_line(name)}\n")
    return status


def _print_json(items: Iterable[msgspec.Struct]) -> None:
    text = msgspec.json.format(msgspec.json.encode(list(items)), indent=2).decode()
    # DEL and C1 are the control characters that JSON leaves as they are.
    _say("".join(f"\\u{ord(c):04x}" if "\x7f" <= c <= "\x9f" else c for c in text) + "\n")


def _say(text: str) -> None:
    """Write it now: at the program's exit nobody would learn any more that it could not be written."""
    sys.stdout.write(text)
    sys.stdout.flush()


def _complain(text: str) -> int:
    sys.stderr.write(f"q9gent: {one_line(text)}\n")
    return EXIT_FAILURE
