"""The description of the API: what it says is what the application routes, takes, raises and sends."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any, get_args

import jsonschema
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openapi_spec_validator import validate

from q9gent import errors
from q9gent.errors import InvalidRequest, Q9gentError, TooLarge
from q9gent.http.app import create_app
from q9gent.http.http1 import ERROR_TEXTS
from q9gent.settings import Settings
from q9gent.wire import answers
from q9gent.wire.events import Code, Event
from q9gent.wire.openapi import document, document_json
from q9gent.wire.operations import HEADERS_TOO_LARGE, OPERATIONS, PROBLEMS
from q9gent.wire.requests import MessageRequest, SpawnRequest, decode_request

DOCUMENT = document(metrics=True)
SCHEMAS = DOCUMENT["components"]["schemas"]
COPY = Path(__file__).resolve().parents[2] / "docs/reference/openapi.json"


def operations() -> list[Any]:
    """Each operation with its method and path, as test parameters."""
    return [
        pytest.param(method, path, operation, id=f"{method} {path}")
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    ]


def leaves() -> set[type[Q9gentError]]:
    """The errors that are raised."""
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    return {kind for kind in kinds if issubclass(kind, Q9gentError) and not kind.__subclasses__()}


def validator(name: str) -> jsonschema.Draft202012Validator:
    """A validator of a component."""
    # In an engine of regular expressions whose "$" is also before a last line end, as in Python.
    return jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{name}", **DOCUMENT})


def test_it_is_valid_openapi() -> None:
    """By the specification's own schema."""
    validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1.")


