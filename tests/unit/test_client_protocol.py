"""The client's table of errors against the server's own, addresses, and bodies."""

from __future__ import annotations

import inspect

import httpx
import msgspec
import pytest
import trio

from q9gent import client, errors
from q9gent.client import _errors, _protocol
from q9gent.http.problems import problem_response
from q9gent.wire.requests import MessageRequest, SpawnRequest, decode_request

SERVERS = [
    errors.InvalidRequest("Expected `str`, got `int` - at `$.prompt`"),
    errors.SessionNotFound("x"),
    errors.RunNotFound("x"),
    errors.BodyTimeout(60),
    errors.SessionBusy("x"),
    errors.TooLarge("The body is larger than 5 bytes"),
    errors.UnsupportedMedia(None),
    errors.MisdirectedRequest("x"),
    errors.ProcessSpawnFailed("No such file or directory"),
    errors.SessionStoreFailed("x"),
    errors.SurvivorsLeft((7, 8)),
    errors.AtCapacity("x", retry_after_seconds=10),
    errors.ShuttingDown(),
]


def answer(status: int, content: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    request = httpx.Request("POST", "http://server/spawn")
    return httpx.Response(status, content=content, headers=headers, request=request)


def test_every_error_of_the_server_is_tried_below() -> None:
    """The table grows with the server's tree."""
    leaves = {
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, errors.Q9gentError) and not kind.__subclasses__()
    }
    assert {type(error) for error in SERVERS} == leaves


@pytest.mark.parametrize("error", SERVERS, ids=lambda error: type(error).__name__)
def test_an_error_of_the_server_is_its_namesake(error: errors.Q9gentError) -> None:
    """With its status, its text, its facts."""
    sent = problem_response(error)
    content = trio.run(sent.get_data)
    told = _protocol.make_error(answer(sent.status_code, content, dict(sent.headers)))
    assert isinstance(told, client.RequestFailed)
    assert type(told).__name__ == type(error).__name__
    assert (told.status, told.message, str(told)) == (error.status, str(error), str(error))
    assert told.facts == error.facts
    assert told.retry_after_seconds == (int(error.headers["retry-after"]) if error.headers else None)


def test_survivors_are_pids_or_not_known() -> None:
    """The one error with facts of its own."""
    for pids, shown in ([7, 8], (7, 8)), (None, None):
        content = msgspec.json.encode({"error": "Processes could not be killed: 7, 8", "survivors": pids})
        told = _protocol.make_error(answer(500, content))
        assert isinstance(told, client.SurvivorsLeft)
        assert told.survivors == shown


@pytest.mark.parametrize("status", [402, 404, 500, 599])
def test_an_unknown_error_is_a_failed_request(status: int) -> None:
    """What a newer server answers still carries its fields."""
    told = _protocol.make_error(answer(status, b'{"error":"Something new","more":1}'))
    assert type(told) is client.RequestFailed
    assert (told.status, told.message, told.facts) == (status, "Something new", {"more": 1})


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"{}", b"\xff", b""])
def test_an_answer_that_is_not_q9gents_is_told(content: bytes) -> None:
    """A proxy's page is no error of q9gent's."""
    assert isinstance(_protocol.make_error(answer(502, content)), client.UnexpectedAnswer)
    with pytest.raises(client.UnexpectedAnswer):
        _protocol.decode_answer(answer(200, content), client.Health)


def test_an_answer_may_have_more_members() -> None:
    """Those of a newer server are passed over."""
    content = b'{"status":"ok","version":"9","uptime":7}'
    assert _protocol.decode_answer(answer(200, content), client.Health) == client.Health(
        status="ok", version="9"
    )


def test_the_exceptions_are_one_tree() -> None:
    """One `except ClientError` catches all, and each is public."""
    kinds = {kind for kind in vars(_errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)}
    assert all(issubclass(kind, client.ClientError) for kind in kinds)
    assert {kind.__name__ for kind in kinds} <= set(client.__all__)
    assert all(name in (_errors.__doc__ or "") for name in (kind.__name__ for kind in kinds))


def test_the_public_names_are_there() -> None:
    """`__all__` and reality are the same."""
    assert sorted(client.__all__) == client.__all__
    public = {
        name
        for name, value in vars(client).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public - {"annotations"} == set(client.__all__)


@pytest.mark.parametrize(
    ("given", "variable", "url"),
    [
        (None, None, "http://127.0.0.1:8080"),
        (None, "http://there:1", "http://there:1"),
        (None, "", "http://127.0.0.1:8080"),
        ("http://here:2/below", "http://there:1", "http://here:2/below"),
        ("here:2", None, "http://here:2"),
        ("https://[::1]:2", None, "https://[::1]:2"),
    ],
)
def test_the_address_is_told_or_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, given: str | None, variable: str | None, url: str
) -> None:
    """An argument wins, a variable comes next, a scheme may be left out."""
    monkeypatch.delenv("Q9GENT_URL", raising=False)
    if variable is not None:
        monkeypatch.setenv("Q9GENT_URL", variable)
    assert _protocol.server_url(given) == url


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://[", "unix:///x", "http://x:port"])
def test_what_is_no_address_is_told_at_once(url: str) -> None:
    """Not when it is first used."""
    with pytest.raises(ValueError, match="not a server's address"):
        client.Client(url)


@pytest.mark.parametrize(
    ("url", "asks"), [("http://localhost:1", False), ("http://[::1]:1", False), ("http://example.com", True)]
)
def test_a_proxy_is_not_asked_for_this_machine(url: str, asks: bool) -> None:
    """A proxy of the environment would look for the server on its own machine."""
    assert _protocol.httpx_options(url, headers=None, timeout=None)["trust_env"] is asks


def test_bodies_are_what_the_server_takes() -> None:
    """With everything, and with nothing: what is not asked for is left out."""
    everything = {"tools_allowed": ("Read",), "flags": ["--model", "x"], "system_append": "S"}
    spawn = _protocol.spawn_body("P", agent_type="a", resume_id=None, create_session=True, **everything)
    request = decode_request(msgspec.json.encode(spawn), SpawnRequest)
    assert (request.prompt, request.tools_allowed, request.flags) == ("P", ("Read",), ("--model", "x"))
    assert (request.system_append, request.create_session, request.resume_id) == ("S", True, None)
    nothing = _protocol.message_body("P", tools_allowed=(), flags=(), system_append=None)
    assert nothing == {"prompt": "P"}
    assert decode_request(msgspec.json.encode(nothing), MessageRequest).tools_allowed is None


def test_one_string_in_place_of_several_is_a_mistake() -> None:
    """`tools_allowed="Read"` would be four tools of one letter each."""
    with pytest.raises(TypeError):
        client.Client().spawn("P", tools_allowed="Read")


@pytest.mark.parametrize("name", ["a/b", "..", "ä", "%2e", "x?y#z"])
def test_an_id_stays_one_part_of_the_path(name: str) -> None:
    """Whatever a caller writes."""
    path = _protocol.path_to("terminate", name)
    assert path.startswith("/terminate/")
    assert "/" not in path.removeprefix("/terminate/")
    assert not set("?#") & set(path)
