"""What belongs to a row, by column or beside it: label, id, group, features, probabilities; and clean test rows."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from datalab import labels as label_kinds
from datalab import metrics
from datalab.errors import MOST, UserError, did_you_mean
from datalab.intake import features, reading

LEAST_OF_CLASS = 20
NO_LABEL = ("", "nan", "<na>")  # words that stand for a missing label or group
WHOLE = r"[-+]?(?:0|[1-9]\d{0,14})(?:\.0+)?"


class Examples(NamedTuple):
    """What was given of the same rows. ``source`` is where they were read from, ``table`` says who they are, and
    ``features`` is the source of the ``columns`` that tell them apart, the same or one of its own.

    ``test`` are clean rows that judge, ``test_labels`` their labels where they lie beside them; ``probabilities``
    (n, C) are the user's own, out of sample. All three may be None.
    """

    source: reading.Source
    table: "Labelled"
    features: reading.Source
    columns: list[str]
    test: reading.Source | None
    test_labels: Any
    probabilities: NDArray | None

    @property
    def codes(self) -> NDArray[np.int64]:
        """The class of every row (n,), -1 where it has no label."""
        return self.table.rows.code.to_numpy()

    def blocks(self, kinds: features.Columns) -> Iterator[pd.DataFrame]:
        """The labelled rows' features, typed, some thousand each; the index is a row's number."""
        for block in self.features.blocks(self.columns):
            yield kinds.typed(block[self.codes[block.index] >= 0])


class Sample(NamedTuple):
    """Rows to train on, no two alike and none a test row: their numbers ``at`` (k,) and their features, typed by
    ``kinds``; the ``test`` rows, typed alike, and their classes, or None. ``typed`` rows were so in ``seconds``.
    """

    at: NDArray[np.int64]
    frame: pd.DataFrame
    kinds: features.Columns
    test: pd.DataFrame | None
    test_codes: NDArray[np.int64] | None
    typed: int
    seconds: float


def gather(
    X: Any,
    y: Any = None,
    *,
    label: Any = None,
    ids: Any = None,
    groups: Any = None,
    X_test: Any = None,
    y_test: Any = None,
    embedded: Any = None,
    pred_probs: Any = None,
    read: Any = None,
) -> Examples:
    """Read what :func:`datalab.advise` is given. Raises UserError, one line, for what is unreadable or does not fit."""
    read = reading.options(read, X, X_test)
    if y is not None and label is not None:
        raise UserError("label: given as values and as a column's name; leave one out")
    if y_test is not None and X_test is None:
        raise UserError("y_test: labels of no rows; give X_test too, or leave it out")
    by_row = {"label": y, "id": ids, "group": groups, "features": embedded, "pred_probs": pred_probs}
    for what, values in by_row.items():
        _refuse_other_order(what, values, X)
    _refuse_other_order("test label", y_test, X_test)
    given = (label if y is None else y, ids, groups, y_test)
    label, ids, groups, y_test = (str(of) if isinstance(of, int | np.integer) else of for of in given)  # a column's
    source = reading.read(X, **read)
    table = labelled(source, label, source.key if ids is None else ids, groups)
    others = source if embedded is None else _further("features", embedded)
    named = [others.label, *(of for of in table.named.values() if others is source or not of.isdigit())]  # no array's
    columns = [column for column in others.columns if column not in named]
    test = None if X_test is None else _further("X_test", X_test, others.directions, **read)
    own = None if pred_probs is None else _probabilities(pred_probs, table, source.detected)
    return Examples(source, table, others, columns, test, y_test, own)


def sample(given: Examples, at: NDArray[np.int64], pretrained: bool) -> Sample:
    """Of the rows ``at`` (m,) those to train on. What is left out, and what else was seen, is said in ``detected``.

    Raises UserError where too few of a class are left, or no feature is.
    """
    detected, codes = given.source.detected, given.codes[at]
    raw = given.features.take(given.columns, at)
    if (rows := given.features.count()) != len(given.codes):
        many = f"has {rows:,} rows for {len(given.codes):,} labels"
        raise UserError(f"{given.features.name}: {many}; one row an example is needed")
    kinds, began = features.Columns(raw, given.features, pretrained), time.perf_counter()
    frame = kinds.typed(raw)
    seconds = time.perf_counter() - began
    detected += kinds.detected
    of_row, test, test_codes = pd.util.hash_pandas_object(frame, index=False), None, None
    left_out = of_row.duplicated().to_numpy()
    if left_out.any():
        other = (pd.Series(codes).groupby(of_row.to_numpy()).transform("first") != codes).sum()
        line = f"{left_out.sum():,} rows repeat another's features (of {len(frame):,} looked at)"
        detected.append(f"duplicates: {line}, {other:,} with another label; the pilot sees each once")
    if given.test is not None:
        test, test_codes = _test_rows(given, kinds)
        in_test = of_row.isin(pd.util.hash_pandas_object(test, index=False)).to_numpy()
        if in_test.any():
            line = f"{in_test.sum():,} rows of the data (of {len(frame):,} looked at) have a test row's features"
            given.test.detected.append(f"{line}: nothing is trained on them")
        detected += [f"test: {line}" for line in given.test.detected]
        left_out = left_out | in_test
    if left_out.any():
        at, frame, codes = at[~left_out], frame[~left_out], codes[~left_out]
        _enough(codes, given.table.names, "without duplicates and test rows ")
    detected += features.leaks(frame[kinds.alone], codes)
    if (wide := frame.select_dtypes("number").shape[1]) > features.WIDE:
        detected.append(f"wide: {wide:,} numbers a row, brought to {features.DIRECTIONS} principal directions")
    return Sample(at, frame, kinds, test, test_codes, len(raw), seconds)


class Labelled(NamedTuple):
    """A source's ``rows``: the ``code`` of each one's class, -1 where it has no label, its ``id`` and ``group``; the
    classes' ``names``, and what columns are ``named`` as these.
    """

    rows: pd.DataFrame
    names: NDArray
    named: dict[str, str]


def labelled(source: reading.Source, label: Any, ids: Any, groups: Any) -> Labelled:
    """The rows' labels, ids and groups. Raises UserError, one line, for a column that is none or does no such thing."""
    given = {"label": source.label if label is None else label, "id": ids, "group": groups}
    read = _columns(source, given)
    what = f"label '{label}'" if isinstance(label, str) else "label"
    codes, names = _classes(read["label"], what)
    rows = pd.DataFrame({"code": codes, "id": read.get("id", range(len(codes)))})
    if repeated := int(rows.id.duplicated().sum()):
        source.detected.append(f"id: {repeated:,} rows have another's, and cannot be told from it in what is written")
    if "group" in read:
        rows["group"] = features.words(read["group"], NO_LABEL)
        if gaps := int(rows.group.isna().sum()):
            source.detected.append(f"group: {gaps:,} rows have none, and are one together")
            rows["group"] = rows.group.fillna("missing")
    codes = codes[codes >= 0]
    if len(codes) < len(rows):
        source.detected.append(f"{len(rows) - len(codes):,} rows without a label: left out")
    counts = np.bincount(codes)
    if len(counts) < 2:
        raise UserError(f"{what}: one class, '{names[0]}', and nothing to tell it from; two are needed")
    if len(counts) > max(len(codes) / 10, 2):
        many = f"{len(counts):,} values in {len(codes):,} rows"
        raise UserError(f"{what}: {many}: an id or a quantity, no class")
    _enough(codes, names, "")
    largest = counts.argmax()
    text = f"{len(counts)} classes, the largest '{names[largest]}' ({counts[largest] / len(codes):.1%})"
    source.detected.append(f"{what}: {text}, the smallest {counts.min():,} rows{_alike(names)}")
    named = {what: of for what, of in given.items() if isinstance(of, str) and of != source.key}
    return Labelled(rows, names, named)


