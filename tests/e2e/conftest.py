"""The real CLI, the stand-in of its API, and a server that must leave nothing behind."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from messages_api import MessagesApi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from server_process import LiveServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this folder."""
    here = os.path.dirname(__file__) + os.sep
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
def server(claude: str, api: MessagesApi, start_server: Callable[..., LiveServer]) -> LiveServer:
    """A server on the real CLI, which can work without an account and speaks to the stand-in only."""
    environment = {
        "ANTHROPIC_BASE_URL": api.url,
        "ANTHROPIC_API_KEY": "sk-ant-test",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "0",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_AUTOUPDATER": "1",
        "IS_SANDBOX": "1",
    }
    return start_server("--claude-path", claude, environment=environment)


def _bundled() -> str | None:
    """The binary in the claude-agent-sdk wheel, found without importing the package."""
    package = importlib.util.find_spec("claude_agent_sdk")
    for folder in (package.submodule_search_locations or []) if package else []:
        path = os.path.join(folder, "_bundled", "claude")
        if os.access(path, os.X_OK):
            return path
    return None
