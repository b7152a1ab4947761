"""The endpoints: what is asked, in terms of runs and sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

import msgspec
import trio
from quart import Blueprint, current_app, request
from quart_trio.wrappers import TrioResponse
from structlog.contextvars import bind_contextvars

from q9gent._version import __version__
from q9gent.errors import BodyTimeout, RunNotFound, SessionBusy, SessionNotFound, UnsupportedMedia
from q9gent.http.exchange import EXCHANGE_KEY, Exchange
from q9gent.http.problems import json_response
from q9gent.runs import Order
from q9gent.wire.answers import Health, LiveRun, RunList, SessionDeleted, SessionList, Terminated
from q9gent.wire.openapi import document_json
from q9gent.wire.requests import UUID_PATTERN, MessageRequest, SpawnRequest, decode_request

if TYPE_CHECKING:
    from quart import Response

    from q9gent.http.app import Q9gentApp
    from q9gent.http.body import BodyRequest
    from q9gent.run import Run
    from q9gent.sessions import Session

api = Blueprint("q9gent", __name__)

_RequestT = TypeVar("_RequestT", bound=MessageRequest)


@api.get("/health")
async def health() -> Response:
    """Tell that the server answers."""
    return json_response(Health(status="ok", version=__version__))


@api.post("/spawn")
async def spawn() -> Response:
    """Start a run and stream its events."""
    body = await _read(SpawnRequest)
    return await _stream(Order.from_spawn(body))


@api.post("/message/<session_id>")
async def message(session_id: str) -> Response:
    """Continue a session and stream its events."""
    body = await _read(MessageRequest)
    return await _stream(Order.from_message(body, await _load(session_id)))


@api.post("/terminate/<run_or_session_id>")
async def terminate(run_or_session_id: str) -> Response:
    """End a run; answered once every process of it is dead."""
    if not UUID_PATTERN.match(run_or_session_id):
        raise RunNotFound(run_or_session_id)
    run, ending = await _app().runs.terminate(run_or_session_id)
    facts = {
        "message": "Process terminated successfully",
        "run_id": run.run_id,
        "session_id": run.session_id,
        **ending.facts(),
    }
    return json_response(msgspec.convert(facts, Terminated))


@api.get("/sessions")
async def sessions() -> Response:
    """List the stored sessions."""
    return json_response(SessionList(sessions=await _app().store.list_all()))


@api.delete("/sessions/<session_id>")
async def delete_session(session_id: str) -> Response:
    """Forget a session that has no live run."""
    session = await _load(session_id)
    if _app().runs.is_live(session.session_id):
        raise SessionBusy(session_id)
    if not await _app().store.delete(session.session_id):
        raise SessionNotFound(session_id)
    return json_response(SessionDeleted(message="Session deleted", session_id=session_id))


@api.get("/runs")
async def runs() -> Response:
    """List the live runs."""
    return json_response(RunList(runs=[_describe(run) for run in _app().runs.live()]))


@api.get("/openapi.json")
async def openapi() -> Response:
    """Describe all this to machines."""
    return TrioResponse(document_json(metrics=_app().settings.metrics), content_type="application/json")


def _app() -> Q9gentApp:
    return cast("Q9gentApp", current_app)


async def _read(kind: type[_RequestT]) -> _RequestT:
    if request.mimetype != "application/json":
        raise UnsupportedMedia(request.content_type)
    seconds = _app().settings.body_seconds
    try:
        with trio.fail_after(seconds):
            body = await cast("BodyRequest", request).body
    except trio.TooSlowError:
        raise BodyTimeout(seconds) from None
    return decode_request(body, kind)


async def _stream(order: Order) -> Response:
    exchange = cast("Exchange", request.scope[EXCHANGE_KEY])  # type: ignore[literal-required]
    response = await exchange.start_run(order)
    bind_contextvars(run_id=response.run.run_id)  # what this task logs from here on is the run's
    return response


async def _load(session_id: str) -> Session:
    """Return a session; the id is checked before it comes near the file system."""
    session = None
    if UUID_PATTERN.match(session_id):
        session = await _app().store.load(session_id)
    if session is None:
        raise SessionNotFound(session_id)
    return session


def _describe(run: Run) -> LiveRun:
    return LiveRun(
        run_id=run.run_id,
        session_id=run.session_id,
        agent_type=run.agent_type,
        pid=run.tree.pid if run.tree else None,
        started_at=int(run.started_at),
        lines=run.lines,
        bytes=run.bytes,
        processes=run.tree.count_processes() if run.tree else 0,
    )
