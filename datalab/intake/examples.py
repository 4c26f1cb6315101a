"""What belongs to a row, by column or beside it: label, id, group, features, probabilities; and clean test rows."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components

from datalab import labels as label_kinds
from datalab import metrics
from datalab.errors import MOST, UserError, did_you_mean
from datalab.intake import features, reading

LEAST_OF_CLASS = 20
MOST_CLASSES = 1000
LEAST_OF_TEST = 40  # of 5 clean rows the 95 % limits hold in 60 % of the cases, of 10 in 78, of 20 in 90, of 40 in 94
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
            if (labelled := self.codes[block.index] >= 0).any():
                yield kinds.typed(block[labelled])


class Sample(NamedTuple):
    """Rows to train on, none of them a test row: their numbers ``at`` (k,) and their features, typed by ``kinds``;
    ``twins`` (k,), a number for equal features, or None where all differ; ``groups`` (k,), which hold twins whole, or
    None; the ``test`` rows, typed alike, and their classes, or None. ``typed`` rows were so in ``seconds``.
    """

    at: NDArray[np.int64]
    frame: pd.DataFrame
    kinds: features.Columns
    twins: NDArray[np.int64] | None
    groups: NDArray[np.int64] | None
    test: pd.DataFrame | None
    test_codes: NDArray[np.int64] | None
    typed: int
    seconds: float

    def stream(self, given: Examples, encoder: Callable) -> Iterator[tuple[NDArray, NDArray, NDArray]]:
        """Blocks of the labelled rows: their numbers, their features, and the place in the sample of a row with equal
        features or of its group, or -1."""
        places = {"twins": pd.Series(np.arange(len(self.at)), index=features.fingerprints(self.frame))}
        if self.groups is not None:
            places["groups"] = pd.Series(np.arange(len(self.at)), index=given.table.rows.group.iloc[self.at])
        places = {unit: place[~place.index.duplicated()] for unit, place in places.items()}
        for block in given.blocks(self.kinds):
            place = features.fingerprints(block).map(places["twins"])
            if "groups" in places:
                place = place.fillna(given.table.rows.group.loc[block.index].map(places["groups"]))
            yield block.index.to_numpy(), encoder(block), place.fillna(-1).to_numpy(dtype=np.int64)


def gather(
    X: Any,
    y: Any = None,
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
        _refuse_other_order(what, values, X if isinstance(X, pd.Series | pd.DataFrame) else embedded)
    _refuse_other_order("test label", y_test, X_test)
    given = (label if y is None else y, ids, groups, y_test)
    label, ids, groups, y_test = (str(of) if isinstance(of, int | np.integer) else of for of in given)  # a column's
    source = reading.read(X, **read)
    if (
        ids is None
        and isinstance(X, pd.DataFrame)
        and not X.index.equals(pd.RangeIndex(len(X)))
        and X.index.nlevels == 1
    ):
        ids = X.index
        source.detected.append("id: the table's index")
    table = labelled(source, label, source.key if ids is None else ids, groups)
    others = source if embedded is None else _further("features", embedded)
    named = [others.label, *(of for of in table.named.values() if others is source or not of.isdigit())]  # no array's
    columns = [column for column in others.columns if column not in named]
    for what in ("id", "label") if others is not source else ():
        if (column := table.named.get(what)) in others.columns and not column.isdigit():
            ours, theirs = (_names(of.take([column])[column]) for of in (source, others))
            if not ours.equals(theirs):
                raise UserError(f"features: its '{column}' is not that of the data row by row; bring both to one order")
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
    of_row, test, test_codes = features.fingerprints(frame), None, None
    if repeats := int(of_row.duplicated().sum()):
        alike = of_row.duplicated(keep=False).to_numpy()
        sizes = pd.crosstab(of_row.to_numpy()[alike], codes[alike]).to_numpy()
        other = (sizes.sum(1) - sizes.max(1)).sum()
        line = f"{repeats:,} rows repeat another's features (of {len(frame):,} looked at)"
        detected.append(f"duplicates: {line}, {other:,} with another label; such rows are never split apart")
    if given.test is not None:
        test, test_codes = _test_rows(given, kinds, frame)
        in_test = of_row.isin(features.fingerprints(test)).to_numpy()
        if in_test.any():
            line = f"{in_test.sum():,} rows of the data (of {len(frame):,} looked at) have a test row's features"
            given.test.detected.append(f"{line}: nothing is trained on them")
        in_group = _in_groups_of_test(given, at)
        if (in_group & ~in_test).any():
            line = f"{(in_group & ~in_test).sum():,} further rows are of a test row's group"
            given.test.detected.append(f"{line}: nothing is trained on them")
        detected += [f"test: {line}" for line in given.test.detected]
        if (left_out := in_test | in_group).any():
            least = np.bincount(codes).min()  # a pool of many classes has fewer of each
            least = LEAST_OF_CLASS if least >= LEAST_OF_CLASS else -(-least // 2)
            if left_out.all():
                raise UserError("X_test: every row of the data is a test row too; nothing is left to train on")
            at, frame, codes, of_row = (of[~left_out] for of in (at, frame, codes, of_row))
            _enough(codes, given.table.names, "without test rows ", least)
    twins = pd.factorize(of_row)[0] if of_row.duplicated().any() else None
    groups = None if "group" not in given.table.rows else pd.factorize(given.table.rows.group[at], sort=True)[0]
    if groups is not None and twins is not None:  # groups that share a row are one
        edges = scipy.sparse.coo_matrix((np.ones(len(at)), (groups, twins + len(at))), shape=[2 * len(at)] * 2)
        groups = connected_components(edges, directed=False)[1][groups]
    detected += features.leaks(frame[kinds.alone], codes)
    if (wide := frame.select_dtypes("number").shape[1]) > features.WIDE:
        detected.append(f"wide: {wide:,} numbers a row, brought to {features.DIRECTIONS} principal directions")
    return Sample(at, frame, kinds, twins, groups, test, test_codes, len(raw), seconds)


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
    if any(isinstance(name, bytes) for name in rows.id):
        rows["id"] = [name.decode(errors="replace") if isinstance(name, bytes) else name for name in rows.id]
    if repeated := int(rows.id.duplicated().sum()):
        source.detected.append(f"id: {repeated:,} rows have another's, and cannot be told from it in what is written")
    if "group" in read:
        rows["group"] = _names(read["group"])
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
    if len(counts) > MOST_CLASSES:
        raise UserError(f"{what}: {len(counts):,} classes; a pilot can hold {MOST_CLASSES:,}: merge some")
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
            if hasattr(of, "detach"):
                of = of.detach().cpu().numpy()
            try:
                if not hasattr(of, "dtype"):  # whole numbers beside None stay what they are
                    of = pd.Series(list(of), dtype=object if any(value is None for value in of) else None)
                column = pd.Series(of).reset_index(drop=True)
                made[what] = reading.native(column.to_frame(what))[what]
            except (ValueError, NotImplementedError) as error:  # half a letter; an index of several levels
                raise reading.unreadable(what, error) from None
            if len(of) != (rows := source.count()):
                raise UserError(f"{what}: {len(of):,} for {rows:,} rows; one for each is needed")
    return made


def _levels(column: pd.Series) -> pd.Series:
    """A column of labels or groups; whole numbers, written in whichever way, as these: 1.0 is 1, and 2 before 10."""
    column = (column.astype(object) if hasattr(column, "cat") else column).infer_objects()
    if isinstance(column.dtype, pd.StringDtype):
        column = features.words(column, NO_LABEL)
        if column.dropna().str.fullmatch(WHOLE).all():
            column = pd.to_numeric(column)
    whole = column.dtype.kind == "f" and (column.dropna() % 1 == 0).all()
    return column.astype("Int64") if whole else column


def _names(column: pd.Series) -> pd.Series:
    """A column's levels as text, equal for equal ones of another column, whatever type they have there."""
    return _levels(column).astype(object).map(str, na_action="ignore").astype("str")


