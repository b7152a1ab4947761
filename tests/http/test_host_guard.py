"""Who may ask: a rebound DNS name may not, and other origins' pages get nothing unless configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from raw_client import JSON, RawClient, request_bytes, spawn_bytes
from running import connect, log_lines, wait_for_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from raw_client import Answer
    from server_process import LiveServer

ORIGIN = "https://app.example"
PREFLIGHT = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type")
CORS_PREFIX = "access-control-"


def ask_as(
    server: LiveServer, host: str | None, version: str = "HTTP/1.1", target: str = "/health"
) -> Answer:
    with connect(server) as client:
        client.send(request_bytes("GET", target, host=host, version=version))
        return client.answer()


def cors(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith(CORS_PREFIX)}


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8080",
        "localhost.",
        "app.localhost",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.1.2.3",
        "[::1]",
        "[::1]:8080",
        "[::ffff:127.0.0.1]",
    ],
)
def test_loopback_names_are_served(shared: LiveServer, host: str) -> None:
    """Every name of this machine's own loopback is answered, with any port."""
    assert ask_as(shared, host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil-localhost",
        "10.0.0.1",
        "0.0.0.0",
        "[::]",
        "[2001:db8::1]",
        "169.254.169.254",
        "2130706433",
        "0x7f000001",
        "127.1",
        "*",
    ],
)
def test_another_host_is_421_and_names_the_flag(shared: LiveServer, host: str) -> None:
    """A page that has rebound its name to 127.0.0.1 sends its own Host, and gets nothing."""
    answer = ask_as(shared, host)
    assert answer.status == (400 if host == "*" else 421)
    if host != "*":
        assert "--allowed-host" in answer.error
        assert host in answer.error


@pytest.mark.parametrize(
    "host",
    [
        "a b",
        "a/b",
        "user@localhost",
        "localhost:port",
        "[::1",
        "localhost, evil",
        "\xff",
        "a..localhost",
        f"{'a' * 64}.localhost",
    ],
)
def test_what_is_no_host_is_400(shared: LiveServer, host: str) -> None:
    """A Host header that cannot be one is refused, also where it contains a good name."""
    answer = ask_as(shared, host)
    assert answer.status == 400
    assert answer.error


def test_only_http_1_0_may_leave_the_host_out(shared: LiveServer) -> None:
    """HTTP/1.1 without Host is 400; HTTP/1.0 has none."""
    assert ask_as(shared, None).status == 400
    assert ask_as(shared, None, "HTTP/1.0").status == 200


def test_two_hosts_are_400(shared: LiveServer) -> None:
    """Of two Host headers none is believed."""
    with connect(shared) as client:
        client.send(request_bytes("GET", "/health", None, "Host: evil.example"))
        assert client.answer().status == 400


@pytest.mark.parametrize("path", ["/spawn", "/terminate/x", "/nowhere", "/sessions"])
def test_every_route_is_guarded(shared: LiveServer, path: str) -> None:
    """The guard stands before routing, and before a run."""
    before = len(log_lines(shared, "run ended"))
    with connect(shared) as client:
        body = '{"agent_type":"a","prompt":"x"}'
        client.send(request_bytes("POST", path, body, f"Content-Type: {JSON}", host="evil.example"))
        assert client.answer().status == 421
    assert len(log_lines(shared, "run ended")) == before


def test_a_targets_host_does_not_replace_the_header(shared: LiveServer) -> None:
    """An absolute target with a good name does not make a bad Host good."""
    assert ask_as(shared, "evil.example", target="http://localhost/health").status == 421
    assert ask_as(shared, "localhost", target="http://localhost/health").status == 200


@pytest.fixture(scope="module")
def allowing(start_shared: Callable[..., LiveServer]) -> LiveServer:
    """A server behind a proxy that passes two names on, and that pages of one origin may use."""
    return start_shared(
        *("--simulate", "--allowed-host", "Agents.example", "--allowed-host", "other.example:8443"),
        *("--cors-origin", ORIGIN),
    )


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("agents.example", 200),
        ("AGENTS.EXAMPLE:1234", 200),
        ("other.example:8443", 200),
        ("other.example", 421),
        ("other.example:1", 421),
        ("sub.agents.example", 421),
        ("evil.example", 421),
        ("localhost", 200),
    ],
)
def test_allowed_hosts_are_served(allowing: LiveServer, host: str, status: int) -> None:
    """A name with any port if listed without one, with its port otherwise; no other name."""
    assert ask_as(allowing, host).status == status


