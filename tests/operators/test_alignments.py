"""alignment.simulate, alignment.read and contacts.couple."""

from __future__ import annotations

import numpy as np
import pytest

from foldase_workflows.contracts import Artifact, BadInput, Cancelled, Damaged, Hardware
from foldase_workflows.formats.structures import read_chain
from foldase_workflows.formats.zarr_families import FamilySet
from foldase_workflows.formats.zarr_msa import read_msa
from foldase_workflows.formats.zarr_predictions import PredictionSet
from foldase_workflows.operators import _machine
from foldase_workflows.operators.alignment_read import OPERATOR as READ
from foldase_workflows.operators.alignment_simulate import OPERATOR as SIMULATE
from foldase_workflows.operators.contacts_couple import OPERATOR as COUPLE

HARDWARE = Hardware(cpus=2, memory_bytes=2**33)
SMALL = {"length": 20, "ancestors": 40, "letters": 6}


@pytest.fixture
def families(run):
    return run(SIMULATE, families=3, seed=5, **SMALL).families


def test_simulated_families_are_what_was_asked_for_and_the_same_again(run, families):
    stored = FamilySet(families)
    assert stored.names == ["f0000", "f0001", "f0002"]
    assert (stored.letters, stored.contact_cutoff, stored.min_separation) == ("ARNDCQ", 7.0, 4)
    first = stored.read("f0000")
    assert first.msa.shape == (80, 20)
    distance = np.linalg.norm(first.coords[:, None] - first.coords[None], axis=-1)
    index = np.arange(20)
    expected = (distance < 7.0) & (np.abs(index[:, None] - index[None]) >= 4)
    np.testing.assert_array_equal(first.contacts, expected)
    again = FamilySet(run(SIMULATE, families=3, seed=5, **SMALL).families)
    other = FamilySet(run(SIMULATE, families=3, seed=6, **SMALL).families)
    np.testing.assert_array_equal(again.read("f0000").msa, first.msa)
    assert not np.allclose(other.read("f0000").coords, first.coords)


def test_simulating_stops_when_asked(run):
    with pytest.raises(Cancelled):
        run(SIMULATE, families=50, cancel_after=3, **SMALL)


def test_estimates_grow_with_the_work_and_say_nothing_of_the_unknown():
    few = SIMULATE.estimate({"families": 10}, HARDWARE)
    many = SIMULATE.estimate({"families": 1000}, HARDWARE)
    assert few.seconds[0] < few.seconds[1] < many.seconds[1]
    assert SIMULATE.estimate({}, HARDWARE) is None
    assert READ.estimate({}, HARDWARE) is None
    small, large = (
        READ.estimate({"alignment": Artifact("sha256:0", "alignment", size, "a")}, HARDWARE)
        for size in (10_000, 10_000_000)
    )
    assert small.memory_bytes < large.memory_bytes
    assert COUPLE.estimate({"method": "mean_field"}, HARDWARE).seconds[1] < 100


def _write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return path


A3M = ">query\nACDEFGHIKL\n>one\nACDEFGHIKv-\n>two\nAC--------\n>three\n-CDEFwwGHIKL\n"


def test_an_alignment_is_read_filtered_and_weighted(run, tmp_path):
    outputs = run(READ, alignment=_write(tmp_path, "in.a3m", A3M))
    stored = read_msa(outputs.msa)
    assert (outputs.rows, outputs.columns) == (3, 10)
    assert stored.names == ["query", "one", "three"]
    assert stored.sequence == "ACDEFGHIKL"
    assert stored.attributes["dropped"] == 1
    np.testing.assert_array_equal(np.flatnonzero(stored.deletions[2]), [5])
    # the second and third rows agree in 8 of 10 columns, each with the query in 9
    np.testing.assert_allclose(stored.weights, [1 / 3, 1 / 3, 1 / 3])
    assert outputs.neff == pytest.approx(1.0)
    stricter = run(READ, alignment=_write(tmp_path, "in.a3m", A3M), identity=0.85)
    np.testing.assert_allclose(read_msa(stricter.msa).weights, [1 / 3, 1 / 2, 1 / 2])


