"""Errors as answers: always JSON, ``{"error": "…"}``, for q9gent's own and for the framework's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from quart_trio.wrappers import TrioResponse

from q9gent.errors import BodyTimeout, Q9gentError, TooLarge
from q9gent.wire.answers import INTERNAL_ERROR, Problem

if TYPE_CHECKING:
    from werkzeug.exceptions import HTTPException

    from q9gent.settings import Settings


def json_response(content: msgspec.Struct, status: int = 200) -> TrioResponse:
    """Return an answer of JSON."""
    return TrioResponse(msgspec.json.encode(content), status=status, content_type="application/json")


def problem_response(error: Q9gentError) -> TrioResponse:
    """Return the answer that an error becomes."""
    problem = msgspec.convert({"error": str(error), **error.facts}, Problem)
    response = json_response(problem, error.status)
    response.headers.update(error.headers)
    return response


def framework_response(error: HTTPException, settings: Settings) -> TrioResponse:
    """Return the answer for what Quart refuses: no such route, a method, a body that is too large."""
    if error.code == 413:
        return problem_response(too_large(settings))
    if error.code == 408:
        return problem_response(BodyTimeout(settings.body_seconds))
    response = json_response(Problem(error=error.description or error.name), error.code or 500)
    allow = getattr(error, "valid_methods", None)
    if allow:
        response.headers["allow"] = ", ".join(sorted(allow))
    return response


def too_large(settings: Settings) -> TooLarge:
    """Return the error for a body over the limit."""
    return TooLarge(f"The body is larger than {settings.body_bytes} bytes")


def unexpected_response() -> TrioResponse:
    """Return the answer for a defect of ours; the log says more."""
    return json_response(Problem(error=INTERNAL_ERROR), 500)
