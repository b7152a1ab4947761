"""`/console`: off unless asked for, and fenced in by its headers."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING

import pytest
from raw_client import RawClient, request_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from server_process import LiveServer


@pytest.fixture(scope="module")
def console(start_shared: Callable[..., LiveServer]) -> LiveServer:
    """A server with the console."""
    return start_shared("--simulate", "--console")


@pytest.fixture
def answer(console: LiveServer) -> httpx.Response:
    """The page."""
    return console.client.get("/console")


def policy(answer: httpx.Response) -> dict[str, list[str]]:
    """The directives of the Content-Security-Policy."""
    directives = answer.headers["content-security-policy"].split("; ")
    return {name: values for name, *values in (directive.split(" ") for directive in directives)}


def test_it_is_off_by_default(shared: LiveServer) -> None:
    """Whoever wants no page in a browser has none."""
    answer = shared.client.get("/console")
    assert answer.status_code == 404
    assert answer.json()["error"]


def test_it_is_a_page(console: LiveServer, answer: httpx.Response) -> None:
    """HTML in UTF-8; the start-up line names it."""
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text.startswith("<!doctype html>")
    assert console.start_lines[-1].endswith("/sessions, /console")


def test_its_script_and_its_style_are_allowed_by_their_hashes_alone(answer: httpx.Response) -> None:
    """One of each; a byte more or less and the browser refuses it."""
    for tag, directive in ("script", "script-src"), ("style", "style-src"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy(answer)[directive] == [f"'sha256-{digest}'"]


def test_its_policy_allows_nothing_else(answer: httpx.Response) -> None:
    """No other source, no frame, no form target, no base, no text that becomes markup."""
    rest = {
        name: values for name, values in policy(answer).items() if name not in {"script-src", "style-src"}
    }
    assert rest == {
        "default-src": ["'none'"],
        "img-src": ["data:"],
        "connect-src": ["'self'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "frame-ancestors": ["'none'"],
        "require-trusted-types-for": ["'script'"],
        "trusted-types": ["'none'"],
    }


def test_its_other_headers_fence_it_in(answer: httpx.Response) -> None:
    """No sniffing, no frame for old browsers, no referrer, no sharing of its window."""
    headers = answer.headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_it_loads_nothing(answer: httpx.Response) -> None:
    """No address of elsewhere, no handler in an attribute, no style in one."""
    assert re.findall(r"\b(?:src|href)\s*=\s*['\"]?([^,'\"]*)", answer.text) == ["data:image/svg+xml"]
    assert not re.search(r"<[a-z]+\b[^>]*\s(?:on[a-z]+|style)\s*=", answer.text)
    assert re.findall(r"https?://[^\s'\"]+", answer.text) == ["http://www.w3.org/2000/svg"]


def test_it_never_makes_markup_of_text(answer: httpx.Response) -> None:
    """None of the ways to do so is in its script."""
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(", answer.text
    )


def test_the_host_guard_is_before_it(console: LiveServer) -> None:
    """A rebound DNS name gets no console either."""
    with RawClient((console.host, console.port)) as client:
        client.send(request_bytes("GET", "/console", host="rebound.example"))
        assert client.answer().status == 421