def _columns(source: reading.Source, given: dict[str, Any]) -> dict[str, pd.Series]:
    """What is given by the name of a column, or as an array (n,), as values (n,); first of all the label."""
    if given[what := next(iter(given))] is None:
        raise UserError(f"{source.name}: name the {what}'s column{did_you_mean('', source.columns)}")
    named = {what: source.need(of, what) for what, of in given.items() if isinstance(of, str)}
    read = source.take(list(dict.fromkeys(named.values()))) if named else None
    made = {what: read[of] for what, of in named.items()}
    for what, of in given.items():
        if of is not None and what not in named:
            if (of if hasattr(of, "ndim") else label_kinds.dense(of, what)).ndim != 1:  # one column of a matrix will do
                known = label_kinds.classes(of, what)
                of = known.names[known.codes]
            try:
                column = pd.Series(of if hasattr(of, "dtype") else list(of)).reset_index(drop=True)
                made[what] = reading.native(column.to_frame(what))[what]
            except (ValueError, NotImplementedError) as error:  # half a letter; an index of several levels
                raise reading.unreadable(what, error) from None
            if len(of) != (rows := source.count()):
                raise UserError(f"{what}: {len(of):,} for {rows:,} rows; one for each is needed")
    return made


def _classes(column: pd.Series, what: str) -> tuple[NDArray[np.int64], NDArray]:
    """The codes (n,) of a column's classes, -1 where it is missing, and their names as text, in ascending order."""
    column = (column.astype(object) if hasattr(column, "cat") else column).infer_objects()
    if isinstance(column.dtype, pd.StringDtype):
        column = features.words(column, NO_LABEL)
        if column.dropna().str.fullmatch(WHOLE).all():  # 10 comes after 2; 1.0 is 1, beside a missing label too
            column = pd.to_numeric(column)
    if pd.api.types.infer_dtype(column) == "boolean":
        column = column.map(str, na_action="ignore")
    try:
        codes, levels = pd.factorize(column)
    except TypeError:
        raise UserError(f"{what}: lists and the like are no label; use text, numbers, booleans or dates") from None
    if not len(levels):
        raise UserError(f"{what}: every label is missing")
    known = label_kinds.classes(levels, what)
    return np.where(codes < 0, -1, known.codes[codes]), known.names.astype(str)


