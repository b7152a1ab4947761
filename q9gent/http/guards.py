"""Who may ask: the Host header, and the origins of web pages. Pure functions of a request's headers.

A web page that rebinds its DNS name to 127.0.0.1 reaches a server on loopback with a Host of its own; a
page of another origin reaches it with a form or a simple request. The first is answered 421, the second
finds only JSON endpoints and no CORS headers.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from q9gent.errors import InvalidRequest, MisdirectedRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{0,5})?\Z")

CORS_METHODS = "GET, POST, DELETE"
CORS_HEADERS = "content-type"
CORS_EXPOSED = "x-q9gent-run-id, retry-after"
CORS_MAX_AGE_SECONDS = "600"


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """Return the first header of that lower-case name."""
    for key, value in headers:
        if key.lower() == name:
            return value.decode("latin-1").strip()
    return None


def is_loopback(address: str) -> bool:
    """Tell whether an address, or the name ``localhost``, is this machine and no other."""
    address = address.strip("[]").rstrip(".").lower()
    if address == "localhost" or address.endswith(".localhost"):  # RFC 6761, 6.3
        return True
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return ip.is_loopback or (mapped is not None and mapped.is_loopback)


def check_host(host: str | None, *, loopback_only: bool, allowed: tuple[str, ...]) -> None:
    """Refuse a Host that is not ours.

    Args:
        host: The header; only HTTP/1.0 may come without.
        loopback_only: Whether the server is bound to a loopback address.
        allowed: Further names, with or without port; ``*`` for any.

    Raises:
        InvalidRequest: It is no host at all.
        MisdirectedRequest: It is another's.
    """
    if not host:
        return
    match = _HOST.match(host)
    if match is None or not _is_host(match[1]):
        raise InvalidRequest("The Host header is not a host")
    if not loopback_only or "*" in allowed:
        return
    name = match[1].lower()
    names = {entry.lower() for entry in allowed}
    if not (is_loopback(name) or name in names or host.lower() in names):
        raise MisdirectedRequest(host)


def _is_host(name: str) -> bool:
    """Tell whether what stands in brackets, if anything does, is an IPv6 address (RFC 3986, 3.2.2)."""
    if not name.startswith("["):
        return True
    try:
        ipaddress.IPv6Address(name[1:-1])
    except ValueError:
        return False
    return True


def path_of_target(target: str) -> str:
    """Return the path of a request target, which may also be a whole URL (RFC 9112, 3.2.2).

    Raises:
        InvalidRequest: It has none.
    """
    if target.startswith("/"):
        return target
    try:
        parts = urlsplit(target)
    except ValueError as error:
        raise InvalidRequest("The request target is not a path") from error
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise InvalidRequest("The request target is not a path")
    return parts.path or "/"


def cors_headers(origin: str | None, allowed: tuple[str, ...], *, preflight: bool) -> dict[str, str]:
    """Return the headers that let a page of a configured origin read the answer; else none."""
    if not allowed:
        return {}
    headers = {"vary": "origin"}
    if origin is None or not (origin in allowed or "*" in allowed):
        return headers
    headers["access-control-allow-origin"] = origin
    if preflight:
        headers["access-control-allow-methods"] = CORS_METHODS
        headers["access-control-allow-headers"] = CORS_HEADERS
        headers["access-control-max-age"] = CORS_MAX_AGE_SECONDS
    else:
        headers["access-control-expose-headers"] = CORS_EXPOSED
    return headers
