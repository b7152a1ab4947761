"""Who may ask."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from q9gent.errors import InvalidRequest, MisdirectedRequest
from q9gent.http.guards import check_host, cors_headers, header, is_loopback, path_of_target


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8080",
        "LOCALHOST",
        "app.localhost:1",
        "127.0.0.1:8080",
        "127.9.9.9",
        "[::1]:8080",
        "[::1]",
        None,
        "",
    ],
)
def test_this_machines_names_are_answered(host: str | None) -> None:
    """With any port; a request of HTTP/1.0 may have none."""
    check_host(host, loopback_only=True, allowed=())


@pytest.mark.parametrize(
    "host",
    [
        "evil.com",
        "localhost.evil.com",
        "127.0.0.1.evil.com",
        "evil.com:8080",
        "192.168.1.1",
        "[::2]",
        "0.0.0.0",
        "xlocalhost",
        "2130706433",
    ],
)
def test_another_name_is_misdirected(host: str) -> None:
    """A rebound DNS name arrives so."""
    with pytest.raises(MisdirectedRequest, match="--allowed-host"):
        check_host(host, loopback_only=True, allowed=())
    check_host(host, loopback_only=False, allowed=())
    check_host(host, loopback_only=True, allowed=("*",))


@pytest.mark.parametrize("allowed", ["evil.com", "EVIL.com", "evil.com:99"])
def test_an_allowed_name_is_answered(allowed: str) -> None:
    """With or without its port."""
    check_host("evil.com:99", loopback_only=True, allowed=(allowed,))


@pytest.mark.parametrize(
    "host",
    [
        "a b",
        "user@localhost",
        "localhost/x",
        "a,b",
        "[::1",
        "[::1.]",
        "[127.0.0.1]",
        "[127.0.0.1]:8080",
        "[::1::]",
        "[0::127.0.0.01]",
        "[.]",
        "[:]",
        "[1]",
        "localhost:8x",
        "é",
        "localhost:123456",
    ],
)
def test_what_is_no_host_is_invalid(host: str) -> None:
    """Whatever the server is bound to."""
    with pytest.raises(InvalidRequest):
        check_host(host, loopback_only=False, allowed=("*",))


def test_mapped_addresses_count() -> None:
    """IPv4 in IPv6."""
    assert is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("::ffff:10.0.0.1")
    assert not is_loopback("")


@pytest.mark.parametrize(
    ("target", "path"), [("/a", "/a"), ("//x/y", "//x/y"), ("http://host/a/b", "/a/b"), ("http://host", "/")]
)
def test_a_target_gives_its_path(target: str, path: str) -> None:
    """A path, or a whole URL as proxies send it."""
    assert path_of_target(target) == path


@pytest.mark.parametrize("target", ["", "*", "host:443", "http://[", "ftp://host/", "http:///x", "x"])
def test_another_target_is_invalid(target: str) -> None:
    """None of them names a path here."""
    with pytest.raises(InvalidRequest):
        path_of_target(target)


def test_no_page_may_read_answers_unless_configured() -> None:
    """And then only the one whose origin it is."""
    assert cors_headers("http://a", (), preflight=False) == {}
    assert cors_headers("http://b", ("http://a",), preflight=False) == {"vary": "origin"}
    assert (
        cors_headers("http://a", ("http://a",), preflight=False)["access-control-allow-origin"] == "http://a"
    )
    assert "access-control-allow-methods" in cors_headers("http://a", ("http://a",), preflight=True)
    assert cors_headers("http://z", ("*",), preflight=False)["access-control-allow-origin"] == "http://z"


@pytest.mark.parametrize(
    "host",
    [
        "localhost@evil.com",
        "evil.com@localhost",
        "user:pass@127.0.0.1",
        "localhost:80@evil.com",
        "localhost\\.evil.com",
        "localhost#evil.com",
        "localhost?evil.com",
        "localhost\t",
        "localhost,evil.com",
        "localhost evil.com",
        "http://localhost",
        "[::1]evil.com",
        "[::1].evil.com",
        "[::1%25eth0]",
        "[localhost]",
        "::1",
        "localhost:",
        "localhost:80:80",
        "localhost:-1",
        "127.0.0.1\n",
        "localhost\n",
        "\u217cocalhost",
        "%6cocalhost",
    ],
)
def test_no_trick_makes_a_host_ours(host: str) -> None:
    """User names, other separators, escapes, look-alikes: refused, or taken for what they are."""
    if host == "localhost:":  # an empty port is allowed by RFC 3986, 3.2.3, and changes nothing
        check_host(host, loopback_only=True, allowed=())
        return
    with pytest.raises((InvalidRequest, MisdirectedRequest)):
        check_host(host, loopback_only=True, allowed=())


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1.nip.io",
        "localhost.nip.io",
        "localtest.me",
        "0",
        "0.0.0.0",
        "127.1",
        "0x7f000001",
        "017700000001",
        "[::]",
        "[::ffff:8.8.8.8]",
        "[fe80::1]",
        "10.0.0.1",
        "169.254.169.254",
        "1.0.0.127",
        "localhostt",
        "-localhost",
        "localhost-",
        "my.localhost.com",
    ],
)
def test_a_name_that_may_resolve_to_loopback_is_still_anothers(host: str) -> None:
    """That is what DNS rebinding is."""
    with pytest.raises(MisdirectedRequest):
        check_host(host, loopback_only=True, allowed=())


@pytest.mark.parametrize(
    ("host", "allowed", "served"),
    [
        ("example.com", ("example.com",), True),
        ("example.com:443", ("example.com",), True),
        ("example.com:443", ("example.com:443",), True),
        ("example.com", ("example.com:443",), False),
        ("example.com:80", ("example.com:443",), False),
        ("sub.example.com", ("example.com",), False),
        ("badexample.com", ("example.com",), False),
        ("example.com.evil", ("example.com",), False),
        ("[fd00::1]:8080", ("[fd00::1]",), True),
        ("[fd00::2]:8080", ("[fd00::1]",), False),
        ("localhost", ("example.com",), True),
        ("a", ("b", "a"), True),
        ("anything.example:1", ("*",), True),
    ],
)
def test_an_allowed_name_allows_itself_and_no_other(
    host: str, allowed: tuple[str, ...], served: bool
) -> None:
    """With any port unless one was named; never a part of a name."""
    if served:
        check_host(host, loopback_only=True, allowed=allowed)
    else:
        with pytest.raises(MisdirectedRequest):
            check_host(host, loopback_only=True, allowed=allowed)


WORDS = ["localhost", "127.0.0.1", "::1", "::ffff:127.0.0.1", "evil", "80", *"1:[]@/%#.-_"]


@given(
    st.text(alphabet="localhst127.0:[]@/%#evi-_", max_size=24) | st.lists(st.sampled_from(WORDS)).map("".join)
)
@example("[127.0.0.1]")
@example("[::1.]")
def test_what_is_answered_is_spelled_as_loopback(host: str) -> None:
    """Against Python's own reading of a URL with that host, under arbitrary text."""
    try:
        check_host(host, loopback_only=True, allowed=())
    except (InvalidRequest, MisdirectedRequest):
        return
    name = urlsplit(f"http://{host}/").hostname if host else "localhost"
    assert name is not None
    assert name.rstrip(".") == "localhost" or name.rstrip(".").endswith(".localhost") or is_loopback(name)
    assert "@" not in host


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.255.255.254", "::1", "[::1]", "localhost", "a.localhost"]
)
def test_loopback_is_known(address: str) -> None:
    """IPv4's whole block, IPv6's one address, the reserved name."""
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "::", "", "128.0.0.1", "126.255.255.255", "::2", "localhost.a"]
)
def test_what_others_can_reach_is_no_loopback(address: str) -> None:
    """The wildcard above all."""
    assert not is_loopback(address)


