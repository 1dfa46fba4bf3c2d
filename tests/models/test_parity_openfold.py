"""Our AlphaFold against OpenFold with the same random weights and features; ``FOLDASE_OPENFOLD`` names it.

Numbers are printed: ``pytest -m verify -s``.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from alphafold_cases import alignment_of, model_of, record_of, sequence_of, synthetic_npz
from openfold_checkout import batch_of, openfold, settings_of

from foldase_models.folding.alphafold.alignments import Rows, nearest_clusters, summarise_clusters
from foldase_models.folding.alphafold.config import PRESETS, preset, reduced
from foldase_models.folding.alphafold.features import pass_features, record_features
from foldase_models.folding.alphafold.inputs import inputs_of
from foldase_models.folding.alphafold.model import AlphaFold
from foldase_models.folding.alphafold.weights import read_npz, tensors_of
from foldase_models.folding.options import ForwardOptions
from foldase_models.layers.residues import ATOM37_MASK

pytestmark = pytest.mark.verify

SINGLE = 2e-6
"""float32 against float32, of norms."""
GRADIENTS = 1e-5
"""The same of gradients, of the largest norm."""
POSITIONS = 1e-3
"""A."""
TEMPLATES_MATTER = 1e-2
"""What they change at least, of norms: a comparison that templates do not reach proves nothing."""
TO_OPENFOLD = {"linear_q_points.": "linear_q_points.linear.", "linear_kv_points.": "linear_kv_points.linear."}


@pytest.fixture(autouse=True)
def quiet():
    """OpenFold indexes with lists."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def deep(name, blocks):
    """A published model, not as deep."""
    return replace(preset(name), evoformer_blocks=blocks, extra_msa_blocks=1)


def their_key(key):
    for ours, theirs in TO_OPENFOLD.items():
        key = key.replace(ours, theirs)
    return key


def their_model(config, ours):
    model = openfold().AlphaFold(settings_of(config))
    model.load_state_dict({their_key(key): value for key, value in ours.state_dict().items()}, strict=True)
    return model.eval()


def passes_of(config, record, count):
    features = record_features(record, config.features)
    return [inputs_of(pass_features(features, config.features, seed=1, number=n)) for n in range(count)]


def atoms_of(record):
    templates = record.templates[0]
    if not templates:
        return None
    positions = [np.where(own.mask[..., None], own.positions, 0.0) for own in templates]
    return np.stack(positions).astype(np.float32), np.stack([own.mask for own in templates])


