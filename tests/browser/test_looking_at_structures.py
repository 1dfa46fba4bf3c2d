"""The structure in three dimensions, drawn by Mol* in a browser with WebGL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser_support import Visitor, chromium
from playwright.sync_api import Browser, expect
from web_support import API, Running, wait_until

pytestmark = pytest.mark.browser

PATIENCE_MS = 120_000
"""Mol* on a CPU that others use, too."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(webgl=True) as found:
        yield found


def test_the_structure_is_drawn_and_marks_what_is_selected(visitor: Visitor, platform: Running) -> None:
    with platform.client() as client:
        run = client.post(f"{API}/runs", json={"workflow": "contacts", "inputs": {}}).json()["id"]
        wait_until(lambda: client.get(f"{API}/runs/{run}").json()["state"] == "succeeded", seconds=60)
    page = visitor.open(f"/runs/{run}/results?sel=3-7,16-21")
    expect(page.locator("[data-structure=ready][data-marked='2']")).to_be_visible(timeout=PATIENCE_MS)
    assert visitor.violations() == []
    page.get_by_role("button", name="Clear 3-7,16-21").click()
    expect(page.locator("[data-structure=ready][data-marked='0']")).to_be_visible()
    page.get_by_label("Target, 2 in all").select_option("f0001")
    expect(page.locator("[data-target=f0001] [data-structure=ready]")).to_be_visible(timeout=PATIENCE_MS)
