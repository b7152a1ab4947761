"""A client that sends exactly the bytes it is told, over a real socket, with a deadline on every wait."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from sse_events import events, whole

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from sse_events import Event

DEADLINE_SECONDS = 30.0

Address = tuple[str, int] | str
"""Host and port, or the path of a Unix socket."""

JSON = "application/json"


def request_bytes(
    method: str,
    target: str,
    body: bytes | str | None = None,
    *headers: str,
    version: str = "HTTP/1.1",
    host: str | None = "localhost",
) -> bytes:
    """Return a request; `headers` are whole lines, and a body comes with its length unless they say."""
    lines = [f"{method} {target} {version}"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += headers
    data = body.encode() if isinstance(body, str) else body or b""
    names = {line.partition(":")[0].lower() for line in headers}
    if body is not None and not names & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(data)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + data


def post_bytes(target: str, fields: object, *headers: str) -> bytes:
    """Return a POST of JSON."""
    return request_bytes("POST", target, json.dumps(fields), f"Content-Type: {JSON}", *headers)


def spawn_bytes(prompt: str, *headers: str, **fields: object) -> bytes:
    """Return a `POST /spawn`."""
    return post_bytes("/spawn", {"agent_type": "test", "prompt": prompt, **fields}, *headers)


@dataclass
class Answer:
    """A whole response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded; it must say that it is JSON."""
        assert self.headers.get("content-type") == JSON, self
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The text of an error, whose body must have the shape of one."""
        content = self.json
        assert isinstance(content, dict), self
        assert isinstance(content.get("error"), str), self
        assert content["error"], self
        return str(content["error"])


class RawClient:
    """One connection.

    Args:
        address: Where to.
        receive_buffer: `SO_RCVBUF`, for a client that takes little.
        tls: Makes it a TLS connection to `localhost`.
    """

    def __init__(
        self,
        address: Address,
        *,
        receive_buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE_SECONDS)
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.connect(address)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        self.rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it as a client does that is done."""
        self.sock.close()

    def reset(self) -> None:
        """Close it with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self.sock.shutdown(socket.SHUT_WR)

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.sock.sendall(data)

    def ask(self, method: str, target: str, body: bytes | str | None = None, *headers: str) -> Answer:
        """Send a request and read the answer."""
        self.send(request_bytes(method, target, body, *headers))
        return self.answer(head_only=method == "HEAD")

    def head(self) -> tuple[int, dict[str, str]]:
        """Read a status line and headers, none of which may come twice."""
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, status, *_ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1", lines[0]
        pairs = [line.split(": ", 1) for line in lines[1:-2]]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), lines
        return int(status), headers

    def answer(self, *, head_only: bool = False) -> Answer:
        """Read a whole response, framed as its headers say."""
        status, headers = self.head()
        body = b"" if head_only or status in (204, 304) else b"".join(self.parts(headers))
        return Answer(status, headers, body)

    def parts(self, headers: dict[str, str]) -> Iterator[bytes]:
        """Read a body as it arrives.

        Raises:
            EOFError: The connection ends before the body does.
        """
        if headers.get("transfer-encoding") == "chunked":
            while size := int(self._until(b"\r\n"), 16):
                data = self._exactly(size + 2)
                assert data.endswith(b"\r\n"), data[-20:]
                yield data[:-2]
            assert self._exactly(2) == b"\r\n"
        elif "content-length" in headers:
            yield self._exactly(int(headers["content-length"]))
        else:
            while self._more():
                yield self._take(len(self.rest))

    def stream(self) -> Iterator[Event]:
        """Read the head of an event stream and return its events as they come."""
        status, headers = self.head()
        if status != 200:
            raise AssertionError(f"{status} {b''.join(self.parts(headers))!r}")
        assert headers["content-type"] == "text/event-stream"
        return events(self.parts(headers))

    def whole(self) -> list[Event]:
        """Read an event stream to its end."""
        status, headers = self.head()
        assert status == 200, status
        return whole(self.parts(headers))

    def end(self) -> bytes:
        """Read until the server has closed its side, and return what came. A reset fails."""
        while self._more():
            pass
        return self._take(len(self.rest))

    def is_ended(self) -> bool:
        """Wait for the end of the connection, by a close or a reset; what comes before is dropped."""
        try:
            self.end()
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def _more(self) -> bool:
        data = self.sock.recv(65536)
        self.rest += data
        return bool(data)

    def _take(self, size: int) -> bytes:
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def _until(self, mark: bytes) -> bytes:
        while mark not in self.rest:
            self._need_more()
        return self._take(self.rest.index(mark) + len(mark))

    def _exactly(self, size: int) -> bytes:
        pieces, missing = [self._take(size)], size - len(self.rest)
        missing = size - len(pieces[0])
        while missing:
            self._need_more()
            pieces.append(self._take(missing))
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def _need_more(self) -> None:
        if not self._more():
            raise EOFError(f"the connection ended after {self.rest[:200]!r}")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail when the block takes longer: for what must be prompt."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds, f"{took:.1f} s"


def open_port(address: Address) -> bool:
    """Tell whether somebody listens there."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as sock:
        sock.settimeout(DEADLINE_SECONDS)
        return sock.connect_ex(address) == 0
