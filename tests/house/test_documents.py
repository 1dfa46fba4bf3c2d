"""What the documentation and the catalog show is what the language takes."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from foldase_workflows.contracts import Registry, default_registry
from foldase_workflows.spec import catalog, check, load_experiment, load_workflow

ROOT = Path(__file__).resolve().parents[2]


def _blocks(name: str, language: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("name", [entry.name for entry in catalog()])
def test_every_workflow_of_the_catalog_passes_its_own_checks(name: str) -> None:
    entry = next(entry for entry in catalog() if entry.name == name)
    document = load_workflow(entry.source, file=f"{name}.yaml")
    assert document.name == name
    assert document.title
    assert document.description
    assert all(spec.help for spec in document.inputs.values())
    check(document, default_registry())


def test_the_catalog_holds_the_main_job_and_the_one_without_training() -> None:
    assert {"contacts", "couplings"} <= {entry.name for entry in catalog()}


@pytest.mark.parametrize("name", ["README.md", "docs/workflows.md"])
def test_the_yaml_that_is_shown_is_accepted(name: str) -> None:
    blocks = _blocks(name, "yaml")
    assert blocks
    for block in blocks:
        if "steps:" in block:
            check(load_workflow(block), default_registry())
        else:
            load_experiment(block)


def test_the_operator_that_is_shown_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = _blocks("docs/workflows.md", "python")
    (tmp_path / "lab_operators.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    shown = importlib.import_module("lab_operators")
    operator = Registry(shown.OPERATORS).get("lab.count@1")
    (tmp_path / "two.fasta").write_text(">a\nMK\n>b\nMV\n")
    inputs = operator.Inputs(sequences=tmp_path / "two.fasta")
    assert operator.run(inputs, None).records == 2  # type: ignore[arg-type]  # it asks nothing of its context