def padded(inputs, by):
    """The same with residues and rows behind that are masked."""

    def grown(value, *, rows=False):
        behind = [0, by, 0, by] if rows else [0, by]
        return torch.nn.functional.pad(value, [0, 0] * (value.ndim - len(behind) // 2) + behind)

    residues = len(inputs.aatype)
    real = torch.arange(residues + by) < residues

    def row_mask(rows):
        return (torch.arange(rows + by) < rows)[:, None] & real

    return replace(
        inputs,
        aatype=grown(inputs.aatype),
        residue_index=grown(inputs.residue_index),
        target_feat=grown(inputs.target_feat),
        msa_feat=grown(inputs.msa_feat, rows=True),
        extra_msa=grown(inputs.extra_msa, rows=True),
        extra_has_deletion=grown(inputs.extra_has_deletion, rows=True),
        extra_deletion_value=grown(inputs.extra_deletion_value, rows=True),
        seq_mask=real,
        msa_mask=row_mask(len(inputs.msa_feat)),
        extra_msa_mask=row_mask(len(inputs.extra_msa)),
    )


@torch.no_grad()
def compared(config, record, passes, real=slice(None), rows=slice(None)):
    """Both models on the same passes; relative norms of differences by name, and those of positions in A."""
    ours = model_of(config)
    theirs = their_model(config, ours)
    options = ForwardOptions()
    output = ours(passes, options=options, logits=True)
    mask = passes[-1].seq_mask
    confidence = ours.confidence(output, options=options, mask=mask)
    peer = theirs(batch_of(passes, atoms_of(record), padding=config.template is not None))
    heads = output.logits
    pairs = {
        "msa": (output.msa, peer["msa"], (rows, real)),
        "pair": (output.pair, peer["pair"], (real, real)),
        "single": (output.single, peer["single"], (real,)),
        "positions": (output.structure.positions, peer["sm"]["positions"], (slice(None), real)),
        "angles": (output.structure.angles, peer["sm"]["angles"], (slice(None), real)),
        "lddt_logits": (heads.plddt, peer["lddt_logits"], (real,)),
        "distogram_logits": (heads.distogram, peer["distogram_logits"], (real, real)),
        "masked_msa_logits": (heads.masked_msa, peer["masked_msa_logits"], (rows, real)),
        "resolved_logits": (
            heads.experimentally_resolved,
            peer["experimentally_resolved_logits"],
            (real,),
        ),
        "plddt": (confidence.plddt, peer["plddt"], (real,)),
    }
    if config.tm:
        pairs["tm_logits"] = (heads.aligned_error, peer["tm_logits"], (real, real))
        pairs["pae"] = (confidence.aligned_error, peer["predicted_aligned_error"], (real, real))
        if mask is None:
            pairs["ptm"] = (confidence.ptm, peer["ptm_score"], ())
    report = {}
    for name, (found, wanted, kept) in pairs.items():
        difference = found[kept] - wanted[kept]
        report[name] = (float(difference.norm() / wanted[kept].norm()), float(difference.abs().max()))
        print(f"{name:18} relative {report[name][0]:.1e}  absolute {report[name][1]:.1e}")
    return report


def judge(report):
    assert report["positions"][1] <= POSITIONS
    for name, (relative, _) in report.items():
        assert relative <= SINGLE, name


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("name", ["model_1_ptm", "model_2", "model_3", "model_5_ptm"])
def test_small_models(name, passes):
    config = reduced(name)
    record = record_of(32, 30, 2 if config.template else 0)
    judge(compared(config, record, passes_of(config, record, passes)))


@pytest.mark.parametrize("templates", [0, 3])
def test_published_widths(templates):
    config = deep("model_1_ptm", 2)
    record = record_of(48, 600, templates)
    judge(compared(config, record, passes_of(config, record, 2)))


def test_one_sequence_alone():
    """No extra rows: what remains of their mean is the bias over the floor of the count."""
    config = reduced()
    record = replace(record_of(24, 1, 0), alignments=())
    passes = passes_of(config, record, 2)
    assert not passes[0].extra_msa_mask.any()
    judge(compared(config, record, passes))


def test_padding():
    config = reduced("model_3_ptm")
    record = record_of(20, 30, 0)
    passes = [padded(inputs, 5) for inputs in passes_of(config, record, 2)]
    judge(compared(config, record, passes, slice(0, 20), slice(0, config.features.clusters)))


@pytest.mark.parametrize("name", ["model_1_ptm", "model_3"])
def test_gradients(name):
    """Of everything that is predicted, after a pass without gradients, with checkpoints of ours."""
    config = reduced(name)
    ours, record = model_of(config), record_of(16, 30, 2 if config.template else 0)
    theirs = their_model(config, ours)
    passes = passes_of(config, record, 2)
    output = ours(passes, options=ForwardOptions(checkpoint=True), logits=True)
    peer = theirs(batch_of(passes, atoms_of(record), padding=False))
    heads = output.logits
    own = [output.structure.positions, heads.plddt, heads.distogram, heads.masked_msa]
    other = [peer[key] for key in ("lddt_logits", "distogram_logits", "masked_msa_logits")]
    own.append(heads.experimentally_resolved)
    other = [peer["sm"]["positions"], *other, peer["experimentally_resolved_logits"]]
    if config.tm:
        own.append(heads.aligned_error)
        other.append(peer["tm_logits"])
    found = gradients(own, ours)
    wanted = gradients(other, theirs)
    assert {their_key(key) for key in found} == set(wanted)
    scale = max(float(grad.norm()) for grad in wanted.values())
    worst = max(float((grad - wanted[their_key(key)]).norm()) for key, grad in found.items())
    print(f"gradients: largest difference {worst:.1e}, largest norm {scale:.1e}")
    assert worst <= GRADIENTS * scale


def gradients(values, model):
    """By key, of the sum of squares."""
    loss = sum(value.square().mean() for value in values)
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, named.values(), allow_unused=True)
    return {
        key: torch.zeros_like(named[key]) if grad is None else grad
        for key, grad in zip(named, found, strict=True)
    }


@torch.no_grad()
def test_templates_reach_every_output():
    config = reduced()
    model, record = model_of(config), record_of(24, 20, 2)
    with_templates = passes_of(config, record, 1)
    without = [replace(inputs, templates=None) for inputs in with_templates]
    outputs = [model(passes, options=ForwardOptions()) for passes in (with_templates, without)]
    for name in ("msa", "pair", "single"):
        first, second = (getattr(output, name) for output in outputs)
        assert float((first - second).norm() / second.norm()) > TEMPLATES_MATTER, name


@pytest.mark.parametrize("name", PRESETS)
def test_alphafold_parameters_read_by_both(name, tmp_path):
    config = reduced(name)
    archive = tmp_path / f"params_{name}.npz"
    np.savez(archive, **synthetic_npz(config))
    theirs = openfold().AlphaFold(settings_of(config))
    openfold().import_weights.import_jax_weights_(theirs, archive, version=name)
    ours = tensors_of(read_npz(archive), config, location=archive.name)
    found = theirs.state_dict()
    assert {their_key(key) for key in ours} == set(found)
    for key, value in ours.items():
        assert torch.equal(value, found[their_key(key)]), key
    AlphaFold(config).load_state_dict(ours, strict=True)


def test_clusters_and_features_of_the_alignment():
    rng = np.random.default_rng(0)
    chain = sequence_of(25, rng)
    alignment = alignment_of(chain, 60, rng)
    letters = rng.integers(0, 23, size=(60, 25)).astype(np.uint8)
    rows, extra = (
        Rows(letters[part], np.asarray(alignment.deletions)[part]) for part in (slice(0, 9), slice(9, 60))
    )
    transforms = openfold().data_transforms
    protein = {
        "msa": torch.from_numpy(rows.letters).long(),
        "msa_mask": torch.ones(9, 25),
        "deletion_matrix": torch.from_numpy(rows.deletions).float(),
        "extra_msa": torch.from_numpy(extra.letters).long(),
        "extra_msa_mask": torch.ones(51, 25),
        "extra_deletion_matrix": torch.from_numpy(extra.deletions).float(),
    }
    protein = transforms.nearest_neighbor_clusters()(protein)
    protein = transforms.summarize_clusters()(protein)
    nearest = nearest_clusters(rows.letters, extra.letters)
    assert np.array_equal(nearest, protein["extra_cluster_assignment"].numpy())
    profiles, means = summarise_clusters(rows, extra, nearest)
    assert np.abs(profiles - protein["cluster_profile"].numpy()).max() < SINGLE
    assert np.abs(means - protein["cluster_deletion_mean"].numpy()).max() < SINGLE


def test_features_of_rows_and_targets():
    config = reduced("model_3")
    features = record_features(record_of(20, 40, 0), config.features)
    own = pass_features(features, config.features, seed=3, number=0)
    clusters = own.msa_feat[..., :23].argmax(-1)
    deletions = np.round(3 * np.tan(own.msa_feat[..., 24] * np.pi / 2))
    protein = {
        "aatype": torch.from_numpy(own.aatype),
        "between_segment_residues": torch.zeros(20),
        "msa": torch.from_numpy(clusters),
        "deletion_matrix": torch.from_numpy(deletions).float(),
        "cluster_profile": torch.from_numpy(own.msa_feat[..., 25:48].copy()),
        "cluster_deletion_mean": torch.from_numpy(3 * np.tan(own.msa_feat[..., 48] * np.pi / 2)),
    }
    theirs = openfold().data_transforms.make_msa_feat()(protein)
    assert np.abs(own.msa_feat - theirs["msa_feat"].numpy()).max() < SINGLE
    assert np.array_equal(own.target_feat, theirs["target_feat"].numpy())


def test_torsions_of_templates():
    record = record_of(30, 1, 1)
    (template,) = record.templates[0]
    config = reduced()
    whole = replace(template, sequence=record.chains[0], mask=np.ones((30, 37), dtype=np.bool_))
    features = record_features(replace(record, templates=((whole,),)), config.features).templates
    kinds = features.aatype
    mask = torch.from_numpy(np.ones_like(ATOM37_MASK[kinds])).double()
    protein = {
        "template_aatype": torch.from_numpy(kinds),
        "template_all_atom_positions": torch.from_numpy(whole.positions[None]).double(),
        "template_all_atom_mask": mask,
    }
    theirs = openfold().data_transforms.atom37_to_torsion_angles("template_")(protein)
    known = features.torsion_mask
    assert np.array_equal(known, theirs["template_torsion_angles_mask"].numpy() > 0)
    for ours, name in ((features.torsions, "torsion"), (features.other_torsions, "alt_torsion")):
        wanted = theirs[f"template_{name}_angles_sin_cos"].numpy()
        assert np.abs(ours - wanted)[known].max() < SINGLE * 10
