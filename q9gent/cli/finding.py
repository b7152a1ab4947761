"""What ``q9gent doctor`` found, and how it is shown."""

from __future__ import annotations

import sys
from typing import Literal, NamedTuple

from q9gent.cli.terminal import one_line, wants_colour

COLOURS = {"ok": "32", "warn": "33", "fail": "31"}


class Finding(NamedTuple):
    """What a check found, and what helps where it is not as it should be."""

    state: Literal["ok", "warn", "fail"]
    subject: str
    text: str
    remedy: str = ""


def show(finding: Finding) -> None:
    """Print a finding, and its remedy below it."""
    state = finding.state.ljust(5)
    if wants_colour(sys.stdout):
        state = f"\x1b[{COLOURS[finding.state]}m{state}\x1b[0m"
    sys.stdout.write(f"{state} {finding.subject.ljust(14)} {one_line(finding.text)}\n")
    if finding.remedy:
        sys.stdout.write(f"{' ' * 21}→ {finding.remedy}\n".encode(sys.stdout.encoding, "replace").decode())
    sys.stdout.flush()
