"""The console as a person uses it: fields are filled in, buttons are pressed, texts are read."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

if TYPE_CHECKING:
    from collections.abc import Callable

    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

DEADLINE_SECONDS = 30.0

LAYOUT = """
const wide = [...document.querySelectorAll('body *')].filter((node) => {
  const box = node.getBoundingClientRect();
  return box.width > 0 && !node.closest('.unseen, .tabs, summary') && box.right > document.documentElement.clientWidth + 1;
});
return wide.map((node) => node.tagName + '#' + node.id + '.' + node.className);
"""


def printed(*lines: object) -> str:
    """A prompt that has the simulated agent print these as JSON lines."""
    return "\n".join(f"!hex {(json.dumps(line) + chr(10)).encode().hex()}" for line in lines)


class Page:
    """The console in a browser."""

    def __init__(self, browser: Chrome, url: str) -> None:
        self.browser = browser
        self.url = url
        self.complaints: list[dict[str, Any]] = []
        browser.get_log("browser")
        browser.get(url)
        self.until(lambda: self.text("state") == "connected")

    def leave(self) -> None:
        """Leave the page, whatever it says, and take what the browser complained of."""
        told = self.browser.get_log("browser")
        # Answers of 400 and the like are told as well, and are tests' own doing.
        self.complaints += [entry for entry in told if entry["source"] != "network"]
        self.browser.get("about:blank")

    def until(self, true: Callable[[], object]) -> None:
        """Wait until something holds."""
        passing = (StaleElementReferenceException, ElementClickInterceptedException)  # lists are read anew
        waiting = WebDriverWait(
            self.browser, DEADLINE_SECONDS, poll_frequency=0.05, ignored_exceptions=passing
        )
        waiting.until(lambda _browser: true(), "it did not come to hold")

    def by_id(self, name: str) -> WebElement:
        """An element by its id."""
        return self.browser.find_element(By.ID, name)

    def text(self, name: str) -> str:
        """The text of an element, also where it cannot be seen."""
        return str(self.script("return document.getElementById(arguments[0]).textContent", name))

    def script(self, code: str, *arguments: object) -> Any:
        """The result of JavaScript in the page."""
        return self.browser.execute_script(code, *arguments)

    def press(self, label: str) -> None:
        """Press the button of that accessible name, once there is one and no other."""

        def pressed() -> bool:
            found = [
                node
                for node in self.browser.find_elements(By.CSS_SELECTOR, "button, summary")
                if node.is_displayed() and node.accessible_name.startswith(label)
            ]
            if len(found) == 1:
                found[0].click()
            return len(found) == 1

        self.until(pressed)

    def click(self, name: str) -> None:
        """Click an element, once it is shown."""
        self.until(self.by_id(name).is_displayed)
        self.by_id(name).click()

    def fill(self, name: str, text: str) -> None:
        """Put a text into a field; set as a whole, as typing a long one takes seconds."""
        self.script("document.getElementById(arguments[0]).value = arguments[1]", name, text)

    def run(self, prompt: str, **fields: str) -> None:
        """Fill the form in and send it off."""
        for name, text in {"prompt": prompt, **fields}.items():
            self.fill(name.replace("_", "-"), text)
        self.click("go")

    def wait_for_text(self, name: str, text: str) -> None:
        """Wait until an element has a text in it."""
        self.until(lambda: text in self.text(name))

    def type_keys(self, *keys: str) -> None:
        """Type into what has the focus."""
        self.browser.switch_to.active_element.send_keys(*keys)

    def tab_to(self, accessible_name: str) -> None:
        """Press the tab key until what is called so has the focus."""
        for _ in range(60):
            if self.browser.switch_to.active_element.accessible_name.startswith(accessible_name):
                return
            self.type_keys(Keys.TAB)
        raise AssertionError(f"the tab key never reaches {accessible_name!r}")

    def resize(self, width: int, height: int) -> None:
        """Give the page another size, as a phone has it if it is narrow."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """Say that the user likes light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def too_wide(self) -> list[str]:
        """What stands out of the window to the right."""
        return list(self.script(LAYOUT))

    def screenshot(self, path: str) -> None:
        """Write what is to be seen, all of it."""
        beyond = bool(self.script("return document.documentElement.scrollHeight > innerHeight + 1"))
        shot = self.browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": beyond})
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))
