import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldase_models.metrics import contact_precision, precision_at


def _map(length: int, seed: int, share: float = 0.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((length, length)) < share, 1)
    return (upper | upper.T).astype(np.uint8)


def _naive(scores: np.ndarray, contacts: np.ndarray, count: int, separation: int) -> float:
    pairs = [
        (scores[i, j], contacts[i, j]) for i in range(len(scores)) for j in range(i + separation, len(scores))
    ]
    best = sorted(pairs, key=lambda pair: -pair[0])[:count]
    return sum(truth for _, truth in best) / len(best)


@given(st.integers(8, 30), st.integers(0, 10_000), st.integers(1, 5))
def test_agrees_with_sorting_all_pairs_when_no_scores_are_equal(length, seed, separation):
    scores = np.random.default_rng(seed + 1).permutation(length * length).reshape(length, length) / 7.0
    contacts = _map(length, seed)
    for name, count in {"L": length, "L/2": length // 2, "L/5": max(1, length // 5)}.items():
        pairs = (length - separation) * (length - separation + 1) // 2
        expected = _naive(scores, contacts, min(count, pairs), separation)
        assert contact_precision(scores, contacts, min_separation=separation)[name] == pytest.approx(expected)


def test_the_truth_as_scores_is_perfect_and_its_opposite_finds_nothing():
    contacts = _map(40, 3, share=0.3)
    assert set(contact_precision(contacts.astype(float), contacts, min_separation=4).values()) == {1.0}
    assert set(contact_precision(-contacts.astype(float), contacts, min_separation=4).values()) == {0.0}


def test_equal_scores_give_the_base_rate_and_not_the_luck_of_their_order():
    contacts = _map(30, 5)
    i, j = np.triu_indices(30, 4)
    expected = contacts[i, j].mean()
    for value in contact_precision(np.zeros((30, 30)), contacts, min_separation=4).values():
        assert value == pytest.approx(expected)


def test_pairs_below_the_separation_and_the_lower_triangle_are_not_read():
    contacts = _map(20, 7)
    scores = np.random.default_rng(0).random((20, 20))
    expected = contact_precision(scores, contacts, min_separation=6)
    disturbed = scores.copy()
    i, j = np.indices(scores.shape)
    disturbed[j - i < 6] = 1e9
    assert contact_precision(disturbed, contacts, min_separation=6) == expected


@pytest.mark.parametrize(
    ("scores", "contacts", "separation"),
    [
        (np.zeros((4, 5)), np.zeros((4, 5), int), 1),
        (np.zeros((4, 4)), np.zeros((5, 5), int), 1),
        (np.zeros((4, 4)), np.zeros((4, 4), int), 4),
        (np.full((4, 4), np.nan), np.zeros((4, 4), int), 1),
    ],
)
def test_what_makes_no_sense_is_refused(scores, contacts, separation):
    with pytest.raises(ValueError, match=r"square|no pair|finite"):
        precision_at(scores, contacts, 3, min_separation=separation)
