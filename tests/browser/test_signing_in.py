"""Coming in: by the printed link, by the token, and out again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser_support import Visitor
from playwright.sync_api import Browser, expect
from web_support import Running

pytestmark = pytest.mark.browser


@pytest.fixture
def stranger(browser: Browser, platform: Running) -> Iterator[Visitor]:
    found = Visitor(browser, platform.url)
    yield found
    found.close()


def test_the_link_signs_in_once_and_leaves_no_code_behind(stranger: Visitor, platform: Running) -> None:
    code = platform.services.accounts.new_code()
    stranger.sign_in(code)
    assert "code" not in stranger.page.url
    assert stranger.page.evaluate("history.length") <= 2
    stranger.context.clear_cookies()
    stranger.page.goto(f"{platform.url}/#code={code}")
    stranger.page.reload()
    stranger.page.goto(f"{platform.url}/?code={code}")
    expect(stranger.page.get_by_text("This sign-in link no longer works")).to_be_visible()
    assert "code" not in stranger.page.url


def test_the_token_signs_in_at_the_page_that_was_asked_for(stranger: Visitor, platform: Running) -> None:
    page = stranger.page
    page.goto(f"{platform.url}/cluster")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("Paste the token first.")).to_be_visible()
    page.get_by_label("Access token").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("[role=alert][data-code=not_signed_in]")).to_be_visible()
    page.get_by_label("Access token").fill(platform.token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Cluster", level=1)).to_be_visible()
    assert page.url.endswith("/cluster")


def test_signing_out(visitor: Visitor) -> None:
    page = visitor.open("/runs")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_session_that_ends_shows_the_form_and_not_an_error(visitor: Visitor) -> None:
    # Nothing on this page asks again by itself, which could show the form before the click.
    page = visitor.open("/new")
    visitor.context.clear_cookies()
    page.get_by_role("link", name="Cluster").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
