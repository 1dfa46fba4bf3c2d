"""Vectors as signs and scales: the format, what is kept of what is lost, masks, odd numbers, refusals."""

from __future__ import annotations

import re

import pytest
import torch
from counted_memory import peak_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sign_pack_cases import TOLERANCE, assert_close, decoded, draw, draw_mask, encoded, exact, shown

from foldase_kernels import operations
from foldase_kernels.sign_pack import (
    available_backends,
    backends,
    block_count,
    choose_backend,
    decode_,
    encode_,
    pack_mask_,
    torch_chunks,
)

BACKENDS = ("reference", "torch")
SIZES = (0, 8, 248, 256, 264, 5000, 8192)
FEEDBACK_TOLERANCE = 1e-5
"""Of what was sent and kept over many steps, relative to the largest magnitude that was given."""
SEVERAL = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_eight_numbers_are_a_byte_and_a_scale(backend):
    values = torch.tensor([4.0, -2.0, 0.0, -0.0, 1.0, 1.0, -3.0, 5.0])
    packed = encoded(values, backend=backend)
    assert packed.scales.tolist() == [2.0]  # 16 / 8
    assert packed.bits.tolist() == [0b10111101]  # the first number is the lowest bit; 0 and -0 are plus
    assert packed.error.tolist() == [2.0, 0.0, -2.0, -2.0, -1.0, -1.0, -1.0, 3.0]
    assert decoded(packed, backend=backend).tolist() == [2.0, -2.0, 2.0, 2.0, 2.0, 2.0, -2.0, 2.0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_what_does_not_travel_nothing_counts(backend):
    values = torch.tensor([4.0, -2.0, torch.nan, -7.0, 1.0, -torch.inf, -3.0, 6.0])
    mask = torch.tensor([0b11010011], dtype=torch.uint8)
    error = torch.full((8,), 0.0).masked_fill(~shown(mask, 8), 9.0)
    packed = encoded(values, error, mask=mask, backend=backend)
    assert packed.scales.tolist() == pytest.approx([16 / 5])
    assert packed.bits.tolist() == [0b10111101]  # plus where nothing travels
    assert packed.error[~shown(mask, 8)].tolist() == [0.0, 0.0, 0.0]
    assert decoded(packed, mask=mask, backend=backend)[~shown(mask, 8)].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_block_in_which_nothing_travels_has_scale_0(backend):
    mask = draw_mask(768)
    mask[32:64] = 0
    packed = encoded(draw(768), draw(768, seed=1), mask=mask, block=256, backend=backend)
    assert packed.scales[1] == 0
    assert packed.scales[[0, 2]].min() > 0
    assert packed.bits[32:64].tolist() == [0xFF] * 32
    assert not packed.error[256:512].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mask_shows_what_is_not_0(backend):
    source = torch.tensor([0.0, 1e-45, -0.0, -3.0, torch.nan, torch.inf, 0.0, 0.0, 0.0, 1.0, *[0.0] * 6])
    mask = torch.zeros(2, dtype=torch.uint8)
    pack_mask_(source, mask, backend=backend)
    assert mask.tolist() == [0b00111010, 0b00000010]


@pytest.mark.parametrize("masked", [False, True])
def test_torch_packs_what_the_definition_packs(masked):
    for count in SIZES:
        values, error = draw(count), draw(count, seed=1)
        for block, alpha in ((256, 1.0), (4096, 0.3)):
            mask = draw_mask(count) if masked else None
            options = {"mask": mask, "alpha": alpha, "block": block}
            found = encoded(values, error, **options, backend="torch")
            assert_close(found, exact(values, error, **options), largest=8.0)
            unpack = {"mask": mask, "block": block}
            ours, theirs = (decoded(found, **unpack, backend=name) for name in ("torch", "reference"))
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mean_is_decoded_with_weights(backend):
    packed = [encoded(draw(520, seed=seed), block=256, backend=backend) for seed in range(3)]
    mask = draw_mask(520)
    mean = torch.zeros(520)
    for each in packed:
        decode_(each.bits, each.scales, mean, mask=mask, weight=1 / 3, add=True, block=256, backend=backend)
    alone = [decoded(each, mask=mask, block=256, backend=backend).double() for each in packed]
    torch.testing.assert_close(mean.double(), sum(alone) / 3, rtol=0, atol=TOLERANCE)
    assert not mean[~shown(mask, 520)].any()


VECTORS = {
    "groups": st.integers(0, 200),
    "block": st.sampled_from([256, 512, 1024]),
    "share": st.sampled_from([None, 0.0, 0.02, 0.5, 1.0]),
    "tail": st.floats(0.1, 12.0),
    "power": st.integers(-25, 20),
    "seed": st.integers(0, 2**30),
}


def any_vector(groups, share, tail, power, seed):
    """z in float32 and its mask."""
    z = draw(8 * groups, seed=seed, tail=tail) * 10.0**power
    return z, None if share is None else draw_mask(8 * groups, seed=seed, share=share)


@SEVERAL
@given(**VECTORS)
def test_what_is_sent_and_what_is_kept_are_what_was_given(groups, block, share, tail, power, seed):
    z, mask = any_vector(groups, share, tail, power, seed)
    packed = encoded(z, mask=mask, block=block, backend="torch")
    sum_of_both = decoded(packed, mask=mask, block=block, backend="torch").double() + packed.error
    wanted = z.double() * shown(mask, z.numel())
    largest = float(wanted.abs().max()) if z.numel() else 0.0
    torch.testing.assert_close(sum_of_both, wanted, rtol=0, atol=TOLERANCE * largest)
    assert not packed.error[~shown(mask, z.numel())].any()


@SEVERAL
@given(**VECTORS)
def test_every_block_of_the_error_is_shorter_than_what_it_is_the_error_of(
    groups, block, share, tail, power, seed
):
    z, mask = any_vector(groups, share, tail, power, seed)
    packed = encoded(z, mask=mask, block=block, backend="torch")
    kept = z.double() * shown(mask, z.numel())
    for before, after in zip(kept.split(block), packed.error.double().split(block), strict=True):
        assert after.norm() < before.norm() or not before.any()


def test_where_few_coordinates_are_large_the_error_of_the_l2_scale_grows_and_ours_does_not():
    """The other scale that is in use: the norm over the root of the number of coordinates."""
    z = draw(4096, tail=6.0)
    of_l2 = z - torch.where(z >= 0, 1.0, -1.0) * z.norm() / 64.0
    assert of_l2.norm() > 1.2 * z.norm()
    error = z
    for _ in range(20):  # packed again and again, with nothing new
        before, error = error, encoded(error, backend="torch").error
        assert error.norm() < before.norm()


def test_what_heavy_tails_lose_is_sent_in_the_end():
    """Over many steps the sum of what is sent follows the sum of what is given."""
    given_, sent, error = torch.zeros(2048).double(), torch.zeros(2048).double(), torch.zeros(2048)
    for step in range(60):
        values = draw(2048, seed=step, tail=4.0)
        packed = encoded(values, error, block=1024, backend="torch")
        error = packed.error
        given_ += values
        sent += decoded(packed, block=1024, backend="torch")
    torch.testing.assert_close(
        sent + error, given_, rtol=0, atol=FEEDBACK_TOLERANCE * float(given_.abs().max())
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("magnitude", [3e38, 1e30, 1e-30, 1e-38, 3e-45])
def test_sums_of_huge_and_tiny_numbers_do_not_overflow_nor_vanish(magnitude, backend):
    values = torch.full((4096,), magnitude)
    values[::2] *= -1
    packed = encoded(values, backend=backend)
    assert packed.scales.tolist() == [float(values[1])]
    assert not packed.error.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_scale_that_rounds_to_0_leaves_the_error_as_it_is(backend):
    values = torch.zeros(4096)
    values[7] = -1e-45
    packed = encoded(values, backend=backend)
    assert packed.scales.tolist() == [0.0]
    assert torch.equal(packed.error, values)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_what_is_not_finite_spoils_its_block_and_no_other(odd, backend):
    values = draw(768)
    values[300] = odd
    packed = encoded(values, block=256, backend=backend)
    assert packed.scales.isfinite().tolist() == [True, False, True]
    assert packed.error[:256].isfinite().all()
    assert not packed.error[256:512].isfinite().any()
    assert packed.error[512:].isfinite().all()


@pytest.mark.parametrize("masked", [False, True])
def test_neither_chunks_nor_threads_change_a_bit(masked, monkeypatch):
    values, error = draw(70_008), draw(70_008, seed=1)
    mask = draw_mask(70_008) if masked else None
    options = {"mask": mask, "alpha": 0.3, "block": 512, "backend": "torch"}
    first = encoded(values, error, **options)
    monkeypatch.setattr(torch_chunks, "ELEMENTS_AT_ONCE", {"cpu": 1500})
    torch.set_num_threads(2)
    again = encoded(values, error, **options)
    for name in ("bits", "scales", "error"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    del options["alpha"]
    assert torch.equal(decoded(first, **options), decoded(first, **options | {"backend": "reference"}))


@pytest.mark.parametrize("masked", [False, True])
def test_scratch_does_not_grow_with_the_vector(masked, monkeypatch):
    monkeypatch.setattr(torch_chunks, "ELEMENTS_AT_ONCE", {"cpu": 2**14})
    count = 2**17
    values, error, mask = draw(count), draw(count, seed=1), draw_mask(count) if masked else None
    bits, scales = torch.zeros(count // 8, dtype=torch.uint8), torch.zeros(block_count(count, 1024))
    options = {"mask": mask, "block": 1024, "backend": "torch"}
    tables = 256 * 8 * 24
    bound = torch_chunks.SCRATCH_BYTES * 2**14 + tables
    assert peak_of(lambda: encode_(values, error, bits, scales, **options)) <= bound
    assert peak_of(lambda: decode_(bits, scales, values, add=True, **options)) <= bound
    assert peak_of(lambda: pack_mask_(values, bits, backend="torch")) <= bound


def test_auto_is_said_once_and_takes_triton_on_a_gpu_only(monkeypatch, caplog):
    monkeypatch.setattr(backends, "_reported", set())
    monkeypatch.setattr(backends, "is_available", lambda: True)
    with caplog.at_level("INFO", logger="foldase_kernels"):
        for _ in range(2):
            assert choose_backend(torch.device("cpu")) == "torch"
            assert choose_backend(torch.device("cuda")) == "triton"
        monkeypatch.setattr(backends, "is_available", lambda: False)
        assert choose_backend(torch.device("cuda")) == "torch"
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "encode_ on cpu uses backend 'torch'",
        "encode_ on cuda uses backend 'triton'",
        "encode_ on cuda uses backend 'torch'",
    ]


def test_the_listed_backends_are_those_that_run():
    [listed] = [each.backends for each in operations.OPERATIONS if each.folder == "sign_pack"]
    assert available_backends() == tuple(
        name for name in listed if name != "triton" or torch.cuda.is_available()
    )


def arguments_to_encode():
    return {
        "values": torch.zeros(520),
        "error": torch.zeros(520),
        "bits": torch.zeros(65, dtype=torch.uint8),
        "scales": torch.zeros(3),
        "mask": torch.zeros(65, dtype=torch.uint8),
        "block": 256,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": torch.zeros(12)}, "values has 12 elements; expected a multiple of 8"),
        ({"values": torch.zeros(520).double()}, "values is torch.float64; expected torch.float32"),
        ({"values": torch.zeros(2, 260)}, "values has shape (2, 260)"),
        ({"error": torch.zeros(512)}, "error has 512 elements; expected 520"),
        ({"error": torch.zeros(1040)[::2]}, "error has shape (520,) and strides (2,)"),
        ({"error": torch.zeros(520, device="meta")}, "error is on meta, values on cpu; expected one device"),
        (
            {"bits": torch.zeros(64, dtype=torch.uint8)},
            "bits has 64 elements; expected 65, one for 8 of values",
        ),
        ({"bits": torch.zeros(65, dtype=torch.bool)}, "bits is torch.bool; expected torch.uint8"),
        ({"scales": torch.zeros(2)}, "scales has 2 elements; expected 3, one for 256 of values"),
        ({"mask": torch.ones(520, dtype=torch.uint8)}, "mask has 520 elements; expected 65"),
        ({"alpha": float("nan")}, "alpha is nan; expected a finite number"),
        ({"block": 300}, "block is 300; expected a power of two, 256 to 16384"),
        ({"block": 128}, "block is 128"),
        ({"block": 32768}, "block is 32768"),
        ({"backend": "cuda"}, "backend 'cuda' is not available; expected auto, reference, torch"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_what_cannot_be_encoded_is_refused_by_name(change, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        encode_(**arguments_to_encode() | change)


def test_what_cannot_be_decoded_is_refused_by_name():
    bits, scales = torch.zeros(65, dtype=torch.uint8), torch.zeros(3)
    with pytest.raises(ValueError, match="bits has 65 elements; expected 64, one for 8 of out"):
        decode_(bits, scales, torch.zeros(512), block=256)
    with pytest.raises(ValueError, match="weight is inf"):
        decode_(bits, scales, torch.zeros(520), block=256, weight=float("inf"))
    with pytest.raises(ValueError, match="mask has 65 elements; expected 64"):
        pack_mask_(torch.zeros(512), bits)


def test_vectors_that_share_memory_are_refused():
    arguments = arguments_to_encode()
    memory = torch.zeros(65 + 3 + 12, dtype=torch.uint8)
    apart = arguments | {"bits": memory[12:77], "scales": memory[:12].view(torch.float32)}
    encode_(**apart)
    with pytest.raises(ValueError, match="scales and bits share memory"):
        encode_(**apart | {"bits": memory[11:76]})
    with pytest.raises(ValueError, match=r"(values and error|error and values) share memory"):
        encode_(**arguments | {"error": arguments["values"]})
