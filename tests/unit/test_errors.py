"""Errors: one tree, each with its status."""

from __future__ import annotations

import json

import pytest

from q9gent import errors
from q9gent.errors import Q9gentError, RequestError, ServerError
from q9gent.http.problems import problem_response

CLASSES = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Q9gentError)
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_the_tree_at_the_top_of_the_module_is_true(kind: type[Q9gentError]) -> None:
    """Every class stands there, with its status if it is raised."""
    assert errors.__doc__ is not None
    line = next(line for line in errors.__doc__.splitlines() if kind.__name__ in line.split())
    if kind not in (Q9gentError, RequestError, ServerError):
        assert str(kind.status) in line.split()
        assert (400 <= kind.status < 500) == issubclass(kind, RequestError)


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (errors.SessionNotFound("x"), 404, {"error": "Session not found: x"}),
        (
            errors.ProcessSpawnFailed("No such file or directory"),
            500,
            {"error": "Process spawn failed: No such file or directory"},
        ),
        (
            errors.SurvivorsLeft((4, 5)),
            500,
            {"error": "Processes could not be killed: 4, 5", "survivors": [4, 5]},
        ),
        (errors.UnsupportedMedia(None), 415, {"error": "Content-Type must be application/json, got none"}),
    ],
)
def test_an_error_is_json(error: Q9gentError, status: int, body: dict[str, object]) -> None:
    """With the guide's wording where it has one."""
    response = problem_response(error)
    assert response.status_code == status
    assert response.content_type == "application/json"
    assert json.loads(response.response.data) == body  # type: ignore[union-attr]


def test_what_may_pass_says_when_to_come_again() -> None:
    """503 carries Retry-After."""
    for error in (errors.AtCapacity("full", retry_after_seconds=7), errors.ShuttingDown()):
        assert int(problem_response(error).headers["retry-after"]) >= 1


def test_a_lost_containment_claims_no_death() -> None:
    """Neither dead nor alive is said of what nobody can see."""
    assert "not known" in str(errors.SurvivorsLeft(None))