@given(st.text())
def test_any_target_has_a_path_or_is_invalid(target: str) -> None:
    """Nothing else comes out, and a path begins with a slash."""
    try:
        path = path_of_target(target)
    except InvalidRequest:
        return
    assert path.startswith("/")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://user:pass@host/a", "/a"),
        ("HTTP://HOST/A", "/A"),
        ("https://[::1]:8080/spawn", "/spawn"),
        ("http://host/a?b=/c", "/a"),
        ("/a/../b", "/a/../b"),
    ],
)
def test_only_the_path_of_a_url_counts(target: str, path: str) -> None:
    """Nothing in it is resolved."""
    assert path_of_target(target) == path


@pytest.mark.parametrize("preflight", [False, True])
@pytest.mark.parametrize(
    "origin",
    ["http://a.evil", "null", "http://", "http://a:80", "HTTP://A", "http://a/", "http://b, http://a"],
)
def test_an_origin_is_allowed_only_if_it_is_the_same(origin: str, preflight: bool) -> None:
    """Compared as it stands, and never answered with a wildcard."""
    headers = cors_headers(origin, ("http://a",), preflight=preflight)
    assert headers == {"vary": "origin"}


def test_a_preflight_says_what_may_be_sent_and_an_answer_what_may_be_read() -> None:
    """JSON needs `content-type`; the run's id is a header."""
    preflight = cors_headers("http://a", ("http://a",), preflight=True)
    answer = cors_headers("http://a", ("http://a",), preflight=False)
    assert "content-type" in preflight["access-control-allow-headers"]
    assert {"GET", "POST", "DELETE"} <= set(preflight["access-control-allow-methods"].split(", "))
    assert "x-q9gent-run-id" in answer["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in {**preflight, **answer}
    assert preflight["vary"] == answer["vary"] == "origin"


def test_a_header_is_found_whatever_its_case() -> None:
    """The first of its name counts."""
    headers = [(b"Host", b" one "), (b"HOST", b"two"), (b"x", b"\xe9")]
    assert header(headers, b"host") == "one"
    assert header(headers, b"x") == "é"
    assert header(headers, b"origin") is None
