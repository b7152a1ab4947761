"""A headless Chromium that can reach this machine alone, and a server with the console."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from page import Page

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_process import LiveServer

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",  # which Chromium needs when it is root's
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--window-size=1280,900",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[webdriver.Chrome]:
    """One browser for all tests."""
    if BROWSER is None or DRIVER is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.set_capability("unhandledPromptBehavior", "accept")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def server(start_server: Callable[..., LiveServer]) -> LiveServer:
    """A server with the console, on the simulated agent."""
    return start_server("--simulate", "--console")


@pytest.fixture
def page(browser: webdriver.Chrome, server: LiveServer) -> Iterator[Page]:
    """The console, opened; afterwards the browser must have complained of nothing."""
    page = Page(browser, f"http://{server.host}:{server.port}/console")
    yield page
    page.leave()
    assert page.complaints == []
