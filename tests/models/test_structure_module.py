"""The structure module against Hugging Face's, under rigid motions, in groups of rows, and with padding."""

from __future__ import annotations

import pytest
import torch
from esmfold_peer import STRUCTURE, peer_in_float64, randomise, small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.esm.modeling_esmfold import EsmFoldInvariantPointAttention, EsmFoldStructureModule
from transformers.models.esm.openfold_utils import data_transforms
from transformers.models.esm.openfold_utils.rigid_utils import Rigid as TheirRigid

from foldase_models.layers import residues
from foldase_models.layers.atoms import (
    atom14_to_atom37,
    atom37_to_atom14,
    atom37_to_frames,
    atom37_to_torsions,
    atoms_of,
    frames_to_atom14,
    pseudo_beta,
    torsions_to_frames,
)
from foldase_models.layers.invariant_point_attention import InvariantPointAttention
from foldase_models.layers.rigid import Rigid
from foldase_models.layers.row_groups import working_set
from foldase_models.layers.structure_dims import StructureDims
from foldase_models.layers.structure_module import StructureModule

pytestmark = pytest.mark.xdist_group("transformers")

EXACT = 1e-9
FLOAT32_POSITIONS = 1e-3
"""A: the peer's own arithmetic, where it is left as it is."""

SMALL = StructureDims(
    c_s=STRUCTURE["sequence_dim"],
    c_z=STRUCTURE["pairwise_dim"],
    c_ipa=STRUCTURE["ipa_dim"],
    c_resnet=STRUCTURE["resnet_dim"],
    no_heads_ipa=STRUCTURE["num_heads_ipa"],
    no_qk_points=STRUCTURE["num_qk_points"],
    no_v_points=STRUCTURE["num_v_points"],
    no_blocks=STRUCTURE["num_blocks"],
)
LENGTH = 11


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def types(*shape, seed=0):
    return torch.randint(0, residues.TYPES, shape, generator=torch.Generator().manual_seed(seed))


def motions(*shape, seed=0, spread=1.0):
    values = draw(*shape, 7, seed=seed)
    return Rigid.from_tensor_7(values).scale_translation(spread)


def close(found, wanted, tolerance=EXACT):
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= tolerance * max(1.0, float(wanted.detach().abs().max()))


def their_module(kind):
    return randomise(kind(small_config().esmfold_config.trunk.structure_module)).double()


def our_module(kind, theirs):
    module = kind(SMALL).double().eval()
    module.load_state_dict(theirs.state_dict(), strict=True)
    return module


def inputs(length=LENGTH, batch=2):
    mask = torch.ones(batch, length, dtype=torch.bool)
    mask[-1, length - 3 :] = False
    return draw(batch, length, 12), draw(batch, length, length, 10, seed=1), types(batch, length), mask


@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_the_peers(masked):
    theirs = their_module(EsmFoldInvariantPointAttention)
    ours = our_module(InvariantPointAttention, theirs)
    single, pair, _, mask = inputs()
    mask = mask if masked else torch.ones_like(mask)
    frames = motions(2, LENGTH, spread=3.0)
    with peer_in_float64():
        wanted = theirs(single, pair, TheirRigid.from_tensor_7(frames.to_tensor_7()), mask.double())
    found = ours(single, pair, frames, mask if masked else None)
    close(found[mask], wanted[mask])


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31))
def test_attention_does_not_see_how_the_whole_is_moved(seed):
    attention = randomise(InvariantPointAttention(SMALL)).double()
    single, pair, _, mask = inputs()
    frames, whole = motions(2, LENGTH, seed=seed), motions(1, 1, seed=seed + 1, spread=20.0)
    moved = whole.compose(frames)
    close(attention(single, pair, moved, mask), attention(single, pair, frames, mask))


