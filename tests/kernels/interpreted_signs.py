"""Signs and scales by Triton under its interpreter; run by ``test_interpreted.py`` in its own process."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sign_pack_cases import TOLERANCE, assert_close, decoded, draw, draw_mask, encoded, exact, shown

from foldase_kernels.sign_pack import available_backends, encode_, pack_mask_


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("count", "block", "alpha"), [(0, 256, 1.0), (8, 256, 1.0), (768, 256, 0.3), (5000, 4096, 1.0)]
)
def test_it_packs_what_the_definition_packs(count, block, alpha, masked):
    compare(count, block, alpha, draw_mask(count) if masked else None)


@pytest.mark.verify
@pytest.mark.parametrize("block", [256, 512, 1024, 2048, 4096, 8192, 16384])
@pytest.mark.parametrize("masked", [False, True])
def test_blocks_of_every_size(block, masked):
    for count in (block - 8, block, block + 8, 20_000):
        compare(count, block, 0.7, draw_mask(count) if masked else None)


@pytest.mark.verify
@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(0, 150),
    share=st.sampled_from([None, 0.0, 0.02, 0.5, 1.0]),
    seed=st.integers(0, 2**30),
    alpha=st.sampled_from([1.0, 0.5, -2.0]),  # no product is rounded, so that no sum near 0 turns its sign
)
def test_vectors_of_every_length(groups, share, seed, alpha):
    mask = None if share is None else draw_mask(8 * groups, seed=seed, share=share)
    compare(8 * groups, 256, alpha, mask, seed=seed)


def compare(count, block, alpha, mask, seed=0):
    """Signs, scales and errors with the definition's in float64; decoded ones with its bit for bit."""
    values, error = draw(count, seed=seed), draw(count, seed=seed + 1)
    options = {"mask": mask, "block": block}
    packed = encoded(values, error, alpha=alpha, **options, backend="triton")
    assert_close(packed, exact(values, error, alpha=alpha, **options), largest=8.0)
    ours, theirs = (decoded(packed, **options, backend=name) for name in ("triton", "reference"))
    assert torch.equal(ours, theirs)
    weighted = {"weight": 1 / 3, "add": True, **options}
    ours, theirs = (added(packed, values, backend=name, **weighted) for name in ("triton", "reference"))
    assert torch.equal(ours, theirs)


def added(packed, to, **options):
    """A copy of a vector, with what was packed added to it."""
    return decoded(packed, out=to.clone(), **options)


def test_zeros_are_plus_and_what_does_not_travel_counts_nothing():
    values = torch.tensor([4.0, -2.0, torch.nan, -7.0, 0.0, -0.0, -3.0, 6.0])
    mask = torch.tensor([0b11110011], dtype=torch.uint8)
    packed = encoded(values, mask=mask, backend="triton")
    assert packed.scales.tolist() == [2.5]  # 15 / 6
    assert packed.bits.tolist() == [0b10111101]
    assert packed.error.tolist() == [1.5, 0.5, 0.0, 0.0, -2.5, -2.5, -0.5, 3.5]
    assert decoded(packed, mask=mask, backend="triton").tolist() == [2.5, -2.5, 0, 0, 2.5, 2.5, -2.5, 2.5]
    nothing = encoded(values, mask=torch.zeros(1, dtype=torch.uint8), backend="triton")
    assert (nothing.scales.tolist(), nothing.bits.tolist()) == ([0.0], [0xFF])
    assert not nothing.error.any()


def test_sums_of_huge_and_tiny_numbers_do_not_overflow_nor_vanish():
    for magnitude in (3e38, 1e-38, 3e-45):
        values = torch.full((1024,), magnitude)
        packed = encoded(values, block=1024, backend="triton")
        assert packed.scales.tolist() == [float(values[0])]
        assert not packed.error.any()


def test_what_is_not_finite_spoils_its_block_and_no_other():
    values = draw(512)
    values[300] = torch.nan
    packed = encoded(values, block=256, backend="triton")
    assert packed.scales.isfinite().tolist() == [True, False]
    assert packed.error[:256].isfinite().all()
    assert not packed.error[256:].isfinite().any()


def test_what_is_sent_and_what_is_kept_are_what_was_given():
    z = draw(2048, tail=6.0)
    packed = encoded(z, block=1024, backend="triton")
    sum_of_both = decoded(packed, block=1024, backend="triton").double() + packed.error
    torch.testing.assert_close(sum_of_both, z.double(), rtol=0, atol=TOLERANCE * float(z.abs().max()))
    assert packed.error.norm() < z.norm()


def test_a_mask_shows_what_is_not_0():
    source = draw(5000).clamp(min=0.0)
    source[:3] = torch.tensor([-0.0, 1e-45, torch.nan])
    mask = torch.zeros(625, dtype=torch.uint8)
    pack_mask_(source, mask, backend="triton")
    assert torch.equal(shown(mask, 5000), source != 0)


def test_the_same_call_gives_the_same_bits():
    first, second = (encoded(draw(1032), draw(1032, seed=1), block=256, backend="triton") for _ in range(2))
    for name in ("bits", "scales", "error"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_it_says_that_it_is_there_and_what_it_refuses():
    assert available_backends() == ("reference", "torch", "triton")
    wide = torch.zeros(8, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"values is torch\.float64; expected torch\.float32"):
        encode_(wide, wide.clone(), torch.zeros(1, dtype=torch.uint8), torch.zeros(1), backend="triton")
