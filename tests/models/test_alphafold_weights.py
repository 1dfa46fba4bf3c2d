"""Published weights under their names, and a model that folds from a folder of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from alphafold_cases import alphafold_shapes, model_of, record_of, synthetic_npz
from safetensors.torch import save_file

from foldase_models.errors import ModelError
from foldase_models.folding.alphafold.config import PRESETS, preset, reduced
from foldase_models.folding.alphafold.features import pass_features, record_features
from foldase_models.folding.alphafold.folder import AlphaFoldFolder
from foldase_models.folding.alphafold.inputs import inputs_of
from foldase_models.folding.alphafold.model import AlphaFold
from foldase_models.folding.alphafold.parameter_names import PREFIX, alphafold_sources, from_openfold
from foldase_models.folding.alphafold.weights import load_alphafold, tensors_of
from foldase_models.folding.loading import load_folder
from foldase_models.folding.options import ForwardOptions
from foldase_models.folding.prediction import DISTANCE_EDGES
from foldase_models.layers.checkpoints import without_weights

HALF = 5e-4
"""Of a probability in half precision."""
OPENFOLD_1 = {
    "template_embedder.template_single_embedder.linear_1.weight": "template_angle_embedder.linear_1.weight",
    "template_embedder.template_pointwise_att.layer.bias": "template_pointwise_att.layer.bias",
    "evoformer.blocks.3.msa_transition.linear_1.bias": "evoformer.blocks.3.core.msa_transition.linear_1.bias",
    "evoformer.blocks.3.pair_stack.tri_mul_out.bias": "evoformer.blocks.3.core.tri_mul_out.bias",
    "extra_msa_stack.blocks.0.pair_stack.pair_transition.linear_1.bias": (
        "model.extra_msa_stack.blocks.0.core.pair_transition.linear_1.bias"
    ),
    "evoformer.blocks.0.outer_product_mean.linear_1.bias": (
        "module.model.evoformer.blocks.0.core.outer_product_mean.linear_1.bias"
    ),
}
"""Ours, and those of the first version."""


def written(folder, config, *, arrays=None, tensors=None, described=None):
    """A checkpoint folder."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_json() if described is None else described))
    if arrays is not None:
        np.savez(folder / "params.npz", **arrays)
    if tensors is not None:
        save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.mark.parametrize("name", ["model_1", "model_1_ptm", "model_3", "model_5_ptm"])
def test_every_array_has_one_place(name):
    config = reduced(name)
    arrays, sources = synthetic_npz(config), alphafold_sources(config)
    tensors = tensors_of(arrays, config, location="params.npz")
    state = model_of(config).state_dict()
    assert {key: value.shape for key, value in tensors.items()} == {
        key: value.shape for key, value in state.items()
    }
    # Every number of the file is in the model once, and nothing else is.
    assert sum(value.numel() for value in tensors.values()) == sum(value.size for value in arrays.values())
    found = np.sort(np.concatenate([value.numpy().ravel() for value in tensors.values()]))
    assert np.array_equal(found, np.sort(np.concatenate([value.ravel() for value in arrays.values()])))
    assert {source.array for source in sources.values()} == set(arrays)


def test_weights_are_turned_and_heads_joined():
    config = reduced()
    arrays = synthetic_npz(config)
    tensors = tensors_of(arrays, config, location="params.npz")

    def stored(name, block=None):
        value = arrays[PREFIX + name]
        return value if block is None else value[block]

    block = "evoformer/evoformer_iteration/"
    row = block + "msa_row_attention_with_pair_bias/attention//"
    query = tensors["evoformer.blocks.1.msa_att_row.mha.linear_q.weight"].numpy()
    width = config.evoformer.c_hidden_msa_att
    assert np.array_equal(query[width + 2], stored(row + "query_w", 1)[:, 1, 2])
    out = tensors["evoformer.blocks.1.msa_att_row.mha.linear_o.weight"].numpy()
    assert np.array_equal(out[:, width + 2], stored(row + "output_w", 1)[1, 2])
    outer = tensors["evoformer.blocks.0.outer_product_mean.linear_out.weight"].numpy()
    hidden = config.evoformer.c_hidden_opm
    assert np.array_equal(outer[:, 2 * hidden + 3], stored(block + "outer_product_mean//output_w", 0)[2, 3])
    incoming = tensors["evoformer.blocks.0.pair_stack.tri_mul_in.linear_a_p.weight"].numpy()
    right = stored(block + "triangle_multiplication_incoming/right_projection//weights", 0)
    assert np.array_equal(incoming, right.T)
    outgoing = tensors["evoformer.blocks.0.pair_stack.tri_mul_out.linear_a_p.weight"].numpy()
    left = stored(block + "triangle_multiplication_outgoing/left_projection//weights", 0)
    assert np.array_equal(outgoing, left.T)


