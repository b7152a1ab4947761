"""A loopback stand-in of the Anthropic Messages API: answers by a script, records what came.

The CLI talks to it when `ANTHROPIC_BASE_URL` names it. A test sets `api.script`, a function from
the `Call` received to the `Reply` to give; without one, the answer says how many user turns came.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from api_script import Call, Failure, Held, Script, Text, ToolUse, describe

if TYPE_CHECKING:
    from collections.abc import Sequence

# How long a held answer waits for its release before it is given anyway, so that no thread stays.
HOLD_LIMIT_SECONDS = 60.0


class MessagesApi:
    """The stand-in's server, on a free loopback port, in threads of its own."""

    def __init__(self) -> None:
        self.script: Script = describe
        self.calls: list[Call] = []
        self.requests: list[tuple[str, str]] = []
        self.failures: list[BaseException] = []
        self._ids = itertools.count(1)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.api = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def turns(self) -> list[Call]:
        """The agent's own calls, oldest first."""
        return [call for call in list(self.calls) if call.is_turn]

    def fresh_id(self, prefix: str) -> str:
        return f"{prefix}_{next(self._ids):024d}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    api: MessagesApi

    def handle_error(self, request: object, client_address: object) -> None:
        """A killed CLI leaves its connection in the middle of an answer: that is expected here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *args: object) -> None:
        """Nothing: the requests are recorded."""

    def do_GET(self) -> None:
        self._note()
        self._json(404, {"type": "error", "error": {"type": "not_found_error", "message": "none"}})

    def do_HEAD(self) -> None:
        self._note()
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self._note()
        body = self._body()
        path = self.path.partition("?")[0]
        if path == "/v1/messages/count_tokens":
            self._json(200, {"input_tokens": 10})
        elif path == "/v1/messages":
            call = Call(json.loads(body))
            self.server.api.calls.append(call)
            self._reply(call)
        else:
            self._json(404, {"type": "error", "error": {"type": "not_found_error", "message": path}})

    def _note(self) -> None:
        self.server.api.requests.append((self.command, self.path))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            whole = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return whole
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _reply(self, call: Call) -> None:
        api = self.server.api
        try:
            reply = api.script(call)
        except BaseException as error:  # kept for the test to see: a thread's own report is lost
            api.failures.append(error)
            raise
        if isinstance(reply, Failure):
            self._json(
                reply.status,
                {"type": "error", "error": {"type": reply.kind, "message": reply.message}},
            )
        elif call.streaming:
            self._stream(call, reply)
        else:
            if isinstance(reply, Held):
                reply.released.wait(HOLD_LIMIT_SECONDS)
                reply = reply.reply
            self._json(200, self._message(call, [_block(api, reply)], _stop_reason(reply)))

    def _message(
        self, call: Call, content: Sequence[dict[str, Any]], stop_reason: str | None
    ) -> dict[str, Any]:
        return {
            "id": self.server.api.fresh_id("msg"),
            "type": "message",
            "role": "assistant",
            "model": call.model,
            "content": list(content),
            "stop_reason": stop_reason,
            "stop_sequence": None,
            "usage": {"input_tokens": 10, "output_tokens": 5},
        }

    def _stream(self, call: Call, reply: Text | ToolUse | Held) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._event("message_start", message=self._message(call, [], None))
        if isinstance(reply, Held):
            reply.released.wait(HOLD_LIMIT_SECONDS)
            reply = reply.reply
        whole = _block(self.server.api, reply)
        if isinstance(reply, Text):
            self._event("content_block_start", index=0, content_block={"type": "text", "text": ""})
            for number, piece in enumerate(_pieces(reply)):
                if number and reply.interval_seconds:
                    time.sleep(reply.interval_seconds)
                self._event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
        else:
            self._event("content_block_start", index=0, content_block={**whole, "input": {}})
            self._event(
                "content_block_delta",
                index=0,
                delta={"type": "input_json_delta", "partial_json": json.dumps(whole["input"])},
            )
        self._event("content_block_stop", index=0)
        self._event(
            "message_delta",
            delta={"stop_reason": _stop_reason(reply), "stop_sequence": None},
            usage={"output_tokens": 5},
        )
        self._event("message_stop")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, kind: str, **fields: object) -> None:
        text = f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(text), text))

    def _json(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _stop_reason(reply: Text | ToolUse | Held) -> str:
    return "tool_use" if isinstance(reply, ToolUse) else "end_turn"


def _block(api: MessagesApi, reply: Text | ToolUse) -> dict[str, Any]:
    if isinstance(reply, Text):
        return {"type": "text", "text": reply.text}
    return {
        "type": "tool_use",
        "id": api.fresh_id("toolu"),
        "name": reply.name,
        "input": reply.input,
    }


def _pieces(reply: Text) -> list[str]:
    """The text cut in `reply.pieces` parts of nearly equal length, none of them lost."""
    count = max(1, min(reply.pieces, len(reply.text)))
    bounds = [len(reply.text) * number // count for number in range(count + 1)]
    return [reply.text[start:end] for start, end in itertools.pairwise(bounds)]
