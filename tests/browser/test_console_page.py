"""The console in a real browser, on the simulated agent."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest
from page import printed
from process_scan import still_alive
from selenium.common.exceptions import JavascriptException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

if TYPE_CHECKING:
    from page import Page
    from server_process import LiveServer

MARKUP = "<img src=x onerror='window.broken = 1'><script>window.broken = 1</script>"
LINES_KEPT = 1000


def assistant(*content: dict[str, object]) -> dict[str, object]:
    return {"type": "assistant", "message": {"content": list(content)}}


def test_a_turn_is_rendered(page: Page) -> None:
    """Text, tools, their results and errors, the cost, and how it ended."""
    page.run(
        printed(
            assistant(
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "name": "Bash", "input": {"command": "ls -l"}},
            ),
            {
                "type": "user",
                "message": {
                    "content": [{"type": "tool_result", "is_error": True, "content": "no such folder"}]
                },
            },
            {
                "type": "result",
                "subtype": "success",
                "is_error": False,
                "result": "Done.",
                "num_turns": 2,
                "total_cost_usd": 0.0123,
            },
        )
        + "\n!no-result"
    )
    page.wait_for_text("log", "Completed in")
    assert page.by_id("log").find_element(By.CSS_SELECTOR, ".said").text == "I look."
    assert page.by_id("log").find_element(By.CSS_SELECTOR, ".tool > summary").text == "Bashls -l"
    assert "no such folder" in page.by_id("log").find_element(By.CSS_SELECTOR, ".back.bad").text
    assert "2 turns" in page.text("log")
    assert "$0.0123" in page.text("ids")


def test_what_an_agent_prints_is_only_ever_text(page: Page) -> None:
    """Markup in any place of a line stays what it is."""
    content = [
        {"type": "text", "text": MARKUP},
        {"type": "thinking", "thinking": MARKUP},
        {"type": "tool_use", "name": MARKUP, "input": {"command": MARKUP}},
        {"type": MARKUP},
    ]
    page.run(
        printed(
            assistant(*content),
            {"type": "user", "message": {"content": [{"type": "tool_result", "content": MARKUP}]}},
            {"type": MARKUP, "subtype": MARKUP},
            {"type": "system", "subtype": "init", "model": MARKUP, "cwd": MARKUP},
            {"type": "result", "subtype": MARKUP, "is_error": True, "result": MARKUP},
        )
        + f"\n!hex {MARKUP.encode().hex()}0a\n!no-result",
        agent_type=MARKUP,
    )
    page.wait_for_text("log", "Completed in")
    assert page.text("log").count(MARKUP) >= 10
    page.until(lambda: MARKUP in page.text("sessions"))
    assert page.script("return document.querySelectorAll('img, body script:not(:last-of-type)').length") == 0
    assert page.script("return window.broken") is None


def test_the_browser_refuses_markup_and_scripts(page: Page) -> None:
    """The policy holds in a real browser, whatever the page's own code did."""
    with pytest.raises(JavascriptException, match="TrustedHTML"):
        page.script("document.body.insertAdjacentHTML('beforeend', arguments[0])", MARKUP)
    with pytest.raises(JavascriptException, match="TrustedScript"):
        page.script("document.body.setAttribute('onclick', 'window.broken = 1')")
    assert page.script("return fetch('http://127.0.0.2:9/').catch(() => 'refused')") == "refused"
    assert page.script("return window.broken") is None
    told = [entry["message"] for entry in page.browser.get_log("browser")]
    assert any("connect-src 'self'" in text for text in told), told


def test_the_raw_view_has_the_lines_as_they_came(page: Page) -> None:
    """Not even JSON is put into another form."""
    line = '{"type" : "odd",  "n":1.0}'
    page.run(f"!hex {line.encode().hex()}0a")
    page.wait_for_text("log", "Completed in")
    page.click("raw")
    shown = [node.text for node in page.by_id("log").find_elements(By.CSS_SELECTOR, "pre")]
    assert line in shown
    assert page.by_id("raw").get_attribute("aria-pressed") == "true"


def test_a_session_goes_on(page: Page) -> None:
    """From the list, and by the button above the output."""
    page.run("Hello!")
    page.wait_for_text("log", "Completed in")
    page.press("Continue console")
    page.run("And again")
    page.wait_for_text("log", "You asked me before: Hello!")
    page.click("next")
    page.run("Once more")
    page.wait_for_text("log", "You asked me before: Hello! / And again.")
    assert page.text("sessions-count") == "1"


