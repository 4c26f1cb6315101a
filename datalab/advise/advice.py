"""The whole way from a file to an :class:`Advice`: read, pilot, conclude, score every row."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datalab import labels as label_kinds
from datalab import pruning, seeds
from datalab.advise import features, pilot, reading, scoring, verdict
from datalab.data.splits import allot
from datalab.errors import UserError

LEAST_OF_CLASS = 20
POOL = 10_000  # rows of a larger file that the pilot and the final models see
SCORING = 2.5e-6  # of a split's time: what scoring a row takes
SHOWN = 50  # the most suspicious rows on the page


@dataclass(frozen=True, eq=False)
class Advice:
    """The answer; ``str()`` gives its five lines, ``facts`` is what ``advice.json`` holds.

    All of ``facts`` but ``seconds`` follows from the data, the seed and the number of splits. ``kept`` has a row for
    each kept row: id and the label to train on. ``flagged`` has one for each row whose label looks wrong, the most
    suspicious first: id, given label, suggested label, score (how much more probable the suggested one is), agreement
    (share of repeats that count the label as wrong), reason. ``by_class`` and ``by_group`` have rows, share flagged and
    dropped, and mean loss; ``rows`` are the pilot's; ``shown`` the first flagged rows as they were read.
    """

    verdict: verdict.Verdict
    lines: list[str]
    facts: dict[str, Any]
    kept: pd.DataFrame
    flagged: pd.DataFrame
    by_class: pd.DataFrame
    by_group: pd.DataFrame | None
    rows: pd.DataFrame
    shown: pd.DataFrame
    source: reading.Source

    def __str__(self) -> str:
        return "\n".join(self.lines)


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
) -> Advice:
    """Should these data be pruned, relabelled or kept? Measured on themselves, within ``minutes``.

    Parameters
    ----------
    X
        A path (CSV, TSV, Parquet, .npz, .npy, a folder of images by class), a data frame, an array (n, ...), a sparse
        matrix, texts, or a data set with the label in it.
    y
        Labels (n,) of any type (:mod:`datalab.labels`), or None where column ``label`` of X holds them.
    ids, groups
        (n,) each, or a column's name: what names a row in the answer; rows of a group are never split apart.
    X_test, y_test
        Clean rows with labels that judge the arms, in place of noisy held-out ones.
    embedded
        Features (n, d) in place of X's columns; ``pred_probs`` (n, C): out-of-sample probabilities, classes in sorted
        order, for confident learning in place of the pilot's own.
    minutes, splits
        The budget; or a fixed number of splits, which makes the answer a function of data and seed alone.
    pretrained
        Embed texts by MiniLM and pictures by EfficientNet-Lite0 (weights on disk) rather than TF-IDF and pixels.
    read
        ``delimiter``, ``decimal`` and ``encoding`` of a text table, where they are not to be detected.
    say
        Is called with a line for what was detected and for the minutes announced.

    Raises UserError, one line, for what cannot be advised on. Ctrl-C after two splits gives the answer so far.
    """
    began = time.perf_counter()
    _check(minutes, splits, seed)
    source = reading.read(X, **(read or {}))
    table = _labelled(source, label if y is None else y, ids, groups)
    others = source if embedded is None else reading.read(embedded)
    left_out = {others.label} | (set(table.columns.values()) if others is source else set())
    names, chosen = [name for name in others.columns if name not in left_out], _pool_rows(table.codes, seed)
    raw = table.take(others, names, chosen)
    columns = features.Columns(raw, others, pretrained)
    typing = time.perf_counter()
    frame, codes = columns.typed(raw), table.codes[chosen]
    typing = time.perf_counter() - typing
    detected = [*source.detected, *columns.detected, *table.detected]
    doubled = frame.duplicated().to_numpy()
    if doubled.any():
        detected.append(f"duplicates: {doubled.sum():,} rows repeat another's features; the pilot sees each once")
        chosen, frame, codes = chosen[~doubled], frame[~doubled].reset_index(drop=True), codes[~doubled]
        _enough(codes, table.names, "without duplicates ")
    detected += [f"leak? {line}" for line in features.leaks(frame, codes)]
    sampled = len(raw) < len(table.codes)
    if sampled:
        detected.append(f"the pilot sees {len(chosen):,} of {len(table.codes):,} rows, drawn by class; all are scored")
    own = None if pred_probs is None else _own(pred_probs, table)
    clean, clean_codes = (None, None) if X_test is None else _clean(X_test, y_test, table, columns, read)
    for line in detected:
        say(line)

    def encode(train: NDArray) -> Callable[[NDArray | None], NDArray]:
        fitted = features.fit(frame.iloc[train])
        return lambda at: fitted(clean if at is None else frame.iloc[at])

    grouped = None if table.groups is None else table.groups[chosen]
    pool = pilot.Pool(codes, len(table.names), grouped, encode, clean_codes, None if own is None else own[chosen])
    fitted, encoding = features.fit(frame), time.perf_counter()
    x = fitted(frame)
    encoding, over = time.perf_counter() - encoding, time.perf_counter() - began

    def after(pace: float) -> float:
        """Seconds: the file read once or twice more, every row typed and encoded; final models, every row scored."""
        streamed = len(table.codes) / len(raw) if sampled else 0
        return 3 + over + streamed * (typing + encoding) + pace * (0.6 + SCORING * len(table.codes))

    def announce(plan: pilot.Plan) -> None:
        say(f"about {plan.seconds / 60:.1f} minutes: {plan.splits} splits of {plan.pace:.1f} s, then every row")

    split_rows, plan, stopped = pilot.run(pool, seed, minutes, splits, over, after, announce)
    rows = pd.DataFrame(split_rows)
    v = verdict.conclude(rows, seed)
    steps = int(rows[rows.kind == "noise"].steps.mode()[0])
    blocks = _encoded(table, others, names, columns, fitted) if sampled or doubled.any() else [(chosen, x)]
    method = v.arm[0] if v.arm[0] in pilot.SCORES else ""
    scored = scoring.score((x, chosen), blocks, table.codes, len(table.names), steps, method, own, seed)
    facts = {"n": len(table.codes), "classes": len(table.names), "splits": int(rows.split.nunique()), "seed": seed}
    facts |= {"planned": plan.splits, "stopped": stopped, "clean": clean is not None, "detected": detected}
    advice = _advice(table, source, v, rows, scored, facts)
    advice.facts["seconds"] = round(time.perf_counter() - began, 1)
    return advice


def _advice(
    table: "_Labelled",
    source: reading.Source,
    v: verdict.Verdict,
    rows: pd.DataFrame,
    scored: scoring.Scored,
    facts: dict[str, Any],
) -> Advice:
    names, codes = table.names, table.codes
    wrong = scored.wrong(codes)
    kept, labels = np.ones(len(codes), dtype=bool), codes
    if v.arm[0] in pilot.SCORES:
        rate = min(v.noise["estimate"], 0.5) if v.arm[1] == pilot.ESTIMATED else float(v.arm[1][:-1]) / 100
        kept = pruning.keep(scored.drop, codes, 1 - rate)
    elif v.arm[0] == pilot.RELABEL:
        labels = np.where(wrong, scored.suggested, codes)
    score = scored.probability - scored.given
    order = np.flatnonzero(wrong)
    order = order[np.argsort(-score[order], kind="stable")]
    flagged = pd.DataFrame({"id": table.ids.iloc[order].array, "given label": names[codes[order]]})
    flagged["suggested label"] = names[scored.suggested[order]]
    flagged["score"], flagged["agreement"] = np.round(score[order], 4), np.round(scored.agreement[order], 2)
    probability = pd.DataFrame({"s": scored.probability[order], "g": scored.given[order]}).round(2).astype(str)
    said = "models that did not see it give '" + flagged["suggested label"] + "' " + probability.s
    flagged["reason"] = said + ", its label " + probability.g

    def by(what: NDArray, words: NDArray) -> pd.DataFrame:
        loss = -np.log(np.maximum(scored.given, 1e-12))
        part = pd.DataFrame({"of": what, "flagged": wrong, "dropped": ~kept, "loss": loss}).groupby("of")
        return part.mean().assign(rows=part.size()).rename(index=dict(enumerate(words))).reset_index()

    by_class = by(codes, names)
    by_group = None if table.groups is None else by(table.groups, table.group_names)
    facts = facts | {"flagged": len(order), "dropped": int((~kept).sum())}
    facts |= {"advice": v.answer if v.answer != verdict.ACT else verdict.name(*v.arm), "arm": verdict.name(*v.arm)}
    over = {
        "keeping_all": v.best[["gain", "low", "high"]],
        "random": v.best[["over random", "random low", "random high"]],
    }
    facts |= {"best_arm_tried": v.best.arm, "p": v.best.p}
    facts |= {f"gain_over_{base}": dict(zip(("estimate", "low", "high"), of, strict=True)) for base, of in over.items()}
    facts |= {"interval": "95 %, simultaneous over all arms, corrected resampled t", "noise_rate": v.noise}
    facts |= {"metric": "macro-F1", "gains": v.gains.drop(columns="method").to_dict("records")}
    packages = ("datalab-reproduction", "torch", "numpy", "scikit-learn")
    facts |= {"versions": {name: version(name) for name in packages}}
    facts["lines"] = verdict.lines(v, facts, _hit(v, rows, by_class, by_group))
    kept_labels = pd.Categorical.from_codes(labels[kept], names)
    kept_rows = pd.DataFrame({"id": table.ids[kept].array, "label": kept_labels})
    shown = table.take(source, source.columns, np.sort(order[:SHOWN])).iloc[np.argsort(np.argsort(order[:SHOWN]))]
    return Advice(v, facts["lines"], facts, kept_rows, flagged, by_class, by_group, rows, shown, source)


def _hit(v: verdict.Verdict, rows: pd.DataFrame, by_class: pd.DataFrame, by_group: pd.DataFrame | None) -> str:
    what, parts = "dropped" if by_class.dropped.any() else "flagged", []
    for kind, table in (("class", by_class), ("group", by_group)):
        if table is not None:
            most, least = table.loc[table[what].idxmax()], table.loc[table[what].idxmin()]
            parts.append(f"{kind} '{most.of}' most ({100 * most[what]:.0f} % of {most.rows:,}), '{least.of}' least ")
            parts[-1] += f"({100 * least[what]:.0f} % of {least.rows:,})"
    text = f"Who is {what}: {'; '.join(parts)}."
    if v.answer == verdict.ACT:
        arms = rows[rows.kind == "arm"].set_index(["method", "amount"]).class_f1
        mean = {arm: np.mean(arms.loc[[arm]].tolist(), axis=0) for arm in (v.arm, (pilot.KEEP_ALL, ""))}
        change = mean[v.arm] - mean[(pilot.KEEP_ALL, "")]
        worst = int(np.argmin(change))
        if change[worst] < -0.005:
            text += f" Class '{by_class.of[worst]}' loses {-change[worst]:.3f} F1 by it."
    return text


class _Labelled(NamedTuple):
    """Of a source's ``n`` rows those that have a label: numbers, classes, ids, groups; and the ``columns`` of these."""

    n: int
    rows: NDArray[np.int64]
    codes: NDArray[np.int64]
    names: NDArray
    ids: pd.Series
    groups: NDArray[np.int64] | None
    group_names: NDArray | None
    columns: dict[str, str]
    detected: list[str]

    def take(self, source: reading.Source, names: list[str], at: NDArray) -> pd.DataFrame:
        """Some of the labelled rows of a source, by number, ascending."""
        wanted, start, parts = self.rows[at], 0, []
        for block in source.blocks(names):
            parts.append(block.iloc[wanted[(wanted >= start) & (wanted < start + len(block))] - start])
            start += len(block)
        if start != self.n:
            raise UserError(f"{source.name}: has {start:,} rows for {self.n:,} labels; one row an example is needed")
        return pd.concat(parts, ignore_index=True)


