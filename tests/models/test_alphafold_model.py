"""AlphaFold as a whole: sizes, and what must not change its answer."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from alphafold_cases import model_of, record_of
from counted_memory import LivePairs

from foldase_models.errors import ModelError
from foldase_models.folding.alphafold.config import PRESETS, AlphaFoldConfig, preset, reduced
from foldase_models.folding.alphafold.features import pass_features, record_features
from foldase_models.folding.alphafold.inputs import ModelInputs, inputs_of
from foldase_models.folding.alphafold.model import AlphaFold, distance_change
from foldase_models.folding.alphafold.templates import Templates
from foldase_models.folding.options import ForwardOptions
from foldase_models.layers import working_set
from foldase_models.layers.checkpoints import without_weights

EXACT = 1e-9
"""float64 against float64, of the largest value."""
PLAIN = ForwardOptions(inplace=False)
LOGITS = ("plddt", "distogram", "masked_msa", "experimentally_resolved", "aligned_error")


def passes_of(config, record, count=2, *, seed=1):
    features = record_features(record, config.features)
    passes = [inputs_of(pass_features(features, config.features, seed=seed, number=n)) for n in range(count)]
    return [in_double(inputs) for inputs in passes]


def in_double(inputs):
    """Lengths too, which :meth:`ModelInputs.to` leaves alone."""
    inputs = inputs.to(torch.device("cpu"), torch.float64)
    own = inputs.templates
    if own is None:
        return inputs
    values = {field.name: getattr(own, field.name) for field in fields(own)}
    return replace(
        inputs,
        templates=Templates(**{n: v.double() if v.is_floating_point() else v for n, v in values.items()}),
    )


def answers(output):
    """Everything that is predicted, by name."""
    found = {name: getattr(output, name) for name in ("msa", "pair", "single")}
    found["positions"] = output.structure.positions
    return found | {name: getattr(output.logits, name) for name in LOGITS}


def close(found, wanted, pick=lambda name, value: value):
    for name, value in answers(wanted).items():
        own = pick(name, answers(found)[name])
        assert own.shape == value.shape, name
        assert (own - value).abs().max() <= EXACT * max(1.0, float(value.abs().max())), name


@pytest.fixture(scope="module")
def model():
    return model_of(dtype=torch.float64)


@torch.no_grad()
def predict(model, passes, options=PLAIN, **more):
    return model(passes, options=options, logits=True, **more)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("model_2_ptm", 93_237_338),
        pytest.param("model_1", 93_229_082, marks=pytest.mark.verify),
        pytest.param("model_5", 92_899_674, marks=pytest.mark.verify),
    ],
)
def test_parameters_of_published_models(name, parameters):
    with without_weights():
        model = AlphaFold(preset(name))
    assert sum(own.numel() for own in model.parameters()) == parameters
    blocks = model.evoformer.blocks
    assert len(blocks) == 48
    assert sum(own.numel() for own in blocks.parameters()) == 48 * 1_829_952
    assert (model.template_embedder is None) == (name == "model_5")
    assert (model.aux_heads.tm is None) == ("ptm" not in name)


def test_configurations_are_plain_values_and_back():
    for config in (*PRESETS.values(), reduced("model_3", recycles=1)):
        assert AlphaFoldConfig.from_json(config.to_json()) == config
    named = AlphaFoldConfig.from_json({"preset": "model_3", "recycles": 5, "features": {"extra": 7}})
    assert (named.template, named.recycles, named.features.extra) == (None, 5, 7)
    assert named.features.clusters == preset("model_3").features.clusters


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"preset": "model_9"}, "model_9"),
        ({"kind": "esmfold"}, "esmfold"),
        ({"depth": 3}, "depth"),
        ({"structure": {"c_q": 3}}, "c_q"),
        ({"features": {"clusters": 0}}, "clusters"),
        ({"structure": {"c_z": 64}}, "c_z"),
    ],
)
def test_a_wrong_configuration_is_named(values, said):
    with pytest.raises(ModelError, match=said):
        AlphaFoldConfig.from_json(values)


@pytest.mark.parametrize(
    "options",
    [
        ForwardOptions(),
        ForwardOptions(group_bytes=2000),
        ForwardOptions(group_bytes=2000, inplace=False, offload_weights=True),
    ],
    ids=str,
)
def test_what_saves_memory_changes_nothing(model, options):
    passes = passes_of(model.config, record_of(9, 12, 2))
    close(predict(model, passes, options), predict(model, passes))


def test_order_of_rows_carries_no_meaning(model):
    passes = passes_of(model.config, record_of(9, 20, 2))
    order, extra = torch.tensor([0, 3, 1, 5, 4, 2]), torch.tensor([4, 2, 7, 0, 1, 3, 6, 5])
    shuffled = [
        replace(
            inputs,
            msa_feat=inputs.msa_feat[order],
            extra_msa=inputs.extra_msa[extra],
            extra_has_deletion=inputs.extra_has_deletion[extra],
            extra_deletion_value=inputs.extra_deletion_value[extra],
        )
        for inputs in passes
    ]
    back = torch.argsort(order)
    found = predict(model, shuffled)
    close(found, predict(model, passes), lambda n, v: v[back] if n in ("msa", "masked_msa") else v)


def test_order_of_templates_carries_no_meaning(model):
    (inputs,) = passes_of(model.config, record_of(9, 12, 3), 1)
    own = inputs.templates
    order = torch.tensor([2, 0, 1])
    shuffled = Templates(**{field.name: getattr(own, field.name)[order] for field in fields(own)})
    close(predict(model, [replace(inputs, templates=shuffled)]), predict(model, [inputs]))


def padded(inputs, by):
    """Residues, rows, extra rows and a template more, all masked; what they hold is noise."""
    residues = len(inputs.aatype)
    noise = torch.Generator().manual_seed(9)

    def grown(value, axes):
        shape = [size + (by if axis in axes else 0) for axis, size in enumerate(value.shape)]
        if value.is_floating_point():
            out = torch.randn(shape, generator=noise, dtype=value.dtype)
        else:
            out = torch.randint(0, 2, shape, generator=noise).to(value.dtype)
        out[tuple(slice(size) for size in value.shape)] = value
        return out

    def mask(rows):
        return (torch.arange(rows + by) < rows)[:, None] & (torch.arange(residues + by) < residues)

    own = inputs.templates
    templates = {field.name: grown(getattr(own, field.name), (0, 1)) for field in fields(own)}
    templates["mask"] = torch.arange(own.count + by) < own.count
    for name in ("pseudo_beta_mask", "backbone_mask", "torsion_mask"):
        seen = mask(own.count)
        templates[name] &= seen if name != "torsion_mask" else seen[..., None]
    rows = {
        name: grown(getattr(inputs, name), (0, 1))
        for name in ("msa_feat", "extra_msa", "extra_has_deletion", "extra_deletion_value")
    }
    return replace(
        inputs,
        **{name: grown(getattr(inputs, name), (0,)) for name in ("aatype", "residue_index", "target_feat")},
        **rows,
        seq_mask=torch.arange(residues + by) < residues,
        msa_mask=mask(len(inputs.msa_feat)),
        extra_msa_mask=mask(len(inputs.extra_msa)),
        templates=Templates(**templates),
    )


def test_padding_changes_nothing(model):
    residues, rows = 7, model.config.features.clusters
    passes = passes_of(model.config, record_of(residues, 20, 2))
    everything = replace(passes[-1], seq_mask=torch.ones(residues, dtype=torch.bool))
    wanted = predict(model, [passes[0], everything])
    found = predict(model, [padded(inputs, 3) for inputs in passes])

    def real(name, value):
        if name in ("pair", "distogram", "aligned_error"):
            return value[:residues, :residues]
        if name in ("msa", "masked_msa"):
            return value[:rows, :residues]
        return value[:, :residues] if name == "positions" else value[:residues]

    close(found, wanted, real)


def test_records_of_a_batch_do_not_see_one_another(model):
    records = [passes_of(model.config, record_of(8, 20, 2, seed=seed)) for seed in (0, 1)]

    def stacked(first, second):
        if isinstance(first, Templates):
            return Templates(
                **{f.name: stacked(getattr(first, f.name), getattr(second, f.name)) for f in fields(first)}
            )
        return None if first is None else torch.stack([first, second])

    batch = [
        ModelInputs(**{f.name: stacked(getattr(a, f.name), getattr(b, f.name)) for f in fields(a)})
        for a, b in zip(*records, strict=True)
    ]
    both = predict(model, batch)
    for number, passes in enumerate(records):
        alone = predict(model, passes)
        close(both, alone, lambda n, v, k=number: v[:, k] if n == "positions" else v[k])


def test_passes_before_the_last_one_have_no_gradients(model):
    """Changing the last pass's share alone changes the gradient; checkpoints change nothing."""
    passes = passes_of(model.config, record_of(7, 20, 2))
    found = []
    for options in (PLAIN, ForwardOptions(checkpoint=True, group_bytes=2000)):
        named = dict(model.named_parameters())
        with working_set(options.group_bytes):
            output = model(passes, options=options, logits=True)
            loss = sum(value.square().mean() for value in answers(output).values())
            grads = torch.autograd.grad(loss, named.values(), allow_unused=True)
        found.append(dict(zip(named, grads, strict=True)))
    for name, grad in found[0].items():
        assert grad is not None, name
        assert grad.isfinite().all(), name
        assert (grad - found[1][name]).abs().max() <= EXACT * max(1.0, float(grad.abs().max())), name
    # What is added to all keys of a softmax alike has no gradient.
    silent = [name for name, grad in found[0].items() if not grad.any()]
    assert all(name.endswith(("layer_norm_z.bias", "linear_k.weight")) for name in silent), silent
    alone = model(passes[:1], options=PLAIN)
    assert alone.single.requires_grad
    direction = found[0]["template_embedder.template_pair_embedder.linear.weight"][:, 84:87]
    assert not direction.any()


