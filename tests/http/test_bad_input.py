"""No body, flag, path, header or sequence of requests crashes the server, hangs it, or is a 500."""

from __future__ import annotations

import contextlib
import json
import socket
import string
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_client import (
    DEADLINE_SECONDS,
    JSON,
    Answer,
    RawClient,
    post_bytes,
    request_bytes,
    spawn_bytes,
    within,
)
from running import UNKNOWN_ID, address_of, agents, connect, log_lines
from sse_events import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_process import LiveServer

MIB = 1024 * 1024
BODY_BYTES = 4 * MIB
AS_JSON = f"Content-Type: {JSON}"
FINE = {"agent_type": "a", "prompt": "hello"}

BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not valid JSON"),
    "blank": (b" \n", "not valid JSON"),
    "null": (b"null", "Expected `object`"),
    "an array": (b"[]", "Expected `object`"),
    "a text": (b'"x"', "Expected `object`"),
    "a number": (b"1", "Expected `object`"),
    "no fields": (b"{}", "missing required field"),
    "no agent_type": (b'{"prompt":"x"}', "`agent_type`"),
    "no prompt": (b'{"agent_type":"a"}', "`prompt`"),
    "cut short": (b'{"agent_type":"a","prompt":"x"', "not valid JSON"),
    "more behind": (json.dumps(FINE).encode() + b"x", "not valid JSON"),
    "single quotes": (b"{'agent_type':'a'}", "not valid JSON"),
    "invalid UTF-8": (b'{"agent_type":"a","prompt":"\xff\xfe"}', "UTF-8"),
    "truncated UTF-8": (b'{"agent_type":"a","prompt":"\xe2\x82"}', "UTF-8"),
    "UTF-8 surrogate": (b'{"agent_type":"a","prompt":"\xed\xa0\x80"}', "UTF-8"),
    "UTF-16": (json.dumps(FINE).encode("utf-16"), "not valid JSON"),
    "byte order mark": (b"\xef\xbb\xbf" + json.dumps(FINE).encode(), "not valid JSON"),
    "lone surrogate": (b'{"agent_type":"a","prompt":"\\ud800"}', "not valid JSON"),
    "surrogates swapped": (b'{"agent_type":"a","prompt":"\\udc00\\ud800"}', "not valid JSON"),
    "NUL escaped": (b'{"agent_type":"a","prompt":"a\\u0000b"}', "`$.prompt`"),
    "NUL raw": (b'{"agent_type":"a","prompt":"a\0b"}', "not valid JSON"),
    "NUL in a list": (b'{"agent_type":"a","prompt":"x","flags":["-a","\\u0000"]}', "`$.flags[1]`"),
    "NUL in agent_type": (b'{"agent_type":"\\u0000","prompt":"x"}', "`$.agent_type`"),
    "empty prompt": (b'{"agent_type":"a","prompt":""}', "`$.prompt`"),
    "prompt is a number": (b'{"agent_type":"a","prompt":1}', "`$.prompt`"),
    "prompt is null": (b'{"agent_type":"a","prompt":null}', "`$.prompt`"),
    "flags is a text": (b'{"agent_type":"a","prompt":"x","flags":"-v"}', "`$.flags`"),
    "flags holds a number": (b'{"agent_type":"a","prompt":"x","flags":["a",1]}', "`$.flags[1]`"),
    "tools_allowed holds null": (
        b'{"agent_type":"a","prompt":"x","tools_allowed":["Read",null]}',
        "`$.tools_allowed[1]`",
    ),
    "two tools in one": (
        b'{"agent_type":"a","prompt":"x","tools_allowed":["Read,Bash"]}',
        "`$.tools_allowed[0]`",
    ),
    "create_session is a text": (
        b'{"agent_type":"a","prompt":"x","create_session":"yes"}',
        "`$.create_session`",
    ),
    "resume_id is a path": (b'{"agent_type":"a","prompt":"x","resume_id":"/etc/passwd"}', "`$.resume_id`"),
    "resume_id is an option": (b'{"agent_type":"a","prompt":"x","resume_id":"--debug"}', "`$.resume_id`"),
    "unknown field": (b'{"agent_type":"a","prompt":"x","allowed_tools":["Read"]}', "`allowed_tools`"),
    "nested arrays": (b"[" * 100_000, ""),
    "nested objects": (b'{"a":' * 100_000, ""),
    "nested in a field": (b'{"agent_type":"a","prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}", ""),
    "nested unknown": (b'{"agent_type":"a","prompt":"x","y":' + b"[" * 100_000, ""),
    "a huge number": (b'{"agent_type":"a","prompt":' + b"9" * 100_000 + b"}", ""),
}