def test_attention_in_groups_of_rows_is_the_same_forward_and_backward():
    attention = randomise(InvariantPointAttention(SMALL)).double()
    single, pair, _, mask = inputs()
    frames = motions(2, LENGTH)

    def run(group_bytes):
        leaves = [single.clone().requires_grad_(), pair.clone().requires_grad_()]
        attention.zero_grad()
        with working_set(group_bytes):
            out = attention(*leaves, frames, mask)
            out.square().sum().backward()
        return [out.detach(), *(leaf.grad for leaf in leaves), *(p.grad for p in attention.parameters())]

    for found, wanted in zip(run(2**12), run(2**20), strict=True):
        close(found, wanted)


@pytest.mark.parametrize("masked", [False, True])
def test_module_equals_the_peers(masked):
    theirs = their_module(EsmFoldStructureModule)
    ours = our_module(StructureModule, theirs)
    single, pair, aatype, mask = inputs()
    mask = mask if masked else torch.ones_like(mask)
    with peer_in_float64():
        wanted = theirs({"single": single, "pair": pair}, aatype, mask.double())
    found = ours(single, pair, aatype, mask if masked else None)
    real = mask.expand(SMALL.no_blocks, *mask.shape)
    their_frames = Rigid.from_tensor_7(wanted["frames"])
    close(found.single[mask], wanted["single"][mask])
    close(found.states[real], wanted["states"][real])
    close(found.frames.to_tensor_4x4()[real], their_frames.to_tensor_4x4()[real])
    close(found.sidechain_frames.to_tensor_4x4()[real], wanted["sidechain_frames"][real])
    close(found.angles[real], wanted["angles"][real])
    close(found.unnormalized_angles[real], wanted["unnormalized_angles"][real])
    close(found.positions[real], wanted["positions"][real])


def test_module_equals_the_peers_in_its_own_precision():
    theirs = their_module(EsmFoldStructureModule).float()
    ours = StructureModule(SMALL).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    single, pair, aatype, _ = inputs()
    wanted = theirs({"single": single.float(), "pair": pair.float()}, aatype)
    found = ours(single.float(), pair.float(), aatype)
    assert (found.positions - wanted["positions"]).abs().max() <= FLOAT32_POSITIONS


def test_padding_changes_nothing():
    module = randomise(StructureModule(SMALL)).double()
    single, pair, aatype, _ = inputs(batch=1, length=LENGTH)
    mask = torch.ones(1, LENGTH + 4, dtype=torch.bool)
    mask[:, LENGTH:] = False
    wanted = module(single, pair, aatype)
    wider = torch.nn.functional.pad
    found = module(
        wider(single, (0, 0, 0, 4), value=3.0),
        wider(pair, (0, 0, 0, 4, 0, 4), value=3.0),
        wider(aatype, (0, 4)),
        mask,
    )
    close(found.positions[:, :, :LENGTH], wanted.positions)