def test_a_session_is_forked(page: Page) -> None:
    """The fork remembers, and is a session of its own."""
    page.run("Hello!")
    page.wait_for_text("log", "Completed in")
    page.press("Fork console")
    assert page.text("form-title").startswith("Fork of console")
    page.run("Branch off")
    page.wait_for_text("log", "You asked me before: Hello!")
    page.wait_for_text("sessions-count", "2")


def test_a_session_is_deleted_when_pressed_twice(page: Page, server: LiveServer) -> None:
    """Once alone asks back, for a while; here for as long as a slow machine takes."""
    page.script(
        "const real = window.setTimeout;"
        "window.setTimeout = (then, ms, ...more) => real(then, ms === SURE_MS ? 600000 : ms, ...more)"
    )
    page.run("Hello!")
    page.wait_for_text("log", "Completed in")
    page.press("Delete console")
    assert len(server.sessions()) == 1
    page.press("Delete console")
    page.wait_for_text("sessions-note", "None is stored.")
    assert server.sessions() == []


def test_a_kill_shows_the_proof(page: Page, server: LiveServer) -> None:
    """What `/terminate` answered once all were dead: code, killed, time."""
    page.run("!ignore-term\n!child daemon\n!child setsid\n!wait", agent_type="hostile")
    page.wait_for_text("log", "waiting")
    page.wait_for_text("runs", "3 processes")
    doomed = [found for found in server.note_descendants() if "simulator.py" in found.command]
    assert len(doomed) == 3
    page.press("Kill hostile")
    page.wait_for_text("kills", "every process is dead")
    assert not still_alive(doomed)
    assert "code terminated · signal 9 · 3 killed · answered after" in page.text("kills")
    page.wait_for_text("log", "terminated on request")
    page.until(lambda: page.text("runs-note") == "Nothing runs.")


def test_a_run_of_somebody_else_is_listed_and_killed(page: Page, server: LiveServer) -> None:
    """Whoever started it."""
    with server.started("!wait", agent_type="other") as (_session, stream):
        page.wait_for_text("runs", "other")
        page.press("Kill other")
        page.wait_for_text("kills", "every process is dead")
        assert list(stream)[-1]["code"] == "terminated"


def test_a_hundred_thousand_lines_do_not_kill_the_page(page: Page) -> None:
    """The last thousand are kept, the others counted; the page still answers."""
    page.run("!lines 100000 60")
    page.wait_for_text("log", "Completed in")
    assert page.script("return document.getElementById('log').childElementCount") == LINES_KEPT
    # The prompt, the session, init, 100,000 lines, the result, the end.
    assert page.text("hidden-lines") == "99,005 earlier lines are not shown: this page keeps the last 1,000."
    assert "100,002 lines" in page.text("ids")
    assert page.script("return document.querySelectorAll('*').length") < 5000
    page.click("raw")
    assert page.script("return document.getElementById('log').childElementCount") == LINES_KEPT
    page.click("raw")


def test_a_long_line_is_cut(page: Page) -> None:
    """And says by how much; the run is none the worse."""
    page.run("!big 8000000")
    page.wait_for_text("log", "Completed in")
    page.click("raw")
    assert "7,979,999 more characters are not shown" in page.text("log")
    page.click("raw")


def test_a_hidden_page_asks_for_nothing(page: Page) -> None:
    """Polling stops with the last one under way, and goes on when the page is seen again."""
    hide = "Object.defineProperty(document, 'hidden', {get: () => arguments[0], configurable: true});"
    hide = hide.replace("arguments[0]", "window.isHidden") + "window.isHidden = arguments[0];"
    hide += "document.dispatchEvent(new Event('visibilitychange'));"
    page.script(
        "window.polls = 0; const real = window.fetch;"
        "window.fetch = (...sent) => { window.polls += sent[0] === 'runs'; return real(...sent); }"
    )
    polls = "return window.polls"
    page.until(lambda: page.script(polls) >= 2)
    page.script(hide, True)
    before = page.script(polls)
    time.sleep(5)  # two and a half intervals: nothing can be waited for that must not come
    assert page.script(polls) == before
    page.script(hide, False)
    page.until(lambda: page.script(polls) > before)


