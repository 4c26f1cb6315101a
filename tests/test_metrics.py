"""Macro-F1, precision, recall and accuracy against scikit-learn; calibration error against its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from datalab import metrics
from datalab.errors import UserError


@st.composite
def labelled_stacks(draw):
    n_classes = draw(st.integers(2, 6))
    n = draw(st.integers(1, 40))
    models = draw(st.integers(1, 5))
    labels = st.lists(st.integers(0, n_classes - 1), min_size=n, max_size=n)
    return np.array(draw(labels)), np.array([draw(labels) for _ in range(models)]), n_classes


@settings(max_examples=60, deadline=None)
@given(labelled_stacks())
def test_macro_scores_equal_sklearns_over_the_classes_present_in_test(case):
    y, stack, n_classes = case
    rule = {"labels": np.unique(y), "average": "macro", "zero_division": 0}
    for ours, theirs in (
        (metrics.macro_f1, f1_score),
        (metrics.macro_precision, precision_score),
        (metrics.macro_recall, recall_score),
    ):
        expected = [theirs(y, row, **rule) for row in stack]
        np.testing.assert_allclose(ours(y, stack, n_classes), expected, atol=1e-12)
    np.testing.assert_allclose(metrics.accuracy(y, stack), [accuracy_score(y, row) for row in stack])


@settings(max_examples=50, deadline=None)
@given(labelled_stacks(), st.randoms(use_true_random=False))
def test_scores_do_not_depend_on_the_order_of_the_rows_or_the_names_of_the_classes(case, random):
    y, stack, n_classes = case
    order = list(range(len(y)))
    random.shuffle(order)
    names = list(range(n_classes))
    random.shuffle(names)
    renamed = np.array(names)
    np.testing.assert_allclose(
        metrics.macro_f1(renamed[y][order], renamed[stack][:, order], n_classes),
        metrics.macro_f1(y, stack, n_classes),
        atol=1e-12,
    )


def test_one_row_of_predictions_gives_a_float_and_equals_its_row_in_a_stack():
    y, stack = np.array([0, 1, 2, 2]), np.array([[0, 1, 2, 0], [1, 1, 1, 1]])
    single = metrics.macro_f1(y, stack[0], 3)
    assert isinstance(single, float)
    assert single == metrics.macro_f1(y, stack, 3)[0]
    assert metrics.confusion(y, stack[0], 3).shape == (3, 3)
    assert metrics.confusion(y, stack[0], 3).sum() == 4


def test_a_class_absent_from_test_does_not_enter_the_mean_even_when_predicted():
    assert metrics.macro_f1(np.array([0, 0, 1]), np.array([0, 2, 1]), 3) == pytest.approx((2 / 3 + 1) / 2)


def naive_ece(y, p, bins):
    confidence, right = p.max(axis=1), p.argmax(axis=1) == y
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 20))
def test_calibration_error_follows_its_definition_bin_by_bin(seed, n, bins):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(4, 0.2), size=(3, n))
    y = rng.integers(0, 4, n)
    np.testing.assert_allclose(metrics.ece(y, p, bins), [naive_ece(y, row, bins) for row in p], atol=1e-12)
    assert metrics.ece(y, p[1], bins) == pytest.approx(metrics.ece(y, p, bins)[1])


def test_a_confidence_on_the_edge_of_two_bins_belongs_to_the_lower_one():
    # In one bin the errors of 0.5 (wrong) and 0.75 (right) would partly cancel: |(0.25 - 0.5) / 2|.
    p = np.array([[0.5, 0.5], [0.75, 0.25]])
    assert metrics.ece(np.array([1, 0]), p, bins=2) == pytest.approx((0.5 + 0.25) / 2)
    assert metrics.ece(np.array([1, 0]), p, bins=1) == pytest.approx(abs(0.25 - 0.5) / 2)


def test_calibration_error_is_0_when_sure_and_right_and_1_when_sure_and_wrong():
    sure = np.eye(3)[[0, 1, 2, 1]]
    assert metrics.ece(np.array([0, 1, 2, 1]), sure) == 0
    assert metrics.ece(np.array([1, 2, 0, 0]), sure) == 1


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: metrics.macro_f1(np.array([0, 1]), np.array([0, 3]), 3), "predictions"),
        (lambda: metrics.macro_f1(np.array([0.5, 1]), np.array([0, 1]), 3), "y"),
        (lambda: metrics.macro_f1(np.array([0, 1]), np.array([[0, 1, 1]]), 3), "predictions"),
        (lambda: metrics.macro_f1(np.array([], int), np.array([], int), 3), "y"),
        (lambda: metrics.accuracy(np.array([0, 1]), np.array([0])), "predictions"),
        (lambda: metrics.ece(np.array([0]), np.array([[3.0, -1.0]])), "probabilities"),
        (lambda: metrics.ece(np.array([0, 1]), np.array([[0.5, 0.5]])), "probabilities"),
        (lambda: metrics.ece(np.array([0]), np.array([[0.5, 0.5]]), bins=0), "bins"),
    ],
)
def test_input_that_cannot_be_scored_is_refused_in_one_line_that_names_it(call, named):
    with pytest.raises(UserError, match=f"^{named}") as caught:
        call()
    assert "\n" not in str(caught.value)
