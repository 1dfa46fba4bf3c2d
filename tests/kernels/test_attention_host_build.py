"""The CUDA attention forward, executed on the processor: every thread of every block, against float64."""

from __future__ import annotations

import ctypes

import pytest
import torch
from attention_on_host import (
    ROWS_ALONE,
    ROWS_TOGETHER,
    build,
    check,
    draw_bias,
    draw_mask,
    load,
    make,
    rows_case,
    run,
    sources,
    telling_case,
)

from foldase_kernels.attention.arguments import AttentionArguments, fill_arguments

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
ORDERS = (0, 1, 2, 3, 6, 7)
"""Seeds: ascending, descending, any lane, one warp at a time, and the random ones once more."""


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The host build of the sources as they are."""
    return load(build(sources(), tmp_path_factory.mktemp("host") / "attention.so", "-O2"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 15, 17, 63, 65])
def test_every_size(library, size, dtype):
    case = make(queries=size, dtype=dtype)
    case.biases = [draw_bias(case, 1, 2, size, size), draw_bias(case, 2, 1, 1, size, dtype=torch.bfloat16)]
    case.mask = draw_mask(2, 1, 1, size)
    check(library, case, order=size)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("block_limit", [0, 1])
def test_every_order_of_threads_and_blocks(library, order, block_limit):
    check(library, telling_case(), order, block_limit)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 8, 20, 48, 128])
def test_every_head_width(library, width, dtype):
    case = make(rows=1, queries=19, keys=70, heads=1, width=width, dtype=dtype, gate=True)
    case.biases = [draw_bias(case, 19, 70)]
    check(library, case, order=width)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        (2, 1, 2, 17, 18),
        (1, 1, 2, 17, 18),
        (2, 3, 1, 1, 18),
        (2, 3, 2, 17, 18),
        (3, 1, 17, 18),
        (2, 1, 1),
        (17, 1),
        (1,),
    ],
    ids=str,
)
def test_every_class_of_bias_in_every_dtype(library, shape, dtype):
    case = make((2,), rows=3, queries=17, keys=18)
    case.biases = [draw_bias(case, *shape, dtype=dtype)]
    check(library, case, order=2)


def test_four_biases_of_several_dtypes(library):
    case = make(queries=17, keys=66)
    shapes = [(1, 2, 17, 66), (2, 1, 1, 66), (2, 2, 17, 66), (17, 1)]
    dtypes = [torch.float32, torch.bfloat16, torch.float16, torch.float32]
    pairs = enumerate(zip(shapes, dtypes, strict=True))
    case.biases = [draw_bias(case, *shape, dtype=dtype, seed=seed) for seed, (shape, dtype) in pairs]
    check(library, case, order=3)


@pytest.mark.parametrize("shape", [(2, 1, 1, 65), (17, 65), (2, 2, 17, 65), (17, 1)], ids=str)
def test_masks_and_queries_without_keys(library, shape):
    case = make(queries=17, keys=65)
    case.mask = draw_mask(*shape)
    case.mask[0] = False
    check(library, case, order=2)


def test_a_bias_of_minus_infinity_masks_too(library):
    case = make(queries=17, keys=65)
    case.biases = [draw_bias(case, 17, 65).masked_fill(draw_mask(17, 65), -torch.inf)]
    case.biases[0][3] = -torch.inf
    check(library, case)


@pytest.mark.parametrize(("queries", "keys"), [(65, 65), (17, 70), (70, 17), (1, 65), (130, 3)])
def test_causal_when_the_last_query_stands_at_the_last_key(library, queries, keys):
    case = make(rows=1, queries=queries, keys=keys)
    case.causal = True
    check(library, case, order=3)


@pytest.mark.parametrize("causal", [False, True])
def test_alibi(library, causal):
    case = make(rows=1, queries=17, keys=70, dtype=torch.float32)
    case.slopes, case.causal = torch.tensor([0.5, 0.0625]), causal
    check(library, case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_views_are_read_and_written_where_they_lie(library, dtype):
    case = make(rows=9, queries=9, gate=True, dtype=dtype)
    for name in ("q", "k", "v", "gate"):
        setattr(case, name, getattr(case, name).transpose(0, 1))
    case.biases = [draw_bias(case, 1, 2, 9, 9).transpose(-1, -2)]
    case.mask = draw_mask(9, 9, 1, 1).transpose(0, 3).transpose(1, 2)[:, :, :1]
    backing = torch.full((9, 9, 3, 64), torch.nan, dtype=dtype)
    case.out = backing[:, :, :2, 1::2].transpose(0, 1)
    check(library, case, order=2)
    assert backing[:, :, 2].isnan().all(), "written beside the view"
    assert backing[:, :, :2, ::2].isnan().all(), "written beside the view"


@pytest.mark.parametrize("offset", [1, 2, 4])
def test_tensors_at_addresses_that_no_chunk_begins_at(library, offset):
    case = make(rows=1, queries=17, gate=True)
    for name in ("q", "k", "v", "gate"):
        tensor = getattr(case, name)
        moved = torch.full((tensor.numel() + offset,), torch.nan, dtype=tensor.dtype)[offset:]
        setattr(case, name, moved.view(tensor.shape).copy_(tensor))
    case.out = torch.full((case.q.numel() + offset,), torch.nan, dtype=case.q.dtype)[offset:].view(
        case.q.shape
    )
    check(library, case)


def test_leading_dimensions_take_one_launch_where_they_flatten(library):
    case = make((2, 3), rows=1, queries=3)
    case.biases = [draw_bias(case, 1, 2, 3, 3)]
    check(library, case)
    assert len(list(launches(case))) == 1


def test_leading_dimensions_take_several_launches_where_they_do_not(library):
    case = make((2, 3), rows=1, queries=3)
    case.biases = [draw_bias(case, 2, 1, 1, 2, 3, 3)]
    check(library, case)
    assert len(list(launches(case))) == 2


def launches(case):
    return fill_arguments(
        case.q, case.k, case.v, case.biases, None, 1.0, False, None, torch.empty_like(case.q)
    )


def test_the_same_call_gives_the_same_bits_in_every_order(library):
    first = run(library, telling_case(), order=0)
    for order in ORDERS:
        again = run(library, telling_case(), order)
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def assert_same_bits(library, case):
    alone = run(library, case, order=2, block_limit=ROWS_ALONE)
    together = run(library, case, order=2, block_limit=ROWS_TOGETHER)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize("order", ORDERS)
def test_rows_that_share_a_bias_in_every_order_of_threads(library, order):
    check(library, rows_case(), order, ROWS_TOGETHER)


@pytest.mark.parametrize("rows", [2, 3, 5])
def test_rows_together_give_the_bits_of_each_alone(library, rows):
    assert_same_bits(library, rows_case(rows, queries=17))


@pytest.mark.parametrize("first", [0, 1])
def test_rows_together_wherever_the_shared_bias_stands(library, first):
    """It is moved to the front, alone or together, so that the order of the sum is one."""
    case = rows_case(queries=17, keys=66)
    case.biases = case.biases[first:] + case.biases[:first]
    check(library, case, 3, ROWS_TOGETHER)
    assert_same_bits(library, case)


def test_rows_together_of_which_some_or_all_see_nothing(library):
    case = rows_case(rows=5, queries=17, keys=130)
    case.mask[1] = False
    check(library, case, 2, ROWS_TOGETHER)
    case.mask[2:4] = False
    check(library, case, 2, ROWS_TOGETHER)
    assert_same_bits(library, case)


def test_rows_together_causal_with_distances(library):
    case = rows_case(queries=70, keys=70)
    case.mask, case.causal, case.slopes = None, True, torch.tensor([0.25])
    check(library, case, 3, ROWS_TOGETHER)
    assert_same_bits(library, case)


def test_rows_together_with_a_mask_that_differs_between_queries_skips_nothing(library):
    case = rows_case(queries=17, keys=70)
    case.mask = draw_mask(3, 1, 17, 70)
    case.mask[0, 0, :16, :64] = False
    check(library, case, 2, ROWS_TOGETHER)
    assert_same_bits(library, case)


def test_keys_that_no_row_may_see_are_never_read(library):
    """Values of a tile that is masked whole may be anything, even NaN."""
    case = rows_case(queries=17)
    case.mask[:, ..., 64:128] = False
    wanted = run(library, case, 2, ROWS_TOGETHER)
    case.k[:, 64:128], case.v[:, 64:128] = torch.nan, torch.nan
    for limit in (ROWS_TOGETHER, ROWS_ALONE):
        found = run(library, case, 2, limit)
        assert all(torch.equal(one, other) for one, other in zip(wanted, found, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 20, 32, 48])
def test_rows_together_in_every_dtype_and_width(library, width, dtype):
    """Those that the library does not take together too: the choice is its own."""
    case = make((2,), rows=3, queries=19, keys=70, heads=2, width=width, dtype=dtype)
    case.biases = [draw_bias(case, 2, 1, 2, 19, 70, dtype=dtype), draw_bias(case, 2, 1, 1)]
    check(library, case, 2, ROWS_TOGETHER)
    assert_same_bits(library, case)


def test_what_the_kernels_do_not_take_is_named(library):
    case = make(queries=3)
    case.biases = [draw_bias(case, 3, 3).double()]
    with pytest.raises(ValueError, match=r"biases\[0\] is torch\.float64"):
        run(library, case)
    case.biases = [draw_bias(case, 3, 3)] * 5
    with pytest.raises(ValueError, match="biases has 5 entries"):
        run(library, case)
    with pytest.raises(ValueError, match=r"q is torch\.float64"):
        run(library, make(dtype=torch.float64))


def test_a_library_of_another_version_refuses(library):
    arguments = AttentionArguments(size=8)
    message = ctypes.create_string_buffer(200)
    status = library.foldase_attention_forward(ctypes.byref(arguments), None, message, ctypes.c_int64(200))
    assert status == 1
    assert b"the arguments have 8 bytes" in message.value
