"""Which type and which errors belong to which route: the table that ``openapi`` describes."""

from __future__ import annotations

import msgspec

from q9gent import errors
from q9gent.errors import Q9gentError
from q9gent.wire.answers import Health, RunList, SessionDeleted, SessionList, Terminated
from q9gent.wire.requests import MessageRequest, SpawnRequest

JSON = "application/json"
STREAM = "text/event-stream"

_ID = "00000000-0000-4000-8000-000000000000"

PROBLEMS: dict[type[Q9gentError], Q9gentError] = {
    type(error): error
    for error in (
        errors.InvalidRequest("Expected `str`, got `int` - at `$.prompt`"),
        errors.SessionNotFound(_ID),
        errors.RunNotFound(_ID),
        errors.BodyTimeout(60),
        errors.SessionBusy(_ID),
        errors.TooLarge("The body is larger than 4194304 bytes"),
        errors.UnsupportedMedia("text/plain"),
        errors.MisdirectedRequest("q9gent.example.com"),
        errors.ProcessSpawnFailed("No such file or directory"),
        errors.SessionStoreFailed("Permission denied (./sessions)"),
        errors.SurvivorsLeft((4711,)),
        errors.AtCapacity("1024 runs are live, and none ended within 10 s", retry_after_seconds=10),
        errors.ShuttingDown(),
    )
}
"""An example of each error."""

ANYWHERE: tuple[type[Q9gentError], ...] = (errors.InvalidRequest, errors.MisdirectedRequest)
"""Of the Host header and the request's target, so for each route."""

_BODY = (errors.BodyTimeout, errors.UnsupportedMedia, errors.SessionBusy)
START_PROBLEMS: tuple[type[Q9gentError], ...] = (
    *(errors.ProcessSpawnFailed, errors.SessionStoreFailed, errors.AtCapacity, errors.ShuttingDown),
    errors.TooLarge,  # a field that no process can be given
)
"""Of a run that was taken on and did not start."""

HEADERS_TOO_LARGE = "The request's headers are too large"
"""What ``http.http1`` answers, before there is a route."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One route.

    Attributes:
        method: In lower case.
        path: As routed, with its parameters in braces.
        name: The ``operationId``.
        summary: What it does.
        body: What it takes; ``None`` for nothing.
        answer: What it answers: a type for JSON, else a media type.
        problems: Its errors beside ``ANYWHERE``.
    """

    method: str
    path: str
    name: str
    summary: str
    body: type[msgspec.Struct] | None = None
    answer: type[msgspec.Struct] | str = STREAM
    problems: tuple[type[Q9gentError], ...] = ()


OPERATIONS = (
    Operation(
        method="get",
        path="/health",
        name="health",
        summary="Tell that the server answers, also at capacity.",
        answer=Health,
    ),
    Operation(
        method="post",
        path="/spawn",
        name="spawn",
        summary="Start a run and stream its events.",
        body=SpawnRequest,
        problems=(*_BODY, *START_PROBLEMS),
    ),
    Operation(
        method="post",
        path="/message/{session_id}",
        name="message",
        summary="Continue a session and stream its events.",
        body=MessageRequest,
        problems=(errors.SessionNotFound, *_BODY, *START_PROBLEMS),
    ),
    Operation(
        method="post",
        path="/terminate/{run_or_session_id}",
        name="terminate",
        summary="End a run; answered once every process of it is dead.",
        answer=Terminated,
        problems=(errors.RunNotFound, errors.SurvivorsLeft),
    ),
    Operation(
        method="get",
        path="/runs",
        name="runs",
        summary="List the live runs.",
        answer=RunList,
    ),
    Operation(
        method="get",
        path="/sessions",
        name="sessions",
        summary="List the stored sessions.",
        answer=SessionList,
        problems=(errors.SessionStoreFailed,),
    ),
    Operation(
        method="delete",
        path="/sessions/{session_id}",
        name="delete_session",
        summary="Forget a session that has no live run.",
        answer=SessionDeleted,
        problems=(errors.SessionNotFound, errors.SessionBusy, errors.SessionStoreFailed),
    ),
    Operation(
        method="get",
        path="/openapi.json",
        name="openapi",
        summary="Describe all this to machines.",
        answer=JSON,
    ),
)

METRICS = Operation(
    method="get",
    path="/metrics",
    name="metrics",
    summary="Tell Prometheus what is going on; OpenMetrics if asked for.",
    answer="text/plain",
)
"""Only with ``--metrics``."""

PARAMETERS = {
    "session_id": "A stored session's id. A malformed one names none: 404.",
    "run_or_session_id": "The id of a live run, or of the session whose turn it is.",
}

RUN_LINK = {
    "terminate": {
        "operationId": "terminate",
        "parameters": {"run_or_session_id": "$response.header.x-q9gent-run-id"},
        "description": "End the run while it lives.",
    }
}

SESSION_LINKS = {
    name: {"operationId": name, "parameters": {"session_id": "$response.body#/sessions/0/session_id"}}
    for name in ("message", "delete_session")
}

LINKS = {"spawn": RUN_LINK, "message": RUN_LINK, "sessions": SESSION_LINKS}
