"""q9gent: an HTTP server that runs the Claude Code CLI, and leaves nothing alive.

Data flows one way::

    bytes in → http.exchange → wire.requests → command → containment (a process tree)
             → output.pump → wire.lines → wire.events → output.outbox → http.delivery → bytes out

``runs`` holds the live runs and ``run`` is one of them. A module imports only what stands before it in its
own direction; ``errors``, ``settings``, ``command``, ``ending`` and ``wire`` are pure, without trio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from q9gent._version import __version__

if TYPE_CHECKING:
    from q9gent.http.app import Q9gentApp, create_app
    from q9gent.sessions import Session, SessionStore
    from q9gent.settings import Settings

    app: Q9gentApp

__all__ = ["Session", "SessionStore", "Settings", "__version__", "app", "create_app"]

_HOMES = {
    "Session": "q9gent.sessions",
    "SessionStore": "q9gent.sessions",
    "Settings": "q9gent.settings",
    "create_app": "q9gent.http.app",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 (whatever the name stands for)
    """Import a public name when it is first used: ``q9gent --version`` needs no web framework.

    ``app`` is the application with its settings from the environment, for ``hypercorn -k trio q9gent:app``.
    """
    import importlib  # noqa: PLC0415

    if name == "app":
        from q9gent.cli.options import settings_from_environment  # noqa: PLC0415
        from q9gent.http.app import create_app  # noqa: PLC0415
        from q9gent.log import configure_logging  # noqa: PLC0415
        from q9gent.settings import parse_log_level  # noqa: PLC0415

        settings = settings_from_environment()
        configure_logging(parse_log_level(settings.log), settings.log_format)
        value: object = create_app(settings)
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value
