"""What the endpoints answer, beside streams: a struct for each answer.

The routes encode them and ``openapi`` describes them, so that an answer and its description are the same.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from q9gent.sessions import Session
from q9gent.wire.events import Code
from q9gent.wire.fields import Count, UnixSeconds, Uuid

INTERNAL_ERROR = "Internal server error"
"""All that a client is told of a defect of ours; the log says more."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Every error that is not an event of a stream."""

    error: Annotated[str, Meta(description="What is wrong, for people: branch on the status.")]
    survivors: Annotated[
        list[int] | UnsetType | None,
        Meta(
            description="Pids that could not be killed, null if they cannot be known; only where /terminate"
            " could not end a run."
        ),
    ] = UNSET


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The server answers."""

    status: Annotated[Literal["ok"], Meta(description="The server answers, whatever else it does.")]
    version: Annotated[str, Meta(description="The server's version.")]


class Terminated(msgspec.Struct, frozen=True, kw_only=True):
    """A run has ended and every process of it is dead; told like its terminal event."""

    message: Annotated[
        Literal["Process terminated successfully"], Meta(description="For people: branch on the status.")
    ]
    run_id: Annotated[Uuid, Meta(description="The run's id.")]
    session_id: Annotated[Uuid | None, Meta(description="The session whose turn it was, if any.")]
    code: Annotated[
        Literal["completed"] | Code,
        Meta(description="What ended it: this request, or what came first."),
    ]
    exit_code: Annotated[int | UnsetType, Meta(description="The exit status, if the process exited.")] = UNSET
    signal: Annotated[int | UnsetType, Meta(description="The signal's number, if one ended it.")] = UNSET
    killed: Annotated[Count, Meta(description="How many processes had to be killed.")]
    duration_ms: Annotated[
        Count, Meta(description="Milliseconds from the request to the death of the last process.")
    ]


class SessionList(msgspec.Struct, frozen=True, kw_only=True):
    """The stored sessions."""

    sessions: Annotated[list[Session], Meta(description="The oldest first.")]


class SessionDeleted(msgspec.Struct, frozen=True, kw_only=True):
    """A session is forgotten; the CLI's own transcript is not touched."""

    message: Annotated[Literal["Session deleted"], Meta(description="For people: branch on the status.")]
    session_id: Annotated[Uuid, Meta(description="The id that names no session any more.")]


class LiveRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run whose processes are not all dead, or that waits for its start."""

    run_id: Annotated[Uuid, Meta(description="Its id, for /terminate.")]
    session_id: Annotated[Uuid | None, Meta(description="The session whose turn it is, if any.")]
    agent_type: Annotated[str, Meta(description="The caller's label.")]
    pid: Annotated[int | None, Meta(description="The CLI's; null for a run that waits for its start.")]
    started_at: Annotated[UnixSeconds, Meta(description="When it was asked for: Unix time in seconds.")]
    lines: Annotated[Count, Meta(description="How many output events it has printed so far.")]
    bytes: Annotated[Count, Meta(description="How many bytes it has printed so far.")]
    processes: Annotated[
        Count, Meta(description="How many of its processes live, as far as the strategy can see.")
    ]


class RunList(msgspec.Struct, frozen=True, kw_only=True):
    """The live runs."""

    runs: Annotated[list[LiveRun], Meta(description="The oldest first.")]
