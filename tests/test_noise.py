"""Label noise: exact counts, the right destinations, and the law of the instance-dependent model."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalab import noise
from datalab.errors import UserError
from datalab.protocol import protocol

RATES = protocol().noise["rates"]

problems = st.tuples(st.integers(2, 12), st.integers(0, 200), st.sampled_from(RATES), st.integers(0, 2**32 - 1))


def draw(problem, kind):
    n_classes, n, rate, seed = problem
    rng = np.random.default_rng(seed)
    labels, x = rng.integers(0, n_classes, n), rng.standard_normal((n, 5))
    return labels, noise.corrupt(labels, kind, rate, n_classes, rng, x)


@given(problems, st.sampled_from(["symmetric", "pair"]))
def test_exactly_round_rate_times_n_labels_of_each_class_flip(problem, kind):
    clean, noisy = draw(problem, kind)
    for c in range(problem[0]):
        assert (noisy[clean == c] != c).sum() == round(problem[2] * (clean == c).sum())


@given(problems)
def test_instance_noise_flips_exactly_round_rate_times_n_labels(problem):
    clean, noisy = draw(problem, "instance")
    assert (clean != noisy).sum() == round(problem[2] * len(clean))


@given(problems, st.sampled_from(noise.KINDS))
def test_noisy_labels_stay_in_range_and_the_clean_ones_stay_unchanged(problem, kind):
    n_classes, n, rate, seed = problem
    clean = np.random.default_rng(seed).integers(0, n_classes, n)
    before = clean.copy()
    noisy = noise.corrupt(clean, kind, rate, n_classes, np.random.default_rng(seed), np.ones((n, 2)))
    np.testing.assert_array_equal(clean, before)
    assert noisy.dtype == np.int64
    assert not np.shares_memory(noisy, clean)
    assert ((noisy >= 0) & (noisy < n_classes)).all()


@given(problems, st.sampled_from(noise.KINDS))
def test_equal_generators_give_equal_noise(problem, kind):
    np.testing.assert_array_equal(draw(problem, kind)[1], draw(problem, kind)[1])


@given(problems)
def test_pair_noise_goes_to_the_next_class(problem):
    clean, noisy = draw(problem, "pair")
    flipped = clean != noisy
    np.testing.assert_array_equal(noisy[flipped], (clean[flipped] + 1) % problem[0])


@pytest.mark.parametrize("kind", noise.KINDS)
def test_rate_0_changes_nothing_and_rate_1_changes_everything(kind):
    clean = np.arange(60) % 3
    x = np.random.default_rng(0).standard_normal((60, 2))
    np.testing.assert_array_equal(noise.corrupt(clean, kind, 0.0, 3, np.random.default_rng(0), x), clean)
    assert (noise.corrupt(clean, kind, 1.0, 3, np.random.default_rng(0), x) != clean).all()


def test_symmetric_flips_spread_evenly_over_the_other_classes():
    clean = np.zeros(90_000, dtype=int)
    counts = np.bincount(noise.corrupt(clean, "symmetric", 0.4, 4, np.random.default_rng(3)), minlength=4)
    np.testing.assert_allclose(counts[1:], 12_000, atol=4 * np.sqrt(12_000))


def test_instance_noise_sends_like_examples_of_a_class_to_like_classes():
    rng = np.random.default_rng(0)
    centres = 6 * rng.standard_normal((10, 20))
    cluster = rng.integers(0, 10, 4000)
    clean, x = np.zeros(4000, dtype=int), centres[cluster] + 0.01 * rng.standard_normal((4000, 20))
    noisy = noise.corrupt(clean, "instance", 0.3, 8, rng, x)
    flipped = noisy != clean
    counts = [np.bincount(noisy[flipped & (cluster == k)], minlength=8) for k in range(10)]
    assert np.mean([c.max() / c.sum() for c in counts]) > 0.8
    assert len({c.argmax() for c in counts}) > 2


def test_which_examples_flip_follows_the_model_given_the_count():
    q, size = np.array([0.05, 0.2, 0.5, 0.7]), 2
    rng = np.random.default_rng(0)
    draws = np.array([noise._given_size(q, size, rng) for _ in range(5_000)])
    sets = [np.isin(np.arange(4), pair) for pair in itertools.combinations(range(4), size)]
    weight = np.array([np.prod(np.where(s, q, 1 - q)) for s in sets])
    frequency = [(draws == s).all(1).mean() for s in sets]
    np.testing.assert_allclose(frequency, weight / weight.sum(), atol=0.025)


def test_the_realised_rate_is_the_fraction_that_differs():
    assert noise.realised_rate([0, 1, 2, 0], [0, 2, 2, 1]) == 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([0, 1], "symetric", 0.1, 2), "did you mean 'symmetric'"),
        (([0, 1], "pair", -0.1, 2), "noise rate"),
        (([0, 1], "pair", float("nan"), 2), "noise rate"),
        (([0, 5], "pair", 0.1, 2), r"0\.\.1"),
        (([0.5, 1.0], "pair", 0.1, 2), "integers"),
        (([0, 0], "symmetric", 0.5, 1), "2 classes"),
        (([0, 1], "instance", 0.1, 2), "features"),
        (([0, 1], "instance", 0.1, 2, np.ones((3, 2))), "one row per label"),
        (([0, 1], "instance", 0.1, 2, np.full((2, 2), np.nan)), "finite"),
    ],
)
def test_bad_input_is_refused_in_one_line_that_names_it(arguments, words):
    with pytest.raises(UserError, match=words) as caught:
        noise.corrupt(*arguments[:4], np.random.default_rng(0), *arguments[4:])
    assert "\n" not in str(caught.value)
