"""Residues that an alignment of two sequences puts together."""

from __future__ import annotations

import numpy as np

from foldase_workflows.formats.residue_pairs import aligned_residues


def test_equal_sequences_agree_place_by_place():
    assert aligned_residues("MKV", "MKV").tolist() == [[0, 0], [1, 1], [2, 2]]


def test_ends_are_free_and_what_was_left_out_moves_the_rest():
    whole = "MKVWARNDCQEGHILKMFPSTWYV"
    np.testing.assert_array_equal(aligned_residues(whole, whole[4:])[:, 0], np.arange(4, 24))
    shorter = whole[:8] + whole[12:]
    pairs = aligned_residues(whole, shorter)
    assert pairs[:, 0].tolist() == [*range(8), *range(12, 24)]
    assert pairs[:, 1].tolist() == list(range(20))
    assert all(whole[i] == shorter[j] for i, j in pairs)


def test_nothing_alike_gives_no_pairs():
    found = aligned_residues("WWWW", "PPPP")
    assert found.shape == (0, 2)
    assert found.dtype == np.int64
