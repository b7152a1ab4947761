"""What a client gives back, beside the events of ``q9gent.wire.events``."""

from __future__ import annotations

from typing import Any

import msgspec

from q9gent.sessions import Session
from q9gent.wire.events import Completed

__all__ = ["Health", "Result", "RunInfo", "Session", "Termination"]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What ``GET /health`` tells."""

    status: str
    version: str


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A live run, as ``GET /runs`` lists it.

    Attributes:
        run_id: The run's id.
        session_id: The id of its session, if it has one.
        agent_type: The caller's label.
        pid: The CLI's; ``None`` while it waits for its start.
        started_at: Unix time in whole seconds, by the server's clock.
        lines: How many lines it has printed.
        bytes: How many bytes it has printed.
        processes: How many of its processes live, as far as the server can see.
    """

    run_id: str
    session_id: str | None
    agent_type: str
    pid: int | None
    started_at: int
    lines: int
    bytes: int
    processes: int


class Termination(msgspec.Struct, frozen=True, kw_only=True):
    """What ``POST /terminate/{id}`` tells: every process of the run is dead.

    Attributes:
        run_id: The run's id.
        session_id: The id of its session, if it has one.
        code: What ended it: ``terminated``, or what came first.
        killed: How many processes had to be killed: those that ended when asked do not count.
        duration_ms: Milliseconds from the run's request to the death of its last process.
        exit_code: The exit status, if the process exited.
        signal: The number of the signal that ended it, if one did.
    """

    run_id: str
    session_id: str | None
    code: str
    killed: int
    duration_ms: int
    exit_code: int | None = None
    signal: int | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn came to: the CLI's ``result`` line, and the run's end.

    Attributes:
        text: The agent's answer.
        is_error: Whether the CLI says that the turn failed.
        subtype: The CLI's word for how it went, as ``success``.
        session_id: The id to continue the conversation with; ``None`` if it was not kept.
        cost_usd: What it cost in US dollars, as far as the CLI knows.
        num_turns: How many times the model was asked.
        usage: The CLI's count of tokens.
        message: The ``result`` line as it is.
        ending: The run's terminal event.
    """

    text: str
    is_error: bool
    subtype: str
    session_id: str | None
    cost_usd: float | None
    num_turns: int | None
    usage: dict[str, Any]
    message: dict[str, Any]
    ending: Completed

    @property
    def duration_ms(self) -> int:
        """Return the milliseconds from the request to the death of the last process."""
        return self.ending.duration_ms


def make_result(message: dict[str, Any], session_id: str | None, ending: Completed) -> Result:
    """Return the result of a turn. What the line lacks, or has of another type, is left out."""
    return Result(
        text=message["result"] if isinstance(message.get("result"), str) else "",
        is_error=message.get("is_error") is True,
        subtype=str(message.get("subtype", "")),
        session_id=session_id,
        cost_usd=_number(message.get("total_cost_usd")),
        num_turns=message["num_turns"] if isinstance(message.get("num_turns"), int) else None,
        usage=message["usage"] if isinstance(message.get("usage"), dict) else {},
        message=message,
        ending=ending,
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
