"""Weights chosen by their name, and attempts with what they planned and took."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from browser_support import Visitor, quick_platform
from playwright.sync_api import Browser, expect
from pydantic import Field
from quick_operators import quick_registry
from web_support import Running

from foldase_workflows.contracts import Operator, Ports, Registry, StepContext
from foldase_workflows.contracts.ports import Weights

pytestmark = pytest.mark.browser

GIB = 1 << 30
NARROW: dict[str, Any] = {"viewport": {"width": 320, "height": 700}, "color_scheme": "dark"}

WORKFLOW = """\
version: 1
name: fold
title: Fold with public weights
inputs:
  weights: {type: weights, help: Which model folds}
steps:
  fold:
    uses: quick.fold@1
    with: {weights: "${{ inputs.weights }}"}
    resources: {memory: 2GiB}
    cache: false
outputs:
  folded: ${{ steps.fold.residues }}
"""


class FoldInputs(Ports):
    weights: Weights
    frugality: int = Field(0, ge=0, le=3)


class FoldOutputs(Ports):
    residues: int


class QuickFold(Operator[FoldInputs, FoldOutputs]):
    """Runs out of memory once, as a folding model would."""

    name, version, help = "quick.fold", 1, "folds, unless it runs out of memory"
    frugality = "frugality"
    Inputs, Outputs = FoldInputs, FoldOutputs

    def run(self, inputs: FoldInputs, context: StepContext) -> FoldOutputs:
        predicted = (3 * GIB) >> inputs.frugality
        context.plan(
            {
                "predicted_peak_bytes": predicted,
                "correction": 1.0 + inputs.frugality / 4,
                "model": "esmfold",
                "residues": 1024,
                "device": "cpu",
                "step": 2 * inputs.frugality,
                "steps": 9,
                "peak_bytes": {"ram": predicted},
                "options": {
                    "dtype": "float32",
                    "backend": "auto",
                    "group_bytes": (1 << 26) >> inputs.frugality,
                    "inplace": True,
                    "offload_pair": inputs.frugality > 0,
                },
            }
        )
        if inputs.frugality == 0:
            raise MemoryError
        context.plan({"measured_peak_bytes": predicted + (200 << 20)})
        return FoldOutputs(residues=1024)


@pytest.fixture(scope="module")
def platform(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("weights")
    for name, file in (("esmfold_v1", "model.safetensors"), ("old", "model.pt")):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text('{"model_type": "esm", "is_folding_model": true}')
        (folder / name / file).write_bytes(bytes(5000))
    home = tmp_path_factory.mktemp("page") / "home"
    with quick_platform(home, Registry([QuickFold(), *quick_registry()]), weights=folder) as running:
        yield running


def look_at_attempts(visitor: Visitor) -> None:
    page = visitor.page
    page.get_by_role("tab", name="Attempts").click()
    first, second = page.locator("[data-attempt='1']"), page.locator("[data-attempt='2']")
    expect(first).to_contain_text("oom_host")
    expect(first).to_contain_text("planned 3.0 GiB")
    expect(second).to_contain_text("planned 1.5 GiB")
    expect(second).to_contain_text("took 1.7 GiB")
    changed = page.locator("[data-attempt='2'] + tr")
    expect(changed).to_contain_text("Changed: frugality 0 to 1, memory 2.0 GiB to 3.0 GiB")
    expect(changed).to_contain_text("plan 3 of 9 · model esmfold · residues 1024")
    expect(changed).to_contain_text("group 32.0 MiB · inplace · offload pair")
    expect(changed).to_contain_text("corrected by 1.25 after earlier attempts")


def test_weights_are_chosen_and_a_frugal_attempt_is_shown(visitor: Visitor) -> None:
    page = visitor.open("/new?tab=yaml")
    page.get_by_label("Workflow as YAML").fill(WORKFLOW)
    chosen = page.locator("select[name=weights]")
    expect(chosen.locator("option")).to_have_text(
        ["Choose…", re.compile(r"^esmfold_v1 \(esmfold, 4\.9 KiB"), "old (cannot be used)"]
    )
    page.get_by_role("button", name="Submit run").click()
    expect(page.get_by_text("Choose weights.")).to_be_visible()
    assert visitor.violations() == []
    chosen.select_option("esmfold_v1")
    page.get_by_role("button", name="Submit run").click()
    expect(page).to_have_url(re.compile(r"/runs/r\w+$"))
    expect(page.locator("[data-run-state=succeeded]")).to_be_visible()
    page.locator("[data-step=fold]").get_by_role("button", name="fold").click()
    look_at_attempts(visitor)
    assert visitor.violations() == []
    page.get_by_role("tab", name="Values").click()
    values = page.locator("[data-open-step=fold]")
    expect(values).to_contain_text("esmfold_v1")
    expect(values.get_by_role("link", name="esmfold_v1")).to_have_count(0)


@pytest.mark.verify
def test_attempts_break_no_rule_and_no_frame_where_it_is_narrow(browser: Browser, platform: Running) -> None:
    with platform.client() as client:
        body = {"source": WORKFLOW, "inputs": {"weights": "esmfold_v1"}}
        run = client.post("/api/v1/runs", json=body).json()["id"]
    visitor = Visitor(browser, platform.url, **NARROW)
    visitor.sign_in(platform.services.accounts.new_code())
    page = visitor.open(f"/runs/{run}?step=fold")
    expect(page.locator("[data-run-state=succeeded]")).to_be_visible()
    look_at_attempts(visitor)
    assert visitor.violations() == []
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["viewport"]["width"]
    visitor.close()
