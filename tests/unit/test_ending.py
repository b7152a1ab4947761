"""How a run ended, told: the first cause wins, and nothing is called dead that may live."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from q9gent.containment.protocol import Death, ExitStatus
from q9gent.ending import CAUSES, Ending
from q9gent.wire.events import Code, Completed, Failed, encode_event

DEAD = Death(killed=2)


def ending(cause: object, status: ExitStatus | None, death: Death | None) -> Ending:
    return Ending(cause=cause, detail="", status=status, death=death, duration_ms=7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cause", "status", "death", "code"),
    [
        (None, ExitStatus(code=0), DEAD, None),
        (None, ExitStatus(code=3), DEAD, "exit"),
        (None, ExitStatus(signal=9), DEAD, "signal"),
        (None, None, DEAD, "internal"),
        ("terminated", ExitStatus(code=143), DEAD, "terminated"),
        ("terminated", ExitStatus(code=0), DEAD, "terminated"),
        ("terminated", None, DEAD, "terminated"),
        ("shutdown", ExitStatus(signal=9), DEAD, "shutdown"),
        ("terminated", ExitStatus(signal=9), Death(survivors=(5,)), "survivors"),
        (None, ExitStatus(code=0), Death(survivors=(5,)), "survivors"),
        ("terminated", None, None, "internal"),
        (None, ExitStatus(code=0), None, "internal"),
    ],
)
def test_the_code_of_an_ending(
    cause: str | None, status: ExitStatus | None, death: Death | None, code: str | None
) -> None:
    """Cause before status; survivors and a lost containment before both."""
    told = ending(cause, status, death)
    event = told.terminal_event()
    assert told.code == code
    assert told.facts()["code"] == (code or "completed")
    assert isinstance(event, Completed if code is None else Failed)
    if isinstance(event, Failed):
        assert event.code == code
        assert event.error.startswith("Process execution failed: ")


def test_the_facts_of_an_ending() -> None:
    """The exit status that a cause brought about stands beside it."""
    assert ending("terminated", ExitStatus(code=143), DEAD).facts() == {
        "code": "terminated",
        "exit_code": 143,
        "killed": 2,
        "duration_ms": 7,
    }
    assert ending(None, ExitStatus(signal=11), DEAD).terminal_event() == Failed(
        error="Process execution failed: killed by signal 11 (SIGSEGV)",
        code="signal",
        signal=11,
        killed=2,
        duration_ms=7,
    )
    survivors = ending("terminated", None, Death(killed=1, survivors=(5, 6))).terminal_event()
    assert isinstance(survivors, Failed)
    assert survivors.survivors == (5, 6)
    assert "5, 6" in survivors.error


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_has_words(cause: str) -> None:
    """And they stand in the event, with the detail."""
    told = Ending(cause=cause, detail="because", status=None, death=DEAD, duration_ms=1)  # type: ignore[arg-type]
    event = told.terminal_event()
    assert isinstance(event, Failed)
    assert event.error == f"Process execution failed: {CAUSES[cause]}: because"  # type: ignore[index]


def test_an_unknown_signal_is_told_by_its_number() -> None:
    """Real-time signals have no name."""
    event = ending(None, ExitStatus(signal=63), DEAD).terminal_event()
    assert isinstance(event, Failed)
    assert "63" in event.error


STATUSES = [None, ExitStatus(code=0), ExitStatus(code=3), ExitStatus(signal=9)]
DEATHS = [None, Death(), Death(killed=4), Death(killed=1, survivors=(5, 6))]


@pytest.mark.parametrize("death", DEATHS, ids=str)
@pytest.mark.parametrize("status", STATUSES, ids=str)
@pytest.mark.parametrize("cause", [None, *CAUSES])
def test_every_combination_tells_the_same_everywhere(
    cause: str | None, status: ExitStatus | None, death: Death | None
) -> None:
    """Lost containment, then survivors, then the cause, then the status; no fact is made up or hidden."""
    told = ending(cause, status, death)
    if death is None:
        expected = "internal"
    elif death.survivors:
        expected = "survivors"
    elif cause is not None:
        expected = cause
    elif status is None:
        expected = "internal"
    elif status.signal is not None:
        expected = "signal"
    else:
        expected = "exit" if status.code else "completed"
    facts = {"code": expected, "duration_ms": 7, "killed": death.killed if death else 0}
    facts |= {"exit_code": status.code} if status and status.code is not None else {}
    facts |= {"signal": 9} if status and status.signal else {}
    facts |= {"survivors": [5, 6]} if death and death.survivors else {}
    assert told.facts() == facts
    event = json.loads(encode_event(told.terminal_event()).removeprefix(b"data: "))
    if expected == "completed":
        assert event == {"type": "completed", "duration_ms": 7, "killed": facts["killed"]}
    else:
        assert event.pop("error").startswith("Process execution failed: ")
        assert event == facts | {"type": "error"}


def test_every_code_has_a_source() -> None:
    """A cause with words, or one of the three that the process itself brings about."""
    assert set(get_args(Code)) == set(CAUSES) | {"exit", "signal", "survivors"}


def test_what_cannot_be_seen_is_not_called_dead() -> None:
    """The text of a lost containment and that of survivors say so, whatever the cause was."""
    for cause in [None, *CAUSES]:
        lost = ending(cause, ExitStatus(code=0), None).terminal_event()
        left = ending(cause, ExitStatus(code=0), Death(survivors=(5,))).terminal_event()
        assert isinstance(lost, Failed)
        assert "not known" in lost.error
        assert isinstance(left, Failed)
        assert "could not be killed: 5" in left.error