def test_the_keyboard_is_enough(page: Page) -> None:
    """Fill in, run, reach the kill button, press it: without a mouse."""
    page.tab_to("Prompt")
    page.type_keys("!wait")
    page.type_keys(Keys.CONTROL + Keys.ENTER)
    page.wait_for_text("log", "waiting")
    page.wait_for_text("runs-count", "1")
    page.tab_to("Kill console")
    page.type_keys(Keys.ENTER)
    page.wait_for_text("kills", "every process is dead")
    page.until(lambda: page.text("runs-note") == "Nothing runs.")
    assert page.browser.switch_to.active_element.tag_name != "body"


def test_polling_leaves_the_focus_where_it_is(page: Page, server: LiveServer) -> None:
    """A list that is read anew must not take it from a button."""
    with server.started("!tick 1000 0.05", agent_type="other"):
        page.wait_for_text("runs", "other")
        page.script("document.querySelector('#runs button').focus()")
        lines = page.text("runs")
        page.until(lambda: page.text("runs") != lines)
        assert page.browser.switch_to.active_element.accessible_name.startswith("Kill other")


def test_screen_readers_are_told(page: Page) -> None:
    """That a run has begun, what it came to, and what a kill did, in a live region."""
    assert page.by_id("said").get_attribute("aria-live") == "polite"
    page.run("Hello!")
    page.wait_for_text("said", "console: Completed in")
    assert "You said: Hello!" in page.text("said")


def test_every_control_has_a_name(page: Page) -> None:
    """For those who do not see what stands beside it."""
    page.run("Hello!")
    page.wait_for_text("log", "Completed in")

    def nameless() -> list[str]:
        controls = page.browser.find_elements(
            By.CSS_SELECTOR, "button, input, textarea, summary, [tabindex='0']"
        )
        assert len(controls) > 15
        return [
            str(node.get_attribute("outerHTML"))
            for node in controls
            if node.is_displayed() and not node.accessible_name
        ]

    page.until(lambda: nameless() == [])  # again if a list is read anew meanwhile


def test_a_refused_request_says_why(page: Page, server: LiveServer) -> None:
    """The server's own words, and its status."""
    page.press("System prompt, flags, resume")
    page.run("Hello!", resume="../../etc/passwd")
    page.wait_for_text("log", "400: Expected a lower-case UUID - at `$.resume_id`")
    assert server.sessions() == []


def test_an_empty_prompt_is_not_sent(page: Page) -> None:
    """It is told beside the form."""
    page.run("   ")
    page.wait_for_text("problem", "The prompt is empty.")


def test_the_form_becomes_the_request(page: Page) -> None:
    """Tools are split outside parentheses, flags at line ends; what is empty is left out."""
    page.press("System prompt, flags, resume")
    page.run(
        "!report",
        tools="Read, Bash(git log:*) Write",
        flags="--max-turns\n3",
        system_append="Be brief.",
    )
    page.wait_for_text("log", "Completed in")
    page.click("raw")
    shown = page.text("log")
    for argument in (
        "--allowedTools=Read,Bash(git log:*),Write",
        "--append-system-prompt=Be brief.",
        '"--max-turns","3"',
    ):
        assert argument in shown
    page.click("raw")


def test_four_streams_leave_room_to_kill(page: Page) -> None:
    """A fifth is refused, as browsers open six connections; killing still works."""
    for n in range(4):
        page.run("!wait", agent_type=f"number-{n}")
        page.wait_for_text("log", "waiting")
    page.run("!wait", agent_type="number-4")
    page.wait_for_text("problem", "4 runs at once")
    page.wait_for_text("runs-count", "4")
    page.press("Kill number-0")
    page.wait_for_text("kills", "every process is dead")


def test_leaving_the_page_ends_its_runs(page: Page, server: LiveServer) -> None:
    """As any client's disconnect does."""
    page.run("!child daemon\n!wait")
    page.wait_for_text("log", "waiting")
    doomed = [found for found in server.note_descendants() if "simulator.py" in found.command]
    page.leave()
    deadline = time.monotonic() + 20
    while still_alive(doomed):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_server_that_dies_is_told(page: Page, server: LiveServer) -> None:
    """The stream was cut, and nothing answers any more: no claim about the run."""
    page.run("!wait")
    page.wait_for_text("log", "waiting")
    server.note_descendants()
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(20)
    page.wait_for_text("log", "The stream was cut")
    page.wait_for_text("state", "does not answer")
