"""Splits: disjoint, stratified, grouped where groups are given, cut to size by class."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalab.data import splits
from datalab.errors import UserError

class_sizes = st.lists(st.integers(4, 60), min_size=2, max_size=8)


def _labels(sizes: list[int]) -> np.ndarray:
    return np.random.default_rng(7).permutation(np.repeat(np.arange(len(sizes)), sizes))


def _split(labels, groups=None, seed=0, caps=None):
    return splits.split(labels, groups, np.random.default_rng(seed), caps or {})


@given(class_sizes, st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_uncut_parts_are_disjoint_hold_every_row_and_take_60_15_25_of_each_class(sizes, seed):
    labels = _labels(sizes)
    found = _split(labels, seed=seed)
    parts = (found.train, found.validation, found.test)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    for rows, share in zip(parts, (0.60, 0.15, 0.25), strict=True):
        assert (np.abs(np.bincount(labels[rows], minlength=len(sizes)) - share * np.asarray(sizes)) <= 1.5).all()


@given(class_sizes, st.integers(20, 120), st.integers(8, 60))
@settings(deadline=None, max_examples=40)
def test_cut_parts_hold_at_most_their_cap_and_two_train_rows_of_every_class(sizes, train, rest):
    labels = _labels(sizes)
    found = _split(labels, caps={"train": train, "validation": rest, "test": rest})
    assert len(found.train) == min(train, len(_split(labels).train))
    assert len(found.validation) <= rest
    assert len(found.test) <= rest
    assert np.bincount(labels[found.train], minlength=len(sizes)).min() >= 2
    assert np.bincount(labels[found.validation], minlength=len(sizes)).min() >= 1
    assert np.bincount(labels[found.test], minlength=len(sizes)).min() >= 1


@given(st.lists(st.integers(1, 300), min_size=1, max_size=12), st.integers(1, 400))
@settings(deadline=None, max_examples=80)
def test_an_allotment_sums_to_the_cap_and_stays_within_a_row_of_proportion(sizes, cap):
    counts = np.asarray(sizes)
    rows = splits.allot(counts, cap, least=0)
    assert rows.sum() == min(cap, counts.sum())
    assert (rows <= counts).all()
    assert (np.abs(rows - min(cap, counts.sum()) * counts / counts.sum()) < 1).all()


def test_equal_seeds_give_equal_splits_and_another_seed_another():
    labels = _labels([50, 50])
    assert _split(labels).train.tolist() == _split(labels).train.tolist()
    assert _split(labels).train.tolist() != _split(labels, seed=1).train.tolist()


@pytest.mark.parametrize("seed", range(8))
def test_a_group_never_lies_in_two_parts_and_every_part_has_one(seed):
    rng = np.random.default_rng(seed)
    groups, labels = rng.integers(0, 10, 900), rng.integers(0, 4, 900)
    found = _split(labels, groups, seed)
    held = [set(groups[rows].tolist()) for rows in (found.train, found.validation, found.test)]
    assert all(held)
    assert not held[0] & held[1]
    assert not held[0] & held[2]
    assert not held[1] & held[2]
    assert abs(len(found.train) / 900 - 0.6) < 0.1


def test_rows_of_a_part_are_not_sorted_by_class():
    labels = _labels([60, 60])
    assert (np.diff(labels[_split(labels).train]) < 0).any()


def test_a_class_of_three_rows_is_dropped_before_the_split():
    labels = _labels([30, 3, 30])
    found = _split(labels)
    assert found.dropped_classes == (1,)
    assert 1 not in labels[np.concatenate([found.train, found.validation, found.test])]


@pytest.mark.parametrize("caps", [{"train": 0}, {"train": 1.5}, {"train": True}, {"tests": 5}, {"train": 3}])
def test_caps_that_cannot_be_are_refused_in_one_line(caps):
    with pytest.raises(UserError) as refusal:
        _split(_labels([30, 30]), caps=caps)
    assert "caps" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_two_groups_cannot_fill_three_parts():
    with pytest.raises(UserError, match="at least 3 groups"):
        _split(_labels([30, 30]), np.arange(60) % 2)
