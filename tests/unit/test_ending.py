"""How a run ended, told: the first cause wins, and nothing is called dead that may live."""

from __future__ import annotations

import pytest

from q9gent.containment.protocol import Death, ExitStatus
from q9gent.ending import CAUSES, Ending
from q9gent.wire.events import Completed, Failed

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