def _classes(column: pd.Series, what: str) -> tuple[NDArray[np.int64], NDArray]:
    """The codes (n,) of a column's classes, -1 where it is missing, and their names as text, in ascending order."""
    column = _levels(column)
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
    try:  # by name, where they have the classes', as these are written
        own, called = _classes(pd.Series(source.columns), "pred_probs")
    except UserError:
        own, called = np.arange(len(names)), np.array([])
    by_name = np.array(source.columns)[np.argsort(own)] if [*called] == [*names] else source.columns
    table = source.take(list(by_name))
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


def _enough(codes: NDArray, names: NDArray, when: str, least: int = LEAST_OF_CLASS) -> None:
    """Refuse a class too small to be trained on, tuned on and tested."""
    counts = np.bincount(codes, minlength=len(names))
    if counts.min() < least:
        few = f"class '{names[counts.argmin()]}' has {counts.min()} examples"
        needed = f"{least} are needed: merge it, or leave its rows out"
        raise UserError(f"label: {when}{few}; {needed}{_alike(names)}")


def _alike(names: NDArray) -> str:
    """Classes of which a person may have meant one: that differ in case or in blanks alone."""
    plain = pd.Series([" ".join(str(name).lower().split()) for name in names])
    alike = [repr(str(name)) for name in names[plain.duplicated(keep=False)]]
    return f"; classes that differ in case or blanks alone: {', '.join(alike[:6])}" if alike else ""


