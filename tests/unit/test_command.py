"""The command line of a turn: golden, and safe against what a caller writes."""

from __future__ import annotations

import errno
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from q9gent import command
from q9gent.command import (
    ARGUMENT_BYTES,
    AgentFeatures,
    Turn,
    build_launch,
    largest_field,
    needs_features,
)
from q9gent.errors import TooLarge
from q9gent.wire.requests import MessageRequest

PROMPT_ARGUMENT_BYTES = 100_000
THIS_SYSTEMS = command.PROMPT_ARGUMENT_BYTES
OLD = "11111111-1111-4111-8111-111111111111"
NEW = "22222222-2222-4222-8222-222222222222"
STREAM = ["--output-format", "stream-json", "--verbose"]
SNAPSHOT = AgentFeatures(system_prompt_snapshot=True)


@pytest.fixture(autouse=True, scope="module")
def limit_where_prompts_may_be_arguments() -> Iterator[None]:
    """The same on every system."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "PROMPT_ARGUMENT_BYTES", PROMPT_ARGUMENT_BYTES)
        yield


def test_on_windows_every_prompt_goes_through_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of an argument is 0 there."""
    assert (0 if sys.platform == "win32" else PROMPT_ARGUMENT_BYTES) == THIS_SYSTEMS
    monkeypatch.setattr(command, "PROMPT_ARGUMENT_BYTES", 0)
    launch = build_launch(MessageRequest(prompt="x"), Turn(), agent=("claude",), features=AgentFeatures())
    assert (launch.stdin, list(launch.argv)) == (b"x", ["claude", "-p", *STREAM])


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
    on_stdin = MessageRequest(prompt="p" * (PROMPT_ARGUMENT_BYTES + 1), flags=("x",) * 10)
    assert largest_field(on_stdin) == "$.flags"


OPTIONAL = {
    "tools_allowed": (("Read", "Bash(a b)"), r" --allowedTools=Read,Bash\(a b\)"),
    "system_append": ("-be brief", r" --append-system-prompt=-be brief(?: --system-prompt-snapshot=off)?"),
    "flags": (("--max-turns", "3"), r" --max-turns 3"),
}
TURNS = {
    (): (Turn(), ""),
    ("new",): (Turn(new_id=NEW), f" --session-id={NEW}"),
    ("old",): (Turn(resume_id=OLD), f" --resume={OLD}"),
    ("new", "old"): (
        Turn(new_id=NEW, resume_id=OLD),
        f" --resume={OLD} --fork-session --session-id={NEW}",
    ),
}


@pytest.mark.parametrize("features", [AgentFeatures(), SNAPSHOT], ids=["old cli", "new cli"])
@pytest.mark.parametrize("turn", TURNS, ids="-".join)
@pytest.mark.parametrize("prompt", ["hello world", "-hello"])
@pytest.mark.parametrize(
    "given_fields",
    [chosen for count in range(4) for chosen in itertools.combinations(OPTIONAL, count)],
    ids="-".join,
)
def test_every_combination_is_the_documented_line(
    given_fields: tuple[str, ...], prompt: str, turn: tuple[str, ...], features: AgentFeatures
) -> None:
    """Each part there exactly if it was asked for, in the order that the module documents."""
    parts = {name: pattern if name in given_fields else "" for name, (_value, pattern) in OPTIONAL.items()}
    grammar = (
        "claude -p"
        + ("" if prompt.startswith("-") else f" {prompt}")
        + " --output-format stream-json --verbose"
        + parts["tools_allowed"]
        + parts["system_append"]
        + TURNS[turn][1]
        + parts["flags"]
    )
    line = argv(TURNS[turn][0], features, prompt=prompt, **{name: OPTIONAL[name][0] for name in given_fields})
    assert re.fullmatch(grammar, " ".join(line)), line
    wanted = "system_append" in given_fields and "old" in turn and features is SNAPSHOT
    assert ("--system-prompt-snapshot=off" in line) == wanted


@given(st.text(min_size=1).filter(lambda text: "\0" not in text), st.sampled_from(["", "-", "--", "\n", " "]))
def test_a_prompt_reaches_the_cli_exactly_once_and_unchanged(text: str, start: str) -> None:
    """In argv or on stdin, never both, byte for byte; else stdin is the null device."""
    prompt = start + text
    launch = build_launch(MessageRequest(prompt=prompt), Turn(), agent=("claude",), features=AgentFeatures())
    if launch.stdin is None:
        assert list(launch.argv) == ["claude", "-p", prompt, *STREAM]
        assert not prompt.startswith("-")
    else:
        assert list(launch.argv) == ["claude", "-p", *STREAM]
        assert launch.stdin.decode() == prompt


@pytest.mark.parametrize("unit", ["x", "é", "🎯"])
@pytest.mark.parametrize("over", [0, 1])
def test_the_edge_between_argument_and_stdin_is_counted_in_bytes(unit: str, over: int) -> None:
    """At the limit it is an argument, one byte over it is not."""
    count = PROMPT_ARGUMENT_BYTES // len(unit.encode())
    prompt = unit * count + "y" * (PROMPT_ARGUMENT_BYTES - count * len(unit.encode()) + over)
    assert len(prompt.encode()) == PROMPT_ARGUMENT_BYTES + over
    launch = build_launch(MessageRequest(prompt=prompt), Turn(), agent=("claude",), features=AgentFeatures())
    assert (launch.stdin is not None) == bool(over)


@pytest.mark.parametrize(
    ("field", "option", "wrap"),
    [
        ("system_append", "--append-system-prompt=", lambda text: text),
        ("tools_allowed", "--allowedTools=", lambda text: (text,)),
        ("flags", "", lambda text: (text,)),
    ],
)
def test_the_edge_of_an_argument_counts_its_option_and_its_end(
    field: str, option: str, wrap: Callable[[str], object]
) -> None:
    """The longest that the system takes passes, one byte more is refused."""
    room = ARGUMENT_BYTES - 1 - len(option)
    assert len(argv(**{field: wrap("x" * room)})[-1].encode()) == ARGUMENT_BYTES - 1
    for text in ("x" * (room + 1), "é" * (room // 2 + 1)):
        with pytest.raises(TooLarge, match=field):
            argv(**{field: wrap(text)})


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of Linux")
def test_the_limit_of_an_argument_is_the_systems() -> None:
    """Measured: the longest passes, one byte more is E2BIG."""
    longest = "x" * (ARGUMENT_BYTES - 1)
    subprocess.run([sys.executable, "-I", "-S", "-c", "", longest], timeout=60, check=True)
    with pytest.raises(OSError, match="Argument list too long") as caught:
        subprocess.run([sys.executable, "-I", "-S", "-c", "", longest + "x"], timeout=60, check=True)
    assert caught.value.errno == errno.E2BIG


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"flags": ("xx",)}, "$.flags"),
        ({"tools_allowed": ("xx",)}, "$.tools_allowed"),
        ({"system_append": "xx"}, "$.system_append"),
        ({"system_append": "é"}, "$.system_append"),
        ({}, "$.prompt"),
    ],
)
def test_each_field_can_be_the_largest(fields: dict[str, object], path: str) -> None:
    """Counted in bytes."""
    assert largest_field(MessageRequest(**{"prompt": "x", **fields})) == path  # type: ignore[arg-type]


def test_an_interpreter_stands_before_the_rest() -> None:
    """A script behind a launcher is started with its interpreter."""
    launch = build_launch(
        MessageRequest(prompt="hello"), Turn(), agent=("node", "cli.js"), features=AgentFeatures()
    )
    assert launch.argv[:4] == ("node", "cli.js", "-p", "hello")
