"""What the fuzzer cannot know from a schema: that the parentheses of a tool balance."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def filter_body(_context: schemathesis.HookContext, body: Any) -> bool:
    """Leave out what is refused for that reason alone."""
    tools = body.get("tools_allowed") if isinstance(body, dict) else None
    return not isinstance(tools, list) or all(map(_is_one_tool, tools))


def _is_one_tool(tool: Any) -> bool:
    """Tell whether nothing stands between tools, once what is in parentheses is taken out."""
    if not isinstance(tool, str):
        return True  # refused by the schema
    before = None
    while before != tool:
        before = tool
        start = tool.rfind("(")
        end = tool.find(")", start)
        if 0 <= start < end:
            tool = f"{tool[:start]}_{tool[end + 1 :]}"
    return not any(character in "(),\0" or character.isspace() for character in tool)
