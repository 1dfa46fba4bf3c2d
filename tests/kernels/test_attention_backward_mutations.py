"""Bugs planted in the CUDA attention backward: each must be found by executing it on the processor."""

from __future__ import annotations

import pytest
from attention_backward_on_host import (
    build_backward,
    causal_case,
    check,
    draw_incoming,
    load,
    one_backward,
    telling_case,
)
from attention_on_host import blind_case
from planted_bugs import Bug, assert_found, complaints, parameters

BUGS = (
    Bug(
        "no barrier before a tile is read",
        "sweep.cuh",
        "      block_barrier();\n      take_tile(",
        "      take_tile(",
        "race on shared byte|never was written|in flight",
    ),
    Bug(
        "no barrier before a tile is overwritten",
        "sweep.cuh",
        "first, second);\n      block_barrier();",
        "first, second);",
        "race on shared byte",
    ),
    Bug(
        "no barrier before the next positions",
        "sweep.cuh",
        "    block_barrier();\n  }\n}",
        "  }\n}",
        "race on shared byte",
        block_limit=1,
        case=blind_case,
    ),
    Bug(
        "no wait for the last copy",
        "sweep.cuh",
        "        wait_copies<0>();",
        "",
        "while a copy is in flight",
    ),
    Bug(
        "a wait that leaves one group too many",
        "sweep.cuh",
        "        commit_copies();\n        wait_copies<1>();",
        "        commit_copies();\n        wait_copies<2>();",
        "while a copy is in flight",
    ),
    Bug(
        "delta left out",
        "sweep.cuh",
        "(grads[group][part] - delta(group, part))",
        "grads[group][part]",
        "the gradient of q is off|the gradient of k is off",
    ),
    Bug(
        "sums of the wrong query of two",
        "sweep.cuh",
        "2 * (lane % 4) + part % 2);",
        "2 * (lane % 4) + part / 2);",
        "the gradient of k is off",
    ),
    Bug(
        "sums of the first tile for every tile",
        "sweep.cuh",
        "from + line * arguments.line + start + chunk",
        "from + line * arguments.line + chunk",
        "the gradient of k is off",
    ),
    Bug(
        "earlier keys cut where the keys are owned",
        "terms.cuh",
        "kTurned ? -offset_of",
        "kTurned ? offset_of",
        "the gradient of k is off",
        case=causal_case,
    ),
    Bug(
        "positions beyond the last one are written",
        "sweep.cuh",
        "    if (position >= sizes.queries) continue;\n",
        "",
        "outside of every tensor",
    ),
    Bug(
        "a query without keys has weights",
        "prologue.cuh",
        "dead ? INFINITY : lse * kLog2E",
        "lse * kLog2E",
        "is off: NaN",
    ),
    Bug(
        "queries beyond the last one are read",
        "prologue.cuh",
        "const bool inside = query < own.queries;",
        "const bool inside = query <= own.queries;",
        "outside of every tensor",
    ),
    Bug(
        "half of the lanes of a query left out",
        "prologue.cuh",
        "bits < kSharers",
        "bits < kSharers / 2",
        "the gradient of q is off",
    ),
    Bug(
        "the gradient of the log-sum-exp with the wrong sign",
        "prologue.cuh",
        "sum -= global_load",
        "sum += global_load",
        "the gradient of q is off",
    ),
    Bug(
        "an open gate taken for a closed one",
        "prologue.cuh",
        "low * (1.0f - low_open)",
        "low * low_open",
        "the gradient of gate is off",
    ),
    Bug(
        "the tiles of a bias are overwritten while they are read",
        "bias_gradient.cuh",
        "spot, sums);\n      block_barrier();",
        "spot, sums);",
        "race on shared byte",
        block_limit=1,
    ),
    Bug(
        "the tiles of a bias are not waited for",
        "bias_gradient.cuh",
        "        wait_copies<0>();",
        "",
        "while a copy is in flight",
    ),
    Bug(
        "the row before is taken for the next one",
        "bias_gradient.cuh",
        "      step.advance(plan.summed);\n",
        "",
        "the gradient of bias 0 is off",
        block_limit=1,
    ),
    Bug(
        "tiles are taken for unseen that some query sees",
        "bias_gradient.cuh",
        "spot.at[4]) * kColumns > last",
        "spot.at[4] + 1) * kColumns > last",
        "the gradient of bias 0 is off",
        case=causal_case,
    ),
    Bug(
        "a carry between dimensions is lost",
        "bias_gradient.cuh",
        "at[dimension] += carry ? 1 : 0;",
        "at[dimension] += dimension == 4 ? 1 : 0;",
        "the gradient of bias 0 is off",
        block_limit=1,
    ),
    Bug(
        "the last group of rows is left out",
        "bias_gradient.cuh",
        "group < plan.groups; ++group",
        "group + 1 < plan.groups; ++group",
        "the gradient of bias 0 is off",
    ),
    Bug(
        "elements beyond a bias are written",
        "bias_gradient.cuh",
        "row >= arguments.terms.queries || column >= arguments.terms.keys",
        "row > arguments.terms.queries || column >= arguments.terms.keys",
        "the gradient of bias 0 is off|outside of every tensor",
    ),
    Bug(
        "sums over queries are read before they are written",
        "bias_gradient.cuh",
        "plan.tile_keys > 1) return;\n    block_barrier();",
        "plan.tile_keys > 1) return;",
        "race on shared byte|never was written",
    ),
)
QUICK = {"no barrier before a tile is overwritten", "the row before is taken for the next one"}
"""One whose values are right, and one that no barrier tells of."""


def what_executing_finds(library, block_limit, make=telling_case):
    def once(order):
        case = make()
        check(library, case, draw_incoming(case, with_lse=True), order, block_limit)

    return complaints(once)


@pytest.mark.verify
def test_without_a_bug_nothing_is_found(tmp_path):
    folder, units = one_backward(tmp_path / "csrc")
    library = load(build_backward(folder, tmp_path / "whole.so", "-O1", units=units))
    for make in (telling_case, causal_case):
        for block_limit in (0, 1):
            assert not any(what_executing_finds(library, block_limit, make))


@pytest.mark.parametrize("bug", parameters(BUGS, QUICK))
def test_a_planted_bug_is_found(bug, tmp_path):
    folder, units = one_backward(tmp_path / "csrc")
    bug.plant(folder)
    library = load(build_backward(folder, tmp_path / "bug.so", "-O0", "-Wno-error", units=units))
    assert_found(bug, what_executing_finds(library, bug.block_limit, bug.case or telling_case))
