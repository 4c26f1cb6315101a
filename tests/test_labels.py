"""Labels of every type give what the same labels as integers give, or one clear line."""

from datetime import date

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from datalab import labels, metrics, noise, pruning, stats
from datalab.errors import UserError

CODES = np.array([0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 1])
SCORES = np.linspace(0, 1, 12)
P = np.stack([1 - SCORES, SCORES], 1)
TEXT = np.where(CODES, "yes", "no")

SAME = {
    "text digits": CODES.astype(str),
    "text": TEXT,
    "bytes": TEXT.astype("S"),
    "objects": TEXT.astype(object),
    "object bytes": TEXT.astype("S").astype(object),
    "minus one and one": 2 * CODES - 1,
    "floats": CODES.astype(np.float32),
    "booleans": CODES.astype(bool),
    "object booleans": CODES.astype(bool).astype(object),
    "uint64": CODES.astype(np.uint64),
    "one column": CODES[:, None],
    "dates": np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[D]")[CODES],
    "object dates": np.array([date(2020, 1, 1), date(2020, 1, 2)], dtype=object)[CODES],
    "nullable": pd.array(CODES, dtype="Int64"),
    "nullable booleans": pd.Series(CODES.astype(bool), dtype="boolean"),
    "nullable text": pd.Series(TEXT, dtype="string"),
    "category": pd.Series(TEXT, dtype="category"),
    "unmasked": np.ma.masked_array(CODES, mask=False),
    "tensor": torch.tensor(CODES),
    "list": CODES.tolist(),
}


@pytest.mark.parametrize("kind", SAME)
def test_every_type_of_label_is_pruned_as_the_same_integers_are(kind: str) -> None:
    y = SAME[kind]
    np.testing.assert_array_equal(pruning.keep(SCORES, y, 0.5), pruning.keep(SCORES, CODES, 0.5))
    drawn = [pruning.random_subset(each, 0.5, rng=np.random.default_rng(0)) for each in (y, CODES)]
    np.testing.assert_array_equal(*drawn)
    assert pruning.oracle(y, y).all()
    assert noise.realised_rate(y, y) == 0
    found = labels.classes(y)
    np.testing.assert_array_equal(found.codes, CODES)
    assert len(found.names) == 2


@pytest.mark.parametrize("kind", ["floats", "booleans", "uint64", "one column", "nullable", "unmasked", "tensor"])
def test_labels_that_hold_column_numbers_score_and_flip_as_the_integers_do(kind: str) -> None:
    y = SAME[kind]
    for score in (pruning.loss, pruning.margin, pruning.el2n, pruning.confident_learning):
        np.testing.assert_array_equal(score(P, y), score(P, CODES))
    flipped = [noise.corrupt(each, "symmetric", 0.3, 2, np.random.default_rng(0)) for each in (y, CODES)]
    np.testing.assert_array_equal(*flipped)


@pytest.mark.parametrize("kind", ["text digits", "text", "bytes", "dates", "minus one and one"])
def test_labels_that_name_no_column_are_refused_with_the_call_that_numbers_them(kind: str) -> None:
    with pytest.raises(UserError, match=r"datalab\.labels\.classes"):
        pruning.loss(P, SAME[kind])
    with pytest.raises(UserError, match=r"datalab\.labels\.classes"):
        noise.corrupt(SAME[kind], "pair", 0.1, 2, np.random.default_rng(0))


