"""`q9gent demo`: the whole main job on a machine that has neither CLI nor account."""

from __future__ import annotations

import importlib
import json
import re
import sys
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest
    from program import Program

demo = importlib.import_module("q9gent.cli.demo")  # the package's own name of it is the command


def test_demo_shows_a_tree_alive_and_then_dead(start_program: Callable[..., Program]) -> None:
    """It exits with 0; each process that it showed alive is dead when `/terminate` has answered."""
    program = start_program(sys.executable, "-m", "q9gent", "demo", PATH="/nowhere")
    assert program.exit_status() == 0, f"{program.out}\n{program.err}"
    assert program.err == ""
    assert '"type": "completed"' in program.out
    alive = re.findall(r"pid (\d+) +alive", program.out)
    dead = re.findall(r"pid (\d+) +dead", program.out)
    assert alive == dead
    assert len(alive) == len(demo.HOSTILE) + 1
    told = json.loads(re.findall(r"^ +(\{\"message\".*\})$", program.out, re.MULTILINE)[0])
    assert (told["code"], told["killed"]) == ("terminated", len(alive))


def test_demo_that_fails_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A process that is still there makes it fail, in one line, with the status 1."""
    monkeypatch.setattr(demo, "_lives", lambda _process: True)
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", "")
    assert demo.demo_command() == 1
    assert re.search(r"^q9gent: the demo failed: .* is still alive$", capsys.readouterr().err, re.MULTILINE)


def test_demo_that_hangs_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is bounded: a step that does not end ends the demo."""
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", "")
    monkeypatch.setattr(demo, "STEP_SECONDS", 0.05)
    monkeypatch.setattr(demo, "_tour", lambda *_: trio.from_thread.run(trio.sleep_forever))
    assert demo.demo_command() == 1
    assert "the demo failed: it took too long" in capsys.readouterr().err