@pytest.mark.parametrize("metrics", [True, False])
def test_every_route_is_described_and_no_other(metrics: bool) -> None:
    """Methods, paths and the names of their parameters are those that are routed."""
    routed = {
        (method.lower(), re.sub("<([^>]*)>", r"{\1}", rule.rule))
        for rule in create_app(Settings(metrics=metrics)).url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = {
        (method, path) for path, methods in document(metrics=metrics)["paths"].items() for method in methods
    }
    assert described == routed


@pytest.mark.parametrize(("_method", "path", "operation"), operations())
def test_every_parameter_of_a_path_is_described(_method: str, path: str, operation: dict[str, Any]) -> None:
    """As OpenAPI requires: each and no other."""
    names = [parameter["name"] for parameter in operation.get("parameters", [])]
    assert names == re.findall("{([^}]*)}", path)


def test_every_error_is_described_under_its_status() -> None:
    """The leaves of the error tree, each with an example at each operation that answers with it."""
    assert set(PROBLEMS) == leaves()
    assert set(DOCUMENT["components"]["examples"]) == {kind.__name__ for kind in leaves()}
    found: dict[str, set[str]] = {}
    for operation in (parameter.values[2] for parameter in operations()):
        for status, response in operation["responses"].items():
            for name in response["content"].get("application/json", {}).get("examples", {}):
                found.setdefault(name, set()).add(status)
    assert found == {kind.__name__: {str(kind.status)} for kind in leaves()}


@pytest.mark.parametrize("kind", sorted(PROBLEMS, key=lambda kind: kind.__name__))
def test_every_example_of_an_error_fits_its_schema(kind: type[Q9gentError]) -> None:
    """And is one of its class."""
    assert type(PROBLEMS[kind]) is kind
    value = DOCUMENT["components"]["examples"][kind.__name__]["value"]
    validator("Problem").validate(json.loads(msgspec.json.encode(value)))


@pytest.mark.parametrize(("_method", "_path", "operation"), operations())
def test_every_answer_that_may_pass_says_when(_method: str, _path: str, operation: dict[str, Any]) -> None:
    """503 and no other has `retry-after`."""
    having = {
        status
        for status, response in operation["responses"].items()
        if "retry-after" in response.get("headers", {})
    }
    assert having == set(operation["responses"]) & {"503"}


def test_streams_name_their_run() -> None:
    """`x-q9gent-run-id` is described where a run is started, and nowhere else."""
    naming = {
        operation["operationId"]
        for operation in (parameter.values[2] for parameter in operations())
        if "x-q9gent-run-id" in operation["responses"]["200"].get("headers", {})
    }
    assert naming == {"spawn", "message"}


def test_every_event_is_described() -> None:
    """The discriminated union of a stream is the one of the code, with each field and code."""
    event = SCHEMAS["Event"]
    tags = {kind.__struct_config__.tag: kind for kind in get_args(Event)}
    assert set(event["discriminator"]["mapping"]) == set(tags)
    assert len(event["oneOf"]) == len(tags)
    for tag, kind in tags.items():
        schema = SCHEMAS[event["discriminator"]["mapping"][tag].rpartition("/")[2]]
        assert set(schema["properties"]) == {"type", *kind.__struct_fields__}
    assert SCHEMAS["Failed"]["properties"]["code"]["enum"] == sorted(get_args(Code))


def answer_types() -> set[type[msgspec.Struct]]:
    """The structs of the answers' module."""
    return {
        value
        for value in vars(answers).values()
        if isinstance(value, type) and issubclass(value, msgspec.Struct)
    }


@pytest.mark.parametrize(
    "kind",
    [*sorted(answer_types(), key=lambda kind: kind.__name__), SpawnRequest, MessageRequest],
    ids=lambda kind: kind.__name__,
)
def test_every_struct_is_described(kind: type[msgspec.Struct]) -> None:
    """Each field by its encoded name, and whether it is required."""
    schema = SCHEMAS[kind.__name__]
    fields = msgspec.structs.fields(kind)
    assert set(schema["properties"]) == {field.encode_name for field in fields}
    assert set(schema["required"]) == {field.encode_name for field in fields if field.required}


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_and_field_has_words(name: str) -> None:
    """One line for a schema; the tag of an event needs none."""
    schema = SCHEMAS[name]
    assert schema["description"]
    assert "\n" not in schema["description"]
    for field, described in schema.get("properties", {}).items():
        assert field == "type" or described["description"].endswith("."), field


def test_every_struct_that_routes_use_is_described() -> None:
    """The routes' module imports no answer that no operation has."""
    described = {operation.answer for operation in OPERATIONS if isinstance(operation.answer, type)}
    routes = importlib_routes()
    used = {value for value in vars(routes).values() if inspect.isclass(value) and value in answer_types()}
    assert used - described == {answers.LiveRun}  # a part of RunList


def importlib_routes() -> Any:
    """The module of the routes."""
    from q9gent.http import routes  # noqa: PLC0415

    return routes


def test_texts_that_are_quoted_are_those_that_are_sent() -> None:
    """By the protocol, before there is a route."""
    assert ERROR_TEXTS[431] == HEADERS_TOO_LARGE


def test_the_copy_in_the_docs_is_this_one() -> None:
    """Made again by `python -m q9gent.wire.openapi > docs/reference/openapi.json`."""
    assert COPY.read_bytes() == document_json(metrics=True)


# What the schemas say of bodies, and what the server takes.

HARD_TEXTS = st.text(st.sampled_from(sorted("a(), \t\n\0\x1c\x85\u00a0\u2028\ufeff\U0001f3af*:")), max_size=8)


def accepts(body: dict[str, object], kind: type[MessageRequest]) -> bool:
    """Whether the server takes a body."""
    try:
        decode_request(msgspec.json.encode(body), kind)
    except (InvalidRequest, TooLarge):
        return False
    return True


@given(HARD_TEXTS)
@example("")
@example("\0")
@example("\x1c")
@example("\ufeff")
@example("a\n")
def test_a_prompt_fits_the_schema_if_and_only_if_it_is_taken(prompt: str) -> None:
    """White space of any script is no prompt, and no NUL can be given to a process."""
    body = {"prompt": prompt}
    assert validator("MessageRequest").is_valid(body) == accepts(body, MessageRequest)


def test_white_space_is_what_python_takes_for_it() -> None:
    """For each character that there is: the pattern names them, as engines differ."""
    pattern = re.compile(SCHEMAS["MessageRequest"]["properties"]["prompt"]["pattern"])
    for number in {*range(0xD800), *range(0xE000, 0x11000)}:
        assert bool(pattern.match(chr(number))) == bool(number and chr(number).strip()), hex(number)


@given(st.lists(HARD_TEXTS, max_size=2))
@example(["Bash(git log:*)"])
@example(["a,b"])
@example(["a b"])
@example([""])
def test_no_tool_that_is_taken_breaks_the_schema(tools: list[str]) -> None:
    """The other way round balanced parentheses are missing, which no pattern can ask for."""
    body = {"prompt": "x", "tools_allowed": tools}
    assert validator("MessageRequest").is_valid(body) or not accepts(body, MessageRequest)


@pytest.mark.parametrize("tool", ["a,b", "a b", " a", "a ", ",", ")", "", "a\0", "a(", "\u2028a"])
def test_the_schema_of_a_tool_refuses(tool: str) -> None:
    """As far as a pattern can, it says what is refused, too."""
    body = {"prompt": "x", "tools_allowed": [tool]}
    assert not accepts(body, MessageRequest)
    assert not validator("MessageRequest").is_valid(body) or tool in {"a,b", "a b"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("flags", ["\0"]),
        ("flags", "x"),
        ("system_append", "\0"),
        ("system_append", None),
        ("agent_type", "\0"),
        ("agent_type", None),
        ("agent_type", ""),
        ("resume_id", "x"),
        ("resume_id", "00000000-0000-4000-8000-00000000000A"),
        ("resume_id", "00000000-0000-4000-8000-000000000000"),
        ("create_session", 1),
        ("create_session", None),
        ("unknown", "x"),
    ],
)
def test_a_field_fits_the_schema_if_and_only_if_it_is_taken(field: str, value: object) -> None:
    """Of `/spawn`, which has all of them."""
    body = {"agent_type": "t", "prompt": "x", field: value}
    assert validator("SpawnRequest").is_valid(body) == accepts(body, SpawnRequest)
