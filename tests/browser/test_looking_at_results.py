"""The result page: contact map, confidence, scores, one selection for all of them."""

from __future__ import annotations

import re

import pytest
from browser_support import Visitor
from playwright.sync_api import expect
from quick_operators import LENGTH, make_prediction
from web_support import API, Running, wait_until

pytestmark = pytest.mark.browser

TRAININGS = """\
version: 1
name: trainings
steps:
  simulate: {uses: alignment.simulate@1, with: {families: 2, seed: 1}}
  first: {uses: contacts.train@1, with: {families: "${{ steps.simulate.families }}", seed: 1}}
  second: {uses: contacts.train@1, with: {families: "${{ steps.simulate.families }}", seed: 2}}
outputs:
  contacts_per_residue: ${{ steps.simulate.contacts_per_residue }}
  first: ${{ steps.first.scores }}
  second: ${{ steps.second.scores }}
"""


def finished(platform: Running, body: dict[str, object]) -> str:
    with platform.client() as client:
        answer = client.post(f"{API}/runs", json=body)
        answer.raise_for_status()
        run: str = answer.json()["id"]
        wait_until(lambda: client.get(f"{API}/runs/{run}").json()["state"] == "succeeded", seconds=60)
        return run


@pytest.fixture(scope="module")
def contacts(platform: Running) -> str:
    return finished(platform, {"workflow": "contacts", "inputs": {"seed": 21}})


@pytest.fixture(scope="module")
def couplings(platform: Running) -> str:
    with platform.client() as client:
        content = b">q\nMKVLAACD\n>r\nMKVLSACE\n>s\nMRVLSACE\n"
        blob = client.post(f"{API}/blobs", params={"type": "alignment"}, content=content).json()
    return finished(platform, {"workflow": "couplings", "inputs": {"alignment": {"$artifact": blob}}})


def test_the_map_is_read_with_the_keyboard(visitor: Visitor, contacts: str) -> None:
    page = visitor.open(f"/runs/{contacts}/results")
    plot = visitor.see("[role=application][data-state=drawn]")
    expect(plot).to_have_attribute("data-length", str(LENGTH))
    expect(plot).to_have_attribute("data-has-truth", "true")
    plot.focus()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+ArrowRight")
    prediction = make_prediction("f0000", 0)
    assert prediction.truth is not None
    row, column = 3, 14
    readout = page.locator("[data-readout=pair]")
    expect(readout).to_contain_text(f"{prediction.contact_probability[row, column]:.3f}")
    kind = "a true contact" if prediction.truth[row, column] else "not a contact"
    expect(readout).to_contain_text(kind)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"sel=4(%2C|,)15"))
    page.keyboard.press("Escape")
    expect(page).not_to_have_url(re.compile("sel="))


def test_dragging_on_the_map_selects_residues_that_a_link_keeps(visitor: Visitor, contacts: str) -> None:
    page = visitor.open(f"/runs/{contacts}/results")
    box = visitor.see("[role=application][data-state=drawn]").bounding_box()
    assert box is not None
    cell = box["width"] / LENGTH
    page.mouse.move(box["x"] + 15.5 * cell, box["y"] + 2.5 * cell)
    page.mouse.down()
    page.mouse.move(box["x"] + 20.5 * cell, box["y"] + 6.5 * cell, steps=4)
    page.mouse.up()
    expect(page).to_have_url(re.compile(r"sel=3-7(%2C|,)16-21"))
    page.get_by_role("button", name="Zoom to selection").click()
    expect(page.get_by_role("button", name="Show all", exact=True)).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Clear 3-7,16-21")).to_be_visible()


def test_scores_contacts_and_other_targets(visitor: Visitor, contacts: str) -> None:
    page = visitor.open(f"/runs/{contacts}/results")
    model = visitor.see("[data-method=model]")
    expect(model).to_contain_text("0.950")
    expect(model).to_contain_text("0.93 to 0.97")
    expect(page.locator("[data-method=shuffled]")).to_contain_text("ablation")
    expect(page.get_by_text("L/5: +0.330 (+0.300 to +0.360)")).to_be_visible()
    expect(page.get_by_text("mirror image of what is shown")).to_be_visible()
    contact_list = page.get_by_role("region", name="Most probable contacts")
    expect(contact_list).to_contain_text(f"Of the {LENGTH} most probable pairs")
    contact_list.locator("tbody button").first.click()
    expect(page).to_have_url(re.compile("sel="))
    page.get_by_label(re.compile("^Target")).select_option("f0001")
    expect(page.locator("[data-target=f0001]")).to_be_visible()
    expect(page).not_to_have_url(re.compile("sel="))
    page.get_by_label("Predictions", exact=True).select_option(label="predict_shuffled: predictions")
    expect(page.get_by_text("method shuffled")).to_be_visible()
    expect(page.get_by_role("region", name="Downloads").get_by_role("link")).to_have_count(7)


def test_a_prediction_without_truth_or_structure(visitor: Visitor, couplings: str) -> None:
    page = visitor.open(f"/runs/{couplings}/results")
    expect(visitor.see("[role=application]")).to_have_attribute("data-has-truth", "false")
    expect(page.get_by_text("both halves show the prediction")).to_be_visible()
    expect(page.get_by_role("region", name="Structure")).to_have_count(0)


def test_results_before_there_are_any(visitor: Visitor, platform: Running) -> None:
    step = "{uses: alignment.simulate@1, with: {families: 2, seed: 1}}"
    run = finished(platform, {"source": f"version: 1\nname: short\nsteps: {{simulate: {step}}}\n"})
    page = visitor.open(f"/runs/{run}/results")
    expect(page.get_by_role("heading", name="Nothing to draw")).to_be_visible()
    page.get_by_role("link", name="To the artifacts").click()
    expect(page.get_by_role("region", name="Made by the steps")).to_be_visible()


def test_values_that_a_run_hands_back_stand_side_by_side(visitor: Visitor, platform: Running) -> None:
    run = finished(platform, {"source": TRAININGS})
    page = visitor.open(f"/runs/{run}/results")
    values = visitor.see("[data-values=ready]")
    expect(values.get_by_role("columnheader")).to_have_text(["Output", "precision_at_L"])
    expect(values.locator("[data-output=first]")).to_contain_text("0.9")
    expect(values.locator("[data-output=second]")).to_contain_text("0.9")
    expect(values).to_contain_text("contacts_per_residue")
    expect(page.get_by_role("heading", name="Nothing to draw")).to_have_count(0)
    assert visitor.violations() == []


def test_a_browser_without_webgl_offers_the_file(visitor: Visitor, contacts: str) -> None:
    page = visitor.open(f"/runs/{contacts}/results")
    expect(page.locator("[data-structure=no-webgl]")).to_be_visible()
    expect(page.locator("[data-track=confidence]")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="f0000.cif", exact=True).click()
    assert download.value.suggested_filename == "f0000.cif"
