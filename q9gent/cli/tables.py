"""Live runs and sessions as tables. Pure: what the server told in, lines out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from q9gent.cli.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from q9gent.client import RunInfo, Session

GAP = "   "
SHORT_ID = 8
"""Characters of an id that are shown: the first group of a UUID."""

LABEL_CHARACTERS = 32

RUN_HEADINGS = ("RUN ID", "SESSION", "AGENT TYPE", "PID", "AGE", "LINES", "BYTES", "PROCESSES")
SESSION_HEADINGS = ("SESSION ID", "AGENT TYPE", "CREATED", "LAST USED")


def run_rows(runs: Iterable[RunInfo], now: float, *, whole_ids: bool = False) -> list[tuple[str, ...]]:
    """Return a row for each run, with the headings first.

    Args:
        runs: As ``GET /runs`` lists them.
        now: Unix time.
        whole_ids: Show ids in full.
    """
    length = None if whole_ids else SHORT_ID
    return [RUN_HEADINGS, *(_run_row(run, now, length) for run in runs)]


def _run_row(run: RunInfo, now: float, length: int | None) -> tuple[str, ...]:
    return (
        one_line(run.run_id)[:length],
        one_line(run.session_id)[:length] if run.session_id else "-",
        _label(run.agent_type),
        "-" if run.pid is None else str(run.pid),
        duration(now - run.started_at),
        str(run.lines),
        size(run.bytes),
        str(run.processes),
    )


def session_rows(sessions: Iterable[Session], now: float) -> list[tuple[str, ...]]:
    """Return a row for each session, with the headings first.

    Args:
        sessions: As ``GET /sessions`` lists them.
        now: Unix time.
    """
    rows: list[tuple[str, ...]] = [SESSION_HEADINGS]
    for session in sessions:
        ago = (f"{duration(now - then)} ago" for then in (session.created_at, session.last_used))
        rows.append((one_line(session.session_id), _label(session.agent_type), *ago))
    return rows


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines, each column as wide as its widest cell."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
    return "".join(f"{line}\n" for line in lines)


def duration(seconds: float) -> str:
    """Return a duration in its largest whole unit, as ``5m``; clocks that differ make none negative."""
    seconds = max(0.0, seconds)
    for unit, length in ("d", 86400), ("h", 3600), ("m", 60):
        if seconds >= 2 * length or (unit == "d" and seconds >= length):
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"


def size(count: int) -> str:
    """Return a number of bytes in a unit that keeps it short, as ``1.2 MB``."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5 or unit == "GB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 99.5 else f"{amount:.1f} {unit}"


def _label(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= LABEL_CHARACTERS else text[: LABEL_CHARACTERS - 1] + "…"
