"""Plans of trainings of folding models beside real ones: parameters, bytes by tier, peaks of activations."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_ranks import SAME_WORKER, Gang

from foldase_kernels.triangle_multiplication import cpu, cpu_gradients
from foldase_models.folding.alphafold.config import PRESETS, AlphaFoldConfig, reduced
from foldase_models.folding.alphafold.model import AlphaFold
from foldase_models.folding.esm2.config import Esm2Config
from foldase_models.folding.esmfold.config import EsmFoldConfig, TrunkDims
from foldase_models.folding.esmfold.model import EsmFold
from foldase_models.folding.losses import LossWeights, folding_losses
from foldase_models.folding.options import ForwardOptions
from foldase_models.layers.dims import EvoformerDims
from foldase_models.layers.residues import ATOM37_MASK, RESTYPES, encode
from foldase_models.layers.structure_dims import StructureDims
from foldase_models.planning import (
    AlphaFoldTrainee,
    EsmFoldTrainee,
    Hardware,
    Part,
    kept_layers,
    plan_training,
)
from foldase_models.planning.alphafold import AlphaFoldCost
from foldase_models.planning.configs import PUBLISHED
from foldase_models.planning.esmfold import EsmFoldCost
from foldase_models.planning.training_states import GATHERED, UNDER_WAY
from foldase_models.recipes import alphafold_trainee, folding_models
from foldase_models.recipes.folding_data import TrainingStructure
from foldase_models.recipes.folding_models import Draw
from foldase_models.training import LimitsConfig, OffloadConfig, Ranks, Trainer, TrainingConfig

STATE_BYTES = 0.01
"""Of the planned bytes of a tier, relative to what its ledger holds."""
BUFFER_BYTES = 1024
"""What the model's own buffers may take, which no plan counts."""
PEAK = 0.02
"""Of the planned peak with activations, relative to what was counted; a tenth is what is promised."""
MIXED_PEAK = (0.9, 1.6)
"""The planned peak in bfloat16 over what was counted: which layers are small there, the plan only guesses."""
UNCAPPED = 2**50
"""A cap that nothing reaches, so that every tensor is counted."""
ROOMY = Hardware(ram_bytes=2**45, disk_bytes=2**45, cores=2)
FINE_TUNING = LossWeights.fine_tuning()
CHECKPOINTS = ForwardOptions(checkpoint=True)


def esmfold(*, width=32, pairs=32, blocks=1, placings=2, **changes):
    language = Esm2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        position_embedding_type="rotary",
    )
    trunk = TrunkDims(
        c_s=width, c_z=pairs, sequence_head_width=16, pair_head_width=16, no_blocks=blocks, position_bins=16
    )
    structure = StructureDims(
        c_s=width, c_z=pairs, c_ipa=8, c_resnet=width, no_heads_ipa=4, no_v_points=4, no_blocks=placings
    )
    sizes = {"language": language, "trunk": trunk, "structure": structure, "lddt_width": width}
    return EsmFoldConfig(**(sizes | changes))


def alphafold(*, width=32, pairs=32, blocks=1, placings=2, preset="model_3_ptm", **changes):
    small = reduced(preset)
    sizes = {
        "evoformer": replace(small.evoformer, c_m=width, c_z=pairs),
        "evoformer_blocks": blocks,
        "extra_msa": replace(small.extra_msa, c_z=pairs),
        "structure": replace(small.structure, c_z=pairs, no_blocks=placings),
    }
    return replace(small, **(sizes | changes))


KINDS = {
    EsmFoldConfig: (folding_models.EsmFoldTrainee, EsmFoldTrainee),
    AlphaFoldConfig: (alphafold_trainee.AlphaFoldTrainee, AlphaFoldTrainee),
}
"""What a training and what a plan of it take, by the configuration."""
LARGE_LANGUAGE = Esm2Config(
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=40,
    emb_layer_norm_before=True,
)
ESMFOLDS = [
    esmfold(),
    esmfold(width=48, blocks=3, language=LARGE_LANGUAGE, embed_aa=False),
    esmfold(structure=StructureDims(c_s=20, c_z=16, no_transition_layers=2, no_resnet_blocks=3)),
]
ALPHAFOLDS = [
    alphafold(),
    alphafold(preset="model_1", template_blocks=2, extra_msa_blocks=2),
    alphafold(preset="model_2_ptm", recycle_bins=11, max_offset=8),
]


