"""Known structures laid on chains."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from foldase_workflows.contracts import BadInput
from foldase_workflows.formats.all_atoms import read_all_atom_chain
from foldase_workflows.formats.templates import (
    is_alike,
    lay_on_chain,
    read_templates,
    templates_of_chain,
    unused_template,
)

SHARED = Path(os.environ.get("FOLDASE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"no {name} in {SHARED}; set FOLDASE_TEST_DATA")
    return SHARED / name


def test_a_structure_on_its_own_whole_sequence_leaves_what_was_not_observed_empty():
    found = read_all_atom_chain(shared("1GBT.cif"))
    laid = lay_on_chain("MKV" + found.sequence, found, name="1GBT")
    assert laid.sequence == "---" + found.sequence
    np.testing.assert_array_equal(laid.positions[3:], found.positions)
    np.testing.assert_array_equal(laid.mask[3:], found.mask)
    assert not laid.mask[:3].any()
    assert laid.identity == 1.0
    assert laid.coverage == pytest.approx(len(found.sequence) / (3 + len(found.sequence)))


def test_insertions_and_deletions_move_residues_to_their_places():
    found = read_all_atom_chain(shared("1A8O.cif"))
    chain = found.sequence[:30] + found.sequence[40:]
    laid = lay_on_chain(chain, found, name="1A8O")
    assert laid.coverage > 0.9
    np.testing.assert_array_equal(laid.positions[:25], found.positions[:25])
    np.testing.assert_array_equal(laid.positions[-25:], found.positions[-25:])
    mutated = chain[:10] + "WWW" + chain[10:]
    laid = lay_on_chain(mutated, found, name="1A8O")
    np.testing.assert_array_equal(laid.positions[-25:], found.positions[-25:])


def test_the_best_chain_of_each_file_and_only_relatives():
    chain = read_all_atom_chain(shared("1A8O.cif")).sequence
    files = read_templates([(shared("1A8O.pdb"), "1A8O.pdb"), (shared("1GBT.cif"), "1GBT.cif")])
    laid = templates_of_chain(chain, files, most=4)
    assert laid[0].name == "1A8O.pdb:A"
    assert all(is_alike(one) for one in laid)
    assert len(templates_of_chain(chain, files, most=1)) == 1
    assert templates_of_chain("W" * 40, files, most=4) == []
    error = unused_template("1GBT.cif")
    assert (error.code, error.location.file) == ("template_not_alike", "1GBT.cif")


def test_a_broken_file_is_named(tmp_path):
    raw = shared("1A8O.cif").read_bytes()
    (tmp_path / "t.cif").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(BadInput) as caught:
        read_templates([(tmp_path / "t.cif", "mine.cif")])
    assert caught.value.location.file == "mine.cif"
