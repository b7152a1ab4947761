"""What is answered where there is nothing: unknown ids, routes and methods."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest
from raw_client import RawClient, spawn_bytes
from running import UNKNOWN_ID
from sse_events import session_of

if TYPE_CHECKING:
    from server_process import LiveServer


MALFORMED_IDS = [
    "abc",
    UNKNOWN_ID.upper().replace("0", "A"),
    UNKNOWN_ID + "0",
    f"{{{UNKNOWN_ID}}}",
    UNKNOWN_ID.replace("-", ""),
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e",
    "..",
    "%00",
    f"{UNKNOWN_ID}%0a",
    f"{UNKNOWN_ID}%00",
    "%ff%fe",
    "-p",
    "*",
    "%E2%80%A8",
]


@pytest.mark.parametrize("session_id", [UNKNOWN_ID, *MALFORMED_IDS])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/message/", '{"prompt": "x"}'),
        ("POST", "/terminate/", None),
        ("DELETE", "/sessions/", None),
    ],
)
def test_unknown_and_malformed_ids_are_404(
    client: RawClient, method: str, path: str, body: str | None, session_id: str
) -> None:
    """No id but a known one reaches a session, a run or the file system."""
    answer = client.ask(method, path + session_id, body, "Content-Type: application/json")
    assert answer.status == 404
    assert answer.error


def test_not_found_names_the_id_in_the_guides_words(client: RawClient) -> None:
    """The guide's wording, with the id that was asked for."""
    answer = client.ask("POST", f"/message/{UNKNOWN_ID}", '{"prompt": "x"}', "Content-Type: application/json")
    assert answer.json == {"error": f"Session not found: {UNKNOWN_ID}"}


def test_session_file_is_not_reached_by_its_path(client: RawClient, shared: LiveServer) -> None:
    """A stored session is not found under a path that leads to its file."""
    client.send(spawn_bytes("hello", create_session=True))
    session_id = session_of(client.whole())
    name = os.path.basename(shared.session_folder)
    for path in (f"..%2f{name}%2f{session_id}", f".%2f{session_id}", f"{session_id}.json"):
        assert client.ask("DELETE", f"/sessions/{path}").status == 404
    assert session_id in [one["session_id"] for one in shared.sessions()]


@pytest.mark.parametrize("path", ["/health", "/sessions", "/runs", "/nowhere", "/spawn"])
def test_head_has_headers_and_no_body(client: RawClient, path: str) -> None:
    """`HEAD` answers like `GET` without a body, and the connection can be used again."""
    got = client.ask("GET", path)
    head = client.ask("HEAD", path)
    assert head.status == got.status
    assert head.headers["content-length"] == str(len(got.body))
    assert head.headers["content-type"] == "application/json"
    assert client.ask("GET", "/health").status == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/spawn", {"POST"}),
        ("HEAD", "/spawn", {"POST"}),
        ("PUT", "/health", {"GET", "HEAD"}),
        ("DELETE", "/sessions", {"GET", "HEAD"}),
        ("GET", f"/terminate/{UNKNOWN_ID}", {"POST"}),
        ("GET", f"/message/{UNKNOWN_ID}", {"POST"}),
        ("TRACE", "/health", {"GET", "HEAD"}),
        ("BREW", "/runs", {"GET", "HEAD"}),
    ],
)
def test_wrong_method_is_405(client: RawClient, method: str, path: str, allowed: set[str]) -> None:
    """A wrong method is told which are right, in JSON."""
    answer = client.ask(method, path)
    assert answer.status == 405
    assert set(re.split(", ?", answer.headers["allow"])) == allowed | {"OPTIONS"}
    if method != "HEAD":
        assert answer.error


@pytest.mark.parametrize("path", ["/", "/nowhere", "/health/", "/spawn/x", "/message", "/static/x", "/docs"])
def test_unknown_route_is_404(client: RawClient, path: str) -> None:
    """A route that does not exist is JSON too."""
    answer = client.ask("GET", path)
    assert answer.status == 404
    assert answer.error
