"""A run while it happens: steps, log, curves, cancelling, resuming, and a server that goes away."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import httpx
import pytest
from browser_support import Visitor, quick_platform
from playwright.sync_api import APIResponse, Browser, Error, Route, expect
from quick_operators import POINTS, gate, quick_registry
from web_support import API, Running, serving, wait_until

pytestmark = pytest.mark.browser

HALF = POINTS // 2 - 1
"""Points that training reports before it waits at the gate."""


SCATTERED = """\
version: 1
name: scattered
inputs:
  seeds: {type: "list[int]", default: [31, 32, 33]}
steps:
  simulate:
    uses: alignment.simulate@1
    each: {seed: "${{ inputs.seeds }}"}
    with: {families: 4, seed: "${{ each.seed }}"}
"""


def submit(platform: Running, **inputs: object) -> str:
    """A run of the main workflow, as a program submits it. Another seed each time keeps the cache out."""
    with platform.client() as client:
        body = {"workflow": "contacts", "inputs": inputs, "name": f"seed {inputs.get('seed')}"}
        answer = client.post(f"{API}/runs", json=body)
        answer.raise_for_status()
        run: str = answer.json()["id"]
        return run


def test_a_run_is_watched_from_start_to_end(visitor: Visitor, platform: Running) -> None:
    gate.clear()
    run = submit(platform, seed=11)
    page = visitor.open(f"/runs/{run}")
    expect(page.locator("[data-run-state=running]")).to_be_visible()
    expect(page.locator("[data-connection=live]")).to_be_visible()
    page.locator("[data-step=train]").get_by_role("button", name="train").click()
    expect(page.locator(f"[data-log-lines='{HALF}']")).to_be_visible()
    expect(page.get_by_role("region", name="Log", exact=True)).to_contain_text(f"step {HALF} of {POINTS}")
    page.get_by_role("tab", name="Curves").click()
    expect(page.locator(f"[data-points='{HALF}']")).to_be_visible()
    expect(page.locator("[data-curve=loss] canvas")).to_be_visible()
    gate.set()
    expect(page.locator(f"[data-points='{POINTS}']")).to_be_visible()
    expect(page.locator("[data-run-state=succeeded]")).to_be_visible()
    expect(page.locator("[data-connection=closed]")).to_be_attached()
    page.get_by_role("tab", name="Log").click()
    expect(page.locator(f"[data-log-lines='{POINTS}']")).to_be_visible()
    page.get_by_label("Least level shown").select_option("warning")
    expect(page.get_by_text(f"4 of {POINTS} lines")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert len(lines) == POINTS
    expect(page.get_by_role("link", name="Results")).to_be_visible()


def test_a_first_answer_that_is_overtaken_by_the_end_of_the_run_is_not_what_stays(
    visitor: Visitor, platform: Running
) -> None:
    gate.clear()
    run = submit(platform, seed=19)
    first: list[Route] = []
    held: list[APIResponse] = []

    def hold_the_first(route: Route) -> None:
        if first:
            route.continue_()
        else:
            first.append(route)
            held.append(route.fetch())

    page = visitor.page
    page.route(f"**/api/v1/runs/{run}", hold_the_first)
    with page.expect_response(lambda answer: answer.url.endswith("/events") or "/events?" in answer.url):
        page.goto(f"{visitor.url}/runs/{run}")
    gate.set()
    with platform.client() as client:
        wait_until(lambda: client.get(f"{API}/runs/{run}").json()["state"] == "succeeded")
    # More than the page collects before it draws: whatever the stream said by now is taken in.
    page.wait_for_timeout(500)
    [answer] = held
    assert answer.json()["state"] != "succeeded"
    with contextlib.suppress(Error):  # the page may have given this request up
        first[0].fulfill(response=answer)
    expect(page.locator("[data-run-state=succeeded]")).to_be_visible()


def test_the_list_of_runs_is_live_and_is_filtered_by_its_address(visitor: Visitor, platform: Running) -> None:
    page = visitor.open("/runs")
    gate.clear()
    run = submit(platform, seed=12)
    row = page.locator(f"[data-run={run}]")
    expect(row).to_have_attribute("data-state", "running")
    gate.set()
    expect(row).to_have_attribute("data-state", "succeeded")
    page.get_by_role("link", name="Failed").click()
    expect(page).to_have_url(re.compile("state=failed"))
    expect(page.get_by_role("heading", name="No run matches")).to_be_visible()
    page.get_by_role("link", name="All", exact=True).click()
    page.get_by_label("Search runs by name or id").fill("seed 12")
    expect(page).to_have_url(re.compile("q=seed"))
    expect(page.locator("tbody tr")).to_have_count(1)


def test_cancelling_asks_first_and_resuming_goes_on(visitor: Visitor, platform: Running) -> None:
    gate.clear()
    run = submit(platform, seed=13)
    page = visitor.open(f"/runs/{run}?step=train")
    expect(page.locator("[data-open-step=train][data-step-state=running]")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("button", name="Keep running")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("[data-run-state=running]")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel run").click()
    expect(page.locator("[data-run-state=cancelled]")).to_be_visible()
    gate.set()
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("resumed from")).to_be_visible()
    expect(page.locator("[data-run-state=succeeded]")).to_be_visible()
    expect(page.locator("[data-step=familiar][data-state=cached]")).to_be_visible()


def test_why_a_step_ran_again(visitor: Visitor, platform: Running) -> None:
    first, second = submit(platform, seed=14, steps=100), submit(platform, seed=14, steps=200)
    visitor.open(f"/runs/{first}")
    visitor.see("[data-run-state=succeeded]")
    page = visitor.open(f"/runs/{second}?step=train")
    visitor.see("[data-run-state=succeeded]")
    page.get_by_role("tab", name="Why").click()
    why = visitor.see("[data-why=ran]")
    expect(why).to_contain_text("parameters.steps")
    expect(why).to_contain_text("100")
    expect(why).to_contain_text("200")
    page.locator("[data-step=unseen]").get_by_role("button", name="unseen").click()
    expect(page.locator("[data-open-step=unseen]")).to_contain_text("Cached")


def test_artifacts_are_downloaded_and_the_source_is_kept(visitor: Visitor, platform: Running) -> None:
    run = submit(platform, seed=15)
    page = visitor.open(f"/runs/{run}?tab=artifacts")
    outputs = page.get_by_role("region", name="Outputs of the run")
    expect(outputs.locator("tbody tr")).to_have_count(5)
    with page.expect_download() as download:
        outputs.get_by_role("link", name="scores.json").click()
    assert "precision" in Path(download.value.path()).read_text()
    with page.expect_download() as archive:
        outputs.get_by_role("link", name="predictions").click()
    assert Path(archive.value.path()).read_bytes().startswith(b"PK")
    page.get_by_role("tab", name="Provenance").click()
    expect(page.get_by_label("Source of the workflow")).to_contain_text("contacts.train@1")


def test_the_items_of_a_scattered_step(visitor: Visitor, platform: Running) -> None:
    with platform.client() as client:
        run = client.post(f"{API}/runs", json={"source": SCATTERED}).json()["id"]
    page = visitor.open(f"/runs/{run}")
    expect(page.locator("[data-run-state=succeeded]")).to_be_visible()
    row = page.locator("tr[data-step=simulate]")
    expect(row).to_contain_text("3 items")
    expect(row).to_contain_text("3 succeeded")
    expect(visitor.see(".react-flow__node")).to_contain_text("3 of 3 items")
    row.get_by_role("button", name="simulate").click()
    items = page.locator("tr[data-step^='simulate[']")
    expect(items).to_have_count(3)
    items.nth(1).get_by_role("button").click()
    detail = visitor.see("[data-open-step^='simulate[']")
    expect(detail).to_contain_text("4 families of 28 residues")


def test_the_cluster_page_shows_nodes_and_what_waits(visitor: Visitor) -> None:
    page = visitor.open("/cluster")
    expect(page.locator("[data-cluster=ready]")).to_be_visible()
    expect(page.locator("[data-node=node-1]")).to_contain_text("workstation")
    link = page.get_by_role("link", name="Open the Ray dashboard")
    assert link.get_attribute("href") == "/ray/"
    assert link.get_attribute("target") == "_blank"


def test_what_does_not_exist_is_said_plainly(visitor: Visitor, platform: Running) -> None:
    page = visitor.page
    page.goto(f"{platform.url}/runs/r0000000000000")
    expect(page.locator("[role=alert]")).to_contain_text("there is no run r0000000000000")
    page.goto(f"{platform.url}/nowhere")
    expect(page.get_by_role("heading", name="There is nothing at this address")).to_be_visible()


def test_a_server_that_goes_away_and_comes_back(browser: Browser, tmp_path: Path) -> None:
    registry, home = quick_registry(), tmp_path / "home"
    gate.clear()
    with quick_platform(home, registry) as first:
        port = httpx.URL(first.url).port
        visitor = Visitor(browser, first.url)
        visitor.sign_in(first.services.accounts.new_code())
        run = submit(first, seed=16)
        page = visitor.open(f"/runs/{run}?step=train")
        expect(page.locator(f"[data-log-lines='{HALF}']")).to_be_visible()
        first.stop()
        expect(page.locator("[data-connection=retrying]")).to_be_visible()
        with serving(home, port=port):
            expect(page.locator("[data-connection=live]")).to_be_visible()
            gate.set()
            expect(page.locator("[data-run-state=succeeded]")).to_be_visible()
            expect(page.locator(f"[data-log-lines='{POINTS}']")).to_be_visible()
        visitor.close()