def test_recycling_ends_early_below_the_tolerance(model):
    passes = passes_of(model.config, record_of(8, 12, 0), 5)
    told = []
    output = predict(model, passes, tolerance=1e6, progress=lambda share, words: told.append((share, words)))
    assert (output.converged, output.recycles, len(output.alpha)) == (True, 1, 2)
    assert any("distances changed" in words for _, words in told)
    assert [share for share, _ in told] == sorted(share for share, _ in told)
    full = predict(model, passes, tolerance=0.0)
    assert (full.converged, full.recycles) == (False, 4)
    close(output, predict(model, passes[:2]))


def test_one_pair_representation_at_a_time():
    """Through embedding, extra rows, Evoformer and structure module of both passes."""
    config = reduced(evoformer_blocks=1)
    model, residues = model_of(config), 18
    features = record_features(record_of(residues, 12, 0), config.features)
    passes = [inputs_of(pass_features(features, config.features, seed=1, number=n)) for n in range(2)]
    counter = LivePairs(4 * residues**2 * config.evoformer.c_z)
    with torch.no_grad(), counter:
        model(passes, options=ForwardOptions(group_bytes=2**12))
    assert counter.most == 1


def test_what_progress_raises_ends_the_work(model):
    def stop(share, words):
        if "block 2" in words:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(model, passes_of(model.config, record_of(6, 12, 0)), progress=stop)