def test_star_allows_any_host(start_server: Callable[..., LiveServer]) -> None:
    """`--allowed-host '*'` turns the guard off."""
    server = start_server("--simulate", "--allowed-host", "*")
    assert ask_as(server, "evil.example").status == 200


def test_bound_to_all_addresses_any_host_is_served_and_warned_of(
    start_server: Callable[..., LiveServer],
) -> None:
    """Reachable from elsewhere a server has names it cannot know; it says once who can reach it."""
    server = start_server("--simulate", "--host", "0.0.0.0")
    assert ask_as(server, "agents.example").status == 200
    (warning,) = [line for line in wait_for_log(server, WARNING) if line["event"] == WARNING]
    assert warning["level"] == "warning"


WARNING = "not bound to a loopback address alone: whoever reaches this port can run agents as this user"


def test_no_warning_on_loopback(shared: LiveServer) -> None:
    """On loopback there is nothing to warn of."""
    shared.client.get("/health")
    assert [line for line in log_lines(shared) if line["level"] == "warning"] == []


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST"])
def test_no_cors_headers_by_default(shared: LiveServer, method: str) -> None:
    """Without `--cors-origin` no page of another origin can read an answer, or be told to go on."""
    with connect(shared) as client:
        answer = client.ask(method, "/spawn", None, f"Origin: {ORIGIN}", *PREFLIGHT)
        assert cors(answer) == {}
        assert "vary" not in answer.headers


def test_preflight_of_a_configured_origin(allowing: LiveServer) -> None:
    """The browser is told which methods and headers it may send."""
    with connect(allowing) as client:
        answer = client.ask("OPTIONS", "/spawn", None, f"Origin: {ORIGIN}", *PREFLIGHT)
    assert answer.status == 204
    assert cors(answer) == {
        "access-control-allow-origin": ORIGIN,
        "access-control-allow-methods": "GET, POST, DELETE",
        "access-control-allow-headers": "content-type",
        "access-control-max-age": "600",
    }
    assert answer.headers["vary"] == "origin"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", ORIGIN + ".evil", ORIGIN.upper(), "*"])
def test_another_origin_is_not_let_in(allowing: LiveServer, origin: str) -> None:
    """Only the exact origin gets headers; caches are told that the answer depends on it."""
    with connect(allowing) as client:
        for method in ("OPTIONS", "GET"):
            answer = client.ask(method, "/health", None, f"Origin: {origin}", *PREFLIGHT)
            assert cors(answer) == {}
            assert answer.headers["vary"] == "origin"


def test_stream_and_error_carry_cors_headers(allowing: LiveServer) -> None:
    """A page of a configured origin can read the stream, its run's id, and errors."""
    expected = {
        "access-control-allow-origin": ORIGIN,
        "access-control-expose-headers": "x-q9gent-run-id, retry-after",
    }
    with connect(allowing) as client:
        client.send(spawn_bytes("hello", f"Origin: {ORIGIN}"))
        assert cors(client.answer()) == expected
        for path in ("/nowhere", "/health"):
            assert cors(client.ask("GET", path, None, f"Origin: {ORIGIN}")) == expected


def test_any_origin_when_configured_so(start_server: Callable[..., LiveServer]) -> None:
    """`--cors-origin '*'` answers each origin by its name."""
    server = start_server("--simulate", "--cors-origin", "*")
    with RawClient((server.host, server.port)) as client:
        answer = client.ask("GET", "/health", None, "Origin: https://any.example")
    assert answer.headers["access-control-allow-origin"] == "https://any.example"


def test_a_cross_site_form_post_runs_nothing(allowing: LiveServer) -> None:
    """What a page can send without a preflight is refused, from a configured origin too."""
    before = len(log_lines(allowing, "run ended"))
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        with connect(allowing) as client:
            body = '{"agent_type":"a","prompt":"x"}'
            answer = client.ask("POST", "/spawn", body, f"Content-Type: {kind}", f"Origin: {ORIGIN}")
            assert answer.status == 415
    assert len(log_lines(allowing, "run ended")) == before
