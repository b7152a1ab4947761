"""q9gent: an HTTP server that runs the Claude Code CLI, and leaves nothing alive.

Data flows one way::

    bytes in → http.exchange → wire.requests → command → containment (a process tree)
             → hub → output.pump → wire.lines → wire.events → output.outbox → http.delivery → bytes out

``runs`` holds the live runs and ``run`` is one of them. A module imports only what stands before it in its
own direction; ``errors``, ``settings``, ``command``, ``ending`` and ``wire`` are pure, without trio.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from q9gent._version import __version__

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope

    from q9gent.cli.options import settings_from_environment
    from q9gent.http.app import create_app
    from q9gent.http.embedding import StartError, serve
    from q9gent.http.serve import BindError
    from q9gent.sessions import Session, SessionStore
    from q9gent.settings import Settings

__all__ = [
    "BindError",
    "Session",
    "SessionStore",
    "Settings",
    "StartError",
    "__version__",
    "app",
    "create_app",
    "serve",
    "settings_from_environment",
]

_HOMES = {
    "BindError": "q9gent.http.serve",
    "Session": "q9gent.sessions",
    "SessionStore": "q9gent.sessions",
    "Settings": "q9gent.settings",
    "StartError": "q9gent.http.embedding",
    "create_app": "q9gent.http.app",
    "serve": "q9gent.http.embedding",
    "settings_from_environment": "q9gent.cli.options",
}


async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Be the ASGI application for another server; see ``q9gent.asgi``."""
    from q9gent.asgi import serve_scope  # noqa: PLC0415 (importing q9gent must stay cheap)

    await serve_scope(scope, receive, send)


def __getattr__(name: str) -> Any:  # noqa: ANN401 (whatever the name stands for)
    """Import a public name when it is first used: ``q9gent --version`` needs no web framework."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
