"""The real CLI, the stand-in of its API, and a server that must leave nothing behind."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from live_server import LiveServer
from messages_api import MessagesApi

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this folder."""
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def claude() -> str:
    """The CLI: the one that `Q9GENT_E2E_CLAUDE` names, or the one that claude-agent-sdk bundles."""
    if not sys.platform.startswith("linux"):
        pytest.skip("these tests read /proc to prove that nothing is left alive")
    named = os.environ.get("Q9GENT_E2E_CLAUDE")
    if named:
        found = shutil.which(named)
        if found is None:
            pytest.fail(f"Q9GENT_E2E_CLAUDE names no program: {named}")
        return os.path.abspath(found)
    bundled = _bundled()
    if bundled is not None:
        return bundled
    reason = "no Claude CLI: set Q9GENT_E2E_CLAUDE or install claude-agent-sdk"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    """A stand-in of the Messages API of the test's own; its script must not have failed."""
    with MessagesApi() as stand_in:
        yield stand_in
    assert not stand_in.failures, stand_in.failures


@pytest.fixture
def server(claude: str, api: MessagesApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A started server: afterwards it ends with status 0, and nothing it started is alive."""
    live = LiveServer(claude=claude, api_url=api.url, folder=str(tmp_path_factory.mktemp("server")))
    yield live
    live.close()


def _bundled() -> str | None:
    """The binary in the claude-agent-sdk wheel, found without importing the package."""
    package = importlib.util.find_spec("claude_agent_sdk")
    for folder in (package.submodule_search_locations or []) if package else []:
        path = os.path.join(folder, "_bundled", "claude")
        if os.access(path, os.X_OK):
            return path
    return None