def test_change_of_distances():
    rng = np.random.default_rng(0)
    first, second = (torch.from_numpy(rng.normal(size=(9, 3))) for _ in range(2))
    mask = torch.arange(9) < 6
    wanted = (torch.cdist(second[:6], second[:6]) - torch.cdist(first[:6], first[:6])).square().mean().sqrt()
    assert abs(distance_change(first, second, mask) - float(wanted)) < 1e-6
    turned = second @ torch.linalg.qr(torch.from_numpy(rng.normal(size=(3, 3)))).Q + 5
    assert distance_change(second, turned) < 1e-6


def test_half_precision_stays_near(model):
    """Representations in bfloat16; frames and heads in float32."""
    config = reduced()
    single, half = model_of(config), model_of(config)
    options = ForwardOptions(dtype="bfloat16")
    half.place(torch.device("cpu"), options)
    features = record_features(record_of(10, 12, 2), config.features)
    passes = [inputs_of(pass_features(features, config.features, seed=1, number=0))]
    wanted, found = predict(single, passes), predict(half, passes, options)
    assert found.pair.dtype == torch.bfloat16
    assert found.structure.positions.dtype == found.logits.aligned_error.dtype == torch.float32
    for name in ("pair", "single", "positions"):
        own, other = answers(found)[name].float(), answers(wanted)[name]
        assert float((own - other).norm() / other.norm()) < 0.05, name
