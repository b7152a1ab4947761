"""What is asked of the server, and what its answers mean. No input or output."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from q9gent.client import _errors
from q9gent.client._errors import RequestFailed, ServerUnreachable, UnexpectedAnswer
from q9gent.client._types import RunInfo, Session

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DEFAULT_URL = "http://127.0.0.1:8080"
URL_VARIABLE = "Q9GENT_URL"

DEFAULT_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
"""A read of 60 s is four heartbeats: a silence that is longer is a broken connection."""

CLEANUP_SECONDS = 30.0
"""How long leaving a run's context waits for its death. A server with default settings answers within 26 s
at worst: 2 s of grace, 10 s of killing, 3 s for a supervisor that does not answer, 10 s of killing without
it, 1 s for the exit status. Given up sooner, its word on what survived would be lost."""

REST_SECONDS = 5.0
"""For what is left of the stream of a run that has ended: nothing new is added to it, and locally that is
hundreds of megabytes."""

REST_BYTES = 1024 * 1024 * 1024
"""As much as a server keeps for a slow client by default; what sends more is not at its end."""

RUN_ID_HEADER = "x-q9gent-run-id"

ERROR_KINDS: dict[int, tuple[tuple[str, type[RequestFailed]], ...]] = {
    400: (("", _errors.InvalidRequest),),
    404: (
        ("Session not found: ", _errors.SessionNotFound),
        ("No running process for: ", _errors.RunNotFound),
    ),
    408: (("", _errors.BodyTimeout),),
    409: (("", _errors.SessionBusy),),
    413: (("", _errors.TooLarge),),
    415: (("", _errors.UnsupportedMedia),),
    421: (("", _errors.MisdirectedRequest),),
    500: (
        ("Process spawn failed: ", _errors.ProcessSpawnFailed),
        ("Session storage failed: ", _errors.SessionStoreFailed),
        ("Processes could not be killed: ", _errors.SurvivorsLeft),
        ("Containment was lost: ", _errors.SurvivorsLeft),
    ),
    503: (("At capacity: ", _errors.AtCapacity), ("The server is shutting down", _errors.ShuttingDown)),
}
"""The class for a status and the documented beginning of its text; ``RequestFailed`` for what is not here."""

_AnswerT = TypeVar("_AnswerT")


class SessionList(msgspec.Struct, frozen=True):
    """The answer of ``GET /sessions``."""

    sessions: list[Session]


class RunList(msgspec.Struct, frozen=True):
    """The answer of ``GET /runs``."""

    runs: list[RunInfo]


def server_url(base_url: str | None) -> str:
    """Return where the server is: as told, or by ``Q9GENT_URL``, or the default.

    Raises:
        ValueError: It is no address.
    """
    url = base_url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    url = url if "://" in url else f"http://{url}"
    try:
        parsed = urlsplit(url)
        usable = parsed.scheme in {"http", "https"} and bool(parsed.hostname) and parsed.port != 0
        httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise ValueError(f"not a server's address: {url!r} ({error})") from error
    if not usable:
        raise ValueError(f"not a server's address: {url!r} (it must be http://HOST:PORT)")
    return url


def httpx_options(
    url: str,
    *,
    headers: Mapping[str, str] | None,
    timeout: httpx.Timeout | float | None,
) -> dict[str, Any]:
    """Return what both of httpx's clients are made with."""
    return {
        "base_url": url,
        "headers": headers,
        "timeout": DEFAULT_TIMEOUT if timeout is None else timeout,
        # A run has a connection of its own for as long as it lives; how many may, the server decides.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=20),
        # To a proxy of the environment, a loopback address would be the proxy's own machine.
        "trust_env": (urlsplit(url).hostname or "") not in {"localhost", "127.0.0.1", "::1"},
    }


def message_body(
    prompt: str,
    *,
    tools_allowed: Sequence[str],
    flags: Sequence[str],
    system_append: str | None,
) -> dict[str, object]:
    """Return the body of ``POST /message``; what is not asked for is left out."""
    if isinstance(tools_allowed, str) or isinstance(flags, str):
        raise TypeError("tools_allowed and flags are sequences of strings, not one string")
    optional = {
        "tools_allowed": list(tools_allowed),
        "flags": list(flags),
        "system_append": system_append,
    }
    return {"prompt": prompt, **{name: value for name, value in optional.items() if value}}


def spawn_body(
    prompt: str,
    *,
    agent_type: str,
    resume_id: str | None,
    create_session: bool,
    **options: Any,  # noqa: ANN401 (those of message_body)
) -> dict[str, object]:
    """Return the body of ``POST /spawn``; what is not asked for is left out."""
    optional = {"resume_id": resume_id, "create_session": create_session}
    given = {name: value for name, value in optional.items() if value}
    return {"agent_type": agent_type, **message_body(prompt, **options), **given}


def stream_request(body: dict[str, object]) -> dict[str, Any]:
    """Return what httpx builds the request for a stream of.

    Raises:
        ValueError: A text has a lone surrogate, which is no Unicode.
    """
    return {
        "content": msgspec.json.encode(body),
        # Compressed, a stream would be held back until there is something to compress.
        "headers": {
            "content-type": "application/json",
            "accept": "text/event-stream",
            "accept-encoding": "identity",
        },
    }


def path_to(endpoint: str, name: str) -> str:
    """Return a path whose last part is a caller's text."""
    return f"/{endpoint}/{quote(name, safe='')}"


def decode_answer(response: httpx.Response, kind: type[_AnswerT]) -> _AnswerT:
    """Return what a whole answer says.

    Raises:
        RequestFailed: Its status is no success.
        UnexpectedAnswer: It is not what q9gent answers.
    """
    if response.status_code != 200:
        raise make_error(response)
    try:
        return msgspec.json.decode(response.content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnexpectedAnswer(f"{response.url} answered what q9gent does not: {error}") from error


def make_error(response: httpx.Response) -> _errors.ClientError:
    """Return the exception for an answer that is no success, and has been read."""
    try:
        facts = msgspec.json.decode(response.content, type=dict[str, Any])
        message = facts.pop("error")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError):
        return UnexpectedAnswer(f"{response.url} answered {response.status_code}, and not as q9gent does")
    status = response.status_code
    kinds = (kind for start, kind in ERROR_KINDS.get(status, ()) if str(message).startswith(start))
    seconds = response.headers.get("retry-after", "")
    return next(kinds, RequestFailed)(
        str(message),
        status=status,
        facts=facts,
        retry_after_seconds=int(seconds) if seconds.isdecimal() else None,
    )


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Raise httpx's errors of a request as ours."""
    try:
        yield
    except httpx.DecodingError as error:
        raise UnexpectedAnswer(f"{url} answered what cannot be decoded: {error}") from error
    except httpx.RequestError as error:
        raise ServerUnreachable(f"no answer from {url}: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """Return why, in words; a time-out has none of its own."""
    return str(error) or type(error).__name__
