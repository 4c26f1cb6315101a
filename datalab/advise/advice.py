"""The whole way from a file to an :class:`Advice`: read, pilot, conclude, score every row."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from datalab import labels as label_kinds
from datalab import metrics, pruning, seeds
from datalab.advise import features, pilot, reading
from datalab.advise.verdict import ACT, Verdict, conclude, lines, name
from datalab.data.splits import allot
from datalab.errors import MOST, UserError, did_you_mean
from datalab.influence.settings import number
from datalab.record.folder import printable

LEAST_OF_CLASS = 20
NO_LABEL = ("", "nan", "<na>")  # words that stand for a missing label or group
WHOLE = r"[-+]?(?:0|[1-9]\d{0,14})(?:\.0+)?"
POOL = 10_000  # rows of a larger file that the pilot and the final models see
SCORING = 2.5e-6  # of a split's time: what scoring a row takes
SHOWN = 50  # the most suspicious rows on the page


@dataclass(frozen=True, eq=False)
class Advice:
    """The answer; ``str()`` gives its five lines, ``facts`` is what ``advice.json`` holds.

    All of ``facts`` but ``seconds`` follows from the data, the seed and the number of splits. ``kept`` has a row for
    each kept row: id and the label to train on. ``flagged`` has one for each row whose label looks wrong, the most
    suspicious first: id, given label, suggested label, score (how much more probable the suggested one is), agreement
    (share of repeats that count the label as wrong), reason. ``hit`` has one for each class and group (``kind``,
    ``of``): the share flagged and dropped, mean loss, how many; ``rows`` are the pilot's; ``shown`` the first flagged
    rows as they were read.
    """

    verdict: Verdict
    facts: dict[str, Any]
    kept: pd.DataFrame
    flagged: pd.DataFrame
    hit: pd.DataFrame
    rows: pd.DataFrame
    shown: pd.DataFrame
    source: reading.Source

    def __str__(self) -> str:
        return "\n".join(self.facts["lines"])


def advise(
    X: Any,
    y: Any = None,
    *,
    label: str | None = None,
    ids: Any = None,
    groups: Any = None,
    X_test: Any = None,
    y_test: Any = None,
    embedded: Any = None,
    pred_probs: Any = None,
    minutes: float = 10,
    splits: int | None = None,
    seed: int = 2024,
    pretrained: bool = False,
    read: dict[str, str | None] | None = None,
    say: Callable[[str], None] = lambda line: None,
    began: float | None = None,
) -> Advice:
    """Should these data be pruned, relabelled or kept? Measured on themselves, within ``minutes``.

    ``X`` is a path (CSV, TSV, Parquet, .npz, .npy, a folder of images by class), a data frame, an array (n, ...), a
    sparse matrix, texts, or a data set with the label in it; ``y`` are labels (n,) of any type
    (:mod:`datalab.labels`), where column ``label`` of X does not hold them. ``ids`` and ``groups``, (n,) or a column's
    name: what names a row in the answer, and rows that are never split apart. ``X_test``, ``y_test``: rows with clean
    labels that judge the arms, in place of noisy held-out ones. ``embedded``: features (n, d) in place of X's columns.
    ``pred_probs`` (n, C): out-of-sample probabilities, in the classes' order, for confident learning in place of the
    pilot's own. With a fixed number of ``splits`` the answer is a function of data and ``seed`` alone. ``pretrained``:
    texts by MiniLM, pictures by EfficientNet-Lite0 (weights on disk), not by TF-IDF and pixels. ``read``:
    ``delimiter``, ``decimal`` and ``encoding`` of a text table, X or X_test, that are not to be detected. ``say`` is
    called with a line for whatever was detected, and for the minutes announced; these count from ``began`` by
    ``time.perf_counter``, or from now.

    Raises UserError, one line, for what cannot be advised on. Ctrl-C after two splits gives the answer so far.
    """
    started = time.perf_counter()
    began = started if began is None else began
    minutes = number("minutes", minutes, "above 0 and below 10,000, such as 10", lambda given: 0 < given < 10_000)
    seed = int(number("seed", seed, "a whole number from 0, below 2**32", lambda of: of % 1 == 0 and 0 <= of < 2**32))
    if splits is not None:
        splits = int(number("splits", splits, "2 to 200 (20 are enough)", range(2, 201).__contains__))
    if not isinstance(read, dict | None) or any(not isinstance(of, str | None) for of in (read or {}).values()):
        raise UserError(f"read: must be a dict of text such as {{'delimiter': ';'}}, got {str(read)[:80]!r}")
    read = {option: of for option, of in (read or {}).items() if of is not None}
    if unknown := sorted({*read} - {"delimiter", "decimal", "encoding"}):
        raise UserError(f"read: unknown '{unknown[0]}'; delimiter, decimal and encoding can be given")
    if read and not any(map(reading.is_text_table, (X, X_test))):
        tables = f"of text tables alone ({', '.join(reading.TEXT)})"
        raise UserError(f"{', '.join(read)}: {tables}, and neither the data nor the test rows are one; leave it out")
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
    codes, classes, detected = table.rows.code.to_numpy(), len(table.names), source.detected
    n, chosen = int((codes >= 0).sum()), _pool_rows(codes, seed)
    others = source if embedded is None else _further("features", embedded)
    named = [others.label, *(of for of in table.named.values() if others is source or not of.isdigit())]  # no array's
    columns = [column for column in others.columns if column not in named]
    raw = others.take(columns, chosen)
    if (rows := others.count()) != len(codes):
        raise UserError(f"{others.name}: has {rows:,} rows for {len(codes):,} labels; one row an example is needed")
    kinds, preparing = features.Columns(raw, others, pretrained), -time.perf_counter()
    frame = kinds.typed(raw)
    preparing += time.perf_counter()
    detected += kinds.detected
    of_row, clean, clean_codes = pd.util.hash_pandas_object(frame, index=False), None, None
    left_out = of_row.duplicated().to_numpy()
    if left_out.any():
        other = (pd.Series(codes[chosen]).groupby(of_row.to_numpy()).transform("first") != codes[chosen]).sum()
        line = f"{left_out.sum():,} rows repeat another's features (of {len(frame):,} looked at)"
        detected.append(f"duplicates: {line}, {other:,} with another label; the pilot sees each once")
    if X_test is not None:
        test = _further("X_test", X_test, others.directions, **read)
        clean, clean_codes = _clean(test, y_test, table, kinds)
        in_test = of_row.isin(pd.util.hash_pandas_object(clean, index=False)).to_numpy()
        if in_test.any():
            line = f"{in_test.sum():,} rows of the data (of {len(frame):,} looked at) have a test row's features"
            test.detected.append(f"{line}: nothing is trained on them")
        detected += [f"test: {line}" for line in test.detected]
        left_out = left_out | in_test
    if left_out.any():
        chosen, frame = chosen[~left_out], frame[~left_out]
        _enough(codes[chosen], table.names, "without duplicates and test rows ")
    fitted, preparing = features.fit(frame), preparing - time.perf_counter()
    x = fitted(frame)
    preparing += time.perf_counter()
    detected += features.leaks(frame[kinds.alone], codes[chosen])
    if classes > pilot.INFLUENCE_CLASSES:
        detected.append(f"influence is not tried with more than {pilot.INFLUENCE_CLASSES} classes")
    if (wide := frame.select_dtypes("number").shape[1]) > features.WIDE:
        detected.append(f"wide: {wide:,} numbers a row, brought to {features.DIRECTIONS} principal directions")
    if len(raw) < n:
        detected.append(f"the pilot sees {len(chosen):,} of {n:,} rows, drawn by class; all are scored")
    own = None if pred_probs is None else _probabilities(pred_probs, codes, table.names, detected)
    detected[:] = map(printable, detected)  # whatever a column or a class is called
    for line in detected:
        say(line)

    def encode(train: NDArray) -> Callable[[NDArray | None], NDArray]:
        fitted = features.fit(frame.iloc[train])
        return lambda at: fitted(clean if at is None else frame.iloc[at])

    def streamed() -> Iterator[tuple[NDArray, NDArray]]:
        for block in others.blocks(columns):
            block = block[codes[block.index] >= 0]
            yield block.index.to_numpy(), fitted(kinds.typed(block))

    over = time.perf_counter() - started

    def after(pace: float) -> float:
        """Seconds: the file read once or twice more, every row prepared; final models, every row scored."""
        return 3 + over + (preparing * n / len(raw) if len(chosen) < n else 0) + pace * (0.6 + SCORING * n)

    grouped = pd.factorize(table.rows.group[chosen], sort=True)[0] if "group" in table.rows else None
    pool = pilot.Pool(codes[chosen], classes, grouped, encode, clean_codes, None if own is None else own[chosen])
    rows, planned, stopped = pilot.run(pool, seed, minutes, splits, began, after, say)
    v, steps = conclude(rows, seed), int(rows[rows.kind == "noise"].steps.mode()[0])
    blocks = [(chosen, x)] if len(chosen) == n else streamed()
    scored = pilot.score(pilot.Trainer(x, classes, (steps,)), chosen, blocks, codes, v.arm[0], own, seed)
    facts = {"n": n, "classes": classes, "splits": int(rows.split.nunique()), "seed": seed, "planned": planned}
    facts |= {"stopped": stopped, "clean": clean is not None, "detected": detected}
    advice = _advice(table, source, v, rows, scored.join(table.rows), facts)
    advice.facts["seconds"] = round(time.perf_counter() - began, 1)
    return advice


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


def _advice(
    table: "Labelled", source: reading.Source, v: Verdict, rows: pd.DataFrame, scored: pd.DataFrame, facts: dict
) -> Advice:
    names, labels = table.names, scored.suggested.where(scored.wrong & (v.arm[0] == pilot.RELABEL), scored.code)
    scored = scored.assign(flagged=scored.wrong, dropped=False, loss=-np.log(np.maximum(scored.given, 1e-12)))
    scored["score"] = scored.probability - scored.given  # here: given to an empty frame, a column brings its rows along
    if v.arm[0] in pilot.SCORES:
        share = pilot.drop_share(v.arm[1], v.noise["estimate"])
        scored["dropped"] = ~pruning.keep(scored["drop"], scored.code, 1 - share)
    kept = pd.DataFrame({"id": scored.id, "label": pd.Categorical.from_codes(labels, names)})[~scored.dropped]
    flagged = scored[scored.wrong].sort_values("score", ascending=False, kind="stable")
    suggested, shares = names[flagged.suggested], flagged[["probability", "given"]].round(2).astype(str)
    said = "models that did not see it give '" + suggested + "' " + shares.probability + ", its label " + shares.given
    listed = pd.DataFrame({"id": flagged.id, "given label": names[flagged.code], "suggested label": suggested})
    listed = listed.assign(score=flagged.score.round(4), agreement=flagged.agreement.round(2), reason=said)
    scored["class"], parts = pd.Categorical.from_codes(scored.code, names), []
    for kind in ("class", "group")[: 1 + ("group" in scored)]:
        part = scored.groupby(kind, observed=True)[["flagged", "dropped", "loss"]]
        part = part.mean().assign(rows=part.size(), kind=kind).rename_axis("of").reset_index()
        parts.append(part[part.rows >= LEAST_OF_CLASS])  # a share of fewer rows says little
    hit = pd.concat(parts, ignore_index=True).astype({"of": str})
    facts |= {"flagged": len(flagged), "dropped": int(scored.dropped.sum())}
    facts |= {"advice": v.answer if v.answer != ACT else name(*v.arm), "arm": name(*v.arm)}
    facts |= {"best_arm_tried": v.best.arm, "p": v.best.p}
    over = {"keeping_all": ["gain", "low", "high"], "random": ["over random", "random low", "random high"]}
    for base, columns in over.items():
        facts[f"gain_over_{base}"] = dict(zip(("estimate", "low", "high"), v.best[columns], strict=True))
    facts |= {"interval": "95 %, simultaneous over all arms, corrected resampled t", "noise_rate": v.noise}
    facts |= {"metric": "macro-F1", "keeping_all": v.kept, "gains": v.gains.drop(columns="method").to_dict("records")}
    facts["versions"] = {name: version(name) for name in ("datalab-reproduction", "torch", "numpy", "scikit-learn")}
    facts["lines"] = [printable(line) for line in lines(v, facts, _hit(v, rows, hit))]
    first = flagged.index[:SHOWN]
    shown = source.take(source.columns, first).loc[first]
    return Advice(v, facts, kept, listed.reset_index(drop=True), hit, rows, shown, source)


def _hit(v: Verdict, rows: pd.DataFrame, hit: pd.DataFrame) -> str:
    what, texts = "dropped" if hit.dropped.any() else "flagged", []
    if not hit[what].any():
        return "No label looks wrong."
    for kind, part in hit.groupby("kind"):
        ends = zip(("most", "least"), part.loc[[part[what].idxmax(), part[what].idxmin()]].itertuples(), strict=True)
        shares = [f"'{at.of}' {end} ({100 * getattr(at, what):.0f} % of {at.rows:,})" for end, at in ends]
        texts.append(f"{kind} {', '.join(shares)}")
    text = f"Who is {what}: {'; '.join(texts)}."
    if never := [f"'{of}'" for of in hit.of[(hit.kind == "class") & (hit.flagged == 1)]]:
        text += f" All rows of class {', '.join(never)} are flagged: the models predict it for none of them."
    if v.answer == ACT:
        arms = rows[rows.kind == "arm"].groupby(["method", "amount"]).class_f1.agg(lambda f1: np.mean([*f1], axis=0))
        change = arms[v.arm] - arms[pilot.KEEP_ALL, ""]
        if change.min() < -0.005:
            text += f" Class '{hit.of[change.argmin()]}' loses {-change.min():.3f} F1 by it."
    return text


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


def _probabilities(given: Any, codes: NDArray, names: NDArray, detected: list[str]) -> NDArray:
    """The user's p (n, C). Raises UserError for another shape, and where another order of columns fits better."""
    source = _further("pred_probs", given)
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


