"""Who may ask."""

from __future__ import annotations

import pytest

from q9gent.errors import InvalidRequest, MisdirectedRequest
from q9gent.http.guards import check_host, cors_headers, is_loopback, path_of_target


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
    "host", ["a b", "user@localhost", "localhost/x", "a,b", "[::1", "localhost:8x", "é", "localhost:123456"]
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