@pytest.mark.parametrize("body", BODIES)
def test_bad_body_is_400_and_says_why(client: RawClient, body: str) -> None:
    """Every wrong body is refused in JSON that names what is wrong; the connection stays usable."""
    content, told = BODIES[body]
    answer = client.ask("POST", "/spawn", content, AS_JSON)
    assert answer.status == 400
    assert told in answer.error
    assert client.ask("GET", "/health").status == 200


@pytest.mark.parametrize("field", ["flags", "tools_allowed", "system_append", "resume_id", "create_session"])
def test_null_means_the_default(client: RawClient, field: str) -> None:
    """`null` for an optional field is as if it were not there."""
    client.send(spawn_bytes("hello", **{field: None}))
    assert client.whole()[-1]["type"] == "completed"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Content-Type:"],
        ["Content-Type: text/plain"],
        ["Content-Type: text/json"],
        ["Content-Type: application/x-www-form-urlencoded"],
        ["Content-Type: multipart/form-data; boundary=x"],
        ["Content-Type: application/json5"],
        ["Content-Type: application/jsonx; application/json"],
        ["Content-Type: text/plain; application/json"],
        ["Content-Type: \xff"],
        ["Content-Type: application/ json"],
    ],
)
def test_another_media_type_is_415(client: RawClient, headers: list[str]) -> None:
    """Only `application/json` is taken: what a page may post unasked is refused."""
    answer = client.ask("POST", "/spawn", json.dumps(FINE), *headers)
    assert answer.status == 415
    assert "application/json" in answer.error


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/json;"])
def test_json_media_type_in_its_spellings(client: RawClient, kind: str) -> None:
    """Case and parameters do not matter."""
    client.send(request_bytes("POST", "/spawn", json.dumps(FINE), f"Content-Type: {kind}"))
    assert client.whole()[-1]["type"] == "completed"


def padded(size: int) -> bytes:
    """A body of exactly `size` bytes that is well-formed, and wrong: it starts no run."""
    start = b'{"agent_type":"a","prompt":"x","unknown":"'
    return start + b"x" * (size - len(start) - 2) + b'"}'


