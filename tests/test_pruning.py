"""Pruning: quotas, ties, and the scores against their definitions and against cleanlab."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from datalab import pruning
from datalab.errors import UserError
from datalab.protocol import protocol

FRACTIONS = protocol().keep_fractions

problems = st.tuples(st.integers(1, 9), st.integers(1, 120), st.floats(0.01, 1), st.integers(0, 2**32 - 1))


def draw(problem):
    n_classes, n, fraction, seed = problem
    rng = np.random.default_rng(seed)
    return rng.standard_normal(n).round(1), rng.integers(0, n_classes, n), fraction


def predictions(n=400, n_classes=5, seed=0):
    rng = np.random.default_rng(seed)
    clean = rng.integers(0, n_classes, n)
    p = softmax(rng.standard_normal((n, n_classes)) + 3 * np.eye(n_classes)[clean], axis=1)
    labels = np.where(rng.random(n) < 0.2, rng.integers(0, n_classes, n), clean)
    return p, labels


@given(problems, st.sampled_from(pruning.QUOTAS))
def test_the_number_kept_is_the_rounded_fraction_or_one_for_each_class(problem, quota):
    scores, labels, fraction = draw(problem)
    least = len(np.unique(labels)) if quota == "per_class" else 1
    assert pruning.keep(scores, labels, fraction, quota).sum() == max(round(fraction * len(scores)), least)


@given(problems)
def test_every_observed_class_keeps_its_share_to_within_one_and_at_least_one(problem):
    scores, labels, fraction = draw(problem)
    mask = pruning.keep(scores, labels, fraction)
    share = np.array([fraction * (labels == c).sum() for c in np.unique(labels)])
    kept = np.array([mask[labels == c].sum() for c in np.unique(labels)])
    assert (kept >= 1).all()
    raised = np.maximum(1 - share, 0).sum()
    assert (kept < np.maximum(share + 1, 1 + 1e-9)).all()
    assert (kept > share - 1 - raised - 1e-9).all()


def test_seats_go_to_the_largest_remainders():
    labels = np.repeat([0, 1, 2], [5, 7, 8])  # shares 3.5, 4.9, 5.6: fourteen in all, twelve whole
    np.testing.assert_array_equal(pruning.class_counts(labels, 0.7), [3, 5, 6])


@given(problems, st.sampled_from(pruning.QUOTAS))
def test_nothing_dropped_scores_below_anything_kept_of_its_group(problem, quota):
    scores, labels, fraction = draw(problem)
    mask = pruning.keep(scores, labels, fraction, quota)
    groups = labels if quota == "per_class" else np.zeros_like(labels)
    for c in np.unique(groups):
        dropped, kept = scores[(groups == c) & ~mask], scores[(groups == c) & mask]
        assert not len(dropped) or dropped.min() >= kept.max()


@given(problems, st.sampled_from(pruning.QUOTAS))
def test_a_smaller_fraction_keeps_a_subset_when_classes_are_alone(problem, quota):
    scores, labels, fraction = draw(problem)
    labels = np.zeros_like(labels)
    fewer = pruning.keep(scores, labels, fraction / 2, quota)
    assert (pruning.keep(scores, labels, fraction, quota) | ~fewer).all()


def test_of_equal_scores_the_earlier_example_is_kept():
    mask = pruning.keep(np.zeros(10), np.arange(10) % 2, 0.4)
    np.testing.assert_array_equal(np.flatnonzero(mask), [0, 1, 2, 3])


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_a_random_subset_has_the_class_counts_of_the_quota_and_any_member_equally_often(fraction):
    labels = np.repeat([0, 1], [10, 20])
    draws = np.array([pruning.random_subset(labels, fraction, rng=np.random.default_rng(s)) for s in range(800)])
    for c in (0, 1):
        np.testing.assert_array_equal(draws[:, labels == c].sum(1), pruning.class_counts(labels, fraction)[c])
        np.testing.assert_allclose(draws[:, labels == c].mean(0), fraction, atol=0.09)


def test_the_oracle_drops_exactly_the_flipped_labels():
    np.testing.assert_array_equal(pruning.oracle([0, 1, 2], [0, 2, 2]), [True, False, True])


@given(st.integers(0, 2**32 - 1))
def test_scores_of_a_stack_are_the_scores_of_each_model(seed):
    rng = np.random.default_rng(seed)
    p, labels = softmax(rng.standard_normal((3, 7, 4)), axis=-1), rng.integers(0, 4, 7)
    for score in (pruning.loss, pruning.el2n, pruning.margin):
        np.testing.assert_array_equal(score(p, labels), [score(q, labels) for q in p])


def test_el2n_is_the_norm_of_the_error_vector():
    p, labels = predictions()
    np.testing.assert_allclose(pruning.el2n(p, labels), np.linalg.norm(p - np.eye(5)[labels], axis=1), rtol=1e-12)


def test_loss_is_the_cross_entropy_of_torch_and_finite_for_a_probability_of_zero():
    import torch

    p, labels = predictions()
    expected = torch.nn.functional.nll_loss(torch.tensor(p).log(), torch.tensor(labels), reduction="none")
    np.testing.assert_allclose(pruning.loss(p, labels), expected, rtol=1e-12)
    assert np.isfinite(pruning.loss(np.array([[0.0, 1.0]], dtype=np.float32), [0])).all()


def test_margin_is_minus_cleanlabs_margin_and_is_highest_for_a_confident_mistake():
    from cleanlab.rank import get_label_quality_scores

    p, labels = predictions()
    cleanlabs = get_label_quality_scores(labels, p, method="normalized_margin")
    np.testing.assert_allclose(pruning.margin(p, labels), 1 - 2 * cleanlabs, atol=1e-12)
    np.testing.assert_allclose(pruning.margin([[0.0, 1.0], [1.0, 0.0]], [0, 0]), [1, -1])


def test_forgetting_counts_falls_from_right_to_wrong_and_ranks_the_never_learnt_highest():
    history = np.array([[1, 0, 1, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 0, 1, 1]], dtype=bool)
    np.testing.assert_array_equal(pruning.forgetting(history), [2, 5, 0, 1])


@pytest.mark.parametrize("seed", range(5))
def test_confident_learning_flags_the_label_issues_of_cleanlab(seed):
    from cleanlab.count import compute_confident_joint

    p, labels = predictions(seed=seed)
    joint, issues = compute_confident_joint(labels, p, calibrate=False, return_indices_of_off_diagonals=True)
    score, likely = pruning.confident_learning(p, labels), pruning.confident_class(p, labels)
    assert len(issues) > 30
    np.testing.assert_array_equal(np.flatnonzero(score > 1), issues)
    ours = np.zeros_like(joint)
    np.add.at(ours, (labels[likely >= 0], likely[likely >= 0]), 1)
    np.testing.assert_array_equal(ours, joint)


def test_confident_learning_ranks_within_issues_as_cleanlab_does():
    from cleanlab.rank import get_label_quality_scores

    p, labels = predictions()
    score = pruning.confident_learning(p, labels)
    cleanlabs = get_label_quality_scores(labels, p, method="normalized_margin")
    for group in (score > 1, score <= 1):
        np.testing.assert_array_equal(np.argsort(-score[group]), np.argsort(cleanlabs[group]))


def test_a_class_without_labels_is_never_confident():
    p = np.array([[0.1, 0.1, 0.8], [0.4, 0.5, 0.1]])
    np.testing.assert_array_equal(pruning.confident_class(p, [0, 1]), [0, 1])


def test_keep_hardest_drops_the_least_influential_first():
    self_influence = np.array([3.0, 1.0, 2.0])
    mask = pruning.keep(pruning.keep_hardest(self_influence), [0, 0, 0], 0.67)
    np.testing.assert_array_equal(mask, [True, False, True])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([np.nan, 1], [0, 1], 0.5), "NaN"),
        (([1, 2, 3], [0, 1], 0.5), "one per label"),
        (([1, 2], [0, 1], 1.7), r"keep fraction: must lie in \(0, 1\], got 1.7"),
        (([1, 2], [0, 1], 0.0), "keep fraction"),
        (([1, 2], [0, 1], 0.5, "per_clas"), "did you mean 'per_class'"),
    ],
)
def test_bad_input_to_keep_is_refused_in_one_line(arguments, words):
    with pytest.raises(UserError, match=words):
        pruning.keep(*arguments)


def test_labels_beyond_the_classes_are_refused():
    with pytest.raises(UserError, match=r"0\.\.1"):
        pruning.loss([[0.5, 0.5]], [2])


@given(
    sizes=st.lists(st.integers(0, 30), min_size=2, max_size=6),
    shares=st.lists(st.integers(0, 9), min_size=6, max_size=6),
    keep=st.floats(0.05, 1.0),
)
def test_a_quota_of_other_shares_keeps_as_many_and_follows_the_shares_as_far_as_there_are_examples(sizes, shares, keep):
    labels, shares = np.repeat(np.arange(len(sizes)), sizes), shares[: len(sizes)]
    if not len(labels) or not sum(share for share, size in zip(shares, sizes, strict=True) if size):
        return
    counts = pruning.class_counts(labels, keep, shares)
    assert (counts <= sizes).all()
    assert counts.sum() == max(round(round(keep * len(labels), 9)), sum(size > 0 for size in sizes))
    wanted = keep * len(labels) * np.array(shares) / sum(shares)
    if ((wanted <= sizes) & ((wanted >= 1) | (np.array(sizes) == 0))).all():  # one is kept of any class
        assert (abs(counts - wanted) < 1).all()
    own = pruning.class_counts(labels, keep, np.bincount(labels, minlength=len(sizes)))
    assert (own[: labels.max() + 1] == pruning.class_counts(labels, keep)).all()


@pytest.mark.parametrize("shares", [[0.5], [0.5, -0.5], [0.0, 0.0], [0.5, np.nan], [[0.5, 0.5]]])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(UserError, match="shares"):
        pruning.keep(np.arange(4.0), [0, 0, 1, 1], 0.5, shares=shares)


def test_the_margin_of_logits_is_the_best_others_lead():
    logits, labels = np.array([[[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]]]), np.array([[0, 2]])
    assert pruning.logit_margin(logits, labels).tolist() == [[-1.0, 4.0]]
    assert logits[0, 0, 0] == 3.0, "its argument is left alone"
