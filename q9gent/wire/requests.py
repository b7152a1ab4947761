"""Request bodies: decoded strictly, so that what is not understood is refused and not dropped.

A mistyped ``allowed_tools`` that was silently ignored would remove the caller's fence; an unknown
field is therefore an error, as is a wrong type, a NUL (no process argument can hold one), a lone
surrogate and invalid UTF-8.
"""

from __future__ import annotations

import re
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from q9gent.errors import InvalidRequest
from q9gent.wire.fields import Prompt, Text, Tool, Uuid

UUID_PATTERN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")
"""A canonical lower-case UUID: the only form that becomes a file name or a ``--resume``."""


class MessageRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /message/{session_id}``. ``null`` means the default."""

    prompt: Annotated[Prompt, Meta(description="The prompt, passed on unchanged; not empty.")]
    flags: Annotated[
        tuple[Text, ...] | None,
        Meta(description="Raw CLI arguments, last on its command line; not checked."),
    ] = None
    tools_allowed: Annotated[
        tuple[Tool, ...] | None,
        Meta(
            description="Tools approved beforehand (`--allowedTools`), which is no fence. One tool an"
            " element: no comma or white space outside balanced parentheses."
        ),
    ] = None
    system_append: Annotated[Text | None, Meta(description="Text appended to the system prompt.")] = None


class SpawnRequest(MessageRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /spawn``. ``null`` means the default."""

    agent_type: Annotated[
        Text, Meta(description="A label of the caller's; stored and listed, never given to the CLI.")
    ]
    resume_id: Annotated[
        Uuid | None,
        Meta(description="Continue this conversation; it need not be a stored session."),
    ] = None
    create_session: Annotated[
        bool | None,
        Meta(
            description="Start a conversation whose id is stored and told first; with `resume_id`, fork that"
            " one."
        ),
    ] = None


_RequestT = TypeVar("_RequestT", bound=MessageRequest)

_DECODERS: dict[type[MessageRequest], msgspec.json.Decoder[MessageRequest]] = {
    MessageRequest: msgspec.json.Decoder(MessageRequest),
    SpawnRequest: msgspec.json.Decoder(SpawnRequest),
}


def decode_request(body: bytes, kind: type[_RequestT]) -> _RequestT:
    """Decode and check a body.

    Args:
        body: The whole body.
        kind: ``SpawnRequest`` or ``MessageRequest``.

    Raises:
        InvalidRequest: It is not what it must be; the text names the field at fault.
    """
    try:
        request = _DECODERS[kind].decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)) from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}") from error
    except UnicodeDecodeError as error:  # no MsgspecError: it would pass the two above
        raise InvalidRequest(f"The body is not valid UTF-8: {error.reason}") from error
    except RecursionError as error:
        raise InvalidRequest("The body is nested too deeply") from error
    assert isinstance(request, kind)
    _check_text(request)
    return request


def _check_text(request: MessageRequest) -> None:
    for field in request.__struct_fields__:
        value = getattr(request, field)
        if isinstance(value, str):
            _refuse_nul(value, f"$.{field}")
        elif isinstance(value, tuple):
            for index, element in enumerate(value):
                _refuse_nul(element, f"$.{field}[{index}]")
    if not request.prompt.strip():  # the CLI refuses white space alone, too, but says so to nobody
        raise InvalidRequest("Expected a prompt that is not empty - at `$.prompt`")
    for index, tool in enumerate(request.tools_allowed or ()):
        _check_tool(tool, f"$.tools_allowed[{index}]")
    resume_id = request.resume_id if isinstance(request, SpawnRequest) else None
    # The CLI would also take the path of a transcript: a file of the caller's choice.
    if resume_id is not None and not UUID_PATTERN.match(resume_id):
        raise InvalidRequest("Expected a lower-case UUID - at `$.resume_id`")


def _refuse_nul(text: str, path: str) -> None:
    if "\0" in text:
        raise InvalidRequest(f"NUL characters are not allowed - at `{path}`")


def _check_tool(tool: str, path: str) -> None:
    """Refuse what the CLI would read as two tools, as it splits its list at commas and blanks.

    Inside parentheses, as in ``Bash(git log:*)``, both are part of the one rule.
    """
    depth = 0
    for character in tool:
        depth += (character == "(") - (character == ")")
        if depth < 0 or (depth == 0 and (character == "," or character.isspace())):
            break
    else:
        if tool and depth == 0:
            return
    raise InvalidRequest(
        f"Expected one tool: not empty, no comma or white space outside balanced parentheses - at `{path}`"
    )