def _labelled(source: reading.Source, label: Any, ids: Any, groups: Any) -> _Labelled:
    given = {"label": source.label if label is None else label, "id": ids, "group": groups}
    if given["label"] is None:
        raise UserError(f"{source.name}: name the label's column; it has {', '.join(source.columns[:12])}, ...")
    columns = {what: _column(source, what, of) for what, of in given.items() if of is not None}
    read = source.whole(list(dict.fromkeys(columns.values())))
    what = f"label '{label}'" if isinstance(label, str) else "label"
    codes, names = _classes(read[columns["label"]], what)
    rows = np.flatnonzero(codes >= 0)
    detected = [f"{len(read) - len(rows):,} rows without a label: left out"] if len(rows) < len(read) else []
    codes, counts = codes[rows], np.bincount(codes[rows])
    if len(counts) < 2:
        raise UserError(f"{what}: one class, '{names[0]}', and nothing to tell it from; two are needed")
    if len(counts) > max(len(codes) / 10, 2):
        many = f"{len(counts):,} values in {len(codes):,} rows"
        raise UserError(f"{what}: {many}: an id or a quantity, no class")
    _enough(codes, names, "")
    largest = counts.argmax()
    text = f"{len(counts)} classes, the largest '{names[largest]}' ({counts[largest] / len(codes):.0%})"
    detected.append(f"{what}: {text}, the smallest {counts.min():,} rows")
    grouped, group_names = None, None
    if "group" in columns:
        grouped, group_names = _classes(read[columns["group"]].iloc[rows].astype(str), "group")
    own = read[columns["id"]].iloc[rows] if "id" in columns else pd.Series(rows)
    return _Labelled(len(read), rows, codes, names, own, grouped, group_names, columns, detected)


