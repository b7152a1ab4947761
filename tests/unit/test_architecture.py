"""The structure that the package promises."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import q9gent

FOLDER = os.path.dirname(q9gent.__file__)

PURE = [
    "q9gent.errors",
    "q9gent.settings",
    "q9gent.command",
    "q9gent.ending",
    "q9gent.npm_shim",
    "q9gent.wire.requests",
    "q9gent.wire.lines",
    "q9gent.wire.events",
    "q9gent.http.guards",
    "q9gent.containment.protocol",
]

LONGER = {
    "simulator.py": "started as one plain file, so that it starts in milliseconds",
}


def loaded_by(code: str) -> set[str]:
    """Return the names of the modules that a fresh interpreter has after running the code."""
    program = f"import sys; {code}; print(*sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return set(told.stdout.split())


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_loads_neither_loop_nor_framework(module: str) -> None:
    """What decides can be tested, and read, without what acts."""
    assert not {"trio", "quart", "hypercorn", "quart_trio"} & loaded_by(f"import {module}")


def test_asking_for_the_version_loads_no_framework() -> None:
    """The command line answers at once."""
    loaded = loaded_by("import q9gent.cli")
    assert not {"trio", "quart", "hypercorn"} & loaded


def test_the_public_names_are_there() -> None:
    """`__all__` and reality are the same."""
    for name in q9gent.__all__:
        assert getattr(q9gent, name) is not None
    with pytest.raises(AttributeError):
        q9gent.no_such_name  # noqa: B018


def modules() -> list[str]:
    return sorted(
        os.path.join(root, name)
        for root, _folders, names in os.walk(FOLDER)
        for name in names
        if name.endswith(".py")
    )


@pytest.mark.parametrize("path", modules(), ids=lambda path: os.path.relpath(path, FOLDER))
def test_no_module_is_longer_than_300_lines(path: str) -> None:
    """Split by responsibility; the exceptions have a reason."""
    with open(path, encoding="utf-8") as file:
        lines = len(file.readlines())
    assert lines <= 300 or os.path.relpath(path, FOLDER) in LONGER, lines
