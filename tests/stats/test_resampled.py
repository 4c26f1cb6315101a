"""Gains over splits of one file: the corrected t, and limits that hold for all arms at once."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from datalab.errors import UserError
from datalab.stats import corrected_resampled_t, resampled

RATIO = 25 / 60


def test_one_arm_has_nadeau_and_bengios_standard_error() -> None:
    d = np.random.default_rng(0).normal(0.01, 0.02, 12)
    made = corrected_resampled_t(d, RATIO, np.random.default_rng(1))
    error = d.std(ddof=1) * np.sqrt(1 / 12 + RATIO)
    half = scipy_stats.t.ppf(0.975, 11) * error
    assert made.estimate[0] == pytest.approx(d.mean())
    assert made.high[0] - made.estimate[0] == pytest.approx(half, rel=0.03)
    assert made.p[0] == pytest.approx(2 * scipy_stats.t.sf(abs(d.mean()) / error, 11), rel=0.1)


def test_independent_arms_need_the_factor_of_their_number_and_equal_arms_less() -> None:
    rng = np.random.default_rng(0)
    d = rng.normal(0, 0.02, (10, 30))
    half = corrected_resampled_t(d, RATIO, rng).high - d.mean(1)
    error = d.std(1, ddof=1) * np.sqrt(1 / 30 + RATIO)
    single, sidak = (scipy_stats.t.ppf(1 - a / 2, 29) for a in (0.05, 1 - 0.95**0.1))
    assert np.all(half / error > 1.2 * single)
    assert np.all(half / error < 1.05 * sidak)
    alike = corrected_resampled_t(np.tile(d[:1], (10, 1)), RATIO, rng)
    assert single < (alike.high - alike.estimate)[0] / error[0] < 0.9 * sidak


@pytest.mark.parametrize("splits", [2, 4, 8])
def test_of_few_splits_too_all_limits_hold_at_once(splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampled, "DRAWS", 5000)
    rng, missed = np.random.default_rng(splits), 0
    for _ in range(200):
        luck = np.sqrt(RATIO) * rng.normal(0, 1, (15, 1))
        made = corrected_resampled_t(luck + rng.normal(0, 1, (15, splits)), RATIO, rng)
        missed += ((made.low > 0) | (made.high < 0)).any()
    assert missed / 200 < 0.1


def test_the_limits_of_the_best_looking_arm_cover_as_often_as_they_say() -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        d = rng.normal(0, 1, (8, 1)) * np.sqrt(RATIO) + rng.normal(0, 1, (8, 10))  # a file's own luck, then the splits'
        made = corrected_resampled_t(d, RATIO, rng)
        best = made.estimate.argmax()
        covered += made.low[best] <= 0 <= made.high[best]
    assert covered / 300 > 0.92


def test_gains_without_variation_claim_nothing() -> None:
    d = np.array([[0.0, 0, 0], [0.1, 0.1, 0.1], [0.1, 0.2, 0.0]])
    made = corrected_resampled_t(d, RATIO, np.random.default_rng(0))
    assert (made.low[0], made.high[0], made.p[0]) == (0, 0, 1)
    assert made.low[1] == -np.inf
    assert np.isnan(made.p[1])
    for wrong in ([[0.1]], [[0.1, np.nan]]):
        with pytest.raises(UserError, match="gains"):
            corrected_resampled_t(wrong, RATIO, np.random.default_rng(0))
