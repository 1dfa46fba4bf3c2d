"""fold.predict with a tiny random AlphaFold: alignments, templates and several chains come to the model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from alphafold_cases import model_of, sequence_of
from safetensors.torch import save_file

from foldase_models.folding import load_folder
from foldase_models.folding.alphafold.config import preset, reduced
from foldase_models.folding.options import ForwardOptions
from foldase_models.folding.prediction import Alignment, FoldInput, Template
from foldase_workflows.contracts import BadInput
from foldase_workflows.formats.atom_names import ATOM37_INDEX, RESIDUE_ATOMS
from foldase_workflows.formats.letters import decode
from foldase_workflows.formats.predicted import PredictedStructure, Provenance
from foldase_workflows.formats.predicted_mmcif import write_mmcif
from foldase_workflows.formats.templates import lay_on_chain, read_templates
from foldase_workflows.formats.zarr_folds import FoldSet
from foldase_workflows.operators._folding_plan import config_of
from foldase_workflows.operators.fold_predict import OPERATOR, FoldInputs

CHAIN = sequence_of(14, np.random.default_rng(1))
SAME = 1e-5
"""Positions of the operator and of the model called directly with the same options, A."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alphafold") / "tiny"
    folder.mkdir()
    model = model_of()
    tensors = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(reduced().to_json()))
    return folder


def alignment_file(folder: Path) -> Path:
    rows = [CHAIN, CHAIN[:5] + "aw" + "-" + CHAIN[6:], "-" * 3 + CHAIN[3:]]
    (folder / "query.a3m").write_text("".join(f">r{number}\n{row}\n" for number, row in enumerate(rows)))
    return folder / "query.a3m"


def template_file(folder: Path) -> Path:
    rng = np.random.default_rng(2)
    mask = np.zeros((len(CHAIN), 37), dtype=bool)
    for row, letter in enumerate(CHAIN):
        mask[row, [ATOM37_INDEX[name] for name in RESIDUE_ATOMS[letter]]] = True
    walk = np.cumsum(rng.normal(size=(len(CHAIN), 1, 3)) * 2.2, axis=0)
    positions = ((walk + rng.normal(size=(len(CHAIN), 37, 3))) * mask[..., None]).astype(np.float32)
    structure = PredictedStructure(
        name="known",
        chains=(CHAIN,),
        positions=positions,
        atom_mask=mask,
        plddt=np.full(len(CHAIN), 50, dtype=np.float32),
        provenance=Provenance(model="walk", weights="0", seed=0),
    )
    write_mmcif(folder / "known.cif", structure)
    return folder / "known.cif"


def fasta(folder: Path, text: str = f">query\n{CHAIN}\n") -> Path:
    (folder / "x.fasta").write_text(text)
    return folder / "x.fasta"


def test_alignment_and_template_reach_the_model(weights, tmp_path, run):
    aligned, known = alignment_file(tmp_path), template_file(tmp_path)
    given = {"sequences": fasta(tmp_path), "weights": weights, "recycles": 1, "seeds": [4]}
    outputs = run(OPERATOR, **given, alignments=[aligned], templates=[known])
    folds = FoldSet(outputs.folds)
    one = folds.read(folds.entries[0])
    aligned = folds.alignment("query")
    msa, deletion = aligned.msa, aligned.deletion
    assert aligned.mask.all()
    assert decode(msa[0]) == CHAIN
    assert deletion[1, 5] == 2
    (name, (chain,)) = read_templates([(known, "known.cif")])[0]
    laid = lay_on_chain(CHAIN, chain, name=f"{name}:{chain.name}")
    assert laid.sequence == CHAIN
    record = FoldInput(
        name="query",
        chains=(CHAIN,),
        alignments=(
            Alignment(letters=tuple(decode(row) for row in msa), deletions=deletion.astype(np.int32)),
        ),
        templates=(
            [Template(name=laid.name, sequence=laid.sequence, positions=laid.positions, mask=laid.mask)],
        ),
    )
    options = ForwardOptions(
        **{name: value for name, value in one.provenance.options.items() if name != "kernels"}
    )
    wanted = load_folder(weights, options).fold(record, seed=4, recycles=1)
    np.testing.assert_allclose(one.positions, wanted.positions, atol=SAME)
    assert one.numbers["alignment_rows"] == 3
    assert one.numbers["templates"] == 1
    without = run(OPERATOR, **given)
    bare = FoldSet(without.folds)
    assert np.abs(bare.read(bare.entries[0]).positions - one.positions).max() > SAME


def test_several_chains_and_records(weights, tmp_path, run):
    sequences = fasta(tmp_path, f">dimer\n{CHAIN}:{CHAIN[:6]}\n>query\n{CHAIN}\n")
    outputs = run(
        OPERATOR,
        sequences=sequences,
        weights=weights,
        recycles=0,
        alignments=[alignment_file(tmp_path)],
        missing_alignment="single_sequence",
    )
    folds = FoldSet(outputs.folds)
    dimer, query = (folds.read(entry) for entry in folds.entries)
    assert dimer.chains == (CHAIN, CHAIN[:6])
    assert dimer.iptm is not None
    assert query.iptm is None
    assert dimer.numbers["alignment_rows"] == query.numbers["alignment_rows"] == 3


def test_parameters_alone_say_by_their_name_what_they_are_of(tmp_path):
    (tmp_path / "params_model_1_ptm.npz").write_bytes(b"not read for a plan")
    assert config_of(tmp_path) == ("alphafold", preset("model_1_ptm"))
    (tmp_path / "params_model_1_ptm.npz").rename(tmp_path / "mine.npz")
    with pytest.raises(BadInput) as caught:
        config_of(tmp_path)
    assert caught.value.code == "missing_file"


def test_a_template_that_is_like_no_record_is_refused(weights, tmp_path, make_context):
    context = make_context({"sequences": "x.fasta", "weights": "tiny"})
    inputs = FoldInputs(
        sequences=fasta(tmp_path, ">other\n" + "W" * 30 + "\n"),
        weights=weights,
        templates=[template_file(tmp_path)],
    )
    with pytest.raises(BadInput) as caught:
        OPERATOR.run(inputs, context)
    assert (caught.value.code, caught.value.location.file) == ("template_not_alike", "known.cif")
