"""The CUDA forward for rows that share a bias, taken together: right, and with the bits of each row alone."""

from __future__ import annotations

import pytest
import torch
from attention_on_host import build, check, draw_bias, draw_mask, load, make, one_instance, run, sources

TOGETHER = 1
"""A limit of blocks at which the library takes rows together however few there are."""
ALONE = 0
"""No limit: then small problems keep their rows apart."""
ORDERS = (0, 1, 2, 3)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return load(build(one_instance(folder / "csrc"), folder / "attention.so", "-O1"))


def rows_sharing_a_bias(rows=3, queries=65, keys=147):
    """Two tiles of queries, three of keys, an odd row left over, and a mask that differs between rows."""
    case = make(rows=rows, queries=queries, keys=keys, heads=1, gate=True)
    case.biases = [
        draw_bias(case, 1, 1, queries, keys),
        draw_bias(case, rows, 1, 1, keys, dtype=torch.float16),
    ]
    case.mask = draw_mask(rows, 1, 1, keys)
    case.mask[0, ..., 64:128] = False  # the first row of a group sees nothing in the second tile
    case.mask[-1, ..., :64] = False
    return case


def assert_same_bits(library, case):
    alone = run(library, case, order=2, block_limit=ALONE)
    together = run(library, case, order=2, block_limit=TOGETHER)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_threads(library, order):
    check(library, rows_sharing_a_bias(), order, TOGETHER)


@pytest.mark.parametrize("rows", [2, 3, 5])
def test_the_same_bits_as_one_row_alone(library, rows):
    assert_same_bits(library, rows_sharing_a_bias(rows, queries=17))


@pytest.mark.parametrize("first", [0, 1])
def test_wherever_the_shared_bias_stands(library, first):
    """It is moved to the front, alone or together, so that the order of the sum is one."""
    case = rows_sharing_a_bias(queries=17, keys=66)
    case.biases = case.biases[first:] + case.biases[:first]
    check(library, case, 3, TOGETHER)
    assert_same_bits(library, case)


def test_rows_of_which_some_or_all_see_nothing(library):
    case = rows_sharing_a_bias(rows=5, queries=17, keys=130)
    case.mask[1] = False
    check(library, case, 2, TOGETHER)
    case.mask[2:4] = False
    check(library, case, 2, TOGETHER)
    assert_same_bits(library, case)


def test_causal_with_distances_and_without_a_mask(library):
    case = rows_sharing_a_bias(queries=70, keys=70)
    case.mask, case.causal, case.slopes = None, True, torch.tensor([0.25])
    check(library, case, 3, TOGETHER)
    assert_same_bits(library, case)


def test_a_mask_that_differs_between_queries_skips_nothing(library):
    case = rows_sharing_a_bias(queries=17, keys=70)
    case.mask = draw_mask(3, 1, 17, 70)
    case.mask[0, 0, :16, :64] = False
    check(library, case, 2, TOGETHER)
    assert_same_bits(library, case)


def test_keys_that_no_row_may_see_are_never_read(library):
    """Values of a tile that is masked whole may be anything, even NaN."""
    case = rows_sharing_a_bias(queries=17)
    case.mask[:, ..., 64:128] = False
    wanted = run(library, case, 2, TOGETHER)
    case.k[:, 64:128], case.v[:, 64:128] = torch.nan, torch.nan
    for limit in (TOGETHER, ALONE):
        found = run(library, case, 2, limit)
        assert all(torch.equal(one, other) for one, other in zip(wanted, found, strict=True))


@pytest.mark.verify
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("width", [1, 20, 32, 48])
def test_every_dtype_and_width(whole_library, width, dtype):
    """Those that are not taken together too: the choice is the library's."""
    case = make((2,), rows=3, queries=19, keys=70, heads=2, width=width, dtype=dtype)
    case.biases = [draw_bias(case, 2, 1, 2, 19, 70, dtype=dtype), draw_bias(case, 2, 1, 1)]
    check(whole_library, case, 2, TOGETHER)
    assert_same_bits(whole_library, case)


@pytest.fixture(scope="session")
def whole_library(tmp_path_factory):
    return load(build(sources(), tmp_path_factory.mktemp("rows") / "attention.so", "-O1"))
