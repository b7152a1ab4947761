"""The description of the HTTP API, OpenAPI 3.1, made of the types that the server decodes and encodes.

``operations`` says which of them belong to which route; schemas, fields and bounds come from the structs, the
errors from their classes. Tests compare it with the application's routes, the error tree and the events, and
run a fuzzer that believes every word of it against the server. The copy in the docs is made so::

    python -m q9gent.wire.openapi > docs/reference/openapi.json

The ``schema`` of a stream is that of one event of it, as a server-sent event whose ``data`` is JSON of type
``Event``. OpenAPI has a word of its own for that only from 3.2 on, ``itemSchema``, which fewer tools know and
a validator of 3.1 refuses; before it, tools that read streams at all read ``schema`` so.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import msgspec

from q9gent._version import __version__
from q9gent.wire.answers import INTERNAL_ERROR, Problem
from q9gent.wire.events import Event
from q9gent.wire.fields import Uuid
from q9gent.wire.operations import (
    ANYWHERE,
    HEADERS_TOO_LARGE,
    JSON,
    LINKS,
    METRICS,
    OPERATIONS,
    PARAMETERS,
    PROBLEMS,
    STREAM,
    Operation,
)

if TYPE_CHECKING:
    from q9gent.errors import Q9gentError

SCHEMAS = "#/components/schemas/"
EXAMPLES = "#/components/examples/"
DESCRIPTION = """\
A request starts one headless Claude CLI; what it prints streams back as server-sent events. When a run ends,
for whatever reason, every process that it started is dead before anybody is told.

Every error is JSON, also a 404 for a path that is none of these and a 405 with an `allow` header. Where
there is a `GET` there is a `HEAD`. Bodies are decoded strictly: an unknown member is a 400."""


def document(*, metrics: bool) -> dict[str, Any]:
    """Return the description.

    Args:
        metrics: Whether there is ``/metrics``.
    """
    operations = [*OPERATIONS, METRICS] if metrics else OPERATIONS
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "q9gent",
            "version": __version__,
            "summary": "One headless Claude CLI a request, and nothing left alive after it.",
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "examples": {
                kind.__name__: {"summary": _first_line(kind), "value": {"error": str(error), **error.facts}}
                for kind, error in PROBLEMS.items()
            },
        },
    }


@functools.cache
def document_json(*, metrics: bool) -> bytes:
    """Return the description as JSON for machines and people."""
    return msgspec.json.format(msgspec.json.encode(document(metrics=metrics)), indent=2) + b"\n"


def _schemas() -> dict[str, Any]:
    kinds = [operation.body for operation in OPERATIONS if operation.body is not None]
    kinds += [operation.answer for operation in OPERATIONS if isinstance(operation.answer, type)]
    (event, *_), components = msgspec.json.schema_components(
        [Event, Problem, *kinds], ref_template=SCHEMAS + "{name}"
    )
    # One of these by its tag: oneOf says what anyOf only allows.
    event = {"title": "Event", "description": "One event of a stream.", **event, "oneOf": event.pop("anyOf")}
    return {"Event": event, **components}


def _operation(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary}
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": description,
            "schema": msgspec.json.schema(Uuid),
        }
        for name, description in PARAMETERS.items()
        if f"{{{name}}}" in operation.path
    ]
    if parameters:
        found["parameters"] = parameters
    if operation.body is not None:
        content = {JSON: {"schema": {"$ref": SCHEMAS + operation.body.__name__}}}
        found["requestBody"] = {"required": True, "content": content}
    found["responses"] = {"200": _answer(operation), **_problems(operation.problems)}
    return found


def _answer(operation: Operation) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": operation.summary}
    if isinstance(operation.answer, type):
        answer["description"] = _first_line(operation.answer)
        answer["content"] = {JSON: {"schema": {"$ref": SCHEMAS + operation.answer.__name__}}}
    elif operation.answer == STREAM:
        answer["description"] = (
            "The process runs. `session_created` first, if asked for; any number of `output`; then exactly"
            " one of `completed` and `error`, after every process of the run is dead. Comment lines fill"
            " silences."
        )
        answer["headers"] = {
            "x-q9gent-run-id": {
                "required": True,
                "description": "The run's id, for /terminate.",
                "schema": msgspec.json.schema(Uuid),
            }
        }
        answer["content"] = {
            STREAM: {
                "schema": {
                    "description": "One event. There are no `event`, `id` and `retry` fields.",
                    "type": "object",
                    "required": ["data"],
                    "properties": {
                        "data": {
                            "type": "string",
                            "contentMediaType": JSON,
                            "contentSchema": {"$ref": SCHEMAS + "Event"},
                        }
                    },
                },
            }
        }
    elif operation.answer == JSON:
        answer["content"] = {JSON: {"schema": {"type": "object"}}}
    else:
        answer["content"] = {operation.answer: {"schema": {"type": "string"}}}
    if operation.name in LINKS:
        answer["links"] = LINKS[operation.name]
    return answer


def _problems(kinds: tuple[type[Q9gentError], ...]) -> dict[str, Any]:
    """Return the answers that are errors: one a status, with an example for each class."""
    by_status: dict[int, list[type[Q9gentError]]] = {431: [], 500: []}
    for kind in (*ANYWHERE, *kinds):
        by_status.setdefault(kind.status, []).append(kind)
    found = {}
    for status, members in sorted(by_status.items()):
        descriptions = [_first_line(kind) for kind in members]
        if status == 431:
            descriptions.append(f"{HEADERS_TOO_LARGE}.")
        if status == 500:
            descriptions.append(f"A defect of the server's: `{INTERNAL_ERROR}`.")
        content: dict[str, Any] = {"schema": {"$ref": SCHEMAS + "Problem"}}
        if members:
            content["examples"] = {kind.__name__: {"$ref": EXAMPLES + kind.__name__} for kind in members}
        found[str(status)] = {
            "description": " ".join(descriptions),
            "content": {JSON: content},
        }
        if any("retry-after" in PROBLEMS[kind].headers for kind in members):
            found[str(status)]["headers"] = {
                "retry-after": {
                    "required": True,
                    "description": "When to come again, in seconds.",
                    "schema": {"type": "integer", "minimum": 1},
                }
            }
    return found


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


if __name__ == "__main__":
    print(document_json(metrics=True).decode(), end="")  # noqa: T201 (its purpose)