def chunked(body: bytes, size: int = 65536) -> bytes:
    """A body in chunks."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def post_padded(client: RawClient, size: int, *, in_chunks: bool) -> Answer:
    body = padded(size)
    if in_chunks:
        client.send(request_bytes("POST", "/spawn", chunked(body), AS_JSON, "Transfer-Encoding: chunked"))
    else:
        client.send(request_bytes("POST", "/spawn", body, AS_JSON))
    return client.answer()


@pytest.mark.parametrize("in_chunks", [False, True], ids=["length", "chunked"])
def test_body_at_the_limit_is_read(client: RawClient, in_chunks: bool) -> None:
    """Exactly 4 MiB are still read and judged."""
    answer = post_padded(client, BODY_BYTES, in_chunks=in_chunks)
    assert answer.status == 400
    assert "`unknown`" in answer.error


@pytest.mark.parametrize("in_chunks", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [BODY_BYTES + 1, 3 * BODY_BYTES], ids=["one over", "far over"])
def test_body_over_the_limit_is_413_and_readable(client: RawClient, size: int, in_chunks: bool) -> None:
    """The client can send all of it and then read the answer: no reset takes that away."""
    answer = post_padded(client, size, in_chunks=in_chunks)
    assert answer.status == 413
    assert str(BODY_BYTES) in answer.error
    assert client.ask("GET", "/health").status == 200


def test_client_that_waits_for_100_continue(client: RawClient) -> None:
    """`Expect: 100-continue` is answered before the body is sent, and only then."""
    body = json.dumps(FINE).encode()
    client.send(
        request_bytes("POST", "/spawn", None, AS_JSON, f"Content-Length: {len(body)}", "Expect: 100-continue")
    )
    assert client.head()[0] == 100
    client.send(body)
    assert client.whole()[-1]["type"] == "completed"


@pytest.mark.parametrize("size", [BODY_BYTES, BODY_BYTES + 1])
def test_curl_sends_a_large_body(shared: LiveServer, size: int) -> None:
    """curl, which expects 100-continue for a large body, gets the answer either way."""
    url = f"http://{shared.host}:{shared.port}/spawn"
    command = [
        "curl",
        "-sS",
        "--max-time",
        "30",
        "-H",
        AS_JSON,
        "--data-binary",
        "@-",
        "-w",
        "%{http_code}",
        url,
    ]
    done = subprocess.run(command, input=padded(size), capture_output=True, timeout=40, check=True)
    assert done.stderr == b""
    assert done.stdout.endswith(b"400" if size == BODY_BYTES else b"413")


@pytest.fixture(scope="module")
def impatient(start_shared: Callable[..., LiveServer]) -> LiveServer:
    """A server that gives a body half a second."""
    return start_shared("--simulate", "--body-seconds", "0.5")


def test_slow_body_is_408(impatient: LiveServer) -> None:
    """A body that does not arrive in time is answered, however it is framed, and its connection ends."""
    with connect(impatient) as by_length, connect(impatient) as by_chunks:
        by_length.send(request_bytes("POST", "/spawn", None, AS_JSON, "Content-Length: 100"))
        by_chunks.send(request_bytes("POST", "/spawn", None, AS_JSON, "Transfer-Encoding: chunked"))
        for client in (by_length, by_chunks):
            answer = client.answer()
            assert answer.status == 408
            assert "0.5 s" in answer.error
            assert client.end() == b""


def test_trickling_body_is_408(impatient: LiveServer) -> None:
    """A byte now and then does not buy more time: what counts is the whole body."""
    with connect(impatient) as client, within(DEADLINE_SECONDS):
        client.send(request_bytes("POST", "/spawn", None, AS_JSON, "Content-Length: 1000000"))
        client.sock.settimeout(0.05)
        answered = b""
        while not answered:
            client.send(b" ")
            with contextlib.suppress(TimeoutError):
                answered = client.sock.recv(1, socket.MSG_PEEK)
        client.sock.settimeout(DEADLINE_SECONDS)
        assert client.answer().status == 408


def test_body_limit_is_the_one_that_was_set(start_server: Callable[..., LiveServer]) -> None:
    """Exactly as many bytes, and not one more."""
    server = start_server("--simulate", "--body-bytes", "1000")
    with connect(server) as client:
        for size, status in ((1000, 400), (1001, 413)):
            assert post_padded(client, size, in_chunks=False).status == status


def test_body_cut_short_by_the_client_starts_nothing(shared: LiveServer) -> None:
    """A client that goes in the middle of its body has asked for nothing."""
    before = len(log_lines(shared, "run ended"))
    with connect(shared) as client:
        client.send(request_bytes("POST", "/spawn", json.dumps(FINE)[:-1], AS_JSON, "Content-Length: 1000"))
        client.half_close()
        assert client.is_ended()
    assert shared.client.get("/runs").json() == {"runs": []}
    assert len(log_lines(shared, "run ended")) == before


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
GIVEN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["agent_type", "prompt", "flags", "tools_allowed", "system_append", "resume_id", "create_session"]
LIVE = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)


@LIVE
@given(body=st.dictionaries(st.sampled_from(FIELDS) | TEXT, JSON_VALUES, max_size=6))
def test_any_json_object_is_answered(shared: LiveServer, body: dict[str, object]) -> None:
    """No combination of fields and values gives a 500."""
    with connect(shared) as client:
        client.send(post_bytes("/spawn", body))
        answer = client.answer()
        assert answer.status in (200, 400, 413), answer


@LIVE
@given(
    body=st.binary(max_size=300) | st.binary(max_size=50).map(lambda more: json.dumps(FINE).encode() + more)
)
def test_any_bytes_as_body_are_answered(shared: LiveServer, body: bytes) -> None:
    """No byte sequence as a body gives a 500."""
    with connect(shared) as client:
        client.send(request_bytes("POST", f"/message/{UNKNOWN_ID}", body, AS_JSON))
        assert client.answer().status in (400, 404)


@LIVE
@given(prompt=GIVEN, model=GIVEN, append=GIVEN)
def test_any_text_reaches_the_agent_unchanged(
    shared: LiveServer, prompt: str, model: str, append: str
) -> None:
    """Whatever a prompt, a flag or a system text holds, it is given to the agent as it is."""
    prompt = f"!report\n{prompt}"
    with connect(shared) as client:
        client.send(spawn_bytes(prompt, flags=[f"--model={model}"], system_append=append))
        found = client.whole()
    (report,) = [line for line in messages(found) if line.get("subtype") == "report"]
    assert report["argv"][2] == prompt
    assert report["argv"][-1] == f"--model={model}"
    assert append == "" or f"--append-system-prompt={append}" in report["argv"]


@LIVE
@given(path=st.text(string.printable.strip() + "\x80\xff", max_size=60))
def test_any_path_is_answered(shared: LiveServer, path: str) -> None:
    """No path gives a 500, whatever is percent-encoded in it."""
    with RawClient(address_of(shared)) as client:
        client.send(request_bytes("POST", f"/{path}".replace(" ", ""), "{}", AS_JSON))
        answer = client.answer()
        assert answer.status in (200, 400, 404, 405), answer
        if answer.status != 200:
            assert answer.error


def test_nothing_of_it_is_left(shared: LiveServer) -> None:
    """After all of the above no process is left and no error was logged."""
    assert agents(shared) == []
    assert shared.client.get("/health").status_code == 200
    assert log_lines(shared, "request failed") == []
    assert log_lines(shared, "connection failed") == []
