"""What q9gent's protocol does differently from hypercorn's, where no client can show it for sure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import trio
from hypercorn.config import Config
from hypercorn.protocol.events import EndBody, Event, StreamClosed
from hypercorn.protocol.http_stream import ASGIHTTPState

from q9gent.http.http1 import Stream


def test_a_client_that_goes_with_the_end_of_its_answer_is_one_line_in_the_access_log() -> None:
    """It has everything; that the end was still being sent is not its affair."""
    logged: list[object] = []
    response: Any = {"type": "http.response.start", "status": 200, "headers": []}

    async def access(_scope: object, told: object, _seconds: float) -> None:
        logged.append(told)

    async def send(event: Event) -> None:
        if isinstance(event, EndBody):
            await stream.handle(StreamClosed(stream_id=1))

    config = Config()
    config._log = cast("Any", SimpleNamespace(access=access))
    nothing: Any = None
    stream = Stream(nothing, config, nothing, nothing, False, None, None, send, 1)
    stream.scope, stream.response, stream.start_time = cast("Any", {"method": "GET"}), response, 0.0
    stream.app_put = None
    stream.state = ASGIHTTPState.RESPONSE
    trio.run(stream.app_send, cast("Any", {"type": "http.response.body", "body": b"", "more_body": False}))
    assert logged == [response]