def test_the_map_of_every_published_model_has_as_many_arrays():
    counts = {
        name: len({source.array for source in alphafold_sources(preset(name)).values()}) for name in PRESETS
    }
    assert counts["model_1"] == counts["model_2"] == counts["model_1_ptm"] - 2
    assert counts["model_3"] == counts["model_5"] == counts["model_4_ptm"] - 2
    assert counts["model_1"] - counts["model_3"] == 71  # arrays of templates


@pytest.mark.verify
@pytest.mark.parametrize("name", PRESETS)
def test_published_widths_fit(name):
    """Names and shapes of a whole file; numbers without memory."""
    config = preset(name)
    with without_weights():
        state = AlphaFold(config).state_dict()
    shapes = {PREFIX + own: shape for own, shape in alphafold_shapes(config).items()}
    for key, source in alphafold_sources(config).items():
        stored = np.broadcast_to(np.float32(0), shapes[source.array])
        assert source.read(stored).shape == tuple(state[key].shape), key


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.pop(PREFIX + "distogram_head/half_logits//bias"), "1 missing: .*distogram_head"),
        (
            lambda a: a.update({PREFIX + "new_head//weights": np.zeros((2, 2), np.float32)}),
            "1 left over: .*new_h",
        ),
        (
            lambda a: a.update({n: v[:1] for n, v in a.items() if "evoformer_iteration" in n}),
            "of another number of blocks",
        ),
        (lambda a: a.update({PREFIX + "masked_msa_head/logits//bias": np.zeros(22, np.float32)}), r"\[22\]"),
        (
            lambda a: a[PREFIX + "masked_msa_head/logits//bias"].fill(np.nan),
            "masked_msa.linear.bias.*not finite",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_named(change, said, tmp_path):
    config = reduced()
    arrays = synthetic_npz(config)
    change(arrays)
    with pytest.raises(ModelError, match=said):
        load_alphafold(written(tmp_path / "m", config, arrays=arrays))


def test_a_file_of_another_model_is_named(tmp_path):
    folder = written(tmp_path / "m", reduced("model_3"), arrays=synthetic_npz(reduced("model_3_ptm")))
    with pytest.raises(ModelError, match="predicted_aligned_error_head") as caught:
        load_alphafold(folder)
    assert (caught.value.code, caught.value.location) == ("wrong_weights", "params.npz")


def test_pickled_or_broken_archives_are_refused(tmp_path):
    config = reduced()
    arrays = synthetic_npz(config)
    folder = written(tmp_path / "m", config, arrays=arrays)
    whole = (folder / "params.npz").read_bytes()
    (folder / "params.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"not a whole \.npz"):
        load_alphafold(folder)
    name = next(iter(arrays))
    np.savez(folder / "params.npz", **{**arrays, name: np.array([object()])})
    with pytest.raises(ModelError, match=r"not a whole \.npz of plain arrays"):
        load_alphafold(folder)
    (folder / "params.npz").rename(folder / "params.pt")
    with pytest.raises(ModelError) as caught:
        load_alphafold(folder)
    assert caught.value.code == "pickle_refused"


def test_the_name_of_an_archive_tells_the_model(tmp_path):
    np.savez(tmp_path / "params_model_3.npz", **synthetic_npz(reduced("model_3")))
    with pytest.raises(ModelError, match=r"of another number of blocks.*evoformer_iteration"):
        load_folder(tmp_path, ForwardOptions())
    (tmp_path / "params_model_3.npz").rename(tmp_path / "weights.npz")
    with pytest.raises(ModelError, match=r"config\.json") as caught:
        load_folder(tmp_path, ForwardOptions())
    assert '"preset": "model_1_ptm"' in caught.value.hint


def test_names_of_openfold(model, tmp_path):
    for ours, theirs in OPENFOLD_1.items():
        assert from_openfold(theirs) == ours
    assert all(from_openfold(key) == key for key in model.state_dict())
    tensors = {
        key.replace("_points.", "_points.linear.") if ".ipa." in key else key: value
        for key, value in model.state_dict().items()
    }
    assert any("linear_q_points.linear.weight" in key for key in tensors)
    loaded, digest = load_alphafold(written(tmp_path / "m", model.config, tensors=tensors))
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert len(digest) == 64
    tensors.pop("evoformer.linear.bias")
    with pytest.raises(ModelError, match=r"1 missing: evoformer.linear.bias"):
        load_alphafold(written(tmp_path / "m", model.config, tensors=tensors))


def test_a_folder_folds(model, tmp_path):
    folder = written(tmp_path / "m", model.config, arrays=synthetic_npz(model.config))
    options = ForwardOptions(group_bytes=4096)
    folds = load_folder(folder, options)
    assert isinstance(folds, AlphaFoldFolder)
    assert (folds.kind, folds.max_recycles) == ("alphafold", 3)
    assert load_folder(folder, options, known_digest="abc").digest == "abc"
    assert load_folder(folder, options).digest == folds.digest


def test_a_prediction_is_whole(model):
    record, told = record_of(11, 20, 2), []
    options = ForwardOptions()
    folds = AlphaFoldFolder(model, "digest", options)
    found = folds.fold(
        record,
        seed=5,
        recycles=1,
        progress=lambda share, words: told.append(share),
        extras=("distogram", "frames"),
    )
    residues = record.residues
    assert found.sequence == record.chains[0]
    assert found.residue_index.tolist() == list(range(1, residues + 1))
    assert found.positions.shape == (residues, 37, 3)
    assert found.recycle_alpha.shape == (2, residues, 3)
    assert np.array_equal(found.recycle_alpha[-1], found.positions[:, 1])
    assert not found.positions[~found.atom_mask].any()
    assert found.atom_mask[:, :3].all()
    assert ((found.plddt > 1) & (found.plddt <= 100)).all()
    assert found.pae.shape == found.contact_probability.shape == (residues, residues)
    assert 0 < found.ptm < 1
    assert found.iptm is None
    assert found.recycles == 1
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.0, 1.0)
    # The same as by hand.
    features = record_features(record, model.config.features)
    passes = [inputs_of(pass_features(features, model.config.features, seed=5, number=n)) for n in range(2)]
    with torch.no_grad():
        output = model(passes, options=options)
        shares = model.aux_heads.distogram(output.pair).softmax(-1)
    assert np.array_equal(found.recycle_alpha[-1], output.structure.positions[-1, :, 1].numpy())
    assert np.abs(found.distogram - shares.numpy()).max() <= HALF
    near = int((DISTANCE_EDGES <= 8).sum())
    assert np.abs(found.distogram[..., :near].sum(-1) - found.contact_probability).max() <= near * HALF
    assert np.array_equal(found.frames[:, :3, 3], output.structure.frames.translation[-1].numpy())
    assert np.array_equal(found.frames[:, :3, :3], output.structure.frames.rotation[-1].numpy())


def test_seeds(model):
    folds, record = AlphaFoldFolder(model, "digest", ForwardOptions()), record_of(9, 30, 0)
    first, again, other = (folds.fold(record, seed=seed, recycles=1) for seed in (3, 3, 4))
    assert first.positions.tobytes() == again.positions.tobytes()
    assert first.pae.tobytes() == again.pae.tobytes()
    assert first.positions.tobytes() != other.positions.tobytes()


def test_several_chains(model):
    folds = AlphaFoldFolder(model, "digest", ForwardOptions())
    record = replace(record_of(5, 4, 0), chains=("ACDEF", "GHX"), alignments=(), templates=())
    found = folds.fold(record, seed=0, recycles=0)
    assert found.residue_index.tolist() == [1, 2, 3, 4, 5, 1, 2, 3]
    assert found.chain_index.tolist() == [0] * 5 + [1] * 3
    assert found.iptm is not None
    assert not found.atom_mask[-1].any()


def test_what_is_not_a_number_is_no_prediction(model):
    broken = model_of()
    with torch.no_grad():
        broken.structure_module.linear_in.bias.fill_(float("inf"))
    with pytest.raises(ModelError, match="positions") as caught:
        AlphaFoldFolder(broken, "digest", ForwardOptions()).fold(record_of(6, 4, 0), seed=0, recycles=0)
    assert (caught.value.code, caught.value.location) == ("not_finite", "P1")


@pytest.mark.parametrize("more", [{"recycles": -1, "seed": 0}, {"seed": -3}])
def test_options_out_of_range(model, more):
    with pytest.raises(ModelError, match="expected 0 or above"):
        AlphaFoldFolder(model, "digest", ForwardOptions()).fold(record_of(6, 4, 0), **more)
