"""ESMFold as people use it: a checkpoint folder in, structures with confidences out, and what goes wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from esmfold_peer import peer_model
from safetensors.torch import load_file, save_file

from foldase_models.errors import ModelError
from foldase_models.folding import load_folder
from foldase_models.folding.esmfold.blocks import TrunkBlock
from foldase_models.folding.esmfold.config import EsmFoldConfig
from foldase_models.folding.esmfold.features import GAP, LINKER, encode_record
from foldase_models.folding.esmfold.heads import pair_confidence
from foldase_models.folding.options import ForwardOptions
from foldase_models.folding.prediction import DISTANCE_EDGES, FoldInput
from foldase_models.layers import residues

pytestmark = pytest.mark.xdist_group("transformers")

SEQUENCE = "MKVLAAGICQWERT"
CLOSE = 1e-5
"""Relative, float32 in another order of sums."""
POSITIONS = 1e-3
"""A."""
HALF = 5e-4
"""Of a probability in half precision."""
BFLOAT16_PLDDT = 5.0
"""Of 100: half precision rounds every representation to three digits."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder as the peer saves it, and the peer."""
    folder = tmp_path_factory.mktemp("weights") / "esmfold-small"
    peer = peer_model()
    peer.save_pretrained(folder)
    return folder, peer


@pytest.fixture(scope="module")
def folder(checkpoint):
    return load_folder(checkpoint[0], ForwardOptions(), device="cpu")


@pytest.fixture(scope="module")
def model(folder):
    return folder.model


