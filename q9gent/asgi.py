"""The application for other servers: ``hypercorn -k trio q9gent:app``, its settings from ``Q9GENT_*``."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

from q9gent.cli.options import settings_from_environment
from q9gent.http.app import Q9gentApp, create_app
from q9gent.log import configure_logging
from q9gent.settings import parse_log_level

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope


@functools.cache
def application() -> Q9gentApp:
    """Return the one application of this process.

    Raises:
        click.UsageError: A setting is not what it must be.
    """
    settings = settings_from_environment()
    configure_logging(parse_log_level(settings.log), settings.log_format)
    return create_app(settings)


async def serve_scope(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Be the ASGI application; made at the first call, so that importing q9gent stays cheap."""
    try:
        app = application()
    except Exception as error:
        if scope["type"] != "lifespan":
            raise
        # Only this message stops a server: an exception makes it go on without a lifespan.
        await receive()
        await send(cast("Any", {"type": "lifespan.startup.failed", "message": str(error)}))
        return
    await app(scope, receive, send)
