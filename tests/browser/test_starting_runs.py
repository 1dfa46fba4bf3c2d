"""The ways to start a run: the catalog with its form, files of one's own, and YAML."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browser_support import Visitor
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

ALIGNMENT = b">query\nMKVLAACD\n>other\nMKVLSACE\n>third\nMRVLSACE\n"

FAULTY = """\
version: 1
name: mine
steps:
  simulate:
    uses: alignment.simulat@1
    with: {families: 8, seed: 3}
"""


REFUSED = """\
version: 1
name: mine
steps:
  simulate:
    uses: alignment.simulate@1
    with: {families: 8, seed: 3}
  train:
    uses: contacts.train@1
    with: {families: "${{ steps.simulate.families }}", optimizer: zero_one_adam}
"""


def test_the_first_visit_says_how_to_start(visitor: Visitor) -> None:
    page = visitor.open("/runs")
    expect(page.get_by_role("heading", name="No runs yet")).to_be_visible()
    expect(page.get_by_text("foldase run contacts")).to_be_visible()


def test_a_workflow_of_the_catalog_from_its_form(visitor: Visitor) -> None:
    page = visitor.open("/new")
    page.get_by_role("link", name=re.compile("Learn to see contacts")).click()
    families = page.get_by_label("families", exact=True)
    expect(families).to_have_value("300")
    families.fill("2")
    message = page.get_by_text("At least 4.")
    expect(message).to_be_visible()
    assert message.get_attribute("id") in (families.get_attribute("aria-describedby") or "").split()
    families.fill("12")
    plan = visitor.see("[data-state=planned]")
    expect(plan).to_contain_text("contacts.train@1")
    expect(plan).to_contain_text("0 of 7 steps")
    page.get_by_text("The same from a terminal").click()
    expect(page.get_by_text("foldase run contacts --input families=12")).to_be_visible()
    page.get_by_label("Name", exact=True).fill("from the form <b>x</b>")
    page.get_by_role("button", name="Submit run").click()
    expect(page).to_have_url(re.compile(r"/runs/r\w+$"))
    expect(page.get_by_role("heading", name="from the form <b>x</b>", level=1)).to_be_visible()
    expect(page.locator("[data-run-state=succeeded]")).to_be_visible()
    expect(page.locator("[data-step=train]")).to_be_visible()


def test_what_is_missing_is_said_at_its_field(visitor: Visitor) -> None:
    page = visitor.open("/new?workflow=couplings")
    expect(page.locator("[data-state=incomplete]")).to_contain_text("alignment")
    page.get_by_role("button", name="Submit run").click()
    expect(page.get_by_text("Add a file.")).to_be_visible()
    assert "/new" in page.url


def test_a_file_by_picker_with_a_first_look_at_it(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.open("/new?workflow=couplings")
    empty = tmp_path / "empty.a3m"
    empty.write_bytes(b"")
    page.locator("[data-picker=alignment]").set_input_files(empty)
    expect(page.locator("[role=alert][data-code=empty_file]")).to_be_visible()
    mine = tmp_path / "mine.a3m"
    mine.write_bytes(ALIGNMENT)
    page.locator("[data-picker=alignment]").set_input_files(mine)
    field = visitor.see("[data-field=alignment] [data-state=uploaded]")
    expect(field).to_contain_text("mine.a3m")
    expect(field).to_contain_text("3 sequences, 8 columns.")
    visitor.see("[data-state=planned]")
    page.get_by_role("button", name="Remove mine.a3m").click()
    expect(page.locator("[data-state=incomplete]")).to_be_visible()


def test_text_by_paste_warns_before_the_run_fails(visitor: Visitor) -> None:
    page = visitor.open("/new?workflow=couplings")
    page.get_by_role("button", name="Paste text").click()
    page.get_by_label("Text for alignment").fill(">query\nMKVL\n>short\nMK\n")
    page.get_by_role("button", name="Use this text").click()
    field = visitor.see("[data-field=alignment] [data-state=uploaded]")
    expect(field).to_contain_text("short has 2 columns, the first row has 4")
    page.get_by_role("button", name="Submit run").click()
    card = visitor.see("[data-cause=bad_input]")
    expect(card).to_contain_text("Bad input in read")
    expect(card).to_contain_text("short")
    expect(card.get_by_role("button", name="Open the step")).to_be_visible()


def test_yaml_is_checked_in_place(visitor: Visitor) -> None:
    page = visitor.open("/new?tab=yaml")
    editor = page.get_by_label("Workflow as YAML")
    editor.fill(FAULTY)
    expect(page.locator("[data-check=faults]")).to_be_visible()
    fault = page.get_by_role("button", name=re.compile("unknown_operator"))
    expect(fault).to_contain_text("workflow.yaml:5:11")
    expect(fault).to_contain_text("alignment.simulate")
    expect(page.locator(".cm-lint-marker-error")).to_be_visible()
    expect(page.get_by_role("button", name="Submit run")).to_be_disabled()
    fault.click()
    expect(editor).to_be_focused()
    page.keyboard.insert_text("alignment.simulate@1")
    expect(page.locator("[data-check=ok]")).to_contain_text("No errors, 1 step")
    visitor.see("[data-state=planned]")
    page.get_by_role("button", name="Submit run").click()
    expect(page.locator("[data-run-state=succeeded]")).to_be_visible()


def test_a_plan_says_what_would_be_refused_and_the_run_fails_of_the_same(visitor: Visitor) -> None:
    page = visitor.open("/new?tab=yaml")
    page.get_by_label("Workflow as YAML").fill(REFUSED)
    expect(page.locator("[data-check=ok]")).to_be_visible()
    told = visitor.see("[data-refused=train]")
    expect(told).to_contain_text("workflow.yaml:7:3, steps.train.resources.ranks: ")
    expect(told).to_contain_text("zero_one_adam is for two ranks or more")
    expect(told).to_contain_text("bad_config")
    expect(told).to_contain_text("set resources.ranks to 2 or more, or optimizer to adamw")
    assert visitor.violations() == []
    page.get_by_role("button", name="Submit run").click()
    card = visitor.see("[data-cause=bad_input]")
    expect(card).to_contain_text("Bad input in train")
    expect(card).to_contain_text("zero_one_adam is for two ranks or more")
    expect(card).to_contain_text("set resources.ranks to 2 or more, or optimizer to adamw")


def test_yaml_is_completed_from_the_operators(visitor: Visitor) -> None:
    page = visitor.open("/new?tab=yaml")
    page.get_by_label("Workflow as YAML").fill("version: 1\nsteps:\n  train:\n    uses: contacts.t")
    page.keyboard.press("Control+End")
    page.keyboard.press("Control+Space")
    page.get_by_role("option", name="contacts.train@1").click()
    expect(page.get_by_label("Workflow as YAML")).to_contain_text("uses: contacts.train@1")


def test_the_example_fills_the_editor_and_its_inputs_become_a_form(visitor: Visitor) -> None:
    page = visitor.open("/new?tab=yaml")
    page.get_by_role("button", name="Example").click()
    expect(page.locator("[data-check=ok]")).to_contain_text("No errors, 7 steps")
    expect(page.get_by_label("families", exact=True)).to_have_value("300")
    page.get_by_role("tab", name="Catalog").click()
    page.get_by_role("tab", name="YAML").click()
    expect(page.locator("[data-check=ok]")).to_be_visible()
    page.get_by_role("button", name="Example").click()
    page.get_by_role("button", name="Keep").click()
    expect(page.get_by_role("button", name="Replace")).to_be_hidden()


def test_running_again_takes_over_document_and_inputs(visitor: Visitor) -> None:
    page = visitor.open("/runs")
    page.get_by_role("link", name="from the form <b>x</b>").click()
    page.get_by_role("link", name="Run again").click()
    expect(page.get_by_label("families", exact=True)).to_have_value("12")
    plan = visitor.see("[data-state=planned]")
    expect(plan).to_contain_text("7 of 7 steps")
