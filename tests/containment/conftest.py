"""The conformance suite's options, and the table that it makes.

``python -m pytest tests/containment/test_conformance.py --strategy posix --conformance-table FILE``
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING

import pytest
from stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

OFFERED = {"linux": ("linux", "posix"), "win32": ("windows",)}.get(sys.platform, ("posix",))
"""The strategies of this system."""

SUITE = "test_conformance.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--strategy", help="test this containment strategy alone", choices=OFFERED)
    parser.addoption(
        "--conformance-table", metavar="FILE", help="write strategies and behaviours as Markdown"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "strategy" in metafunc.fixturenames:
        only = metafunc.config.getoption("strategy", default=None)
        wanted = getattr(metafunc.module, "STRATEGIES", OFFERED)
        metafunc.parametrize("strategy", [name for name in wanted if only in {None, name}])


@pytest.fixture
def stage(
    strategy: str,
    tmp_path: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
    request: pytest.FixtureRequest,
) -> Stage:
    """A strategy to be tested; the simulated agent keeps its history in the test's own folder."""
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path))
    record_property("strategy", strategy)
    record_property("behaviour", inspect.getdoc(request.function))
    return Stage(strategy, record_property)


class Table:
    """Strategies and behaviours, filled in as the tests report."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._cells: dict[str, dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what a test found; in the process that tells the user, when several run tests."""
        facts = dict(report.user_properties)
        decided = report.when == "call" or report.outcome != "passed"
        if not (decided and SUITE in report.nodeid and "behaviour" in facts):
            return
        row = self._cells.setdefault(str(facts["behaviour"]).rstrip("."), {})
        row[str(facts["strategy"])] = {
            "passed": f"limit: {facts['limit']}" if "limit" in facts else "holds",
            "skipped": "-",
            "failed": "**fails**",
        }[report.outcome]

    def pytest_sessionfinish(self) -> None:
        """Write it."""
        strategies = sorted({name for row in self._cells.values() for name in row})
        lines = [["behaviour", *strategies], ["---"] * (len(strategies) + 1)]
        for behaviour, row in sorted(self._cells.items()):
            lines.append([behaviour, *(row.get(name, "-") for name in strategies)])
        with open(self._path, "w", encoding="utf-8") as file:
            file.writelines(f"| {' | '.join(line)} |\n" for line in lines)


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("conformance_table", default=None)
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(path))
