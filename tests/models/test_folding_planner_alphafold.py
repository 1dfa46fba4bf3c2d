"""What the planner says of AlphaFold, and what is counted: full widths, few blocks."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from alphafold_cases import record_of
from counted_memory import LiveBytes

from foldase_models.folding.alphafold.config import preset, reduced
from foldase_models.folding.alphafold.features import pass_features, record_features
from foldase_models.folding.alphafold.inputs import inputs_of
from foldase_models.folding.alphafold.model import AlphaFold
from foldase_models.folding.options import ForwardOptions
from foldase_models.planning import Hardware, plan_inference
from foldase_models.planning.alphafold import AlphaFoldCost
from foldase_models.planning.forms import Forms
from foldase_models.planning.ledger import Ledger

PRECISION = 0.1
"""What the planner promises of tensors alive at the peak, weights and inputs apart."""


def shallow(name):
    """Full widths; one block of each kind."""
    return dataclasses.replace(preset(name), evoformer_blocks=1, extra_msa_blocks=1, template_blocks=1)


def ratio(config, residues, rows, *, templates=0, recycles=0, group_bytes=2**20):
    """Predicted over counted peak."""
    features = record_features(record_of(residues, rows, templates), config.features)
    passes = [
        inputs_of(pass_features(features, config.features, seed=0, number=number))
        for number in range(recycles + 1)
    ]
    model, options = AlphaFold(config).eval(), ForwardOptions(group_bytes=group_bytes)
    counter = LiveBytes()
    with torch.no_grad(), counter:
        output = model(passes, options=options)
        confidence = model.confidence(output, options=options)
    del output, confidence
    ledger = Ledger()
    cost = AlphaFoldCost(config, rows, templates)
    cost.replay(ledger, Forms(group_bytes=group_bytes), residues, recycles=recycles)
    found, said = counter.peak / 2**20, ledger.peak / 2**20
    print(f"N = {residues}, {rows} rows: {said:.2f} MiB in {ledger.place}, counted {found:.2f} MiB")
    return said / found


@pytest.mark.parametrize(
    ("config", "residues", "rows", "more"),
    [
        (reduced(), 30, 12, {"templates": 2, "recycles": 1}),
        (reduced("model_3"), 36, 40, {"group_bytes": 2**16}),
        (reduced(features=dataclasses.replace(preset("model_1").features, extra=300)), 12, 900, {}),
    ],
)
def test_folding_planner_alphafold_peak_is_what_is_counted(config, residues, rows, more):
    assert ratio(config, residues, rows, **more) == pytest.approx(1, abs=PRECISION)


@pytest.mark.verify
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("name", "residues", "rows", "more"),
    [
        ("model_1_ptm", 64, 1, {"templates": 4}),
        ("model_3_ptm", 64, 5000, {}),
        ("model_1", 100, 128, {"templates": 1, "recycles": 1}),
        ("model_5", 200, 700, {"group_bytes": 2**17}),
        ("model_3_ptm", 256, 128, {}),
        ("model_2_ptm", 384, 600, {"templates": 4}),
        ("model_3_ptm", 512, 64, {"group_bytes": 2**18}),
        ("model_4_ptm", 1024, 16, {}),
    ],
)
def test_folding_planner_alphafold_peak_is_what_is_counted_up_to_1024(name, residues, rows, more):
    assert ratio(shallow(name), residues, rows, **more) == pytest.approx(1, abs=PRECISION)


@pytest.mark.parametrize("config", [reduced(), reduced("model_3"), shallow("model_1_ptm")])
def test_folding_planner_alphafold_parameters_are_counted_exactly(config):
    plan = plan_inference(config, 10, 1, 1, Hardware(ram_bytes=2**50))
    with torch.device("meta"):
        model = AlphaFold(config)
    assert plan.held["weights"] == 4 * sum(own.numel() for own in model.parameters())


def test_folding_planner_alphafold_rows_beyond_those_shown_cost_nothing_but_room():
    plans = [
        plan_inference(preset("model_1"), 200, rows, 1, Hardware(ram_bytes=2**50)) for rows in (9000, 90000)
    ]
    assert plans[0].forward_bytes == plans[1].forward_bytes
    assert plans[0].held["inputs"] < plans[1].held["inputs"]


def test_folding_planner_alphafold_weights_wait_in_main_memory_for_a_gpu_only():
    on_cpu, on_gpu = (
        plan_inference(preset("model_1"), 300, 100, 1, Hardware(ram_bytes=2**40, gpu_bytes=gpu), None, 99)
        for gpu in (0, 2**36)
    )
    assert not on_cpu.options.offload_weights
    assert on_gpu.options.offload_weights
    assert (
        on_gpu.peak["ram"]
        > on_gpu.held["inputs"] + 2 * AlphaFoldCost(preset("model_1"), 100, 0).block_parameters()
    )
