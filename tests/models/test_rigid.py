"""Rigid motions against another project's, and the laws that they keep."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.esm.openfold_utils.rigid_utils import Rigid as Theirs
from transformers.models.esm.openfold_utils.rigid_utils import Rotation

from foldase_models.layers.rigid import Rigid

pytestmark = pytest.mark.xdist_group("transformers")

EXACT = 1e-12
THEIRS = 1e-6
"""Rotations of the other project are float32, whatever they are made of."""
FEW_CASES = settings(max_examples=10, deadline=None)
seeds = st.integers(0, 2**31)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def motions(*shape, seed=0):
    return Rigid.from_tensor_7(draw(*shape, 7, seed=seed))


def as_theirs(motion):
    return Theirs(Rotation(rot_mats=motion.rotation), motion.translation)


def close(found, wanted, tolerance=EXACT):
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= tolerance * max(1.0, float(wanted.abs().max()))


@FEW_CASES
@given(seeds)
def test_motion_and_back(seed):
    motion, points = motions(3, 4, seed=seed), draw(3, 4, 3, seed=seed + 1)
    close(motion.apply_inverse(motion.apply(points)), points)
    close(motion.inverse().apply(points), motion.apply_inverse(points))
    close(motion.compose(motion.inverse()).to_tensor_4x4(), torch.eye(4).double().expand(3, 4, 4, 4))


@FEW_CASES
@given(seeds)
def test_composition_is_one_after_the_other(seed):
    one, other, points = motions(5, seed=seed), motions(5, seed=seed + 1), draw(5, 3, seed=seed + 2)
    close(one.compose(other).apply(points), one.apply(other.apply(points)))
    theirs = as_theirs(one).compose(as_theirs(other))
    close(one.compose(other).to_tensor_4x4(), theirs.to_tensor_4x4(), THEIRS)


@FEW_CASES
@given(seeds)
def test_quaternions_give_the_same_motions_back(seed):
    motion = motions(6, seed=seed)
    values = motion.to_tensor_7()
    assert (values[..., 0] >= 0).all()
    close(values[..., :4].norm(dim=-1), torch.ones(6, dtype=torch.float64))
    close(Rigid.from_tensor_7(values).rotation, motion.rotation)
    close(Theirs.from_tensor_7(values).to_tensor_4x4(), motion.to_tensor_4x4(), THEIRS)


def test_quaternions_of_half_turns():
    """Their real part is 0, where a formula that divides by it fails."""
    half = torch.diag_embed(torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64))
    found = Rigid(half, torch.zeros(3, 3, dtype=torch.float64)).to_tensor_7()[..., :4].abs()
    close(found, torch.eye(4, dtype=torch.float64)[1:])


def test_small_motions_of_six_numbers():
    motion, update = motions(7), draw(7, 6, seed=1)
    theirs = Theirs.from_tensor_7(motion.to_tensor_7()).compose_q_update_vec(update)
    found = motion.compose_update(update)
    close(found.to_tensor_4x4(), theirs.to_tensor_4x4(), THEIRS)
    close(motion.compose_update(torch.zeros_like(update)).rotation, motion.rotation)


def test_frames_of_three_points():
    a, b, c = (draw(9, 3, seed=seed) for seed in range(3))
    wanted = Theirs.from_3_points(a, b, c)
    close(Rigid.from_three_points(a, b, c).to_tensor_4x4(), wanted.to_tensor_4x4(), THEIRS)
    backbone = Rigid.from_backbone(a, b, c)
    theirs = Theirs.make_transform_from_reference(a, b, c)
    close(backbone.to_tensor_4x4(), theirs.to_tensor_4x4(), THEIRS)
    local = backbone.apply_inverse(a)
    assert (local[..., 1] > 0).all()
    assert local[..., 2].abs().max() < EXACT


def test_three_points_on_one_spot_give_finite_frames_and_gradients():
    points = torch.zeros(3, 2, 3, requires_grad=True)
    frame = Rigid.from_three_points(*points.unbind())
    assert frame.to_tensor_4x4().isfinite().all()
    frame.rotation.sum().backward()
    assert points.grad.isfinite().all()


def test_parts_and_joints_of_a_batch():
    motion = motions(2, 5)
    assert motion.shape == (2, 5)
    assert motion[1, 2:4].shape == (2,)
    assert motion[..., None].shape == (2, 5, 1)
    assert motion.unsqueeze(-1).shape == (2, 5, 1)
    assert motion.unsqueeze(0).shape == (1, 2, 5)
    joined = Rigid.cat([motion[:, :2], motion[:, 2:]], dim=-1)
    close(joined.to_tensor_4x4(), motion.to_tensor_4x4())
    close(Rigid.from_tensor_4x4(motion.to_tensor_4x4()).translation, motion.translation)
    identity = Rigid.identity((2, 5), like=motion.translation)
    close(identity.compose(motion).to_tensor_4x4(), motion.to_tensor_4x4())
    close(motion.scale_translation(10).translation, motion.translation * 10)


def test_a_stopped_rotation_passes_translation_gradients_only():
    values = draw(3, 7).requires_grad_()
    stopped = Rigid.from_tensor_7(values).stop_rotation_gradient()
    stopped.apply(draw(3, 3, seed=1)).sum().backward()
    assert (values.grad[..., :4] == 0).all()
    assert (values.grad[..., 4:] == 1).all()