@pytest.mark.parametrize(
    ("trainee", "model"),
    [
        *((EsmFoldTrainee(config), EsmFold) for config in ESMFOLDS),
        *((AlphaFoldTrainee(config), AlphaFold) for config in ALPHAFOLDS),
    ],
)
def test_the_units_of_a_folding_model_are_its_parameters_in_their_order(trainee, model):
    with torch.device("meta"):
        own = [
            (p.numel(), p.dim() > 1, p.shape[0], p.requires_grad) for p in model(trainee.config).parameters()
        ]
    planned = [(t.numel, t.matrix, t.rows, unit.trained) for unit in trainee.units() for t in unit.tensors]
    assert planned == own


def test_published_models_have_as_many_parameters_as_the_planner_of_predictions_says():
    for name, config in PUBLISHED.items():
        if name in PRESETS:
            counted, trainee = AlphaFoldCost(config, 1, 0).parameters(), AlphaFoldTrainee(config)
        else:
            counted, trainee = EsmFoldCost(config).parameters(), EsmFoldTrainee(config)
        assert sum(unit.numel for unit in trainee.units()) == counted


def structure(length, seed):
    """A chain of random residues and atoms."""
    drawn = np.random.default_rng(seed)
    sequence = "".join(drawn.choice(list(RESTYPES), length))
    steps = 3.8 * np.arange(length)[:, None, None]
    return TrainingStructure(
        name="chain",
        sequence=sequence,
        positions=(drawn.standard_normal((length, 37, 3)) + steps).astype(np.float32),
        mask=ATOM37_MASK[encode(sequence)].astype(bool),
        residue_index=np.arange(length),
    )


def train(ranks, config, training, part, losses=LossWeights(), options=ForwardOptions()):
    """Bytes by tier at rest and at their peaks."""
    trainee = KINDS[type(config)][0].new(config, 0)

    def batch_of(number):
        return [structure(part.length, seed) for seed in range(part.examples)]

    def loss(batch, step):
        totals = []
        for known in batch:
            predicted, hidden = trainee.predict(known, Draw((step,), part.passes - 1, 0.15), options)
            truth = known.truth(torch.device("cpu"))
            clamped = truth.atom37.new_ones(1)
            totals.append(folding_losses(predicted, truth, losses, clamped=clamped, hidden=hidden)[0])
        return torch.stack(totals).mean(), {}

    trainer = Trainer(trainee.model, loss, batch_of, training, ranks=ranks)
    trainer.run()
    found = dict(trainer.ledger.tiers()), dict(trainer.ledger.peaks())
    trainer.close()
    return found


def training(folder, **changes):
    offload = OffloadConfig(folder=folder, **changes.pop("offload", {}))
    limits = LimitsConfig(bucket_bytes=48 * 1024, memory_bytes=changes.pop("cap", None))
    return TrainingConfig(
        **{"steps": 1, "average_decay": 0.0, "offload": offload, "limits": limits} | changes
    )


def check_states(found, plan):
    passing = {"activations", GATHERED, UNDER_WAY}
    for tier, size in found.items():
        planned = sum(size for owner, size in plan.tiers[tier].items() if owner not in passing)
        assert planned == pytest.approx(size, rel=STATE_BYTES, abs=BUFFER_BYTES), (tier, plan.training)


SHORT = Part(length=8)
STATES = [
    {"stage": 0, "average_decay": 0.9},
    {"stage": 1, "offload": {"optimizer": "cpu"}},
    {"stage": 2, "offload": {"optimizer": "nvme"}},
    {"stage": 3, "offload": {"optimizer": "nvme", "parameters": "nvme"}},
]


@pytest.mark.parametrize("make", [esmfold, alphafold])
@pytest.mark.parametrize(
    "case", [STATES[0], *(pytest.param(c, marks=pytest.mark.verify) for c in STATES[1:])]
)
def test_a_plan_holds_what_the_ledger_of_a_folding_training_holds(tmp_path, make, case):
    config, how = make(), training(tmp_path, **case)
    check_states(train(Ranks(), config, how, SHORT)[0], plan_training(config, how, ROOMY, part=SHORT))


@SAME_WORKER
@pytest.mark.verify
@pytest.mark.parametrize("make", [esmfold, alphafold])
def test_a_plan_of_a_folding_training_on_two_ranks_holds_what_each_of_them_does(tmp_path, make):
    config = make(blocks=3)
    with Gang(2) as gang:
        for stage in range(4):
            how = training(tmp_path, stage=stage, micro_batches=2)
            plan = plan_training(config, how, ROOMY, part=SHORT, ranks=2)
            for held, _ in gang.run(train, config, how, SHORT):
                check_states(held, plan)


MIXED = [
    {"stage": 0, "average_decay": 0.9},
    {"stage": 1, "offload": {"optimizer": "cpu"}},
    {"stage": 2, "offload": {"optimizer": "nvme"}},
    {"stage": 2, "average_decay": 0.9},
    {"stage": 3},
    {"stage": 3, "offload": {"optimizer": "cpu", "device_buckets": 1}},
    {"stage": 3, "offload": {"optimizer": "nvme", "parameters": "nvme"}},
    {"stage": 3, "offload": {"optimizer": "cpu", "parameters": "cpu", "delayed": True}},
]
"""In bfloat16 the structure module lies in buckets of its own, in float32."""