MASKED = np.ma.masked_array(CODES, mask=CODES == 1)
NO_LABELS = {
    "masked": (MASKED, "6 entries are masked"),
    "missing": (pd.array([1, None] * 6, dtype="Int64"), "6 entries are missing"),
    "nan": (np.where(CODES, np.nan, 0.0), "6 entries are missing"),
    "none": (np.array(["a", None] * 6, dtype=object), "6 entries are missing"),
    "no date": (np.array(["2020-01-01", "NaT"] * 6, dtype="datetime64[D]"), "6 dates are missing"),
    "quantities": (SCORES, "is a quantity"),
    "one-hot": (np.eye(2)[CODES], r"pass \.argmax\(1\)"),
    "sparse": (scipy.sparse.csr_matrix(np.eye(2)[CODES]), r"\.toarray\(\)"),
    "mixed": (np.array(["1", 1] * 6, dtype=object), "mixed"),
    "complex": (CODES * 1j, "is no label"),
    "dictionaries": (np.array([{}] * 12, dtype=object), "dict is no label"),
    "bytes of another alphabet": (np.array([b"\xff", b"a"] * 6), "UTF-8"),
    "ragged": ([[1], [1, 2]], "different lengths"),
}


@pytest.mark.parametrize("kind", NO_LABELS)
def test_what_is_no_label_is_refused_in_one_line(kind: str) -> None:
    y, says = NO_LABELS[kind]
    for call in (lambda: pruning.keep(SCORES, y, 0.5), lambda: labels.classes(y)):
        with pytest.raises(UserError, match=says) as caught:
            call()
        assert "\n" not in str(caught.value)


NO_PROBABILITIES = {
    "percentages": (100 * P, "divide by 100"),
    "votes": (np.round(3 * P), "divide each row by its sum"),
    "logits": (P - 1, "logits"),
    "nan": (np.where(P > 0.5, np.nan, P), "finite"),
    "sparse": (scipy.sparse.csr_array(P), r"\.toarray\(\)"),
    "masked": (np.ma.masked_array(P, mask=P > 0.5), "masked"),
    "text": (P.astype(str), "must be numbers"),
    "too few rows": (P[:5], "need one for each row"),
}


@pytest.mark.parametrize("kind", NO_PROBABILITIES)
def test_what_is_no_probability_is_refused_in_one_line(kind: str) -> None:
    p, says = NO_PROBABILITIES[kind]
    for score in (pruning.loss, pruning.el2n, pruning.margin, pruning.confident_learning):
        with pytest.raises(UserError, match=says):
            score(p, CODES)


def test_one_hot_rows_are_probabilities_and_a_column_of_labels_fits_a_stack() -> None:
    assert pruning.loss(np.eye(2, dtype=int)[CODES], CODES).max() == 0
    stack = np.stack([P, P[::-1]])
    np.testing.assert_array_equal(pruning.loss(stack, CODES[:, None]), pruning.loss(stack, CODES))


def test_kinds_that_cannot_be_compared_are_not_called_different() -> None:
    with pytest.raises(UserError, match="observed are text, clean whole numbers"):
        pruning.oracle(CODES.astype(str), CODES)
    with pytest.raises(UserError, match="one shape"):
        noise.realised_rate(CODES, np.eye(2)[CODES])


def test_a_mask_is_not_dropped_in_silence_by_statistics_or_metrics() -> None:
    hidden = np.ma.masked_array(SCORES, mask=SCORES > 0.5)
    calls = [
        lambda: stats.t_interval(hidden),
        lambda: stats.holm(hidden),
        lambda: stats.pearson(stats.moments(hidden, SCORES)),
        lambda: metrics.accuracy(CODES, MASKED),
        lambda: metrics.macro_f1(CODES, MASKED, 2),
        lambda: stats.outcomes(MASKED, CODES, CODES),
        lambda: pruning.keep(hidden, CODES, 0.5),
    ]
    for call in calls:
        with pytest.raises(UserError, match="masked"):
            call()


def test_outcomes_take_flags_of_any_type_and_no_shares() -> None:
    counted = stats.outcomes(CODES.astype(bool), CODES.astype(float), TEXT)
    np.testing.assert_array_equal(counted, [[0, 0, 0], [6, 0, 0]])
    with pytest.raises(UserError, match="predicted"):
        stats.outcomes(SCORES, CODES, TEXT)
