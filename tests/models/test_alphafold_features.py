"""What AlphaFold is shown of an alignment and of templates."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from alphafold_cases import alignment_of, record_of, sequence_of, template_of
from hypothesis import given, settings
from hypothesis import strategies as st

from foldase_models.errors import ModelError
from foldase_models.folding.alphafold.alignments import (
    GAP,
    MASKED,
    Rows,
    delete_blocks,
    mask_letters,
    nearest_clusters,
    profile_of,
    rows_of_chain,
    summarise_clusters,
)
from foldase_models.folding.alphafold.config import FeatureSizes
from foldase_models.folding.alphafold.features import CHAIN_GAP, crop, pass_features, record_features
from foldase_models.folding.prediction import Alignment, FoldInput
from foldase_models.layers.residues import ATOM37_INDEX, RESTYPES

SIZES = FeatureSizes(clusters=4, extra=5, templates=2)
CLOSE = 1e-5
"""Sums in float32."""

alignments = st.integers(1, 8).flatmap(
    lambda length: st.lists(
        st.text(RESTYPES + "-XBZUOJ", min_size=length, max_size=length), min_size=0, max_size=12
    ).flatmap(
        lambda rows: st.text(RESTYPES, min_size=length, max_size=length).map(lambda query: (query, *rows))
    )
)


def aligned(rows, seed=0):
    deletions = np.random.default_rng(seed).poisson(0.4, size=(len(rows), len(rows[0]))).astype(np.int32)
    return FoldInput(
        name="P1", chains=(rows[0],), alignments=(Alignment(letters=tuple(rows), deletions=deletions),)
    )


def arrays(features):
    return {
        field.name: getattr(features, field.name)
        for field in fields(features)
        if isinstance(getattr(features, field.name), np.ndarray)
    }


@settings(max_examples=40)
@given(alignments, st.integers(0, 2**32), st.integers(0, 3))
def test_any_alignment_gives_features(rows, seed, number):
    record = record_features(aligned(rows), SIZES)
    own = pass_features(record, SIZES, seed=seed, number=number)
    distinct, residues = len(record.rows), len(rows[0])
    clusters = min(SIZES.clusters, distinct)
    others = min(SIZES.extra, distinct - clusters)
    assert own.msa_feat.shape == (clusters, residues, 49)
    assert own.extra_msa.shape == (max(1, others), residues)
    assert (own.extra_msa_mask is None) == (others > 0)
    assert np.array_equal(own.msa_feat[..., :23].sum(-1), np.ones((clusters, residues)))
    # Each profile holds the row itself and all others that are near it: one letter a row.
    assert np.allclose(own.msa_feat[..., 25:48].sum(-1), 1.0, atol=CLOSE)
    assert own.target_feat[:, 1:].argmax(-1).tolist() == [RESTYPES.index(letter) for letter in rows[0]]
    assert not own.target_feat[:, 0].any()
    letters = own.msa_feat[..., :23].argmax(-1)
    assert np.array_equal(letters[~own.masked], own.true_msa[~own.masked])
    assert np.array_equal(own.true_msa[0], own.aatype)
    assert all(np.isfinite(value).all() for value in arrays(own).values())
    assert ((own.msa_feat >= 0) & (own.msa_feat <= 1)).all()


@settings(max_examples=10)
@given(st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_bits(seed):
    record = record_features(record_of(10, 30, 2), SIZES)
    first, again, other = (pass_features(record, SIZES, seed=seed, number=number) for number in (1, 1, 2))
    for name, value in arrays(first).items():
        assert value.tobytes() == arrays(again)[name].tobytes(), name
    assert first.msa_feat.tobytes() != other.msa_feat.tobytes()


def test_clusters_and_extra_rows_are_different_rows():
    record = record_features(record_of(12, 9, 0), SIZES)
    own = pass_features(record, SIZES, seed=0, number=0)
    shown = [row.tobytes() for row in (*own.true_msa, *own.extra_msa)]
    assert sorted(shown) == sorted(row.tobytes() for row in record.rows.letters)


def test_rows_go_to_the_cluster_they_share_most_residues_with():
    """Gaps agree with nothing; of equals the first counts."""
    clusters = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [GAP, GAP, GAP, 7]], dtype=np.uint8)
    others = np.array(
        [[0, 1, 9, 9], [9, 5, 9, 7], [GAP, GAP, GAP, 9], [9, 9, 9, MASKED], [9, 9, 9, 7]], dtype=np.uint8
    )
    assert nearest_clusters(clusters, others).tolist() == [0, 1, 0, 0, 1]


def test_profiles_of_clusters():
    clusters = Rows(np.array([[0, 1], [2, 3]], np.uint8), np.array([[0, 3], [0, 0]], np.int32))
    others = Rows(np.array([[0, 2], [5, 1], [2, 3]], np.uint8), np.array([[3, 0], [0, 0], [0, 8]], np.int32))
    profiles, means = summarise_clusters(clusters, others, np.array([0, 0, 1]))
    assert np.allclose(profiles[0, 0, [0, 5]], [2 / 3, 1 / 3], atol=CLOSE)
    assert np.allclose(profiles[0, 1, [1, 2]], [2 / 3, 1 / 3], atol=CLOSE)
    assert np.allclose(profiles[1, :, [2, 3]], [[1, 0], [0, 1]], atol=CLOSE)
    assert np.allclose(means, [[1, 1], [0, 4]], atol=CLOSE)


def test_letters_are_masked_as_often_as_said():
    rng = np.random.default_rng(0)
    letters = np.full((100, 200), 7, dtype=np.uint8)
    profile = np.zeros((200, 22), dtype=np.float32)
    profile[:, 3] = 1.0
    shown, drawn = mask_letters(letters, profile, FeatureSizes(), rng)
    assert abs(drawn.mean() - 0.15) < 0.01
    assert (shown[~drawn] == 7).all()
    share = np.bincount(shown[drawn], minlength=23) / drawn.sum()
    # 10 % from the column, 10 % kept, 10 % any residue (each of twenty), the rest hidden.
    assert np.allclose(share[[3, 7, MASKED]], [0.105, 0.105, 0.7], atol=0.03)
    assert np.allclose(np.delete(share[:20], [3, 7]), 0.005, atol=0.005)
    assert not share[20:22].any()


def test_blocks_of_neighbours_are_deleted_for_training():
    rows = Rows(np.arange(40, dtype=np.uint8)[:, None], np.zeros((40, 1), np.int32))
    kept = delete_blocks(rows, np.random.default_rng(0), blocks=1).letters[:, 0]
    assert kept[0] == 0
    assert len(kept) == 40 - 12 or kept[-1] < 39
    gone = np.setdiff1d(np.arange(40), kept)
    assert np.array_equal(gone, np.arange(gone[0], gone[-1] + 1))


def test_a_sequence_alone():
    own = pass_features(
        record_features(FoldInput(name="P1", chains=("ACDX",)), SIZES), SIZES, seed=0, number=0
    )
    assert own.msa_feat.shape == (1, 4, 49)
    assert own.aatype.tolist() == [0, 4, 3, 20]
    assert not own.extra_msa_mask.any()
    assert own.templates is None
    assert own.chains is None


def test_rare_letters_of_alignments():
    alignment = Alignment(letters=("ACDEF", "BUZJO", "-X-X-"), deletions=np.zeros((3, 5), np.int32))
    letters = rows_of_chain("ACDEF", alignment, location="P1").letters
    assert letters[1].tolist() == [RESTYPES.index("D"), RESTYPES.index("C"), RESTYPES.index("E"), 20, 20]
    assert letters[2].tolist() == [21, 20, 21, 20, 21]


def test_rows_count_once():
    letters = ("ACD", "A-D", "ACD", "A-D", "GGG")
    deletions = np.arange(15, dtype=np.int32).reshape(5, 3)
    rows = rows_of_chain("ACD", Alignment(letters=letters, deletions=deletions), location="P1")
    assert rows.deletions.tolist() == deletions[[0, 1, 4]].tolist()
    assert np.allclose(profile_of(rows)[1, [4, 7, 21]], 1 / 3)


def test_chains_lie_apart():
    rng = np.random.default_rng(0)
    chains = (sequence_of(5, rng), sequence_of(4, rng))
    record = record_features(
        FoldInput(
            name="P1",
            chains=chains,
            alignments=(alignment_of(chains[0], 3, rng), None),
            templates=((template_of(chains[0], rng),), (template_of(chains[1], rng, lacking=0),)),
        ),
        SIZES,
    )
    assert record.residue_index.tolist() == [0, 1, 2, 3, 4, *(5 + CHAIN_GAP + np.arange(4))]
    assert (record.rows.letters[1:, 5:] == GAP).all()
    assert record.chain_index.tolist() == [0] * 5 + [1] * 4
    assert (record.templates.aatype[0, 5:] == 21).all()
    assert (record.templates.aatype[1, :5] == 21).all()
    assert not record.templates.torsion_mask[1, :6, :2].any()
    assert pass_features(record, SIZES, seed=0, number=0).chains is not None


@pytest.mark.parametrize(
    ("record", "code", "said"),
    [
        (
            FoldInput(name="P1", chains=("ACD",), alignments=(("ACE", "AC-"),)),
            "alignment_mismatch",
            "residue 3",
        ),
        (
            FoldInput(name="P1", chains=("ACD",), alignments=(("AC",),)),
            "alignment_mismatch",
            "lengths 2 and 3",
        ),
        (FoldInput(name="P1", chains=("ACD",), alignments=(("ACD", "AC"),)), "alignment_mismatch", "row 2"),
        (FoldInput(name="P1", chains=("ACD",), alignments=((),)), "alignment_mismatch", "no rows"),
        (
            FoldInput(name="P1", chains=("ACD",), alignments=(("ACD", "A?D"),)),
            "unknown_letter",
            "'[?]'.*column 2",
        ),
        (FoldInput(name="P1", chains=("ACD", "A"), alignments=(("ACD",),)), "alignment_mismatch", "2 chains"),
        (FoldInput(name="P1", chains=("AZD",)), "unknown_residue", "'Z'"),
        (FoldInput(name="P1", chains=("ACD", "")), "empty_sequence", "no residues"),
    ],
)
def test_what_does_not_fit_is_named(record, code, said):
    made = tuple(
        Alignment(letters=rows, deletions=np.zeros((len(rows), len(rows[0]) if rows else 0), np.int32))
        for rows in record.alignments
    )
    with pytest.raises(ModelError, match=said) as caught:
        record_features(replace(record, alignments=made), SIZES)
    assert caught.value.code == code
    assert caught.value.location.startswith("P1")


def test_a_template_of_another_length_is_named():
    record = record_of(10, 1, 1)
    (template,) = record.templates[0]
    with pytest.raises(ModelError, match="walk") as caught:
        record_features(replace(record, chains=(record.chains[0][:-1],), alignments=()), SIZES)
    assert caught.value.code == "template_mismatch"
    broken = replace(template, positions=np.full_like(template.positions, np.nan))
    with pytest.raises(ModelError, match="not finite"):
        record_features(replace(record, templates=((broken,),)), SIZES)


def test_what_templates_show_does_not_depend_on_where_they_lie():
    """Turned, shifted and with noise where atoms are unknown: the same features."""
    record = record_of(12, 1, 1)
    (template,) = record.templates[0]
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    moved = (template.positions @ turn.T + 7).astype(np.float32)
    moved[~template.mask] = rng.normal(size=3)
    first, second = (
        record_features(replace(record, templates=((own,),)), SIZES).templates
        for own in (template, replace(template, positions=moved))
    )
    assert np.array_equal(first.torsion_mask, second.torsion_mask)
    assert np.abs(first.torsions - second.torsions).max() < 1e-3
    apart = [
        np.linalg.norm(own.pseudo_beta[0, :, None] - own.pseudo_beta[0], axis=-1) for own in (first, second)
    ]
    known = first.pseudo_beta_mask[0][:, None] & first.pseudo_beta_mask[0]
    assert np.abs(apart[0] - apart[1])[known].max() < 1e-3
    assert not first.torsions[~first.torsion_mask].any()


def test_glycine_has_its_alpha_for_a_beta():
    record = FoldInput(name="P1", chains=("GAG",))
    template = replace(
        template_of("GAG", np.random.default_rng(0), lacking=0), mask=np.ones((3, 37), np.bool_)
    )
    own = record_features(replace(record, templates=((template,),)), SIZES).templates
    for residue, atom in enumerate(("CA", "CB", "CA")):
        assert np.array_equal(own.pseudo_beta[0, residue], template.positions[residue, ATOM37_INDEX[atom]])


def test_no_more_templates_than_the_model_takes():
    assert len(record_features(record_of(6, 1, 5), SIZES).templates.aatype) == SIZES.templates
    assert record_features(record_of(6, 1, 5), replace(SIZES, templates=0)).templates is None


def test_a_crop_is_the_features_of_a_stretch():
    record = record_features(record_of(12, 8, 2), SIZES)
    part = crop(record, 3, 5)
    assert part.residue_index.tolist() == [3, 4, 5, 6, 7]
    assert np.array_equal(part.templates.torsions, record.templates.torsions[:, 3:8])
    own = pass_features(part, SIZES, seed=0, number=0, training=True)
    assert own.msa_feat.shape[1:] == (5, 49)
