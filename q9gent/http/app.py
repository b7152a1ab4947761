"""The ASGI application: settings, store and containment, put together.

It runs under q9gent's own server and under a plain ``hypercorn -k trio q9gent:app``; the containment lives
as long as the ASGI lifespan, so runs are contained either way. What a plain hypercorn lacks is in the docs
(``docs/how-to/plain-hypercorn.md``).
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, cast

from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGILifespan
from werkzeug.exceptions import HTTPException

from q9gent.agent import AgentProgram
from q9gent.containment import ContainmentUnavailable, open_containment
from q9gent.errors import ProcessSpawnFailed, Q9gentError, SessionStoreFailed
from q9gent.http.body import BodyRequest
from q9gent.http.console import console_blueprint
from q9gent.http.exchange import Exchange
from q9gent.http.metrics import metrics_api
from q9gent.http.problems import framework_response, problem_response, unexpected_response
from q9gent.http.routes import api
from q9gent.hub import open_hub
from q9gent.log import get_logger
from q9gent.runs import Runs
from q9gent.sessions.files import FileSessionStore

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
    from quart import Response

    from q9gent.containment import Containment
    from q9gent.hub import Hub
    from q9gent.metrics import Metrics
    from q9gent.sessions import SessionStore
    from q9gent.settings import Settings

logger = get_logger("q9gent")


class ExtraMissing(Exception):
    """A setting needs a package that only an extra installs."""

    def __init__(self, flag: str, extra: str) -> None:
        super().__init__(f"{flag} needs the extra {extra!r}: pip install 'q9gent[{extra}]'")


class Lifespan(TrioASGILifespan):
    """Holds the containment open around the application's life."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve the lifespan protocol.

        Cancellation: the containment ends with it, and every process with that.
        """
        app = self.app
        assert isinstance(app, Q9gentApp)
        async with AsyncExitStack() as stack:
            opening = open_containment(app.settings.containment)
            try:
                containment = await stack.enter_async_context(opening)
            except ContainmentUnavailable as error:
                # Only this message stops a server: an exception makes it go on without a lifespan.
                await receive()
                await send(cast("Any", {"type": "lifespan.startup.failed", "message": str(error)}))
                return
            await app.open(containment, await stack.enter_async_context(open_hub()))
            await super().__call__(receive, send)


class Q9gentApp(QuartTrio):
    """The application.

    Attributes:
        settings: What it was made with.
        store: The session store.
        agent: The CLI.
        metrics: What is measured, if anything is.
        runs: The live runs; from start-up on.
    """

    asgi_http_class = Exchange
    request_class = BodyRequest
    asgi_lifespan_class = Lifespan
    runs: Runs

    def __init__(self, settings: Settings, store: SessionStore, metrics: Metrics | None) -> None:
        super().__init__("q9gent", static_folder=None)
        self.settings = settings
        self.store = store
        self.metrics = metrics
        self.agent = AgentProgram(settings)
        self.containment: Containment | None = None

    async def open(self, containment: Containment, hub: Hub | None = None) -> None:
        """Begin to serve, and warn of what will not work."""
        self.containment = containment
        self.runs = Runs(self.settings, containment, self.agent, self.store, hub=hub, observer=self.metrics)
        if self.metrics is not None:
            self.metrics.watch(self.runs, containment=containment.name)
        logger.info("containment", strategy=containment.name, guarantee=containment.guarantee)
        try:
            self.agent.find()
        except ProcessSpawnFailed as error:
            logger.warning(
                "the Claude CLI was not found, runs will fail: install it, or name it with --claude-path",
                claude_path=self.settings.claude_path,
                reason=str(error),
            )
        try:
            await self.store.check()
        except SessionStoreFailed as error:
            logger.warning(
                "sessions cannot be stored: create_session will fail, runs without it work",
                reason=str(error),
            )


def create_app(settings: Settings, *, store: SessionStore | None = None) -> Q9gentApp:
    """Return the application.

    Args:
        settings: See ``q9gent.settings``.
        store: Another session store than files in ``session_dir``.

    Raises:
        ExtraMissing: A setting needs a package that is not installed.
    """
    metrics = _make_metrics() if settings.metrics else None
    app = Q9gentApp(settings, store or FileSessionStore(settings.session_dir), metrics)
    app.config["MAX_CONTENT_LENGTH"] = settings.body_bytes
    app.config["BODY_TIMEOUT"] = None  # the route has its own
    app.config["RESPONSE_TIMEOUT"] = None  # a stream ends when its run does
    app.register_blueprint(api)
    if metrics is not None:
        app.register_blueprint(metrics_api)
    if settings.console:
        app.register_blueprint(console_blueprint())

    async def on_problem(error: Q9gentError) -> Response:
        return problem_response(error)

    async def on_http_error(error: HTTPException) -> Response:
        return framework_response(error, settings)

    async def on_defect(error: Exception) -> Response:
        logger.error("request failed", exc_info=error)
        return unexpected_response()

    handlers: dict[type[Exception], Any] = {
        Q9gentError: on_problem,
        HTTPException: on_http_error,
        Exception: on_defect,
    }
    for kind, handler in handlers.items():
        app.register_error_handler(kind, handler)
    return app


def _make_metrics() -> Metrics:
    try:
        from q9gent.metrics import Metrics  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as error:
        raise ExtraMissing("--metrics", "metrics") from error
    return Metrics()