def test_all_formats_give_the_same_arrays(run, tmp_path):
    rows = {"q": "ACDEFGHIKL", "b": "ACDEYGHIKL", "c": "ACWEFG-IKL"}
    texts = {
        "in.fasta": "".join(f">{name}\n{row}\n" for name, row in rows.items()),
        "in.sto": "# STOCKHOLM 1.0\n" + "".join(f"{n} {r}\n" for n, r in rows.items()) + "//\n",
        "in.aln": "CLUSTAL W (1.83)\n\n" + "".join(f"{n}      {r}\n" for n, r in rows.items()),
    }
    read = [read_msa(run(READ, alignment=_write(tmp_path, *item)).msa) for item in texts.items()]
    for other in read[1:]:
        np.testing.assert_array_equal(other.msa, read[0].msa)
        np.testing.assert_array_equal(other.weights, read[0].weights)


@pytest.mark.parametrize(
    ("text", "code", "record"),
    [
        ("", "alignment_empty", None),
        (">a\nACDE\n>b\nACD\n", "alignment_unequal_rows", "b"),
        (">a\nACDE\n>b\nAC1E\n", "fasta_letters", "b"),
        (">a\nACDE\n>b\n----\n", "alignment_too_few_rows", "a"),
    ],
)
def test_bad_alignments_name_the_record(run, tmp_path, text, code, record):
    with pytest.raises(BadInput) as caught:
        run(READ, alignment=_write(tmp_path, "in.fasta", text))
    assert caught.value.code == code
    assert caught.value.location.file == "in.fasta"
    assert caught.value.location.record == record


@pytest.mark.parametrize("method", ["mean_field", "pseudolikelihood"])
def test_families_are_coupled_and_scored(run, families, method):
    outputs = run(COUPLE, families=families, method=method)
    found = PredictionSet(outputs.predictions)
    assert found.targets == ["f0000", "f0001", "f0002"]
    for prediction in found:
        assert prediction.contact_probability.min() >= 0
        assert prediction.contact_probability.max() <= 1
        np.testing.assert_array_equal(prediction.contact_probability, prediction.contact_probability.T)
        assert prediction.truth is not None
        # the rule keeps the order of the scores
        i, j = np.triu_indices(prediction.length, 4)
        order = np.argsort(prediction.coupling_score[i, j], kind="stable")
        assert (np.diff(prediction.contact_probability[i, j][order]) >= 0).all()
    mean = np.mean([prediction.scores["precision_at_L"] for prediction in found])
    assert outputs.scores["precision_at_L"] == pytest.approx(mean)


def test_one_alignment_is_coupled_with_the_numbers_of_its_fit(run, tmp_path, families):
    family = FamilySet(families).read("f0001")
    text = "".join(f">s{k}\n{''.join('ARNDCQ'[x] for x in row)}\n" for k, row in enumerate(family.msa))
    msa = run(READ, alignment=_write(tmp_path, "in.fasta", text)).msa
    outputs = run(COUPLE, msa=msa)
    prediction = PredictionSet(outputs.predictions).read("s0")
    assert prediction.truth is None
    assert prediction.sequence == text.split("\n")[1]
    assert outputs.scores["relative_gradient"] <= 3e-4
    assert (prediction.contact_probability[np.abs(np.subtract.outer(range(20), range(20))) < 6] == 0).all()


def test_coupling_stops_when_asked(run, families):
    with pytest.raises(Cancelled):
        run(COUPLE, families=families, cancel_after=2)


def test_one_of_the_two_inputs_is_needed(run, families, tmp_path):
    for given in ({}, {"families": families, "msa": families}):
        with pytest.raises(BadInput) as caught:
            run(COUPLE, **given)
        assert caught.value.code == "one_of_two"


def test_an_alignment_too_small_for_pairs_is_refused(run, tmp_path):
    msa = run(READ, alignment=_write(tmp_path, "in.fasta", ">a\nACDEF\n>b\nACDEF\n")).msa
    with pytest.raises(BadInput) as caught:
        run(COUPLE, msa=msa)
    assert caught.value.code == "alignment_too_small"


