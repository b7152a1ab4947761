"""The command line of one turn: a pure function of the request.

    claude -p PROMPT --output-format stream-json --verbose [--allowedTools=A,B]
           [--append-system-prompt=S] [--resume=ID] [--session-id=ID] [FLAGS…]

What a caller writes must stay what it is. The values of options are given in the ``--option=value``
form, so none can become an option of its own. A prompt that the CLI would take for an option, or that
is long, goes through standard input instead, and on Windows every prompt. ``flags`` alone is raw, last, and
the caller's responsibility.
"""

from __future__ import annotations

import sys

import msgspec

from q9gent.containment.protocol import Launch
from q9gent.errors import TooLarge
from q9gent.wire.requests import MessageRequest

ARGUMENT_BYTES = 128 * 1024
"""Linux's MAX_ARG_STRLEN: one argument with its closing NUL may be no longer (else E2BIG)."""

PROMPT_ARGUMENT_BYTES = 0 if sys.platform == "win32" else 100_000
"""Longer prompts go through standard input: safely below the limit of one argument. On Windows all do: a
whole command line may have 32,767 characters there, and programs take theirs apart by rules of their own."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """Which conversation a run belongs to.

    Attributes:
        new_id: Start a conversation under this id (``create_session``).
        resume_id: Continue this one; together with ``new_id``, fork it and leave it as it is.
    """

    new_id: str | None = None
    resume_id: str | None = None


class AgentFeatures(msgspec.Struct, frozen=True):
    """What only some versions of the CLI know.

    Attributes:
        system_prompt_snapshot: It keeps a session's system prompt, and ``--append-system-prompt`` has
            no effect on a resumed session unless ``--system-prompt-snapshot=off`` is given. Versions
            that do not know the option refuse to start with it.
    """

    system_prompt_snapshot: bool = False


def needs_features(request: MessageRequest, turn: Turn) -> bool:
    """Tell whether ``AgentFeatures`` change the command, so that others need not wait for a probe."""
    return bool(request.system_append) and turn.resume_id is not None


def build_launch(
    request: MessageRequest, turn: Turn, *, agent: tuple[str, ...], features: AgentFeatures
) -> Launch:
    """Return what to start for a request.

    Args:
        request: The decoded body.
        turn: The conversation.
        agent: The program and, where a script has one, its interpreter's arguments.
        features: What the installed version knows.

    Raises:
        TooLarge: A field does not fit into an argument; the text names it.
    """
    on_stdin = _prompt_needs_stdin(request.prompt)
    argv = [*agent, "-p"]
    if not on_stdin:
        argv.append(request.prompt)
    argv += ["--output-format", "stream-json", "--verbose"]
    if request.tools_allowed:
        argv.append(_fitting("--allowedTools=" + ",".join(request.tools_allowed), "tools_allowed"))
    if request.system_append:
        argv.append(_fitting("--append-system-prompt=" + request.system_append, "system_append"))
        if turn.resume_id is not None and features.system_prompt_snapshot:
            argv.append("--system-prompt-snapshot=off")
    if turn.resume_id is not None:
        argv.append(f"--resume={turn.resume_id}")
        if turn.new_id is not None:
            argv.append("--fork-session")
    if turn.new_id is not None:
        argv.append(f"--session-id={turn.new_id}")
    for index, flag in enumerate(request.flags or ()):
        argv.append(_fitting(flag, f"flags[{index}]"))
    return Launch(argv=tuple(argv), stdin=request.prompt.encode() if on_stdin else None)


def largest_field(request: MessageRequest) -> str:
    """Return the JSON path of the field that takes most room, for when the system says E2BIG."""
    sizes = {
        "$.flags": sum(len(flag.encode()) + 1 for flag in request.flags or ()),
        "$.tools_allowed": sum(len(tool.encode()) + 1 for tool in request.tools_allowed or ()),
        "$.system_append": len((request.system_append or "").encode()),
        "$.prompt": 0 if _prompt_needs_stdin(request.prompt) else len(request.prompt.encode()),
    }
    return max(sizes, key=lambda path: sizes[path])


def _prompt_needs_stdin(prompt: str) -> bool:
    # A bare word that is also a subcommand (`update`, `mcp`) is safe: after -p it is the prompt
    # (measured with 2.1.197 and 2.1.330).
    return prompt.startswith("-") or len(prompt.encode()) > PROMPT_ARGUMENT_BYTES


def _fitting(argument: str, field: str) -> str:
    if len(argument.encode()) >= ARGUMENT_BYTES:
        raise TooLarge(f"Longer than a process argument can be - at `$.{field}`")
    return argument