def _column(source: reading.Source, what: str, given: Any) -> str:
    """The column that holds what is given: the one so named, or a new one that holds the array (n,)."""
    if isinstance(given, str):
        return source.need(given, what)
    if np.ma.isMaskedArray(given):
        given = np.where(np.ma.getmaskarray(given), None, given.data)
    if np.ndim(given) != 1:  # one column of a matrix will do; anything else is refused there
        given = label_kinds.plain(given, what)
    values = pd.Series(given if hasattr(given, "dtype") else list(given), dtype=None).reset_index(drop=True)
    frame = source.data if isinstance(source.data, pd.DataFrame) else source.whole()
    if len(values) != len(frame):
        raise UserError(f"{what}: {len(values):,} for {len(frame):,} rows; one for each is needed")
    source.data, name = frame.assign(**{f"({what})": values}), f"({what})"
    source.columns.append(name)
    return name


def _classes(column: pd.Series, what: str) -> tuple[NDArray[np.int64], NDArray]:
    """The codes (n,) of a column's classes, -1 where it is missing, and their names as text."""
    if isinstance(column.dtype, pd.StringDtype):
        column = features.words(column, ("", "nan", "<na>"))
    try:
        codes, levels = pd.factorize(column)
    except TypeError:  # lists and the like
        codes, levels = np.arange(len(column)), column
    if not len(levels):
        raise UserError(f"{what}: every label is missing")
    known = label_kinds.classes(np.asarray(levels), what)
    return np.where(codes < 0, -1, known.codes[codes]), known.names.astype(str)