@SAME_WORKER
@pytest.mark.verify
@pytest.mark.timeout(900)  # sixty-four trainings
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("make", [esmfold, alphafold])
def test_a_plan_in_bfloat16_knows_what_stays_in_float32(tmp_path, make, size):
    config = make(blocks=2)
    with Gang(size, deadline=120.0) as gang:
        for case, parts in itertools.product(MIXED, (1, 2 * size)):
            own = {**case, "offload": dict(case.get("offload", {})), "micro_batches": parts}
            how = training(tmp_path, precision="bfloat16", **own)
            plan = plan_training(config, how, ROOMY, part=SHORT, ranks=size)
            for held, _ in gang.run(train, config, how, SHORT):
                check_states(held, plan)


def counting(losses):
    return frozenset(name for name, weight in losses.to_json().items() if weight and name != "clamped_share")


def test_losses_count_where_nothing_else_is_said_that_do_in_a_training():
    assert EsmFoldTrainee(esmfold()).losses == counting(LossWeights())


def check_peak(
    folder,
    config,
    part,
    *,
    losses=LossWeights(),
    options=ForwardOptions(),
    place="none",
    precision="float32",
):
    how = training(folder, cap=UNCAPPED, offload={"activations": place}, precision=precision)
    trainee = KINDS[type(config)][1](config, checkpoint=options.checkpoint, losses=counting(losses))
    plan = plan_training(trainee, how, ROOMY, part=part)
    found = train(Ranks(), config, how, part, losses, options)[1]
    counted = sum(found[tier] for tier in ("device", "pinned", "host"))
    if precision == "float32":
        assert plan.predicted_peak_bytes == pytest.approx(counted, rel=PEAK)
    else:
        assert MIXED_PEAK[0] < plan.predicted_peak_bytes / counted < MIXED_PEAK[1]


@pytest.mark.parametrize(("config", "place"), [(esmfold(), "recompute"), (alphafold(), "none")])
def test_the_peak_of_a_folding_model_is_near_what_is_counted(tmp_path, config, place):
    check_peak(tmp_path, config, Part(length=40, passes=2), place=place)


@pytest.mark.verify
@pytest.mark.parametrize("length", [24, 60, 110, 200])
@pytest.mark.parametrize("how", ["plain", "recompute", "checkpoint"])
@pytest.mark.parametrize(
    "config",
    [
        esmfold(blocks=2),
        esmfold(width=64, pairs=64, placings=4),
        alphafold(blocks=2),
        alphafold(width=64, pairs=64, placings=4),
        alphafold(evoformer=EvoformerDims(c_m=64, c_z=32), extra_msa_blocks=2),
    ],
)
def test_the_peak_of_every_size_of_a_folding_model_is_near_what_is_counted(tmp_path, config, how, length):
    options = CHECKPOINTS if how == "checkpoint" else ForwardOptions()
    place = "recompute" if how == "recompute" else "none"
    check_peak(tmp_path, config, Part(length=length, passes=2), options=options, place=place)


@pytest.mark.verify
@pytest.mark.parametrize("make", [esmfold, alphafold])
@pytest.mark.parametrize(
    ("part", "losses"),
    [
        (Part(length=40), FINE_TUNING),
        (Part(length=120, passes=3), FINE_TUNING),
        (Part(length=40, examples=3), LossWeights()),
        (Part(length=100, examples=2, passes=2), FINE_TUNING),
    ],
)
def test_the_peak_with_all_losses_and_several_examples_is_near_what_is_counted(tmp_path, make, part, losses):
    check_peak(tmp_path, make(), part, losses=losses)


@pytest.mark.verify
@pytest.mark.parametrize("make", [esmfold, alphafold])
@pytest.mark.parametrize(("length", "place"), [(40, "none"), (110, "recompute"), (200, "none")])
def test_the_peak_in_bfloat16_is_near_what_is_counted(tmp_path, make, length, place):
    part = Part(length=length, passes=2)
    check_peak(tmp_path, make(blocks=2), part, place=place, precision="bfloat16")


def test_sizes_that_kernels_choose_by_are_those_of_the_kernels():
    assert kept_layers.SMALL_PRODUCTS == cpu.SMALL_PRODUCTS
    assert kept_layers.BACKWARD_GROUPS == cpu_gradients.BACKWARD_GROUPS
    assert kept_layers.BACKWARD_BLOCKS == cpu_gradients.BACKWARD_BLOCKS
