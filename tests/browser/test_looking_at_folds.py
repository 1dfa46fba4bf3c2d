"""The result page of a folding run: what failed, the ranking, and every structure a click away."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
from browser_support import Visitor
from playwright.sync_api import Browser, expect
from quick_folds import RECORDS, make_structure
from web_support import API, Running, wait_until

from foldase.store.records import artifact_json

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def run(platform: Running, tmp_path_factory: pytest.TempPathFactory) -> str:
    return fold(platform, tmp_path_factory.mktemp("weights"))


def fold(platform: Running, weights: Path) -> str:
    """A finished run of the catalog's workflow, with two seeds."""
    (weights / "config.json").write_text("{}")
    tree = platform.store.blobs.put_tree(weights, "weights", "tiny")
    kept = artifact_json(platform.store.requests.register_artifact(tree))
    with platform.client() as client:
        content = "".join(f">{name}\n{':'.join(chains)}\n" for name, chains in RECORDS.items()).encode()
        blob = client.post(f"{API}/blobs", params={"type": "fasta"}, content=content).json()
        inputs = {"sequences": {"$artifact": blob}, "weights": {"$artifact": kept}, "seeds": [1, 2]}
        answer = client.post(f"{API}/runs", json={"workflow": "fold", "inputs": inputs})
        answer.raise_for_status()
        found: str = answer.json()["id"]
        wait_until(lambda: client.get(f"{API}/runs/{found}").json()["state"] == "succeeded", seconds=60)
        return found


def test_failed_records_are_told_with_their_reasons(visitor: Visitor, run: str) -> None:
    visitor.open(f"/runs/{run}/results")
    warning = visitor.see("[data-notice=warning]")
    expect(warning).to_contain_text("1 of 3 records failed")
    expect(warning).to_contain_text("bad: J is none of the twenty residues (set unknown_residues to x)")


def test_a_real_structure_is_not_called_a_trace(visitor: Visitor, run: str) -> None:
    page = visitor.open(f"/runs/{run}/results?target=pair")
    structure = page.get_by_role("region", name="Structure")
    expect(structure.get_by_role("link", name="pair.cif")).to_be_visible()
    expect(structure.get_by_text("Very high (above 90)")).to_be_visible()
    expect(page.get_by_text("mirror image")).to_have_count(0)
    expect(page.get_by_text("18 residues in 2 chains")).to_be_visible()


def test_the_ranking_opens_each_structure(visitor: Visitor, run: str) -> None:
    page = visitor.open(f"/runs/{run}/results?sel=3")
    row = visitor.see("[data-ranking='4'] [data-record=pair][data-rank='2']")
    second = make_structure("pair", 2)
    for text in (f"{second.mean_plddt:.1f}", "0.730", "0.480", "esmfold"):
        expect(row).to_contain_text(text)
    expect(page.get_by_role("button", name="Show mono, rank 1")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("[data-record=mono][data-rank='1']")).to_contain_text("none")
    row.get_by_role("button").click()
    expect(page.locator("[data-target=pair_rank_2]")).to_be_visible()
    expect(page).not_to_have_url(re.compile("sel="))
    expect(page.get_by_role("region", name="Structure").get_by_role("link")).to_have_text("pair_rank_2.cif")
    assert visitor.violations() == []


def test_errors_of_pairs_are_read_with_the_keyboard(visitor: Visitor, run: str) -> None:
    page = visitor.open(f"/runs/{run}/results?target=pair")
    plot = visitor.see("[data-plot=pae]")
    expect(plot).to_have_attribute("data-length", "18")
    expect(page.locator("[data-target=pair]")).to_contain_text("Lines part the chains")
    plot.focus()
    for key in ("Shift+ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    pae = make_structure("pair", 1).pae
    assert pae is not None
    row, column = 10, 1
    readout = page.locator("[data-errors=pair]")
    expect(readout).to_have_text(f"A:K2 {pae[row, column]:.1f} Å off where B:T3 is aligned")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"sel=11(%2C|,)2$"))
    assert visitor.violations() == []


def test_a_block_of_errors_is_selected_everywhere(visitor: Visitor, run: str) -> None:
    page = visitor.open(f"/runs/{run}/results?target=mono")
    box = visitor.see("[data-plot=pae]").bounding_box()
    assert box is not None
    cell = box["width"] / len(RECORDS["mono"][0])
    page.mouse.move(box["x"] + 15.5 * cell, box["y"] + 2.5 * cell)
    page.mouse.down()
    page.mouse.move(box["x"] + 20.5 * cell, box["y"] + 6.5 * cell, steps=4)
    page.mouse.up()
    expect(page).to_have_url(re.compile(r"sel=3-7(%2C|,)16-21"))
    expect(page.get_by_role("button", name="Clear 3-7,16-21")).to_be_visible()
    page.get_by_role("button", name="Zoom in on errors").click()
    expect(page.get_by_role("button", name="Show all errors")).to_be_visible()


def test_a_narrow_dark_window_breaks_no_rule(browser: Browser, platform: Running, run: str) -> None:
    look: dict[str, Any] = {"viewport": {"width": 320, "height": 700}, "color_scheme": "dark"}
    with contextlib.closing(Visitor(browser, platform.url, **look)) as visitor:
        visitor.sign_in(platform.services.accounts.new_code())
        page = visitor.open(f"/runs/{run}/results?target=pair&sel=3-7,10-12")
        visitor.see("[data-plot=pae]")
        assert visitor.violations() == []
        assert page.evaluate("document.documentElement.scrollWidth") <= look["viewport"]["width"]
