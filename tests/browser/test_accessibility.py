"""Every page by axe, in both colour schemes, wide and narrow, and by keyboard."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser_support import Visitor
from playwright.sync_api import Browser, expect
from web_support import API, Running, wait_until

pytestmark = pytest.mark.browser

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 320, "height": 700}
LOOKS = [
    pytest.param({"viewport": WIDE, "color_scheme": "light"}, id="wide-light"),
    pytest.param({"viewport": NARROW, "color_scheme": "dark"}, id="narrow-dark"),
    pytest.param({"viewport": WIDE, "color_scheme": "dark"}, id="wide-dark", marks=pytest.mark.verify),
    pytest.param({"viewport": NARROW, "color_scheme": "light"}, id="narrow-light", marks=pytest.mark.verify),
]

PAGES = {
    "/runs": "tbody tr",
    "/new?workflow=couplings": "[data-state=incomplete]",
    "/new?workflow=contacts": "[data-state=planned]",
    "/new?tab=yaml": ".cm-content",
    "/runs/{run}?step=train": "[data-log-lines='40']",
    "/runs/{run}?tab=artifacts": "tbody tr",
    "/runs/{run}?tab=provenance": "dl",
    "/runs/{run}/results": "[data-method=model]",
    "/cluster": "[data-cluster]",
}
"""Address, and what has to be there before the page counts as drawn."""


@pytest.fixture(scope="module")
def run(platform: Running) -> str:
    with platform.client() as client:
        found: str = client.post(f"{API}/runs", json={"workflow": "contacts", "inputs": {}}).json()["id"]
        wait_until(lambda: client.get(f"{API}/runs/{found}").json()["state"] == "succeeded", seconds=60)
        return found


@pytest.fixture(scope="module", params=LOOKS)
def looking(request: pytest.FixtureRequest, browser: Browser, platform: Running) -> Iterator[Visitor]:
    found = Visitor(browser, platform.url, **request.param)
    assert found.page.goto(platform.url) is not None
    expect(found.page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert found.violations() == []
    found.sign_in(platform.services.accounts.new_code())
    yield found
    found.close()


@pytest.mark.parametrize("path", PAGES)
def test_no_page_breaks_a_rule_or_its_frame(looking: Visitor, run: str, path: str) -> None:
    page = looking.open(path.format(run=run))
    looking.see(PAGES[path])
    assert looking.violations() == []
    width = page.viewport_size["width"] if page.viewport_size else 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"


def test_a_keyboard_gets_everywhere(visitor: Visitor, run: str) -> None:
    page = visitor.open("/runs")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Cluster").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Cluster", level=1)).to_be_visible()
    expect(page.get_by_role("main")).to_be_focused()
    visitor.open(f"/runs/{run}")
    node = visitor.see(".react-flow__node").first
    node.focus()
    page.keyboard.press("Enter")
    expect(page.locator("[data-open-step]")).to_be_visible()
    page.get_by_role("button", name="Close the step").focus()
    page.keyboard.press("Enter")
    expect(page.locator("[data-open-step]")).to_be_hidden()


def test_the_editor_lets_go_of_the_keyboard(visitor: Visitor) -> None:
    page = visitor.open("/new?tab=yaml")
    editor = page.get_by_label("Workflow as YAML")
    editor.focus()
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    expect(editor).not_to_be_focused()


def test_colours_can_be_chosen_and_are_remembered(visitor: Visitor) -> None:
    page = visitor.open("/runs")
    page.get_by_role("button", name="Use dark colours").click()
    expect(page.locator("html[data-mantine-color-scheme=dark]")).to_be_attached()
    page.reload()
    expect(page.locator("html[data-mantine-color-scheme=dark]")).to_be_attached()
