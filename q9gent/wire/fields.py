r"""Field types that several messages share, with what a description (``openapi``) says of them.

The patterns are JSON Schema's, so they are read by engines of several languages: no ``\s``, which is not
the same set in any two of them, and a ``$`` only where a line end before it makes no difference. They say
what ``requests`` enforces, which has better words for it than a regular expression; a test compares the two.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

_SPACE = r"\t-\r\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""What ``str.isspace`` says yes to, as the inside of a character class."""

TEXT_PATTERN = r"^[^\u0000]*$"
PROMPT_PATTERN = rf"^[{_SPACE}]*[^\u0000{_SPACE}][^\u0000]*$"
TOOL_PATTERN = rf"^[^\u0000,){_SPACE}]([^\u0000]*[^\u0000,({_SPACE}])?$"
"""Necessary, not sufficient: that parentheses balance is no regular language."""

_UUID_SCHEMA = {
    "format": "uuid",
    "pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
    "minLength": 36,
    "maxLength": 36,
}

Uuid = Annotated[str, Meta(extra_json_schema=_UUID_SCHEMA)]
Text = Annotated[str, Meta(extra_json_schema={"pattern": TEXT_PATTERN})]
Prompt = Annotated[str, Meta(extra_json_schema={"pattern": PROMPT_PATTERN, "minLength": 1})]
Tool = Annotated[str, Meta(extra_json_schema={"pattern": TOOL_PATTERN, "minLength": 1})]
Count = Annotated[int, Meta(ge=0)]
UnixSeconds = Annotated[int, Meta(extra_json_schema={"format": "int64"})]
