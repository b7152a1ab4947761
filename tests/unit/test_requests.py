"""Bodies are decoded strictly: what is not understood is refused, with the field named."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from q9gent.errors import InvalidRequest
from q9gent.wire.requests import MessageRequest, SpawnRequest, decode_request

GOOD = {"agent_type": "a", "prompt": "p"}


def spawn(**fields: object) -> SpawnRequest:
    return decode_request(json.dumps({**GOOD, **fields}).encode(), SpawnRequest)


def test_null_means_the_default() -> None:
    """Each optional field may be null."""
    optional = ("flags", "tools_allowed", "system_append", "resume_id", "create_session")
    assert spawn(**dict.fromkeys(optional)) == spawn()


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"prompt": 1}, "$.prompt"),
        ({"prompt": ""}, "$.prompt"),
        ({"prompt": " \n\t"}, "$.prompt"),
        ({"prompt": None}, "$.prompt"),
        ({"agent_type": []}, "$.agent_type"),
        ({"tools_allowed": ["Read", 1]}, "$.tools_allowed[1]"),
        ({"tools_allowed": "Read"}, "$.tools_allowed"),
        ({"tools_allowed": ["Read", ""]}, "$.tools_allowed[1]"),
        ({"tools_allowed": ["Read,Bash"]}, "$.tools_allowed[0]"),
        ({"tools_allowed": ["Read Bash"]}, "$.tools_allowed[0]"),
        ({"tools_allowed": ["Bash(git"]}, "$.tools_allowed[0]"),
        ({"tools_allowed": ["Bash)("]}, "$.tools_allowed[0]"),
        ({"tools_allowed": ["Read\tBash"]}, "$.tools_allowed[0]"),
        ({"flags": ["--a", "b\0c"]}, "$.flags[1]"),
        ({"prompt": "a\0b"}, "$.prompt"),
        ({"system_append": "\0"}, "$.system_append"),
        ({"agent_type": "\0"}, "$.agent_type"),
        ({"resume_id": "x"}, "$.resume_id"),
        ({"resume_id": "/etc/passwd"}, "$.resume_id"),
        ({"resume_id": "550E8400-E29B-41D4-A716-446655440000"}, "$.resume_id"),
        ({"resume_id": "550e8400-e29b-41d4-a716-446655440000\n"}, "$.resume_id"),
        ({"create_session": "yes"}, "$.create_session"),
        ({"create_session": 1}, "$.create_session"),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, object], path: str) -> None:
    """The error says where."""
    with pytest.raises(InvalidRequest) as caught:
        spawn(**fields)
    assert path in str(caught.value)


def test_a_mistyped_fence_is_refused() -> None:
    """An unknown field could be the fence that the caller believes in."""
    with pytest.raises(InvalidRequest, match="allowed_tools"):
        spawn(allowed_tools=["Read"])


@pytest.mark.parametrize("missing", ["agent_type", "prompt"])
def test_a_required_field_is_required(missing: str) -> None:
    """The guide requires these two."""
    body = {name: value for name, value in GOOD.items() if name != missing}
    with pytest.raises(InvalidRequest, match=missing):
        decode_request(json.dumps(body).encode(), SpawnRequest)


@pytest.mark.parametrize("field", ["agent_type", "resume_id", "create_session"])
def test_a_message_takes_no_field_of_a_spawn(field: str) -> None:
    """A session keeps its own label and id."""
    with pytest.raises(InvalidRequest, match=field):
        decode_request(json.dumps({"prompt": "p", field: "x"}).encode(), MessageRequest)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"agent_type":"a","prompt":"\xff"}',
        b'{"agent_type":"a","prompt":"\\ud800"}',
        b'{"agent_type":"a","prompt":"\\udc00\\ud800"}',
        b"[" * 100_000,
        b'{"agent_type":"a","prompt":"p","flags":' + b"[" * 100_000,
        b'{"agent_type":"a","prompt":"p"}x',
        b"\xef\xbb\xbf{}",
        b"NaN",
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    """Nothing but InvalidRequest may come out."""
    with pytest.raises(InvalidRequest):
        decode_request(body, SpawnRequest)


@pytest.mark.parametrize("tool", ["Read", "Bash(git log:*)", "Bash(a, b)", "mcp__x__y", "Edit(/a (b)/**)"])
def test_a_tool_rule_may_hold_blanks_and_commas_in_parentheses(tool: str) -> None:
    """Such a rule is one tool to the CLI too."""
    assert spawn(tools_allowed=[tool]).tools_allowed == (tool,)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_invalid(body: bytes) -> None:
    """No byte sequence raises anything else."""
    try:
        decode_request(body, SpawnRequest)
    except InvalidRequest:
        pass


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*SpawnRequest.__struct_fields__, "other"]), inner, max_size=7)
        ),
        max_leaves=12,
    )
)
def test_any_json_is_a_request_or_invalid(value: object) -> None:
    """No JSON value raises anything else."""
    try:
        decode_request(json.dumps(value).encode(), SpawnRequest)
    except InvalidRequest:
        pass


@given(st.text().filter(lambda text: text.strip() and "\0" not in text))
def test_a_prompt_stays_what_it_is(prompt: str) -> None:
    """Decoding changes no character."""
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        return
    assert spawn(prompt=prompt).prompt == prompt


def mutated(body: bytes) -> st.SearchStrategy[bytes]:
    """A good body with some bytes in place of others."""
    return st.builds(
        lambda at, length, new: body[:at] + new + body[at + length :],
        st.integers(0, len(body)),
        st.integers(0, 6),
        st.binary(max_size=6) | st.sampled_from([b"null", b"[[", b'\\ud800"', b"\\u0000", b"1e999", b"{}"]),
    )


FULL = json.dumps(
    {
        **GOOD,
        "flags": ["--max-turns", "3"],
        "tools_allowed": ["Read", "Bash(git log:*)"],
        "system_append": "s",
        "resume_id": "550e8400-e29b-41d4-a716-446655440000",
        "create_session": True,
    }
).encode()


def texts(request: SpawnRequest) -> list[str]:
    """Every text of a request, each of which a process argument may become."""
    found: list[str] = []
    for value in msgspec.structs.astuple(request):
        found += [value] if isinstance(value, str) else value if isinstance(value, tuple) else []
    return found


@settings(max_examples=400)
@given(mutated(FULL))
def test_a_damaged_body_is_a_request_or_an_error_that_can_be_answered(body: bytes) -> None:
    """Near a good body, where the decoder gets far; the error's text is always JSON."""
    try:
        request = decode_request(body, SpawnRequest)
    except InvalidRequest as error:
        refusal = error
    else:
        assert not any("\0" in text for text in texts(request))
        return
    assert json.loads(msgspec.json.encode({"error": str(refusal)}))["error"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"\\ud800":1}',
        b'{"agent_type":"a","prompt":"p","\xff":1}',
        b'{"agent_type":"a","prompt":"p","\\u0000":1}',
        b'{"agent_type":"a","prompt":{"a":' + b"[" * 200_000,
        b'{"agent_type":"a","prompt":"p","other":' + b"[" * 200_000,
        b'{"agent_type":"a","prompt":"p","flags":[' + b'{"a":' * 100_000,
        b'{"agent_type":"a","prompt":"p","create_session":1e400}',
        b'{"agent_type":"a","prompt":"p","create_session":' + b"9" * 5000 + b"}",
        '{"agent_type":"a","prompt":"p"}'.encode("utf-16"),
        b'{"agent_type":"a","prompt":"\xed\xa0\x80"}',
        b'{"agent_type":"a","prompt":"\xc0\x80"}',
        b'{"agent_type":"a","prompt":"a\nb"}',
    ],
    ids=range(12),
)
def test_an_odd_body_is_refused_with_words(body: bytes) -> None:
    """In a name, in a value, nested, huge, of another encoding: and the answer is short."""
    with pytest.raises(InvalidRequest) as caught:
        decode_request(body, SpawnRequest)
    assert msgspec.json.encode(str(caught.value))
    assert 0 < len(str(caught.value)) < 500


