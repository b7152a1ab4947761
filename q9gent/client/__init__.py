"""A client for q9gent's server: ``Client``, and ``AsyncClient`` for trio and asyncio.

It needs httpx: ``pip install 'q9gent[client]'``. ::

    from q9gent.client import Client

    with Client() as client, client.spawn("Create a web scraper", tools_allowed=["Write"]) as run:
        print(run.text())

``_protocol`` says what is asked and what the answers mean, ``_base`` what a run is; both do no input or
output. ``_sync`` and ``_async`` do, each for its world.
"""

from __future__ import annotations

try:
    import httpx as _httpx  # noqa: F401 (asked for first, for a clear message)
except ImportError as error:
    raise ImportError("q9gent.client needs httpx: pip install 'q9gent[client]'") from error

from q9gent.client._async import AsyncClient, AsyncRun
from q9gent.client._errors import (
    AtCapacity,
    BodyTimeout,
    ClientError,
    InvalidRequest,
    MisdirectedRequest,
    ProcessSpawnFailed,
    RequestFailed,
    RunFailed,
    RunNotFound,
    ServerUnreachable,
    SessionBusy,
    SessionNotFound,
    SessionStoreFailed,
    ShuttingDown,
    StreamBroken,
    SurvivorsLeft,
    TooLarge,
    TurnFailed,
    UnexpectedAnswer,
    UnsupportedMedia,
)
from q9gent.client._sync import Client, Run
from q9gent.client._types import Health, Result, RunInfo, Session, Termination
from q9gent.wire.events import Completed, Event, Failed, Output, SessionCreated

__all__ = [
    "AsyncClient",
    "AsyncRun",
    "AtCapacity",
    "BodyTimeout",
    "Client",
    "ClientError",
    "Completed",
    "Event",
    "Failed",
    "Health",
    "InvalidRequest",
    "MisdirectedRequest",
    "Output",
    "ProcessSpawnFailed",
    "RequestFailed",
    "Result",
    "Run",
    "RunFailed",
    "RunInfo",
    "RunNotFound",
    "ServerUnreachable",
    "Session",
    "SessionBusy",
    "SessionCreated",
    "SessionNotFound",
    "SessionStoreFailed",
    "ShuttingDown",
    "StreamBroken",
    "SurvivorsLeft",
    "Termination",
    "TooLarge",
    "TurnFailed",
    "UnexpectedAnswer",
    "UnsupportedMedia",
]
