"""What stands on a command line, checked and taken apart. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable


def unicode_text(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:  # noqa: ANN401
    """Return an option's text, or texts; bytes of a command line that are not UTF-8 are bad usage."""
    for text in (value,) if isinstance(value, str) else value or ():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise click.BadParameter("it is not valid UTF-8") from error
    return value


def split_tools(values: Iterable[str]) -> list[str]:
    """Return the tools of ``--tools A,B``; a comma inside parentheses, as in ``Bash(a,b)``, is a tool's."""
    found = [""]
    for value in values:
        depth = 0
        for character in value:
            depth += (character == "(") - (character == ")")
            if character == "," and depth <= 0:
                found.append("")
            else:
                found[-1] += character
        found.append("")
    return [tool.strip() for tool in found if tool.strip()]
