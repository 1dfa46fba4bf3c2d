"""Bugs planted in the CUDA attention source: each must be found by executing it on the processor.

A bug counts as found when, in some order of threads, the emulation refuses it or the result differs from the
reference. Which of the two is stated for each, so that the checks themselves cannot rot unseen.
"""

from __future__ import annotations

import pytest
from attention_on_host import blind_case, build, check, load, one_instance, telling_case
from planted_bugs import Bug, assert_found, complaints, parameters

BUGS = (
    Bug(
        "no barrier before a tile is read",
        "forward.cu",
        "      block_barrier();\n      float scores",
        "      float scores",
        "race on shared byte|never was written|in flight",
    ),
    Bug(
        "no barrier before a tile is overwritten",
        "forward.cu",
        "values + present);\n      block_barrier();",
        "values + present);",
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
        "forward.cu",
        "        wait_copies<0>();",
        "",
        "while a copy is in flight",
    ),
    Bug(
        "a wait that leaves one group too many",
        "forward.cu",
        "        commit_copies();\n        wait_copies<1>();",
        "        commit_copies();\n        wait_copies<2>();",
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
    ),
    Bug(
        "queries beyond the last one are written",
        "forward.cu",
        "    if (position >= arguments.queries) continue;\n",
        "",
        "outside of every tensor",
    ),
    Bug(
        "a shuffle that one lane leaves out",
        "forward.cu",
        "      sum[side] += shuffle_xor(sum[side], 1);",
        "      if (thread_index() != 5) sum[side] += shuffle_xor(sum[side], 1);",
        "while others wait|lanes arrived",
    ),
    Bug(
        "the running sum is not rescaled",
        "forward.cu",
        "sum[side] = sum[side] * factor + added;",
        "sum[side] = sum[side] + added;",
        "output is off",
    ),
    Bug(
        "a query without keys divides by nothing",
        "forward.cu",
        "sum > 0.0f ? 1.0f / sum : 0.0f",
        "1.0f / sum",
        "output is off",
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


@pytest.mark.parametrize("flag", ["", "-DFOLDASE_UCONTEXT"])
def test_without_a_bug_nothing_is_found_by_either_way_of_switching_fibers(tmp_path, flag):
    library = load(build(one_instance(tmp_path / "csrc"), tmp_path / "whole.so", "-O1", *flag.split()))
    assert not any(what_executing_finds(library, 0))
    assert not any(what_executing_finds(library, 1, blind_case))


@pytest.mark.parametrize("bug", parameters(BUGS, QUICK))
def test_a_planted_bug_is_found(bug, tmp_path):
    folder = one_instance(tmp_path / "csrc")
    bug.plant(folder)
    library = load(build(folder, tmp_path / "bug.so", "-O1", "-Wno-error"))
    assert_found(bug, what_executing_finds(library, bug.block_limit, bug.case or telling_case))
