"""Bodies are decoded strictly: what is not understood is refused, with the field named."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
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


@given(st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_a_prompt_stays_what_it_is(prompt: str) -> None:
    """Decoding changes no character."""
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        return
    assert spawn(prompt=prompt).prompt == prompt
