"""The structure that the package promises."""

from __future__ import annotations

import ast
import graphlib
import importlib
import os
import subprocess
import sys
from collections.abc import Iterable

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
    "q9gent.wire.fields",
    "q9gent.wire.answers",
    "q9gent.wire.operations",
    "q9gent.wire.openapi",
    "q9gent.observer",
    "q9gent.wire.event_stream",
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
    assert not {"trio", "quart", "hypercorn", "httpx", "rich"} & loaded


def test_the_public_names_are_there() -> None:
    """`__all__` and reality are the same."""
    for name in q9gent.__all__:
        assert getattr(q9gent, name) is not None
    with pytest.raises(AttributeError):
        q9gent.no_such_name  # noqa: B018


@pytest.mark.parametrize("module", ["q9gent.http.app", "q9gent.cli.serve", "q9gent.asgi"])
def test_what_an_extra_installs_is_not_loaded_unasked(module: str) -> None:
    """The core works without it, and pays nothing for it."""
    assert not {name.split(".")[0] for name in loaded_by(f"import {module}")} & {"prometheus_client"}


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


def name_of(path: str) -> str:
    """Return the dotted name of a module."""
    parts = ["q9gent", *os.path.relpath(path, FOLDER).removesuffix(".py").split(os.sep)]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in modules()}


def imports_of(path: str, *, lazy: bool) -> set[str]:
    """Return the modules that one imports when it runs, those for annotations left out.

    Args:
        path: The module.
        lazy: Those that its functions import when they are called, too.
    """
    with open(path, encoding="utf-8") as file:
        waiting: list[ast.AST] = [ast.parse(file.read())]
    found: set[str] = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not lazy:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name_of(path).split(".")
                package = package if path.endswith("__init__.py") else package[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.add(whole if whole in NAMES else base)
        waiting += ast.iter_child_nodes(node)
    return found


# What a part of the package may import of it when it runs: what stands before it in its own direction.
# `None` is for those that put everything together.
MAY_IMPORT: dict[str, set[str] | None] = {
    "_version": set(),
    "errors": set(),
    "settings": set(),
    "npm_shim": set(),
    "simulator": set(),
    "log": set(),
    "threads": set(),
    "wire": {"wire", "errors"},
    "wire.answers": {"wire", "sessions"},
    "wire.openapi": {"wire", "_version"},
    "command": {"wire", "errors", "containment.protocol"},
    "ending": {"wire", "containment.protocol"},
    "containment.protocol": set(),
    "containment.helper": {"containment.helper"},
    "hub": {"_linux_hub", "log"},
    "_linux_hub": {"log"},
    "containment": {"containment", "_linux_hub", "log", "settings", "threads"},
    "output": {"output", "wire", "log", "threads"},
    "sessions": {"sessions", "wire", "errors", "threads"},
    "admission": {"errors"},
    "agent": {"command", "npm_shim", "errors", "log", "containment.protocol"},
    "observer": set(),
    "metrics": {"wire", "_version"},
    "run": {"ending", "output", "wire", "log", "containment.protocol"},
    "runs": {"run", "admission", "command", "sessions", "wire", "errors", "log", "containment.protocol"},
    "http.guards": {"errors"},
    "http.delivery": {"wire"},
    "http": {
        *("http", "hub", "runs", "agent", "sessions", "containment", "wire", "errors", "log", "_version"),
        "metrics",
    },
    # What a client knows of the server is its wire, and what a session is.
    "client": {"client", "wire", "sessions"},
    "cli.transcript": set(),
    "cli.terminal": {"cli.transcript"},
    "cli.tables": {"cli.terminal", "client"},
    "cli.ids": {"wire", "client"},
    "cli.arguments": set(),
    "cli": None,
    "asgi": None,
    "__main__": None,
    "": None,
}


def part_of(name: str, parts: Iterable[str]) -> str:
    """Return the longest of the parts that a module belongs to."""
    below = name.removeprefix("q9gent").removeprefix(".")
    return max((part for part in parts if f"{below}.".startswith(f"{part}.") or part == ""), key=len)


@pytest.mark.parametrize("name", NAMES)
def test_a_module_imports_only_what_stands_before_it(name: str) -> None:
    """Data flows one way, and so does knowledge."""
    part = part_of(name, MAY_IMPORT)
    assert part or name == "q9gent", f"{name} has no place in the table"
    allowed = MAY_IMPORT[part]
    if allowed is None:
        return
    wrong = {
        other
        for other in imports_of(NAMES[name], lazy=True)
        if other.split(".")[0] == "q9gent" and not part_of(other, {*allowed, ""})
    }
    assert not wrong, f"{name} imports {sorted(wrong)}"


def test_no_row_of_the_table_is_without_a_module() -> None:
    """A module that was renamed takes its row along."""
    assert {part_of(name, MAY_IMPORT) for name in NAMES} == set(MAY_IMPORT)


def test_no_import_goes_in_a_circle() -> None:
    """So every module can be read, and loaded, before those that use it."""
    graph = {name: imports_of(path, lazy=False) & set(NAMES) - {name} for name, path in NAMES.items()}
    assert sum(map(len, graph.values())) > 50  # the reader above sees imports at all
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_every_pure_module_is_in_the_list() -> None:
    """All that decodes and encodes is pure."""
    wire = {name for name in NAMES if name.startswith("q9gent.wire.")}
    assert wire
    assert wire <= set(PURE)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name.startswith("q9gent.containment.helper") or "simulator" in name]
)
def test_what_is_started_isolated_needs_the_standard_library_alone(name: str) -> None:
    """`python -I -S` sees no installed package."""
    for other in imports_of(NAMES[name], lazy=True):
        own = other.startswith("q9gent.containment.helper") or other in {
            "processes",
            "lifeline",
            "supervisor",
        }
        assert own or other.split(".")[0] in sys.stdlib_module_names, f"{name} imports {other}"


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], ["--no-such-flag"], ["run", "--help"], ["kill"], ["sessions", "-h"]],
)
def test_the_command_line_answers_without_a_framework(arguments: list[str]) -> None:
    """Run to the end, not just imported."""
    loaded = loaded_by(
        "from click.testing import CliRunner; from q9gent.cli import cli; "
        f"assert CliRunner().invoke(cli, {arguments}).output"
    )
    assert "click" in loaded
    heavy = {"trio", "quart", "hypercorn", "quart_trio", "werkzeug", "structlog", "httpx", "rich"}
    assert not heavy & loaded