def test_a_body_without_the_optional_fields_is_complete() -> None:
    """Two fields are enough for a spawn, one for a message."""
    assert decode_request(b'{"agent_type":"a","prompt":"p"}', SpawnRequest) == SpawnRequest(
        agent_type="a", prompt="p"
    )
    assert decode_request(b' {"prompt" : "p"}\n', MessageRequest) == MessageRequest(prompt="p")


def test_every_field_arrives() -> None:
    """As it was sent."""
    assert decode_request(FULL, SpawnRequest) == SpawnRequest(
        agent_type="a",
        prompt="p",
        flags=("--max-turns", "3"),
        tools_allowed=("Read", "Bash(git log:*)"),
        system_append="s",
        resume_id="550e8400-e29b-41d4-a716-446655440000",
        create_session=True,
    )


@pytest.mark.parametrize("kind", [SpawnRequest, MessageRequest])
@pytest.mark.parametrize("field", ["prompt", "system_append", "flags", "tools_allowed", "agent_type"])
def test_no_text_may_hold_a_nul(kind: type[MessageRequest], field: str) -> None:
    """No process argument can: it would be cut there."""
    if field not in kind.__struct_fields__:
        return
    value: object = ["a\0b"] if field in {"flags", "tools_allowed"} else "a\0b"
    body = {**({"agent_type": "a"} if kind is SpawnRequest else {}), "prompt": "p", field: value}
    with pytest.raises(InvalidRequest, match=rf"NUL.*`\$\.{field}"):
        decode_request(json.dumps(body).encode(), kind)


def split_as_the_cli(text: str) -> list[str]:
    """Split at commas and blanks outside parentheses."""
    found, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if depth <= 0 and (character == "," or character.isspace()):
            found.append("")
        else:
            found[-1] += character
    return [tool for tool in found if tool]


@settings(max_examples=300)
@given(st.lists(st.text(alphabet="aB(), *:\t\u3000-", max_size=8), max_size=4))
def test_the_tools_that_are_accepted_are_the_tools_that_the_cli_reads(tools: list[str]) -> None:
    """No element becomes two, and none swallows the next: the fence is the caller's."""
    try:
        accepted = spawn(tools_allowed=tools).tools_allowed or ()
    except InvalidRequest:
        return
    assert split_as_the_cli(",".join(accepted)) == tools
