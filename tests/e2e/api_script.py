"""What the stand-in of the Messages API is told: the call that came, and the reply to give."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import threading

REMINDER = "<system-reminder>"


@dataclass(frozen=True)
class Call:
    """One `POST /v1/messages` as it came."""

    body: dict[str, Any]

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def streaming(self) -> bool:
        return bool(self.body.get("stream", False))

    @property
    def tool_names(self) -> list[str]:
        """The tools that the model is offered."""
        return [str(tool.get("name")) for tool in self.body.get("tools") or []]

    @property
    def is_turn(self) -> bool:
        """Whether this is the agent's own turn: an errand (a title, a quota check) has no tools."""
        return bool(self.tool_names)

    @property
    def system(self) -> str:
        """The system prompt's blocks, and system messages among the turns, as one text."""
        texts = _texts(self.body.get("system") or [])
        for message in self.body.get("messages") or []:
            if message.get("role") == "system":
                texts += _texts(message.get("content"))
        return "\n".join(texts)

    @property
    def prompts(self) -> list[str]:
        """The texts of the user's turns, oldest first, without the CLI's own reminders."""
        found: list[str] = []
        for message in self.body.get("messages") or []:
            if message.get("role") != "user":
                continue
            found += [text for text in _texts(message.get("content")) if not _is_reminder(text)]
        return found

    @property
    def prompt(self) -> str:
        """The newest user turn."""
        return self.prompts[-1] if self.prompts else ""

    @property
    def tool_results(self) -> list[str]:
        """The results of tools that came back after the newest prompt."""
        found: list[str] = []
        for message in self.body.get("messages") or []:
            if message.get("role") != "user":
                continue
            content = message.get("content")
            blocks = content if isinstance(content, list) else []
            results = [block for block in blocks if block.get("type") == "tool_result"]
            if results:
                found += ["".join(_texts(block.get("content") or [])) for block in results]
            elif any(not _is_reminder(text) for text in _texts(content)):
                found = []
        return found


@dataclass(frozen=True)
class Text:
    """An answer in words, sent in `pieces` with `interval_seconds` between them."""

    text: str
    pieces: int = 1
    interval_seconds: float = 0.0


@dataclass(frozen=True)
class ToolUse:
    """An answer that asks for a tool."""

    name: str
    input: dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """An error of the API."""

    status: int
    kind: str
    message: str = "the stand-in was told to fail"


@dataclass(frozen=True)
class Held:
    """An answer that is begun, then held until it is released."""

    released: threading.Event
    reply: Text = field(default_factory=lambda: Text("released"))


Reply = Text | ToolUse | Failure | Held
Script = Callable[[Call], Reply]


def describe(call: Call) -> Reply:
    """The answer without a script: how many user turns came, and the first words of each."""
    heads = [prompt.strip()[:40] for prompt in call.prompts]
    return Text(f"turns={len(heads)} {json.dumps(heads)}")


def tool_then_text(use: ToolUse, text: str = "the tool has answered") -> Script:
    """Ask for `use` once a prompt; answer `text` when its result has come back."""

    def script(call: Call) -> Reply:
        if not call.is_turn:
            return Text("aside")
        return Text(text) if call.tool_results else use

    return script


def _texts(content: object) -> list[str]:
    """The text blocks of a message's or a tool result's content."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        return []
    return [
        str(block["text"]) for block in content if isinstance(block, dict) and block.get("type") == "text"
    ]


def _is_reminder(text: str) -> bool:
    return text.lstrip().startswith(REMINDER)