@pytest.mark.parametrize("module", ["q9gent.client", "q9gent.cli.run", "q9gent.cli.manage"])
def test_a_client_loads_no_server(module: str) -> None:
    """What asks a server is none."""
    loaded = loaded_by(f"import {module}")
    assert "httpx" in loaded
    assert not {"quart", "hypercorn", "quart_trio", "werkzeug", "q9gent.runs"} & loaded


def test_importing_the_package_loads_nothing_of_others() -> None:
    """`import q9gent` is cheap, until a name is used."""
    before, after = loaded_by("pass"), loaded_by("import q9gent")
    assert {name.split(".")[0] for name in after - before} <= {"q9gent", *sys.stdlib_module_names}


def test_every_public_name_comes_from_its_home() -> None:
    """`__all__`, the lazy table and the type checker's imports name the same."""
    lazy = set(q9gent._HOMES)
    assert sorted(q9gent.__all__) == sorted(lazy | {"app", "__version__"})
    assert len(set(q9gent.__all__)) == len(q9gent.__all__)
    for name, home in q9gent._HOMES.items():
        assert getattr(q9gent, name) is getattr(importlib.import_module(home), name)
    with open(q9gent.__file__, encoding="utf-8") as file:
        guarded = next(node for node in ast.parse(file.read()).body if isinstance(node, ast.If))
    typed = {alias.name for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert lazy <= typed


def test_no_exception_to_the_length_is_left_over() -> None:
    """A module that was split needs no reason any more."""
    for name, reason in LONGER.items():
        with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
            assert len(file.readlines()) > 300, reason


def test_the_version_stands_in_one_place() -> None:
    """What the package says is what the command line says."""
    told = subprocess.run(
        [sys.executable, "-m", "q9gent", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout.split()[-1] == q9gent.__version__
