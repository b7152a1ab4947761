"""q9gent on a Hypercorn configuration."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from process_scan import wait_for
from raw_client import DEADLINE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from program import Program

    Start = Callable[..., Program]


def configured(start: Start, folder: str, text: str, *options: str, **more: object) -> Program:
    """Start q9gent on a configuration in which `FOLDER` stands for the folder."""
    path = os.path.join(folder, "h.toml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace("FOLDER", folder))
    return start("--simulate", "--hypercorn-config", path, *options, **more)


TLS = 'bind = ["127.0.0.1:0"]\ncertfile = "FOLDER/cert.pem"\nkeyfile = "FOLDER/key.pem"\n'


def ended(program: Program, count: int) -> list[str]:
    """The codes of the runs that have ended, once there are so many."""

    def codes() -> list[str]:
        lines = [json.loads(line) for line in program.err.splitlines() if line.endswith("}")]
        return [line["code"] for line in lines if line["event"] == "run ended"]

    found = wait_for(codes, lambda seen: len(seen) >= count, DEADLINE_SECONDS)
    assert len(found) == count, program.err
    return found