def _probabilities(given: Any, labels: Labelled, detected: list[str]) -> NDArray:
    """The user's p (n, C). Raises UserError for another shape, and where another order of columns fits better."""
    source, codes, names = _further("pred_probs", given), labels.rows.code.to_numpy(), labels.names
    need, shape = (len(codes), len(names)), (source.count(), len(source.columns))
    if shape != need:
        rule = "a column for each class, in ascending order, and no other"
        raise UserError(f"pred_probs: need {need}, {rule}; got shape {shape}")
    table = source.take(list(names) if {*names} == {*source.columns} else None)  # by name, where they have the classes'
    text = list(table.select_dtypes("str"))  # as all columns of a text table are
    table[text] = table[text].apply(features.numbers, decimal=source.decimal)
    p = label_kinds.shares(table, "pred_probs")
    order = ", ".join([*names[:20], "..."][: len(names)])
    y = codes[codes >= 0]
    hit = metrics.confusion(y, p[codes >= 0].argmax(1), len(names))
    agree, best = np.trace(hit) / len(y), hit[linear_sum_assignment(-hit)].sum() / len(y)
    line = f"pred_probs: columns of {order}: the largest is the label's in {agree:.0%} of rows"
    if best > agree + 0.1:
        raise UserError(f"{line}, and with the columns in another order in {best:.0%}")
    detected.append(line)
    return p


def _enough(codes: NDArray, names: NDArray, when: str) -> None:
    """Refuse a class too small to be trained on, tuned on and tested."""
    counts = np.bincount(codes, minlength=len(names))
    if counts.min() < LEAST_OF_CLASS:
        few = f"class '{names[counts.argmin()]}' has {counts.min()} examples"
        needed = f"{LEAST_OF_CLASS} are needed: merge it, or leave its rows out"
        raise UserError(f"label: {when}{few}; {needed}{_alike(names)}")


def _alike(names: NDArray) -> str:
    """Classes of which a person may have meant one: that differ in case or in blanks alone."""
    plain = pd.Series([" ".join(str(name).lower().split()) for name in names])
    alike = [repr(str(name)) for name in names[plain.duplicated(keep=False)]]
    return f"; classes that differ in case or blanks alone: {', '.join(alike[:6])}" if alike else ""


def _test_rows(given: Examples, kinds: features.Columns) -> tuple[pd.DataFrame, NDArray]:
    """The clean test rows, typed, and their labels in the table's classes."""
    source, table = given.test, given.table
    for feature in kinds.kinds:
        source.need(feature, "feature")
    frame, what, label = source.take(), "test label", given.test_labels
    label = table.named.get("label", source.label) if label is None else label
    codes, names = _classes(_columns(source, {what: label})[what], what)
    at = pd.Index(table.names).get_indexer(names)
    if (at < 0).any():
        unknown = names[at < 0][0]
        raise UserError(f"{what}: class '{unknown}' is not among the data's {len(table.names)} classes")
    if (codes < 0).any():
        source.detected.append(f"{(codes < 0).sum():,} rows without a label: left out")
    typed = kinds.typed(frame[codes >= 0], source)
    if empty := [feature for feature in typed if typed[feature].isna().all()]:
        source.detected.append(f"no value that is the data's kind in {str(empty[:MOST])[1:-1]}")
    return typed, at[codes[codes >= 0]]


def _further(what: str, data: Any, directions: Callable | None = None, **read: str) -> reading.Source:
    """The source of what is given beside X, brought to the ``directions`` of X; its refusal says what it is."""
    try:
        return reading.read(directions(scipy.sparse.csr_matrix(data)) if directions else data, **read)
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
    except (ValueError, TypeError) as error:
        raise reading.unreadable(what, error) from None


def _refuse_other_order(what: str, values: Any, rows: Any) -> None:
    """Pandas' values whose index is that of the rows, in another order, would be taken by position."""
    if not (isinstance(values, pd.Series | pd.DataFrame) and isinstance(rows, pd.Series | pd.DataFrame)):
        return
    # As text, since one file's numbers may be another's text, and their whole numbers have a point beside a gap.
    own, theirs = (list(of.index.map(lambda entry: str(entry).removesuffix(".0"))) for of in (values, rows))
    if own != theirs and sorted(own) == sorted(theirs):
        cure = "pass .loc[X.index] of it, or .to_numpy() if its rows are those of X by position"
        raise UserError(f"{what}: its index is that of X in another order; {cure}")
