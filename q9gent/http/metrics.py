"""``GET /metrics``, which is there only if asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from quart import Blueprint, current_app, request
from quart_trio.wrappers import TrioResponse

if TYPE_CHECKING:
    from quart import Response

    from q9gent.http.app import Q9gentApp

metrics_api = Blueprint("q9gent-metrics", __name__)


@metrics_api.get("/metrics")
async def metrics() -> Response:
    """Tell Prometheus what is going on."""
    app = cast("Q9gentApp", current_app)
    assert app.metrics is not None
    body, media_type = app.metrics.expose(request.headers.get("accept", ""))
    return TrioResponse(body, content_type=media_type)