def _pool_rows(codes: NDArray, seed: int) -> NDArray[np.int64]:
    """The rows the pilot sees: all, or ``POOL`` drawn by class, a small class whole as far as it counts."""
    labelled, rng = np.flatnonzero(codes >= 0), seeds.generator(seed, "advise", "pool")
    if len(labelled) <= POOL:
        return labelled
    sizes = np.bincount(codes[labelled])
    counts = allot(sizes, POOL, min(4 * LEAST_OF_CLASS, POOL // len(sizes)))
    drawn = [rng.permutation(np.flatnonzero(codes == c))[:count] for c, count in enumerate(counts)]
    return np.sort(np.concatenate(drawn))


def _clean(source: reading.Source, y: Any, table: Labelled, kinds: features.Columns) -> tuple[pd.DataFrame, NDArray]:
    """The clean test rows, typed, and their labels in the table's classes."""
    for feature in kinds.kinds:
        source.need(feature, "feature")
    frame = source.take()
    what, label = "test label", table.named.get("label", source.label) if y is None else y
    codes, names = _classes(_columns(source, {what: label})[what], what)
    at = pd.Index(table.names).get_indexer(names)
    if (at < 0).any():
        unknown = names[at < 0][0]
        raise UserError(f"test label: class '{unknown}' is not among the data's {len(table.names)} classes")
    if (codes < 0).any():
        source.detected.append(f"{(codes < 0).sum():,} rows without a label: left out")
    typed = kinds.typed(frame[codes >= 0], source)
    if empty := [feature for feature in typed if typed[feature].isna().all()]:
        source.detected.append(f"no value that is the data's kind in {str(empty[:MOST])[1:-1]}")
    return typed, at[codes[codes >= 0]]