@pytest.mark.parametrize("method", ["mean_field", "pseudolikelihood"])
def test_a_fit_that_cannot_fit_into_memory_is_not_begun(run, tmp_path, monkeypatch, method):
    msa = run(READ, alignment=_write(tmp_path, "in.fasta", _homologues_of("ACDEFGHIKLMNPQRSTVWY", 5))).msa
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(_machine, "MEMORY", meminfo)
    meminfo.write_text("MemTotal: 9999 kB\nMemAvailable:    1000 kB\n")
    with pytest.raises(MemoryError, match=r"20 columns and 21 letters need about .* GiB"):
        run(COUPLE, msa=msa, method=method)
    meminfo.unlink()
    assert run(COUPLE, msa=msa, method=method).scores["rows"] == 6


def test_the_wrong_kind_of_tree_and_a_damaged_one_are_told_apart(run, families):
    with pytest.raises(BadInput) as caught:
        run(COUPLE, msa=families)
    assert caught.value.code == "wrong_kind"
    (families / "f0001" / "msa" / "c" / "0" / "0").unlink()
    with pytest.raises(Damaged) as damaged:
        run(COUPLE, families=families, method="mean_field")
    assert damaged.value.location.record == "f0001/msa"


def _homologues_of(sequence: str, rows: int) -> str:
    """An alignment of a sequence with copies of it in which every fifth residue is another."""
    rng = np.random.default_rng(0)
    text = f">query of {len(sequence)}\n{sequence}\n"
    for k in range(rows):
        other = [rng.choice(list("ADEGKLSV")) if rng.random() < 0.2 else letter for letter in sequence]
        text += f">row{k}\n{''.join(other)}\n"
    return text


def test_a_structure_scores_the_map_and_a_stranger_is_refused(run, real_data, tmp_path):
    chain = read_chain(real_data / "1A8O.cif")
    whole = "MKV" + chain.sequence[:-5]
    msa = run(READ, alignment=_write(tmp_path, "in.fasta", _homologues_of(whole, 30))).msa
    outputs = run(COUPLE, msa=msa, structure=real_data / "1A8O.cif", method="mean_field")
    assert outputs.scores["residues_in_structure"] == len(chain.sequence) - 5
    assert 0 <= outputs.scores["precision_at_L"] < 0.5
    truth = PredictionSet(outputs.predictions).read("query").truth
    distance = np.linalg.norm(chain.beta[:, None] - chain.beta[None], axis=-1)[:-5, :-5]
    index = np.arange(len(distance))
    expected = (distance < 8) & (np.abs(index[:, None] - index[None]) >= 6)
    np.testing.assert_array_equal(truth[3:, 3:], expected)
    assert not truth[:3].any()
    with pytest.raises(BadInput) as caught:
        run(COUPLE, msa=msa, structure=real_data / "3JQH.cif", method="mean_field")
    assert caught.value.code == "structure_not_of_query"
    assert caught.value.location.file == "3JQH.cif"


def test_families_like_natural_ones_have_gaps_lengths_and_layers(run):
    outputs = run(
        SIMULATE,
        families=3,
        fold="layered",
        longest=30,
        gaps=0.1,
        contact_cutoff=8.0,
        min_separation=6,
        own_energies=True,
        variety=0.5,
        **SMALL,
    )
    stored = FamilySet(outputs.families)
    assert (stored.letters, stored.contact_cutoff, stored.min_separation) == ("ARNDCQ-", 8.0, 6)
    assert len({family.msa.shape for family in stored}) == 3
    assert all(family.msa.max() == 6 for family in stored)
    assert outputs.contacts_per_residue > 0.5


def test_inputs_of_a_recipe_that_contradict_each_other_are_refused(run):
    with pytest.raises(BadInput, match="longest must be at least the length 20") as caught:
        run(SIMULATE, families=2, longest=10, **SMALL)
    assert caught.value.code == "bad_recipe"
