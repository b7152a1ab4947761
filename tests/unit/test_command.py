"""The command line of a turn: golden, and safe against what a caller writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from q9gent.command import (
    ARGUMENT_BYTES,
    PROMPT_ARGUMENT_BYTES,
    AgentFeatures,
    Turn,
    build_launch,
    largest_field,
    needs_features,
)
from q9gent.errors import TooLarge
from q9gent.wire.requests import MessageRequest

OLD = "11111111-1111-4111-8111-111111111111"
NEW = "22222222-2222-4222-8222-222222222222"
STREAM = ["--output-format", "stream-json", "--verbose"]
SNAPSHOT = AgentFeatures(system_prompt_snapshot=True)


def argv(turn: Turn = Turn(), features: AgentFeatures = AgentFeatures(), **fields: object) -> list[str]:
    request = MessageRequest(**{"prompt": "hello", **fields})  # type: ignore[arg-type]
    return list(build_launch(request, turn, agent=("claude",), features=features).argv)


@pytest.mark.parametrize(
    ("turn", "features", "fields", "expected"),
    [
        (Turn(), AgentFeatures(), {}, ["-p", "hello", *STREAM]),
        (
            Turn(),
            AgentFeatures(),
            {"tools_allowed": ("Read", "Bash(git log:*)")},
            ["-p", "hello", *STREAM, "--allowedTools=Read,Bash(git log:*)"],
        ),
        (Turn(), AgentFeatures(), {"tools_allowed": ()}, ["-p", "hello", *STREAM]),
        (
            Turn(),
            SNAPSHOT,
            {"system_append": "-text"},
            ["-p", "hello", *STREAM, "--append-system-prompt=-text"],
        ),
        (Turn(new_id=NEW), AgentFeatures(), {}, ["-p", "hello", *STREAM, f"--session-id={NEW}"]),
        (Turn(resume_id=OLD), AgentFeatures(), {}, ["-p", "hello", *STREAM, f"--resume={OLD}"]),
        (
            Turn(new_id=NEW, resume_id=OLD),
            AgentFeatures(),
            {},
            ["-p", "hello", *STREAM, f"--resume={OLD}", "--fork-session", f"--session-id={NEW}"],
        ),
        (
            Turn(resume_id=OLD),
            SNAPSHOT,
            {"system_append": "s"},
            [
                "-p",
                "hello",
                *STREAM,
                "--append-system-prompt=s",
                "--system-prompt-snapshot=off",
                f"--resume={OLD}",
            ],
        ),
        (
            Turn(resume_id=OLD),
            AgentFeatures(),
            {"system_append": "s"},
            ["-p", "hello", *STREAM, "--append-system-prompt=s", f"--resume={OLD}"],
        ),
        (
            Turn(),
            AgentFeatures(),
            {"flags": ("--max-turns", "3")},
            ["-p", "hello", *STREAM, "--max-turns", "3"],
        ),
    ],
)
def test_the_command_is_as_specified(
    turn: Turn, features: AgentFeatures, fields: dict[str, object], expected: list[str]
) -> None:
    """Every part that a request can add, in its place."""
    assert argv(turn, features, **fields) == ["claude", *expected]


def test_only_an_append_to_a_resumed_session_needs_the_probe() -> None:
    """All other turns start without asking the CLI for its version."""
    with_append = MessageRequest(prompt="p", system_append="s")
    assert needs_features(with_append, Turn(resume_id=OLD))
    assert not needs_features(with_append, Turn(new_id=NEW))
    assert not needs_features(MessageRequest(prompt="p"), Turn(resume_id=OLD))


@pytest.mark.parametrize(
    "prompt", ["-x", "--version", "-", "x" * (PROMPT_ARGUMENT_BYTES + 1), "é" * PROMPT_ARGUMENT_BYTES]
)
def test_a_prompt_that_is_no_safe_argument_goes_through_stdin(prompt: str) -> None:
    """It would be an option of the CLI, or longer than an argument can be."""
    launch = build_launch(MessageRequest(prompt=prompt), Turn(), agent=("claude",), features=AgentFeatures())
    assert launch.stdin == prompt.encode()
    assert list(launch.argv) == ["claude", "-p", *STREAM]


@given(
    prompt=st.text(min_size=1),
    append=st.text(),
    tools=st.lists(st.text(min_size=1), max_size=3),
)
def test_nothing_a_caller_writes_becomes_an_option(prompt: str, append: str, tools: list[str]) -> None:
    """Besides ``flags``: every element is one of ours, or the prompt, which begins with no dash."""
    request = MessageRequest(prompt=prompt, system_append=append, tools_allowed=tuple(tools))
    try:
        launch = build_launch(request, Turn(resume_id=OLD), agent=("claude",), features=SNAPSHOT)
    except UnicodeEncodeError:  # a lone surrogate, which decoding has refused before
        return
    rest = list(launch.argv[1:])
    assert rest.pop(0) == "-p"
    if launch.stdin is None:
        assert rest.pop(0) == prompt
        assert not prompt.startswith("-")
    else:
        assert launch.stdin == prompt.encode()
    assert rest[:3] == STREAM
    ours = ("--allowedTools=", "--append-system-prompt=", "--system-prompt-snapshot=off", "--resume=")
    assert all(element.startswith(ours) for element in rest[3:])
    assert ("--append-system-prompt=" + append in rest) == bool(append)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"system_append": "x" * ARGUMENT_BYTES}, "$.system_append"),
        ({"tools_allowed": ("x" * ARGUMENT_BYTES,)}, "$.tools_allowed"),
        ({"flags": ("-v", "x" * ARGUMENT_BYTES)}, "$.flags[1]"),
    ],
)
def test_what_fits_no_argument_is_too_large_and_named(fields: dict[str, object], path: str) -> None:
    """Before the process is started."""
    with pytest.raises(TooLarge, match="argument") as caught:
        argv(**fields)
    assert f"`{path}`" in str(caught.value)


def test_the_longest_argument_passes() -> None:
    """One byte less than the limit, which counts the closing NUL."""
    assert len(argv(flags=("x" * (ARGUMENT_BYTES - 1),))[-1]) == ARGUMENT_BYTES - 1


def test_the_largest_field_is_named_when_the_system_refuses() -> None:
    """All arguments together may be too many."""
    assert largest_field(MessageRequest(prompt="p", flags=("x",) * 100)) == "$.flags"
    assert largest_field(MessageRequest(prompt="p" * 200, flags=("x",) * 10)) == "$.prompt"
