import numpy as np
import pytest
from scipy import stats

from foldase_models.metrics import bootstrap_margin, bootstrap_mean


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    trials = 300
    covered = 0
    for trial in range(trials):
        found = bootstrap_mean(rng.normal(0.3, 1.0, size=40), seed=trial, samples=1000)
        covered += found.low <= 0.3 <= found.high
    # percentile intervals of 40 values cover a little less than 95 %; 4 standard errors below 0.93
    assert covered / trials > 0.93 - 4 * np.sqrt(0.93 * 0.07 / trials)


def test_the_interval_is_that_of_scipy():
    values = np.random.default_rng(2).gamma(2.0, size=50)
    peer = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=3)
    ours = bootstrap_mean(values, seed=3)
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(peer.confidence_interval.low, abs=0.02)
    assert ours.high == pytest.approx(peer.confidence_interval.high, abs=0.02)


def test_pairing_removes_what_families_have_in_common():
    rng = np.random.default_rng(4)
    difficulty = rng.normal(0, 5, size=40)
    ours, other = difficulty + 0.5 + rng.normal(0, 0.1, 40), difficulty + rng.normal(0, 0.1, 40)
    found = bootstrap_margin(ours, other[None], seed=5)
    assert 0.4 < found.low < found.mean < found.high < 0.6


def test_the_margin_is_over_the_best_of_the_others_and_no_larger_than_over_any():
    rng = np.random.default_rng(6)
    ours, others = rng.normal(1, 1, 30), rng.normal(0, 1, (3, 30))
    together = bootstrap_margin(ours, others, seed=7)
    each = [bootstrap_margin(ours, other[None], seed=7) for other in others]
    assert together.mean == pytest.approx(min(one.mean for one in each))
    assert together.low <= min(one.low for one in each) + 1e-12


def test_the_seed_decides_and_one_family_has_no_spread():
    values = np.arange(10.0)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)
    single = bootstrap_mean(np.array([2.0]), seed=0)
    assert (single.low, single.mean, single.high) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("ours", "others"), [([], np.zeros((1, 0))), ([1.0], np.zeros((1, 2))), ([np.nan], np.zeros((1, 1)))]
)
def test_what_makes_no_sense_is_refused(ours, others):
    with pytest.raises(ValueError, match=r"needed|finite"):
        bootstrap_margin(np.array(ours), others, seed=0)