def changed(checkpoint, tmp_path, **tensors):
    """The checkpoint with some tensors replaced, or left out where None."""
    held = load_file(checkpoint[0] / "model.safetensors")
    for key, tensor in tensors.items():
        if tensor is None:
            del held[key]
        else:
            held[key] = tensor
    save_file(held, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((checkpoint[0] / "config.json").read_text())
    return tmp_path


def test_a_saved_checkpoint_folds_as_the_model_that_saved_it(checkpoint, folder):
    peer = checkpoint[1]
    found = folder.fold(FoldInput(name="one", chains=(SEQUENCE,)), seed=0)
    with torch.no_grad():
        wanted = peer.infer(SEQUENCE)
    alpha = residues.ATOM37_INDEX["CA"]
    assert np.abs(found.positions[:, alpha] - wanted.positions[-1, 0, :, 1].numpy()).max() <= POSITIONS
    assert np.abs(found.plddt - 100 * wanted.plddt[0, :, alpha].numpy()).max() <= 1e-2
    assert np.abs(found.pae - wanted.predicted_aligned_error[0].numpy()).max() <= 1e-3
    assert found.ptm == pytest.approx(float(wanted.ptm), abs=1e-4)
    assert np.array_equal(found.atom_mask, wanted.atom37_atom_exists[0].bool().numpy())
    assert found.sequence == SEQUENCE
    assert found.iptm is None
    assert (found.contact_probability >= 0).all()
    assert (found.contact_probability <= 1 + 1e-6).all()
    assert np.allclose(found.contact_probability, found.contact_probability.T, atol=1e-6)
    assert len(folder.digest) == 64
    assert folder.max_recycles == found.recycles == len(found.recycle_alpha) - 1


def test_the_same_seed_gives_the_same_bits(folder):
    record = FoldInput(name="one", chains=(SEQUENCE,))
    one, other = folder.fold(record, seed=3), folder.fold(record, seed=3)
    assert one.positions.tobytes() == other.positions.tobytes()
    assert one.pae.tobytes() == other.pae.tobytes()


def test_chains_are_joined_by_linkers_that_no_answer_shows(folder, model):
    chains = ("MKVLAAG", "ICQWE", "RTY")
    record = FoldInput(name="three", chains=chains)
    features = encode_record(record)
    assert residues.decode(features.aatype) == LINKER.join(chains)
    assert np.array_equal(features.residue_index[:7], np.arange(7))
    assert features.residue_index[7 + 25] == 7 + 25 + GAP
    assert features.residue_index[-1] == len(features.aatype) - 1 + 2 * GAP
    found = folder.fold(record, seed=0, recycles=0)
    assert found.sequence == "".join(chains)
    assert found.chain_index.tolist() == [0] * 7 + [1] * 5 + [2] * 3
    assert found.residue_index.tolist() == [*range(1, 8), *range(1, 6), *range(1, 4)]
    assert found.positions.shape == (15, 37, 3)
    assert found.pae.shape == found.contact_probability.shape == (15, 15)
    assert 0 < found.iptm <= 1
    with torch.no_grad():
        aatype = torch.as_tensor(features.aatype)[None]
        whole = model(aatype, residue_index=torch.as_tensor(features.residue_index)[None], recycles=0)
    kept = torch.as_tensor(features.real)
    assert np.abs(found.recycle_alpha[-1] - whole.alpha[-1, 0, kept].numpy()).max() <= POSITIONS


def test_distances_and_frames_are_told_where_they_are_asked_for(folder, model):
    record = FoldInput(name="two", chains=("MKVLAAG", "ICQWE"))
    found = folder.fold(record, seed=0, recycles=0, extras=("distogram", "frames"))
    features = encode_record(record)
    kept = torch.as_tensor(features.real)
    with torch.no_grad():
        aatype, index = (torch.as_tensor(own)[None] for own in (features.aatype, features.residue_index))
        z = model(aatype, residue_index=index, recycles=0).z[0]
        shares = model.distogram_head((z + z.transpose(0, 1)) / 2).softmax(-1)[kept][:, kept]
    assert found.distogram.dtype == np.float16
    assert np.abs(found.distogram - shares.numpy()).max() <= HALF
    near = int((DISTANCE_EDGES <= 8).sum())
    assert np.abs(found.distogram[..., :near].sum(-1) - found.contact_probability).max() <= near * HALF
    # In the frame of its residue C-alpha is the origin, C lies on the x axis and N in the plane of x and y.
    moved = found.positions[:, :3] - found.frames[:, None, :3, 3]
    n, alpha, c = np.einsum("rij,rai->arj", found.frames[:, :3, :3], moved)
    for flat in (alpha, c[:, 1:], n[:, 2]):
        assert np.abs(flat).max() <= POSITIONS
    assert (c[:, 0] > 1).all()
    assert (n[:, 1] > 1).all()
    assert (found.frames[:, 3] == [0, 0, 0, 1]).all()
    bare = folder.fold(record, seed=0, recycles=0)
    assert bare.distogram is None
    assert bare.frames is None
    assert np.array_equal(bare.positions, found.positions)


def test_interface_confidence_by_loops(model):
    """pTM and ipTM from their formulas, pair by pair, in a protein of two chains with a linker."""
    z = torch.randn(1, 30, 30, 12, generator=torch.Generator().manual_seed(0))
    real = torch.ones(1, 30, dtype=torch.bool)
    real[:, 10:14] = False
    chains = (torch.arange(30) > 12).long()[None]
    found = pair_confidence(z, model.ptm_head, real, chains)
    d0 = 1.24 * (26 - 15) ** (1 / 3) - 1.8
    centres = (np.arange(64) + 0.5) * 0.5
    shares = torch.softmax(model.ptm_head(z[0]).detach(), -1).numpy()
    within, between = [], []
    for i in np.flatnonzero(real[0]):
        worth = {j: (shares[i, j] / (1 + (centres / d0) ** 2)).sum() for j in np.flatnonzero(real[0])}
        within.append(np.mean(list(worth.values())))
        between.append(np.mean([value for j, value in worth.items() if chains[0, i] != chains[0, j]]))
    assert float(found.ptm) == pytest.approx(max(within), abs=1e-5)
    assert float(found.iptm) == pytest.approx(max(between), abs=1e-5)
    assert float(found.pae[0, 3, 20]) == pytest.approx((shares[3, 20] * centres).sum(), abs=1e-4)


@torch.no_grad()
def test_padding_changes_nothing(model):
    aatype = torch.as_tensor(residues.encode(SEQUENCE))[None]
    wider = torch.nn.functional.pad(aatype, (0, 6), value=7)
    mask = torch.arange(20)[None] < len(SEQUENCE)
    wanted, found = model(aatype, recycles=2), model(wider, mask, recycles=2)
    length = len(SEQUENCE)
    assert (found.s[:, :length] - wanted.s).norm() <= CLOSE * wanted.s.norm()
    assert (found.z[:, :length, :length] - wanted.z).norm() <= CLOSE * wanted.z.norm()
    close = (found.structure.positions[:, :, :length] - wanted.structure.positions).abs().max()
    assert close <= POSITIONS


@torch.no_grad()
@pytest.mark.parametrize("options", [{"group_bytes": 2**9}, {"inplace": False}, {"backend": "reference"}])
def test_chunks_and_memory_change_nothing(model, options):
    aatype = torch.randint(0, 21, (2, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(11) < torch.tensor([11, 7])[:, None]
    wanted = model(aatype, mask, recycles=1)
    found = model(aatype, mask, recycles=1, options=ForwardOptions(**options))
    assert (found.s - wanted.s).norm() <= CLOSE * wanted.s.norm()
    assert (found.z - wanted.z).norm() <= CLOSE * wanted.z.norm()
    assert (found.structure.positions - wanted.structure.positions).abs().max() <= POSITIONS


def test_a_backend_that_cannot_run_here_is_told(model):
    with pytest.raises(ValueError, match="cuda"):
        model(torch.zeros(1, 4, dtype=torch.long), recycles=0, options=ForwardOptions(backend="cuda"))


def test_recycling_ends_early_where_nothing_moves(folder):
    record = FoldInput(name="one", chains=(SEQUENCE,))
    all_passes = folder.fold(record, seed=0, recycles=4)
    assert not all_passes.converged
    assert all_passes.recycles == 4
    early = folder.fold(record, seed=0, recycles=4, tolerance=1e3)
    assert early.converged
    assert early.recycles == 1
    assert np.array_equal(early.recycle_alpha, all_passes.recycle_alpha[:2])


def test_progress_is_told_and_may_end_the_work(folder):
    told = []
    record = FoldInput(name="one", chains=(SEQUENCE,))
    folder.fold(record, seed=0, recycles=1, progress=lambda share, words: told.append((share, words)))
    assert [share for share, _ in told] == [0.25, 0.5, 0.75, 1.0]
    assert told[0][1] == "pass 1, block 1 of 2"

    def stop(share, words):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder.fold(record, seed=0, progress=stop)


def test_half_precision_keeps_the_structure_module_wide(checkpoint, folder):
    narrow = load_folder(checkpoint[0], ForwardOptions(dtype="bfloat16"), device="cpu")
    assert narrow.model.trunk.blocks[0].tri_mul_out.linear_z.weight.dtype == torch.bfloat16
    assert narrow.model.trunk.structure_module.linear_in.weight.dtype == torch.float32
    record = FoldInput(name="one", chains=(SEQUENCE,))
    found, wanted = narrow.fold(record, seed=0, recycles=0), folder.fold(record, seed=0, recycles=0)
    assert np.abs(found.plddt - wanted.plddt).max() <= BFLOAT16_PLDDT
    assert found.positions.dtype == np.float32


def test_weights_wait_until_their_block_computes(checkpoint, folder):
    frugal = load_folder(checkpoint[0], ForwardOptions(offload_weights=True), device="cpu")
    blocks = [*frugal.model.trunk.blocks, *frugal.model.esm.encoder.layer]
    there = []
    blocks[1].register_forward_pre_hook(lambda *_: there.append([_has_weights(block) for block in blocks]))
    record = FoldInput(name="one", chains=(SEQUENCE,))
    found, wanted = frugal.fold(record, seed=0, recycles=0), folder.fold(record, seed=0, recycles=0)
    assert there == [[False, True, False, False]]
    assert not any(_has_weights(block) for block in blocks)
    assert np.abs(found.positions - wanted.positions).max() <= POSITIONS


def _has_weights(block):
    return not any(parameter.is_meta for parameter in block.parameters())


@pytest.mark.parametrize(
    ("chains", "code", "place"),
    [
        (("MKB",), "unknown_residue", "bad"),
        (("MKV", "MK1"), "unknown_residue", "bad, chain 2"),
        (("mkv",), "unknown_residue", "bad"),
        (("MKV", ""), "empty_sequence", "bad, chain 2"),
        ((), "empty_sequence", "bad"),
    ],
)
def test_what_cannot_be_folded_is_named(folder, chains, code, place):
    with pytest.raises(ModelError) as caught:
        folder.fold(FoldInput(name="bad", chains=chains), seed=0)
    assert (caught.value.code, caught.value.location) == (code, place)


def test_unknown_residues_are_folded_when_written_x(folder):
    found = folder.fold(FoldInput(name="one", chains=("MKXV",)), seed=0, recycles=0)
    assert found.sequence == "MKXV"
    assert not found.atom_mask[2].any()
    assert np.isfinite(found.plddt).all()


def test_an_answer_that_is_no_number_is_an_error(checkpoint):
    broken = load_folder(checkpoint[0], ForwardOptions(), device="cpu")
    with torch.no_grad():
        broken.model.trunk.blocks[1].mlp_pair.mlp[3].bias[0] = float("nan")
    with pytest.raises(ModelError) as caught:
        broken.fold(FoldInput(name="one", chains=(SEQUENCE,)), seed=0, recycles=0)
    assert caught.value.code == "not_finite"
    assert caught.value.location == "one"
    assert "PAE" in caught.value.message


def test_weights_that_do_not_fit_are_named(checkpoint, tmp_path):
    lacking = changed(checkpoint, tmp_path, **{"trunk.blocks.1.layernorm_1.weight": None})
    with pytest.raises(ModelError, match=r"missing: trunk\.blocks\.1\.layernorm_1\.weight") as caught:
        load_folder(lacking, ForwardOptions(), device="cpu")
    assert caught.value.code == "wrong_weights"


def test_extra_weights_are_named(checkpoint, tmp_path):
    extra = changed(checkpoint, tmp_path, **{"trunk.blocks.9.layernorm_1.weight": torch.zeros(3)})
    with pytest.raises(ModelError, match=r"unexpected: trunk\.blocks\.9\.layernorm_1\.weight"):
        load_folder(extra, ForwardOptions(), device="cpu")


def test_weights_that_are_no_numbers_are_named(checkpoint, tmp_path):
    broken = changed(checkpoint, tmp_path, **{"lddt_head.1.bias": torch.full((8,), float("nan"))})
    with pytest.raises(ModelError, match=r"lddt_head\.1\.bias") as caught:
        load_folder(broken, ForwardOptions(), device="cpu")
    assert caught.value.code == "bad_weights"


def test_another_models_folder_is_refused(checkpoint, tmp_path):
    changed(checkpoint, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "esm"}))
    with pytest.raises(ModelError) as caught:
        load_folder(tmp_path, ForwardOptions(), device="cpu")
    assert caught.value.code == "wrong_model"


@pytest.mark.parametrize(
    ("trunk", "fault"),
    [({"sequence_head_width": 5}, "do not divide"), ({"structure_module": 3}, "expected an object")],
)
def test_a_configuration_that_makes_no_model_is_refused(trunk, fault):
    values = {"is_folding_model": True, "esmfold_config": {"trunk": trunk}}
    with pytest.raises(ModelError, match=fault) as caught:
        EsmFoldConfig.from_json(values)
    assert caught.value.code == "bad_config"


def test_the_published_sizes():
    """Of facebook/esmfold_v1, from its configuration: 48 blocks of 1024 and 128 channels."""
    config = EsmFoldConfig.from_json(
        {
            "is_folding_model": True,
            "hidden_size": 2560,
            "num_hidden_layers": 36,
            "num_attention_heads": 40,
            "intermediate_size": 10240,
            "position_embedding_type": "rotary",
            "esmfold_config": {"trunk": {"num_blocks": 48, "max_recycles": 4, "structure_module": {}}},
        }
    )
    assert (config.trunk.c_s, config.trunk.c_z, config.trunk.sequence_heads) == (1024, 128, 32)
    assert (config.structure.c_s, config.structure.no_blocks, config.passes) == (384, 8, 4)
    with torch.device("meta"):
        block = TrunkBlock(config.trunk)
    of_a_block = sum(parameter.numel() for parameter in block.parameters())
    # Sequence: attention 5 c^2 + 2 c, two norms, transition 8 c^2 + 5 c; then the pairs.
    sequence = 13 * 1024**2 + 11 * 1024
    between = 2 * 1024 + 1024 * 128 + 128 + 128 * 128 + 128 + 2 * 128 + 128 * 32
    assert of_a_block == sequence + between + 199_168 + 165_888 + 131_968
