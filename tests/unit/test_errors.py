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


RAISED = [kind for kind in CLASSES if kind not in (Q9gentError, RequestError, ServerError)]

SAMPLES: list[tuple[Q9gentError, int]] = [
    (errors.InvalidRequest("x"), 400),
    (errors.SessionNotFound("x"), 404),
    (errors.RunNotFound("x"), 404),
    (errors.BodyTimeout(1.5), 408),
    (errors.SessionBusy("x"), 409),
    (errors.TooLarge("x"), 413),
    (errors.UnsupportedMedia("text/plain"), 415),
    (errors.MisdirectedRequest("evil.example"), 421),
    (errors.ProcessSpawnFailed("x"), 500),
    (errors.SessionStoreFailed("x"), 500),
    (errors.SurvivorsLeft((1,)), 500),
    (errors.SurvivorsLeft(None), 500),
    (errors.AtCapacity("x", retry_after_seconds=1), 503),
    (errors.ShuttingDown(), 503),
]


def test_no_error_is_without_a_sample() -> None:
    """Whoever adds one adds its status here."""
    assert {type(error) for error, _status in SAMPLES} == set(RAISED)


@pytest.mark.parametrize(("error", "status"), SAMPLES, ids=lambda value: type(value).__name__)
def test_every_error_is_json_with_its_status(error: Q9gentError, status: int) -> None:
    """An object whose `error` is its text, and nothing of one error in another's."""
    response = problem_response(error)
    assert (response.status_code, error.status) == (status, status)
    assert response.content_type == "application/json"
    body = json.loads(response.response.data)  # type: ignore[union-attr]
    assert body.pop("error") == str(error) != ""
    assert set(body) == ({"survivors"} if isinstance(error, errors.SurvivorsLeft) else set())
    assert ("retry-after" in response.headers) == (status == 503)


def test_the_facts_of_one_error_are_not_anothers() -> None:
    """Each has its own."""
    one, other = errors.InvalidRequest("x"), errors.InvalidRequest("y")
    one.facts["a"] = 1
    one.headers["b"] = "2"
    assert other.facts == {}
    assert other.headers == {}


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31m", "é🎯", '"quoted"', "\x00", "x" * 1000])
def test_what_a_caller_sent_is_data_in_the_answer(text: str) -> None:
    """It can end neither the JSON nor a header."""
    for error in (
        errors.SessionNotFound(text),
        errors.RunNotFound(text),
        errors.UnsupportedMedia(text),
        errors.MisdirectedRequest(text),
    ):
        response = problem_response(error)
        assert json.loads(response.response.data) == {"error": str(error)}  # type: ignore[union-attr]
        assert text not in str(response.headers)


def test_no_error_is_raised_that_is_not_in_the_tree() -> None:
    """Every class of the module is a `Q9gentError`."""
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert [value for value in classes if value.__module__ == errors.__name__] == CLASSES
