"""Bugs planted in the CUDA attention source: each must be found by executing it on the processor.

A bug counts as found when, in some order of threads, the emulation refuses it or the result differs from the
reference. Which of the two is stated for each, so that the checks themselves cannot rot unseen.
"""

from __future__ import annotations

import pytest
from attention_on_host import (
    ROWS_TOGETHER,
    blind_case,
    build,
    check,
    load,
    one_instance,
    rows_case,
    telling_case,
)
from planted_bugs import Bug, assert_found, complaints, parameters

BUGS = (
    Bug(
        "no barrier before a tile is read",
        "forward_rows.cuh",
        "        wait_copies<0>();\n      }\n      block_barrier();",
        "        wait_copies<0>();\n      }",
        "race on shared byte|never was written|in flight",
    ),
    Bug(
        "no barrier before a tile is overwritten",
        "forward_rows.cuh",
        "      block_barrier();\n      step = later;",
        "      step = later;",
        "race on shared byte",
    ),
    Bug(
        "no barrier before the next queries",
        "forward.cu",
        "    block_barrier();\n  }\n}",
        "  }\n}",
        "race on shared byte",
        block_limit=1,
        case=blind_case,
    ),
    Bug(
        "a barrier that one warp does not reach",
        "forward.cu",
        "    block_barrier();\n  }\n}",
        "    if (thread_index() < 96) block_barrier();\n  }\n}",
        "96 of 128 lanes arrived; missing: lane 0 of warp 3, which has returned",
    ),
    Bug(
        "no wait for the last copy",
        "forward_rows.cuh",
        "        wait_copies<0>();",
        "",
        "while a copy is in flight",
    ),
    Bug(
        "a wait that leaves one group too many",
        "forward_rows.cuh",
        "      if (later.tile < tiles) {\n        wait_copies<1>();",
        "      if (later.tile < tiles) {\n        wait_copies<2>();",
        "while a copy is in flight",
    ),
    Bug(
        "halves of a key fragment swapped",
        "products.cuh",
        "multiply_add<T>(scores[group], a, b[0], b[1]);",
        "multiply_add<T>(scores[group], a, b[1], b[0]);",
        "output is off",
    ),
    Bug(
        "weights of the two queries of a lane swapped",
        "products.cuh",
        "pack<T>(left[0], left[1]), pack<T>(left[2], left[3]), pack<T>(right[0]",
        "pack<T>(left[2], left[3]), pack<T>(left[0], left[1]), pack<T>(right[0]",
        "output is off",
    ),
    Bug(
        "values not transposed",
        "products.cuh",
        "load_matrices_transposed(b,",
        "load_matrices(b,",
        "output is off",
    ),
    Bug(
        "rows of a matrix load half a group apart",
        "products.cuh",
        "lane % 8 + lane / 16 * 8, 16 * step + lane / 8 % 2 * 8",
        "lane % 8 + lane / 8 % 2 * 8, 16 * step + lane / 16 * 8",
        "output is off",
    ),
    Bug(
        "keys beyond the last one count",
        "terms.cuh",
        "end > place.keys",
        "end < 0",
        "output is off",
    ),
    Bug(
        "one key beyond the last one counts",
        "terms.cuh",
        "part % 2 >= place.keys",
        "part % 2 > place.keys",
        "output is off|log-sum-exp is off",
    ),
    Bug(
        "an odd tail is read",
        "tiles.cuh",
        "const bool inside = first + place < head.positions && channel < head.width;\n    copy_async",
        "const bool inside = first + place <= head.positions && channel < head.width;\n    copy_async",
        "global read of 16 bytes outside of every tensor",
    ),
    Bug(
        "the mask is read beyond its last key",
        "terms.cuh",
        "if (column + 1 < place.keys && global_load(line + mask.key) == 0)",
        "if (global_load(line + mask.key) == 0)",
        "global read of 1 bytes outside of every tensor",
        case=rows_case,
    ),
    Bug(
        "queries beyond the last one are written",
        "softmax.cuh",
        "    if (position >= arguments.queries) continue;\n",
        "",
        "outside of every tensor",
    ),
    Bug(
        "a shuffle that one lane leaves out",
        "softmax.cuh",
        "      sum[side] += shuffle_xor(sum[side], 1);",
        "      if (thread_index() != 5) sum[side] += shuffle_xor(sum[side], 1);",
        "while others wait|lanes arrived",
    ),
    Bug(
        "the running sum is not rescaled",
        "softmax.cuh",
        "sum[side] = sum[side] * factor + added;",
        "sum[side] = sum[side] + added;",
        "output is off",
    ),
    Bug(
        "a query without keys divides by nothing",
        "softmax.cuh",
        "sum > 0.0f ? 1.0f / sum : 0.0f",
        "1.0f / sum",
        "output is off",
    ),
    Bug(
        "a tile hidden from the first row is hidden from all",
        "forward_rows.cuh",
        "work.batch, work.row + row, work.head);\n        bool any",
        "work.batch, work.row, work.head);\n        bool any",
        "output is off",
        block_limit=ROWS_TOGETHER,
        case=rows_case,
    ),
    Bug(
        "keys of all rows in one tile",
        "forward_rows.cuh",
        "(2 * row + side) * 2 * kTile",
        "side * 2 * kTile",
        "race on shared byte|in flight",
        block_limit=ROWS_TOGETHER,
        case=rows_case,
    ),
    Bug(
        "a row that is not there",
        "forward_rows.cuh",
        "rows = left < kRows ? static_cast<int>(left) : kRows;",
        "rows = left < kRows ? kRows : kRows;",
        "outside of every tensor",
        block_limit=ROWS_TOGETHER,
        case=rows_case,
    ),
    Bug(
        "the shared bias counts twice",
        "forward_rows.cuh",
        "end, kRows > 1 ? 1 : 0);",
        "end, 0);",
        "output is off",
        block_limit=ROWS_TOGETHER,
        case=rows_case,
    ),
    Bug(
        "every row is written to the first",
        "forward_rows.cuh",
        "      one.row += row;\n",
        "",
        "output is off",
        block_limit=ROWS_TOGETHER,
        case=rows_case,
    ),
    Bug(
        "the next tile is copied over the present one",
        "forward_rows.cuh",
        "fill(later, 1 - side);",
        "fill(later, side);",
        "race on shared byte|in flight|never was written",
        block_limit=ROWS_TOGETHER,
        case=rows_case,
    ),
)


QUICK = {
    "no barrier before a tile is overwritten",
    "halves of a key fragment swapped",
    "no wait for the last copy",
    "an odd tail is read",
}
"""One of each kind."""


def what_executing_finds(library, block_limit, case=telling_case):
    return complaints(lambda order: check(library, case(), order, block_limit))


@pytest.mark.verify
@pytest.mark.parametrize("flag", ["", "-DFOLDASE_UCONTEXT"])
def test_without_a_bug_nothing_is_found_by_either_way_of_switching_fibers(tmp_path, flag):
    library = load(build(one_instance(tmp_path / "csrc"), tmp_path / "whole.so", "-O1", *flag.split()))
    assert not any(what_executing_finds(library, 0))
    assert not any(what_executing_finds(library, 1, blind_case))


@pytest.mark.parametrize("bug", parameters(BUGS, QUICK))
def test_a_planted_bug_is_found(bug, tmp_path):
    folder = one_instance(tmp_path / "csrc")
    bug.plant(folder)
    library = load(build(folder, tmp_path / "bug.so", "-O0", "-Wno-error"))
    assert_found(bug, what_executing_finds(library, bug.block_limit, bug.case or telling_case))
