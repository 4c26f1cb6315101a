"""F1 over clusters: scikit-learn's F1, plain loops over resampled and left-out clusters."""

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import f1_score

from datalab import stats


@pytest.fixture
def cases() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    actual = rng.random(60) < 0.4
    wrong = rng.random((2, 60)) < np.array([[0.2], [0.4]])
    return {"actual": actual, "good": actual ^ wrong[0], "poor": actual ^ wrong[1], "cluster": rng.integers(0, 9, 60)}


def counts_of(cases: dict[str, np.ndarray], rule: str) -> np.ndarray:
    return stats.outcomes(cases[rule], cases["actual"], cases["cluster"])


def test_f1_of_the_summed_outcomes_is_scikit_learns(cases):
    counts = counts_of(cases, "good")
    assert counts.shape == (9, 3)
    assert stats.f1(counts.sum(0)) == pytest.approx(f1_score(cases["actual"], cases["good"]))
    assert np.isnan(stats.f1([0, 0, 0]))


def test_clusters_stand_in_the_order_in_which_they_appear():
    counts = stats.outcomes([True, False, True], [True, True, False], ["b", "a", "b"])
    assert counts.tolist() == [[1, 1, 0], [0, 0, 1]]


def test_f1s_units_are_whole_clusters_and_its_limits_stay_inside_0_and_1(cases):
    f1 = stats.clustered_f1(counts_of(cases, "good"))
    assert f1.n == 9
    assert f1.estimate == pytest.approx(f1_score(cases["actual"], cases["good"]))
    nearly = stats.clustered_f1([[9, 0, 0], [9, 0, 0], [2, 0, 7], [9, 0, 0]])  # Student's would end above 1
    assert nearly.interval().low < nearly.estimate < nearly.interval().high < 1
    assert stats.t_interval(nearly.values).high > 1


def test_the_leads_interval_is_the_jackknifes_over_clusters(cases):
    good, poor = counts_of(cases, "good"), counts_of(cases, "poor")
    measured = stats.clustered_f1_lead(good, poor)
    lead = stats.t_interval(measured.values, 0.9)
    assert lead.estimate == pytest.approx(stats.f1(good.sum(0)) - stats.f1(poor.sum(0)))
    pseudo = []
    for i in range(9):
        without = [np.delete(counts, i, axis=0).sum(0) for counts in (good, poor)]
        pseudo.append(9 * lead.estimate - 8 * (stats.f1(without[0]) - stats.f1(without[1])))
    limits = scipy_stats.t.interval(0.9, 8, lead.estimate, scipy_stats.sem(pseudo))
    assert (lead.low, lead.high) == pytest.approx(limits)
    same = stats.clustered_f1_lead(good, good).interval()
    assert (same.estimate, same.low, same.high) == (0, 0, 0)


def test_one_cluster_gives_a_lead_without_limits():
    lead = stats.clustered_f1_lead([[3, 1, 0]], [[2, 0, 1]])
    assert lead.estimate == pytest.approx(6 / 7 - 4 / 5)
    assert np.isnan(lead.interval()[1:3]).all()
