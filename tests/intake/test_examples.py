"""Labels and indexes as people have them."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from datalab.errors import UserError
from datalab.intake import examples, features, reading
from datalab.intake.portraits import portraits


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10", "9", "1.0", "1"], ["1", "9", "10"]),
        (["007", "8"], ["007", "8"]),
        (["+1", "1", None], ["1"]),
        (["9" * 20, "1"], ["1", "9" * 20]),
        ([True, None], ["True"]),
        (pd.Categorical([True, False]), ["False", "True"]),
        (pd.Categorical(["10", "9"]), ["9", "10"]),
        (pd.array([3, None, 1], dtype="Int64"), ["1", "3"]),
    ],
)
def test_classes_are_named_as_they_are_written_and_whole_numbers_in_order(labels: object, names: list[str]) -> None:
    column = pd.Series(labels)
    codes, made = examples._classes(column, "label")
    assert made.tolist() == names
    assert (codes < 0).tolist() == column.isna().tolist()


@pytest.mark.parametrize(
    "index",
    [
        pd.Index([1, "a", None, 2.5]),
        pd.Index([1, 0, 0, 1, 2]),
        pd.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")]),
        pd.IntervalIndex.from_tuples([(0, 2), (1, 3), (0, 3)]),
        pd.Index([2, None, 1], dtype="Int64"),
        pd.date_range("2024", periods=3, tz="UTC"),
        pd.Index([[1, 2], [3], [1]]),
    ],
    ids=["mixed", "repeated", "of levels", "overlapping", "with a gap", "dates", "lists"],
)
def test_an_index_of_any_entries_in_another_order_is_refused_and_another_one_is_none(index: pd.Index) -> None:
    x = pd.DataFrame({"a": range(len(index))}, index=index)
    with pytest.raises(UserError, match="index is that of X in another order"):
        examples._refuse_other_order("label", x.a[::-1], x)
    in_part = index.delete(0).insert(0, index[-1])
    with pytest.raises(UserError, match="index is in part that of X"):
        examples._refuse_other_order("label", pd.Series(range(len(index)), index=in_part), x)
    for other in (index, pd.RangeIndex(90, 90 + len(index)), index[1:]):
        examples._refuse_other_order("label", pd.Series(range(len(other)), index=other), x)


def test_an_index_of_text_is_that_of_the_same_numbers_and_in_another_order_refused() -> None:
    x = pd.DataFrame({"a": range(12)})
    text = x.index.map(str)
    examples._refuse_other_order("label", pd.Series(range(12), index=text), x)
    for other in (text, x.index.astype(float), x.index.astype(float).map(str)):
        with pytest.raises(UserError, match="in another order"):
            examples._refuse_other_order("label", pd.Series(range(12), index=other[::-1]), x)


def test_of_a_pool_with_few_rows_of_each_class_half_may_be_test_rows() -> None:
    """Before: a single one was refused, with "20 are needed" of a class that had 8 in the pool."""
    x, y = np.random.default_rng(0).normal(size=(240, 3)), np.arange(240) % 4
    for in_test, left in ((1, 31), (16, 16)):
        test = np.r_[:in_test, 100:140]
        pooled = examples.sample(examples.gather(x, y, X_test=x[test], y_test=y[test]), np.arange(32), False)
        assert len(pooled.at) == left
    given = examples.gather(x, y, X_test=x[:40], y_test=y[:40])
    with pytest.raises(UserError, match="every row of the data is a test row too"):
        examples.sample(given, np.arange(32), False)
    with pytest.raises(UserError, match="without test rows class '0' has 1 examples; 3 are needed"):
        examples.sample(given, np.arange(20, 44), False)
    with pytest.raises(UserError, match="without test rows class '0' has 10 examples; 20 are needed"):
        examples.sample(given, np.arange(80), False)


def test_of_a_row_words_come_before_numbers_and_what_has_its_own_column_is_left_out() -> None:
    """As all cells of a text table are text, words never came first, and a note in the 13th column was not shown."""
    frame = pd.DataFrame({"id": ["7"], "y": ["a"]} | {f"f{i}": [f"{i},5"] for i in range(9)} | {"note": ["late"]})
    ((picture, words),) = portraits(reading.of_frame("t", frame, ""), frame, {"id", "y"})
    assert picture is None
    assert words == "note: late · " + " · ".join(f"f{i}: {i},5" for i in range(7))


def test_rows_whose_indexes_overlap_in_part_are_not_taken_by_position() -> None:
    """As after ``X.dropna()`` beside labels that were filtered otherwise: every label was that of the next row."""
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(120, 3)))
    y = pd.Series(np.arange(120) % 3)
    with pytest.raises(UserError, match="label: its index is in part that of X"):
        examples.gather(frame.drop(index=0), y.drop(index=119))
    with pytest.raises(UserError, match="label: its index is that of X in another order"):
        examples.gather(frame.to_numpy(), y[::-1], embedded=frame)
    assert len(examples.gather(frame.set_index(frame.index + 1000), y).codes) == 120
    assert len(examples.gather(frame, torch.tensor(y.to_numpy() * 1.0, requires_grad=True)).codes) == 120


def test_objects_are_arrays_or_left_out_and_never_text_of_their_address() -> None:
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (4, 4), dtype=np.uint8)) for _ in range(60)]
    things = [object() for _ in range(60)]
    frame = pd.DataFrame({"im": pictures, "t": [torch.rand(3) for _ in range(60)], "o": things, "x": range(5, 65)})
    kinds = features.Columns(frame, reading.of_frame("t", frame, "")).kinds
    assert kinds["im"] == kinds["t"] == "vector"
    assert kinds["o"] == "left out, neither numbers nor text"