def _enough(codes: NDArray, names: NDArray, when: str) -> None:
    """Refuse a class too small to be trained on, tuned on and tested."""
    counts = np.bincount(codes, minlength=len(names))
    if counts.min() < LEAST_OF_CLASS:
        few = f"class '{names[counts.argmin()]}' has {counts.min()} examples"
        raise UserError(f"label: {when}{few}; {LEAST_OF_CLASS} are needed: merge it, or leave its rows out")


def _pool_rows(codes: NDArray, seed: int) -> NDArray[np.int64]:
    """The rows the pilot sees: all, or ``POOL`` drawn by class, a small class whole as far as it counts."""
    if len(codes) <= POOL:
        return np.arange(len(codes))
    counts, rng = allot(np.bincount(codes), POOL, 4 * LEAST_OF_CLASS), seeds.generator(seed, "advise", "pool")
    drawn = [rng.permutation(np.flatnonzero(codes == c))[:count] for c, count in enumerate(counts)]
    return np.sort(np.concatenate(drawn))


def _encoded(
    table: _Labelled, source: reading.Source, names: list[str], columns: features.Columns, fitted: features.Encode
) -> Iterator[tuple[NDArray, NDArray]]:
    """Numbers and features of all labelled rows, block by block."""
    start, number = 0, np.full(table.n, -1)
    number[table.rows] = np.arange(len(table.rows))
    for block in source.blocks(names):
        at = number[start : start + len(block)]
        start += len(block)
        if (at >= 0).any():
            yield at[at >= 0], fitted(columns.typed(block[at >= 0]))


def _own(given: Any, table: _Labelled) -> NDArray:
    p = label_kinds.shares(reading.read(given).whole().to_numpy(), "pred_probs")
    if p.shape != (table.n, len(table.names)):
        need = f"({table.n}, {len(table.names)}), classes in sorted order"
        raise UserError(f"pred_probs: need {need}, got shape {p.shape}")
    return p[table.rows]


def _clean(
    X: Any, y: Any, table: _Labelled, columns: features.Columns, read: dict | None
) -> tuple[pd.DataFrame, NDArray]:
    """The clean test rows, typed, and their labels in the table's classes."""
    source = reading.read(X, **(read or {}))
    for name in columns.kinds:
        source.need(name, "feature")
    label = _column(source, "test label", table.columns["label"] if y is None else y)
    frame = source.whole()
    codes, names = _classes(frame[label], "test label")
    at = pd.Index(table.names).get_indexer(names)
    if (at < 0).any():
        unknown = names[at < 0][0]
        raise UserError(f"test label: class '{unknown}' is not among the data's {len(table.names)} classes")
    return columns.typed(frame[codes >= 0]).reset_index(drop=True), at[codes[codes >= 0]]


def _check(minutes: float, splits: int | None, seed: int) -> None:
    if not 0 < minutes < 10_000:
        raise UserError(f"minutes: {minutes} will not do; give a number above 0, such as 10")
    if splits is not None and not (isinstance(splits, int) and 2 <= splits <= 200):
        raise UserError(f"splits: {splits} will not do; give 2 to 200 (20 are enough)")
    if not (isinstance(seed, int) and 0 <= seed < 2**32):
        raise UserError(f"seed: {seed} will not do; give a whole number from 0")
