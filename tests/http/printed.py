"""What the simulated agent prints, and what of it is found in the events."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sse_events import Event


def data_of(found: list[Event]) -> list[str]:
    """What was printed between the `init` and the `result` line."""
    return [event["data"] for event in found if event["type"] == "output"][1:-1]


def numbered(count: int, size: int) -> list[str]:
    """What `!lines COUNT SIZE` prints."""
    lines = []
    for n in range(1, count + 1):
        head = f'{{"type":"line","n":{n:8d},"pad":"'
        lines.append(head + "x" * (size - len(head) - 3) + '"}')
    return lines
