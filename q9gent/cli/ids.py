"""Ids as people type them: whole, or as much of the beginning as tells them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from q9gent.wire.requests import UUID_PATTERN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from q9gent.client import RunInfo, Session


class BadId(Exception):
    """An id that names nothing, or not one thing."""


def is_whole(name: str) -> bool:
    """Tell whether a text is a whole id, so that the server need not be asked for what it could mean."""
    return UUID_PATTERN.match(name) is not None


def find_run(name: str, runs: Iterable[RunInfo]) -> str:
    """Return the id of the run that a name stands for: its own id or its session's, or the beginning of one.

    Raises:
        BadId: It stands for none, or for several.
    """
    ids: dict[str, str] = {}
    for run in runs:
        ids[run.run_id] = run.run_id
        if run.session_id:
            ids[run.session_id] = run.run_id
    return _find(name, ids, "live run")


def find_session(name: str, sessions: Iterable[Session]) -> str:
    """Return the id of the session that a name stands for.

    Raises:
        BadId: It stands for none, or for several.
    """
    return _find(name, {session.session_id: session.session_id for session in sessions}, "session")


def _find(name: str, ids: Mapping[str, str], kind: str) -> str:
    found = {target for one, target in ids.items() if name and one.startswith(name)}
    if not found:
        raise BadId(f"no {kind}: {name}")
    if len(found) > 1:
        raise BadId(f"more than one {kind} begins with {name}")
    return found.pop()
