"""Runs and sessions as tables, ids as people type them, tools as they stand on a command line."""

from __future__ import annotations

import pytest

from q9gent.cli.arguments import split_tools
from q9gent.cli.ids import BadId, find_run, find_session, is_whole
from q9gent.cli.tables import LABEL_CHARACTERS, aligned, duration, run_rows, session_rows, size
from q9gent.client import RunInfo, Session

A, B, C = (f"{letter * 8}-{letter * 4}-{letter * 4}-{letter * 4}-{letter * 12}" for letter in "abc")
A2 = A[:-1] + "0"


def run_of(run_id: str, session_id: str | None = None, agent_type: str = "t", pid: int | None = 7) -> RunInfo:
    return RunInfo(
        run_id=run_id,
        session_id=session_id,
        agent_type=agent_type,
        pid=pid,
        started_at=1000,
        lines=3,
        bytes=1234,
        processes=2,
    )


def test_runs_are_aligned() -> None:
    """Ids cut short, and a dash for what there is not."""
    assert aligned(run_rows([run_of(A, B), run_of(C, pid=None)], 1061.5)) == (
        "RUN ID     SESSION    AGENT TYPE   PID   AGE   LINES   BYTES    PROCESSES\n"
        "aaaaaaaa   bbbbbbbb   t            7     61s   3       1.2 kB   2\n"
        "cccccccc   -          t            -     61s   3       1.2 kB   2\n"
    )


def test_ids_can_be_whole() -> None:
    """For scripts."""
    assert run_rows([run_of(A, B)], 1000, whole_ids=True)[1][:2] == (A, B)


def test_a_label_drives_no_terminal() -> None:
    """It is a caller's text: one line, bounded."""
    (_, row) = run_rows([run_of(A, agent_type="a\nb\x1b[2J" + "x" * 100)], 1000)
    assert row[2].startswith("a b\\x1b[2Jx")
    assert len(row[2]) == LABEL_CHARACTERS


def test_sessions_tell_when() -> None:
    """Their ids are whole: they are there to be used."""
    session = Session(session_id=A, agent_type="t", created_at=1000, last_used=4000)
    assert session_rows([session], 8000)[1] == (A, "t", "116m ago", "66m ago")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0.9, "0s"),
        (119, "119s"),
        (120, "2m"),
        (7199, "119m"),
        (7200, "2h"),
        (86399, "23h"),
        (86400, "1d"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """In a unit of which there are some; clocks that differ make none negative."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (123456, "123 kB"),
        (1234567, "1.2 MB"),
        (5 * 10**12, "5000 GB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    """Short, and never `1000 kB`."""
    assert size(count) == text


@pytest.mark.parametrize(("name", "found"), [("a", A), (A, A), ("b", A), ("cccc", C)])
def test_a_run_is_found_by_its_or_its_sessions_beginning(name: str, found: str) -> None:
    """If no other begins so."""
    assert find_run(name, [run_of(A, B), run_of(C)]) == found


@pytest.mark.parametrize(
    ("name", "words"), [("aaaa", "more than one live run"), ("d", "no live run: d"), ("", "no live run")]
)
def test_what_is_not_one_run_is_told(name: str, words: str) -> None:
    """Nothing is ended by mistake."""
    with pytest.raises(BadId, match=words):
        find_run(name, [run_of(A), run_of(A2), run_of(C)])


def test_a_run_whose_session_begins_like_itself_is_one() -> None:
    """Two names of one run are no ambiguity."""
    assert find_run("aaaa", [run_of(A, A2)]) == A


def test_a_session_is_found_by_its_beginning() -> None:
    """As a run is."""
    sessions = [Session(session_id=one, agent_type="t", created_at=0, last_used=0) for one in (A, B)]
    assert find_session("b", sessions) == B
    with pytest.raises(BadId, match="no session: c"):
        find_session("c", sessions)


def test_a_whole_id_is_a_uuid() -> None:
    """Nothing shorter, nothing longer."""
    assert is_whole(A)
    assert not is_whole(A[:-1])
    assert not is_whole(A.upper())


@pytest.mark.parametrize(
    ("values", "tools"),
    [
        ([], []),
        (["Read"], ["Read"]),
        (["Read,Write", "Bash"], ["Read", "Write", "Bash"]),
        (["Read, Write,"], ["Read", "Write"]),
        (["Bash(git log:*),Read"], ["Bash(git log:*)", "Read"]),
        (["Bash(a,b),Edit(c(d,e),f)"], ["Bash(a,b)", "Edit(c(d,e),f)"]),
        (["a),b"], ["a)", "b"]),
    ],
)
def test_tools_are_split_at_commas(values: list[str], tools: list[str]) -> None:
    """Those in parentheses are a tool's own."""
    assert split_tools(values) == tools
