"""What the CLI's lines say to people. Pure: a line in, pieces out.

Of ``--output-format stream-json`` as the CLI writes it: ``system``, ``assistant``, ``user``, ``result``, and
with ``--include-partial-messages`` ``stream_event``. What is not known, or not shaped as expected, says
nothing: the format grows with the CLI, and ``--json`` shows all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

Style = Literal["text", "note", "thinking", "tool", "outcome", "error", "summary", "end"]

SUMMARY_CHARACTERS = 200
"""Of what a tool is given or gives back: the rest is for ``--json``."""

TELLING_INPUTS = ("command", "file_path", "notebook_path", "pattern", "query", "url", "skill", "description")
"""What tells most of a tool's input, the first that is there."""


class Piece(NamedTuple):
    """Something to show: ``text`` is the answer as it is, ``end`` ends its line, others are notes."""

    style: Style
    text: str


class Transcript:
    """Follows one turn.

    Attributes:
        result: The CLI's ``result`` line, once it was there.
    """

    def __init__(self) -> None:
        self.result: dict[str, Any] | None = None
        self._streaming: object = None
        self._streamed = False
        self._said = False

    def take(self, line: str, message: dict[str, Any] | None) -> list[Piece]:
        """Return what a line says.

        Args:
            line: The line.
            message: What it is decoded; ``None`` for plain text, which the CLI prints in a few cases.
        """
        if message is None:
            return [Piece("note", line)]
        known = {
            "system": self._system,
            "assistant": self._assistant,
            "user": self._user,
            "stream_event": self._stream_event,
            "result": self._result,
        }
        show = known.get(str(message.get("type")))
        return list(show(message)) if show else []

    def _system(self, message: dict[str, Any]) -> Iterator[Piece]:
        if message.get("subtype") == "init":
            yield Piece("note", f"{message.get('model', 'agent')} in {message.get('cwd', '?')}")
        elif message.get("subtype") == "api_retry":
            attempt, most = message.get("attempt", "?"), message.get("max_retries", "?")
            yield Piece("note", f"the model's API does not answer, trying again ({attempt} of {most})")

    def _assistant(self, message: dict[str, Any]) -> Iterator[Piece]:
        inner = _mapping(message.get("message"))
        # What was streamed in parts comes once more as a whole.
        again = self._streamed and inner.get("id") == self._streaming
        for block in _blocks(inner.get("content")):
            kind = str(block.get("type"))
            if kind == "text" and not again:
                yield from self._say(str(block.get("text", "")), message)
            elif kind == "thinking":
                yield Piece("thinking", str(block.get("thinking", "")))
            elif kind in {"tool_use", "server_tool_use"}:
                yield Piece("tool", _tool(block))

    def _say(self, text: str, message: dict[str, Any]) -> Iterator[Piece]:
        if message.get("parent_tool_use_id") is not None:  # an agent of the agent's: not the answer
            yield Piece("thinking", text)
        elif text:
            self._said = True
            yield Piece("text", text if text.endswith("\n") else text + "\n")

    def _user(self, message: dict[str, Any]) -> Iterator[Piece]:
        for block in _blocks(_mapping(message.get("message")).get("content")):
            if block.get("type") == "tool_result":
                failed = block.get("is_error") is True
                yield Piece("error" if failed else "outcome", _outcome(block.get("content")))

    def _stream_event(self, message: dict[str, Any]) -> Iterator[Piece]:
        if message.get("parent_tool_use_id") is not None:
            return
        event = _mapping(message.get("event"))
        if event.get("type") == "message_start":
            self._streaming = _mapping(event.get("message")).get("id")
            self._streamed = False
        elif event.get("type") == "content_block_delta":
            delta = _mapping(event.get("delta"))
            if delta.get("type") == "text_delta" and delta.get("text"):
                self._said = self._streamed = True
                yield Piece("text", str(delta["text"]))
        elif event.get("type") == "content_block_stop" and self._streamed:
            yield Piece("end", "")

    def _result(self, message: dict[str, Any]) -> Iterator[Piece]:
        self.result = message
        text = str(message.get("result") or "")
        if message.get("is_error") is True:
            yield Piece("error", f"the agent failed: {text or message.get('subtype')}")
        elif text and not self._said:
            yield Piece("text", text if text.endswith("\n") else text + "\n")
        yield Piece("summary", _costs(message))


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _blocks(content: object) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _tool(block: dict[str, Any]) -> str:
    given = _mapping(block.get("input"))
    told: object = next((given[name] for name in TELLING_INPUTS if name in given), given or "")
    text = told if isinstance(told, str) else msgspec.json.encode(told).decode()
    return f"{block.get('name', 'tool')} {_shortened(text)}".rstrip()


def _outcome(content: object) -> str:
    texts = [str(block.get("text", block.get("type", ""))) for block in _blocks(content)]
    lines = "\n".join(texts).strip().splitlines()
    more = f" (and {len(lines) - 1} more lines)" if len(lines) > 2 else ""
    more = more or (" (and 1 more line)" if len(lines) == 2 else "")
    return _shortened(lines[0]) + more if lines else "no output"


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SUMMARY_CHARACTERS else text[: SUMMARY_CHARACTERS - 1] + "…"


def _costs(message: dict[str, Any]) -> str:
    """Return what a turn took, as far as its result tells."""
    found = []
    turns, spent, cost = (message.get(name) for name in ("num_turns", "duration_ms", "total_cost_usd"))
    if isinstance(turns, int):
        found.append(f"{turns} turn{'' if turns == 1 else 's'}")
    if isinstance(spent, int | float):
        found.append(f"{spent / 1000:.1f} s")
    if isinstance(cost, int | float):
        found.append(f"${cost:.4f}")
    usage = _mapping(message.get("usage"))
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    counts = [usage[name] for name in names if isinstance(usage.get(name), int)]
    if counts and isinstance(usage.get("output_tokens"), int):
        found.append(f"{sum(counts):,} tokens in, {usage['output_tokens']:,} out")
    return ", ".join(found) or "done"