def test_autocast_leaves_frames_in_full_precision():
    module = randomise(StructureModule(SMALL)).float()
    single, pair, aatype, mask = inputs()
    wanted = module(single.float(), pair.float(), aatype, mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(single.float(), pair.float(), aatype, mask)
    assert torch.equal(found.positions, wanted.positions)


def test_gradients_equal_the_peers_which_stops_those_of_rotations_between_blocks():
    theirs = their_module(EsmFoldStructureModule)
    ours = our_module(StructureModule, theirs)
    single, pair, aatype, mask = inputs()
    leaves = [tensor.clone().requires_grad_() for tensor in (single, pair)]
    their_leaves = [tensor.clone().requires_grad_() for tensor in (single, pair)]
    real = mask[None, ..., None, None]
    (ours(*leaves, aatype, mask).positions * real).square().sum().backward()
    with peer_in_float64():
        wanted = theirs({"single": their_leaves[0], "pair": their_leaves[1]}, aatype, mask.double())
        (wanted["positions"] * real).square().sum().backward()
    for leaf, their_leaf in zip(leaves, their_leaves, strict=True):
        close(leaf.grad, their_leaf.grad)
    for name, parameter in theirs.named_parameters():
        close(ours.get_parameter(name).grad, parameter.grad)
        assert parameter.grad.abs().max() > 0, name


def chain(length, seed=0):
    """Atoms of a random chain of ideal residues: positions, mask, types, frames and torsions."""
    aatype = torch.arange(length) % 20
    torsions = torch.nn.functional.normalize(draw(length, 7, 2, seed=seed + 1), dim=-1)
    frames = torsions_to_frames(motions(length, seed=seed + 2, spread=10.0), torsions, aatype)
    positions = atom14_to_atom37(frames_to_atom14(frames, aatype), aatype)
    return positions, atoms_of(aatype, 37), aatype, frames, torsions


def test_torsions_are_found_again_in_the_atoms_built_from_them():
    positions, mask, aatype, _, torsions = chain(40)
    found = atom37_to_torsions(positions, mask, aatype)
    chi = found.mask.clone()
    chi[:, :2] = False  # omega and phi lie between residues, which this chain does not join
    # Ideal places have three decimals, so planes they define are a little off.
    close(found.sin_cos[chi], torsions[chi], 0.02)
    close(
        found.sin_cos[found.mask].norm(dim=-1), torch.ones(int(found.mask.sum()), dtype=torch.float64), 1e-6
    )
    assert torch.equal(found.mask[:, 3:], torch.as_tensor(residues.CHI_MASK)[aatype])
    assert not found.mask[0, :2].any()
    assert found.mask[1:, :3].all()


def test_frames_are_found_again_in_the_atoms_built_from_them():
    positions, mask, aatype, frames, _ = chain(40)
    found = atom37_to_frames(positions, mask, aatype)
    there = found.mask
    assert torch.equal(there, torch.as_tensor(residues.GROUP_MASK)[aatype])
    close(found.frames.rotation[there], frames.rotation[there], 0.02)
    close(found.frames.translation[there], frames.translation[there], 0.01)
    turned = found.frames.rotation.mT @ found.alternative.rotation
    half = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    close(turned[found.ambiguous & there], half.expand(int((found.ambiguous & there).sum()), 3, 3), 1e-6)
    assert torch.equal(found.frames.rotation[~found.ambiguous], found.alternative.rotation[~found.ambiguous])


def test_renaming_a_symmetric_side_chain_gives_the_alternative():
    positions, mask, aatype, _, _ = chain(40)
    swap = torch.as_tensor(residues.ATOM14_SWAPPED)[aatype]
    narrow = atom37_to_atom14(positions, aatype)
    renamed = atom14_to_atom37(narrow.gather(-2, swap[..., None].expand_as(narrow)), aatype)
    found = atom37_to_torsions(renamed, mask, aatype)
    wanted = atom37_to_torsions(positions, mask, aatype)
    periodic = torch.as_tensor(residues.CHI_PI_PERIODIC)[aatype]
    assert periodic.any()
    close(found.sin_cos[:, 3:][periodic], wanted.alternative[:, 3:][periodic], 0.02)


def test_places_of_atoms_as_the_peer_has_them():
    aatype = types(30)
    wanted = data_transforms.make_atom14_masks({"aatype": aatype})
    assert torch.equal(atoms_of(aatype, 14), wanted["atom14_atom_exists"].bool())
    assert torch.equal(atoms_of(aatype, 37), wanted["atom37_atom_exists"].bool())
    values = draw(30, 14, 3) * atoms_of(aatype, 14)[..., None]
    close(atom37_to_atom14(atom14_to_atom37(values, aatype), aatype), values)


def test_glycine_has_its_alpha_for_a_beta():
    positions, _, aatype, _, _ = chain(40)
    beta = pseudo_beta(positions, aatype)
    glycine = aatype == residues.RESTYPES.index("G")
    close(beta[glycine], positions[glycine, residues.ATOM37_INDEX["CA"]])
    close(beta[~glycine], positions[~glycine, residues.ATOM37_INDEX["CB"]])
