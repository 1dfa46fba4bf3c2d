"""Couplings on a real alignment: a xylanase of 191 residues, truth from a predicted structure.

Regularisation is that of the code's defaults, chosen on simulated families, never on this alignment.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from foldase_models.coevolution import couple, sequence_weights
from foldase_models.metrics import contact_precision
from foldase_workflows.formats.alignments import read_alignment
from foldase_workflows.formats.letters import GAP, LETTERS
from foldase_workflows.formats.structures import read_chain

MIN_SEPARATION = 6
CUTOFF = 8.0
MEAN_FIELD_BAR = {"L": 0.59, "L/2": 0.70, "L/5": 0.78}
PSEUDOLIKELIHOOD_BAR = {"L": 0.65, "L/2": 0.78, "L/5": 0.84}


@pytest.fixture(scope="module")
def real() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Letters (S, N) of rows with less than half gaps, their weights, and the true contacts (N, N)."""
    folder = Path(os.environ.get("FOLDASE_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not (folder / "6KWC_1.a3m").exists():
        pytest.skip(f"no real alignment in {folder}; set FOLDASE_TEST_DATA")
    alignment = read_alignment(folder / "6KWC_1.a3m")
    letters = alignment.letters[(alignment.letters == GAP).mean(axis=1) < 0.5]
    chain = read_chain(folder / "6KWC_1_openfold_prediction.pdb")
    assert chain.sequence == alignment.query
    distance = np.linalg.norm(chain.beta[:, None] - chain.beta[None], axis=-1)
    return letters, sequence_weights(letters), (distance < CUTOFF).astype(np.uint8)


def test_weights_of_the_real_alignment(real):
    letters, weights, contacts = real
    assert letters.shape == (1123, 191)
    assert weights.sum() == pytest.approx(1077, abs=0.5)
    i, j = np.triu_indices(191, MIN_SEPARATION)
    assert contacts[i, j].mean() == pytest.approx(0.034, abs=0.0005)


def _precision(real, method, record):
    letters, weights, contacts = real
    found = couple(letters, len(LETTERS), weights, method=method, skip_letter=GAP)
    assert found.converged
    reached = contact_precision(found.scores, contacts, min_separation=MIN_SEPARATION)
    for name, value in {**reached, **found.details}.items():
        record(f"{method} {name}", value)
    return reached, found


def test_couplings_real_alignment(real, record_property):
    reached, _ = _precision(real, "mean_field", record_property)
    for cut, bar in MEAN_FIELD_BAR.items():
        assert reached[cut] >= bar, reached


@pytest.mark.verify
@pytest.mark.timeout(2400)  # half a minute on a quiet machine
def test_couplings_real_alignment_pseudolikelihood(real, record_property):
    mean_field, _ = _precision(real, "mean_field", record_property)
    reached, found = _precision(real, "pseudolikelihood", record_property)
    print(f"mean-field {mean_field}, pseudolikelihood {reached}, {found.details}")
    assert found.details["relative_gradient"] <= 3e-4
    for cut in ("L", "L/2"):
        assert reached[cut] > mean_field[cut]
    for cut, bar in PSEUDOLIKELIHOOD_BAR.items():
        assert reached[cut] >= bar, reached