def _test_rows(given: Examples, kinds: features.Columns, data: pd.DataFrame) -> tuple[pd.DataFrame, NDArray]:
    """The clean test rows, typed as the ``data`` are, and their labels in the table's classes."""
    source, table = given.test, given.table
    for feature in kinds.kinds:
        source.need(feature, "feature")
    if (ours := _array_columns(given.features)) and (theirs := _array_columns(source)) and ours != theirs:
        raise UserError(f"X_test: rows of {theirs} numbers, those of the data have {ours}")
    frame, what, label = source.take(), "test label", given.test_labels
    label = table.named.get("label", source.label) if label is None else label
    codes, names = _classes(_columns(source, {what: label})[what], what)
    at = pd.Index(table.names).get_indexer(names)
    if (at < 0).any():
        unknown = names[at < 0][0]
        raise UserError(f"{what}: class '{unknown}' is not among the data's {len(table.names)} classes")
    labelled = codes >= 0
    if not labelled.all():
        source.detected.append(f"{(~labelled).sum():,} rows without a label: left out")
    if labelled.sum() < LEAST_OF_TEST:
        raise UserError(f"X_test: {labelled.sum()} rows with a label; {LEAST_OF_TEST} are needed for limits that hold")
    typed = kinds.typed(frame[labelled], source)
    if [*typed] != [*data]:
        raise UserError("X_test: its vectors or pictures are of another length than the data's")
    if empty := [feature for feature in typed if typed[feature].isna().all()]:
        source.detected.append(f"no value that is the data's kind in {str(empty[:MOST])[1:-1]}")
    for name in typed.select_dtypes("category"):
        if (strange := 1 - typed[name].isin(data[name].cat.categories).mean()) > 0.1:
            source.detected.append(f"{strange:.0%} of '{name}' are levels that the data do not have")
    return typed, at[codes[labelled]]


def _array_columns(source: reading.Source) -> int:
    """How many features an array has, or a table without names; 0 for one with names."""
    numbered = [name for name in source.columns if name.isdigit()]
    return len(numbered) if numbered == [str(i) for i in range(len(numbered))] else 0


def _in_groups_of_test(given: Examples, at: NDArray) -> NDArray[np.bool_]:
    """Which of the rows ``at`` are of a group that test rows are of, where both have its column."""
    column = given.table.named.get("group")
    if column not in given.test.columns:
        return np.zeros(len(at), dtype=bool)
    return given.table.rows.group.iloc[at].isin(_names(given.test.take([column])[column]).dropna()).to_numpy()


def _further(what: str, data: Any, directions: Callable | None = None, **read: str) -> reading.Source:
    """The source of what is given beside X, brought to the ``directions`` of X; its refusal says what it is."""
    try:
        return reading.read(directions(scipy.sparse.csr_matrix(data)) if directions else data, **read)
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
    except (ValueError, TypeError) as error:
        raise reading.unreadable(what, error) from None


def _refuse_other_order(what: str, values: Any, rows: Any) -> None:
    """Pandas' values whose index is that of the rows in another order, or in part, would be taken by position."""
    if not (isinstance(values, pd.Series | pd.DataFrame) and isinstance(rows, pd.Series | pd.DataFrame)):
        return
    # As text, since one file's numbers may be another's text, and their whole numbers have a point beside a gap.
    own, theirs = (list(of.index.map(lambda entry: str(entry).removesuffix(".0"))) for of in (values, rows))
    if own != theirs and len(own) == len(theirs) and not set(own).isdisjoint(theirs):
        how = "that of X in another order" if sorted(own) == sorted(theirs) else "in part that of X"
        cure = "pass .loc[X.index] of it, or .to_numpy() if its rows are those of X by position"
        raise UserError(f"{what}: its index is {how}; {cure}")
