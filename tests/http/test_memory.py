"""A request's memory is free when it has ended, and not when a garbage collector comes by.

A collection stops every stream, for as long as it takes to look at all that lives. So what a request is made
of must not refer to itself in a circle.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
from process_scan import wait_for
from raw_client import DEADLINE_SECONDS, RawClient, post_bytes, request_bytes, spawn_bytes

from q9gent.http.connection import Connection
from q9gent.http.exchange import Exchange
from q9gent.http.http1 import Http1, Stream
from q9gent.output.outbox import Outbox
from q9gent.output.pump import StderrPump, StdoutPump
from q9gent.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from in_process import Running

OF_A_REQUEST = (Exchange, Stream, Run, Outbox, StdoutPump, StderrPump)
OF_A_CONNECTION = (Connection, Http1)


def completes(client: RawClient) -> None:
    client.send(spawn_bytes("one"))
    assert client.whole()[-1]["type"] == "completed"


def fails(client: RawClient) -> None:
    client.send(spawn_bytes("!exit 3"))
    assert client.whole()[-1]["code"] == "exit"


def continues(client: RawClient) -> None:
    client.send(spawn_bytes("one", create_session=True))
    session = client.whole()[0]["session_id"]
    client.send(post_bytes(f"/message/{session}", {"prompt": "two"}))
    assert client.whole()[-1]["type"] == "completed"


def is_refused(client: RawClient) -> None:
    assert client.ask("POST", "/spawn", "no json").status == 415
    client.send(post_bytes("/spawn", {"agent_type": 7}))
    assert client.answer().status == 400
    assert client.ask("GET", "/nothing").status == 404
    assert client.ask("GET", "/health").status == 200


def is_terminated(client: RawClient) -> None:
    client.send(spawn_bytes("!wait"))
    status, headers = client.head()
    assert status == 200
    with RawClient(client.sock.getpeername()) as other:
        assert other.ask("POST", f"/terminate/{headers['x-q9gent-run-id']}").status == 200
    *_, last = client.parts(headers)
    assert b'"terminated"' in last


def disconnects(client: RawClient) -> None:
    client.send(spawn_bytes("!wait"))
    assert client.head()[0] == 200
    client.reset()


def closes_at_once(client: RawClient) -> None:
    client.send(request_bytes("GET", "/health", None, "Connection: close"))
    assert client.answer().status == 200


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    "use", [completes, fails, continues, is_refused, is_terminated, disconnects, closes_at_once]
)
def test_nothing_of_a_request_waits_for_the_garbage_collector(
    running: Running, use: Callable[[RawClient], None]
) -> None:
    """Whatever becomes of it; and nothing of its connection, once that is closed."""

    def left(kinds: tuple[type, ...]) -> list[str]:
        def look() -> list[str]:
            return sorted(type(found).__name__ for found in gc.get_objects() if isinstance(found, kinds))

        found = running.call(look)
        assert isinstance(found, list)
        return found

    with RawClient(running.address) as client:
        use(client)
        assert wait_for(lambda: left(OF_A_REQUEST), lambda found: not found, DEADLINE_SECONDS) == []
    assert wait_for(lambda: left(OF_A_CONNECTION), lambda found: not found, DEADLINE_SECONDS) == []
