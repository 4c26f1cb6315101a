"""Section 3.1: the metric is a mean over strata, its variance that of new test sets."""

import itertools

import numpy as np
import pandas as pd
import pytest

from datalab.sections import s3_1_problem_formulation as s3_1
from datalab.sections.trials.trial import Trial

CAPS = {"train": 120, "validation": 60, "test": 120}
GIVEN = {"root_seed": 7, "caps": CAPS, "encoder": "fast", "device": "cpu"}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    at = [{"dataset": name, "seed": seed} for name in ("digits", "wine", "breast_cancer") for seed in (0, 1)]
    return pd.concat([pd.DataFrame(s3_1.run_task(**which, **GIVEN)) for which in at], ignore_index=True)


def test_at_the_test_sets_own_weights_the_metric_is_plain_accuracy(rows):
    part = s3_1.of_part(rows, "stratum", strata="influence")
    sums = part.assign(hits=part.right * part.n).groupby(["system", *s3_1.UNIT], sort=False)[["hits", "n"]].sum()
    plain = (sums.hits / sums.n).unstack(s3_1.UNIT)
    for kind in s3_1.STRATA:
        metric = s3_1.metric(rows, kind, 0.0)
        pd.testing.assert_frame_equal(metric, plain.loc[metric.index, metric.columns], check_names=False)


def test_the_metric_lies_within_the_hull_of_its_strata(rows):
    part = s3_1.of_part(rows, "stratum", strata="influence")
    hull = part.groupby(["system", *s3_1.UNIT], sort=False).right.agg(["min", "max"])
    for tilt in (-1.0, 0.5, 1.0):
        value = s3_1.metric(rows, "influence", tilt).stack(s3_1.UNIT, future_stack=True).loc[hull.index]
        assert ((value >= hull["min"] - 1e-12) & (value <= hull["max"] + 1e-12)).all()


def test_the_notebooks_stratified_metric_is_the_packages(rows, shown):
    cell = shown("3_1_problem_formulation", "stratified-metric", rows=rows)["systems"]
    table = s3_1.systems(rows).set_index("system")["influence +1"]
    cell.index = [", ".join(names) for names in cell.index]
    np.testing.assert_allclose(cell[table.index], table, rtol=1e-12)


def test_the_variance_is_that_of_new_test_sets_whose_strata_are_cut_anew():
    rng, n, tilt = np.random.default_rng(0), 400, 1.0

    def test_set() -> tuple[np.ndarray, np.ndarray]:
        score = rng.random(n)
        return rng.random((1, n)) < 1 - 0.7 * score, score

    def metric(right: np.ndarray, score: np.ndarray) -> float:
        stratum = s3_1.quantiles(score)
        means = np.array([right[0, stratum == k].mean() for k in range(5)])
        return float(means @ s3_1.target_weights(np.full(5, n / 5), tilt))

    true = np.var([metric(*test_set()) for _ in range(2000)])
    variances = [s3_1.resampled_variances(*test_set(), rng)[tilt][0] for _ in range(30)]
    assert np.mean(variances) == pytest.approx(true, rel=0.15)


def test_at_tilt_0_the_variance_is_plain_accuracys():
    rng = np.random.default_rng(0)
    right, score = rng.random((2, 500)) < 0.8, rng.random(500)
    p = right.mean(1)
    np.testing.assert_allclose(s3_1.resampled_variances(right, score, rng)[0.0], p * (1 - p) / 500, rtol=0.3)


def test_all_architectures_see_the_same_flips():
    labels = [Trial("digits", name, 0, 7, (0.2,), CAPS, "fast", "cpu").observed for name in ("mlp", "softmax")]
    np.testing.assert_array_equal(*labels)


def test_quantiles_are_equal_shares_in_order():
    scores = np.random.default_rng(0).random(103)
    stratum = s3_1.quantiles(scores)
    assert np.ptp(np.bincount(stratum)) <= 1
    assert all(scores[stratum == k].max() < scores[stratum == k + 1].min() for k in range(4))


def test_a_reversed_pair_is_one_that_the_metrics_order_differently():
    rng = np.random.default_rng(0)
    plain = pd.DataFrame(0.7 + rng.normal(0, 0.001, (3, 12)), index=list("abc")) + np.array([[0.1], [0.0], [-0.1]])
    other = plain.copy()
    other.loc[["a", "b"]] = plain.loc[["b", "a"]].to_numpy()
    pairs = s3_1.reversed_pairs(plain, other).set_index(["a", "b"])
    assert list(pairs.index[pairs["reversed"]]) == [("a", "b")]
    assert pairs.loc[("a", "b"), "both significant"]


@pytest.mark.parametrize(("gap", "verdict"), [(0.1, "direction reproduced"), (0.002, "inconclusive")])
def test_an_order_reversed_beyond_chance_shows_it_and_any_other_leaves_it_open(gap, verdict):
    """On the clearest pair's own intervals; before, any count above 0 was handed in as an interval of (1, count)."""
    rng, lines = np.random.default_rng(0), []
    for name, seed, system in itertools.product(range(12), (0, 1), ("softmax", "mlp")):
        for stratum in range(5):  # the MLP is ahead in the lowest strata, behind in the highest
            ahead = gap * ((stratum < 4) - 3 * (stratum == 4)) * (system == "mlp")
            right = 0.7 + ahead + rng.normal(0, 0.01)
            row = {"dataset": f"set {name}", "seed": seed, "architecture": system, "method": "full", "stratum": stratum}
            lines += [row | {"strata": kind, "part": "stratum", "n": 20, "right": right} for kind in s3_1.STRATA]
    agreement = pd.DataFrame({"strata": "influence", s3_1.TILT: [0.0, 1.0], s3_1.TAU: [1.0, 0.4], "sets": 12})
    agreement = agreement.assign(**{"reversed pairs": [0, 4], "both significant": [0, 1]})
    coarse, _ = s3_1.verdicts(pd.DataFrame(lines), agreement)
    assert coarse.verdict == verdict
    assert coarse.low < coarse.measured < coarse.high
    assert "the clearest of 8 pairs" in coarse.why


def test_the_clearest_reversal_has_both_orders(rows):
    name, d, pairs = s3_1.clearest_reversal(rows)
    assert pairs == 36 * 2 * 4  # of nine systems, two kinds of strata and four tilts
    assert set(d) == {"by plain accuracy", "by M_strat"}
    assert " against " in name
