"""What the planner says of ESMFold, and what is counted: full widths, two of its many blocks."""

from __future__ import annotations

import pytest
import torch
from planned_esmfold import NARROW, checkpoint, counted, predict

from foldase_models.folding.esm2.config import Esm2Config
from foldase_models.folding.esmfold.config import EsmFoldConfig, TrunkDims
from foldase_models.folding.esmfold.model import EsmFold
from foldase_models.folding.esmfold.weights import load_esmfold
from foldase_models.folding.options import ForwardOptions
from foldase_models.planning import Hardware, plan_inference
from foldase_models.planning.esmfold import EsmFoldCost
from foldase_models.planning.forms import ITEM, Forms
from foldase_models.planning.ledger import Ledger

PRECISION = 0.1
"""What the planner promises of tensors alive at the peak, weights and inputs apart."""
PLENTY = Hardware(ram_bytes=2**50)

LANGUAGE = Esm2Config(
    hidden_size=320,
    num_hidden_layers=2,
    num_attention_heads=20,
    intermediate_size=1280,
    position_embedding_type="rotary",
    token_dropout=True,
)
FULL = EsmFoldConfig(language=LANGUAGE, trunk=TrunkDims(no_blocks=2))


def compare(config, residues, recycles, group_bytes, dtype="float32"):
    """Predicted over counted peak."""
    ledger = Ledger()
    forms = Forms(group_bytes=group_bytes, item=ITEM[dtype])
    EsmFoldCost(config).replay(ledger, forms, residues, recycles=recycles)
    options = ForwardOptions(group_bytes=group_bytes, dtype=dtype)
    model = EsmFold(config).to(getattr(torch, dtype)).eval()
    model.trunk.structure_module.float()
    found = counted(model, residues, options, recycles)
    print(f"N = {residues}: {ledger.peak / 2**20:.2f} MiB in {ledger.place}, counted {found / 2**20:.2f} MiB")
    return ledger.peak / found


@pytest.mark.parametrize(
    ("config", "residues", "recycles", "group_bytes"),
    [
        (NARROW, 24, 0, 2**20),
        (NARROW, 61, 1, 2**20),
        (NARROW, 50, 0, 2**17),
        (FULL, 70, 0, 2**20),
    ],
)
def test_folding_planner_esmfold_peak_is_what_is_counted(config, residues, recycles, group_bytes):
    assert compare(config, residues, recycles, group_bytes) == pytest.approx(1, abs=PRECISION)


def test_folding_planner_esmfold_in_half_precision_too():
    assert compare(NARROW, 40, 0, 2**20, "bfloat16") == pytest.approx(1, abs=PRECISION)


@pytest.mark.verify
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("residues", "group_bytes"),
    [(64, 2**20), (96, 2**20), (150, 2**16), (256, 2**20), (333, 2**18), (512, 2**19), (1024, 2**20)],
)
def test_folding_planner_esmfold_peak_is_what_is_counted_up_to_1024(residues, group_bytes):
    assert compare(FULL, residues, 0, group_bytes) == pytest.approx(1, abs=PRECISION)


@pytest.mark.parametrize("config", [FULL, NARROW])
def test_folding_planner_esmfold_parameters_are_counted_exactly(config):
    plan = plan_inference(config, 10, 1, 1, PLENTY)
    with torch.device("meta"):
        model = EsmFold(config)
    assert plan.held["weights"] == 4 * sum(own.numel() for own in model.parameters())


def test_folding_planner_esmfold_weights_wait_in_their_files(tmp_path):
    """The plan that holds one block's weights at a time gives the same answer and holds what it says."""
    torch.manual_seed(1)
    model = checkpoint(NARROW, tmp_path)
    waiting = load_esmfold(tmp_path, waiting=True)
    full = plan_inference(NARROW, 20, 1, 1, PLENTY, recycles=1)
    plan = plan_inference(NARROW, 20, 1, 1, PLENTY, None, 99, recycles=1)
    assert plan.options.offload_weights
    found, _, contacts = predict(waiting, 20, plan.options, 1)
    expected, _, expected_contacts = predict(model, 20, ForwardOptions(), 1)
    assert torch.allclose(found.structure.positions, expected.structure.positions, atol=1e-3)
    assert torch.allclose(contacts, expected_contacts, atol=1e-5)
    held = sum(own.numel() * 4 for own in waiting.parameters() if not own.is_meta)
    assert held == plan.held["weights"] < full.held["weights"]
    assert plan.forward_bytes / counted(waiting, 20, plan.options, 1) == pytest.approx(1, abs=PRECISION)
