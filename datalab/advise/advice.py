"""The whole way from a file to an :class:`Advice`: read, pilot, conclude, score every row."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
SHOWN = 50  # the most suspicious rows on the page


@dataclass(frozen=True, eq=False)
class Advice:
    """The answer; ``str()`` gives its five lines, :meth:`as_dict` what ``advice.json`` holds.

    ``kept`` has a row for each kept row: id and the label to train on. ``flagged`` has one for each row whose label
    looks wrong, the most suspicious first: id, given label, suggested label, score (how much more probable the
    suggested one is), agreement (share of repeats that count the label as wrong), reason. ``by_class`` and ``by_group``
    have rows, share flagged and dropped, and mean loss; ``rows`` are the pilot's; ``shown`` the first flagged rows as
    they were read.
    """

    verdict: verdict.Verdict
    lines: list[str]
    detected: list[str]
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

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and words; all but ``seconds`` follows from the data, the seed and the number of splits."""
        v, best = self.verdict, self.verdict.best
        interval = ("estimate", "low", "high")
        random = [best[name] for name in ("over random", "random low", "random high")]
        return {
            "advice": v.answer if v.answer != verdict.ACT else verdict.name(*v.arm),
            "arm": verdict.name(*v.arm),
            "best_arm_tried": best.arm,
            "gain_over_keeping_all": {**dict(zip(interval, best[["gain", "low", "high"]], strict=True)), "p": best.p},
            "gain_over_random": None if np.isnan(random[0]) else dict(zip(interval, random, strict=True)),
            "interval": "95 %, simultaneous over all arms, corrected resampled t",
            "noise_rate": v.noise,
            "metric": "macro-F1",
            **self.facts,
            "lines": self.lines,
            "detected": self.detected,
            "gains": v.gains.drop(columns="method").to_dict("records"),
            "versions": {name: version(name) for name in ("datalab-reproduction", "torch", "numpy", "scikit-learn")},
        }


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
    table = _Table(source, y, label, ids, groups)
    others = source if embedded is None else reading.read(embedded)
    left_out = {others.label} | (table.taken if others is source else set())
    names = [name for name in others.columns if name not in left_out]
    chosen = _pool_rows(table.codes, seed)
    raw = table.take(others, names, chosen)
    columns = features.Columns(raw, others, pretrained)
    frame, codes = columns.typed(raw), table.codes[chosen]
    doubled = frame.duplicated().to_numpy()
    detected = [*source.detected, *columns.detected, *table.detected]
    if doubled.any():
        detected.append(f"duplicates: {doubled.sum():,} rows repeat another's features; the pilot sees each once")
        chosen, frame, codes = chosen[~doubled], frame[~doubled].reset_index(drop=True), codes[~doubled]
        table.enough(codes, "without duplicates ")
    detected += [f"leak? {line}" for line in features.leaks(frame, codes)]
    if len(chosen) + doubled.sum() < len(table.codes):
        detected.append(f"the pilot sees {len(chosen):,} of {len(table.codes):,} rows, drawn by class; all are scored")
    own = None if pred_probs is None else _own(pred_probs, table)
    clean, clean_codes = _clean(X_test, y_test, table, columns, names, read)
    for line in detected:
        say(line)

    def encode(train: NDArray) -> Callable[[NDArray | None], NDArray]:
        fitted = features.fit(frame, train)
        return lambda at: fitted(clean, np.arange(len(clean))) if at is None else fitted(frame, at)

    of_pool = None if own is None else own[chosen]
    grouped = None if table.groups is None else table.groups[chosen]
    pool = pilot.Pool(codes, len(table.classes), grouped, encode, clean_codes, of_pool)
    reading_time = time.perf_counter() - began  # a pass or two over the file, as the rest will take
    streamed = len(table.codes) if len(chosen) < len(table.codes) else len(chosen)
    typing = _seconds(lambda: columns.typed(raw[:2048])) / min(2048, len(raw))
    encoded = features.fit(frame, np.arange(len(codes)))(frame, np.arange(min(2048, len(codes))))
    scoring_time = _seconds(lambda: scoring.rehearse(encoded, len(table.classes))) / len(encoded)
    over = time.perf_counter() - began
    rest = 3 + reading_time + streamed * (typing + scoring_time)

    def announce(plan: pilot.Plan) -> None:
        say(f"about {plan.seconds / 60:.1f} minutes: {plan.splits} splits of {plan.pace:.1f} s, then every row")

    split_rows, plan, stopped = pilot.run(pool, seed, minutes, splits, over, rest, announce)
    rows = pd.DataFrame(split_rows)
    v = verdict.conclude(rows, seed)
    steps = int(rows[rows.kind == "noise"].steps.mode()[0])
    everything = np.arange(len(codes))
    fitted = features.fit(frame, everything)
    x, whole = fitted(frame, everything), len(chosen) == len(table.codes)
    blocks = [(everything, x)] if whole else _encoded(table, others, names, columns, fitted)
    method = v.arm[0] if v.arm[0] in pilot.SCORES else ""
    scored = scoring.score((x, chosen), blocks, table.codes, len(table.classes), steps, method, own, seed)
    done = {"n": len(table.codes), "splits": int(rows.split.nunique()), "planned": plan.splits, "stopped": stopped}
    done |= {"seed": seed, "clean": clean is not None}
    return _advice(table, source, v, rows, scored, detected, done, began)


def _advice(
    table: "_Table",
    source: reading.Source,
    v: verdict.Verdict,
    rows: pd.DataFrame,
    scored: scoring.Scored,
    detected: list[str],
    done: dict[str, Any],
    began: float,
) -> Advice:
    names, codes = table.classes.astype(str), table.codes
    wrong = pilot.least_confident(scored.given, scored.agreement.sum()) & (scored.suggested != codes)
    kept, labels = np.ones(len(codes), dtype=bool), codes
    if v.arm[0] in pilot.SCORES:
        rate = min(v.noise["estimate"], 0.5) if v.arm[1] == pilot.ESTIMATED else float(v.arm[1][:-1]) / 100
        kept = pruning.keep(scored.drop, codes, 1 - rate)
    elif v.arm[0] == pilot.RELABEL:
        labels = np.where(wrong, scored.suggested, codes)
    score = scored.probability - scored.given
    order = np.flatnonzero(wrong)
    order = order[np.argsort(-score[order], kind="stable")]
    said = [
        f"models that did not see it give '{names[s]}' {p:.2f}, its label {g:.2f}"
        for s, p, g in zip(scored.suggested[order], scored.probability[order], scored.given[order], strict=True)
    ]
    flagged = {"id": table.ids[order], "given label": names[codes[order]]}
    flagged |= {"suggested label": names[scored.suggested[order]], "score": np.round(score[order], 4)}
    flagged |= {"agreement": np.round(scored.agreement[order], 2), "reason": said}

    def by(what: NDArray, words: NDArray) -> pd.DataFrame:
        loss = -np.log(np.maximum(scored.given, 1e-12))
        part = pd.DataFrame({"of": what, "flagged": wrong, "dropped": ~kept, "loss": loss}).groupby("of")
        return part.mean().assign(rows=part.size()).rename(index=dict(enumerate(words))).reset_index()

    by_class = by(codes, names)
    by_group = None if table.groups is None else by(table.groups, table.group_names.astype(str))
    facts = {key: done[key] for key in ("n", "splits", "seed", "stopped")}
    facts |= {"classes": len(names), "flagged": len(order), "dropped": int((~kept).sum())}
    lines = verdict.lines(v, done | facts | {"hit": _hit(v, rows, by_class, by_group)})
    kept_rows = pd.DataFrame({"id": table.ids[kept], "label": names[labels[kept]]})
    shown = table.take(source, source.columns, order[:SHOWN], in_order=True)
    facts["seconds"] = round(time.perf_counter() - began, 1)
    tables = (kept_rows, pd.DataFrame(flagged), by_class, by_group)
    return Advice(v, lines, detected, facts, *tables, rows, shown, source)


def _hit(v: verdict.Verdict, rows: pd.DataFrame, by_class: pd.DataFrame, by_group: pd.DataFrame | None) -> str:
    what = "dropped" if by_class.dropped.any() else "flagged"
    parts = []
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


class _Table:
    """The labels, ids and groups of a source's rows that have a label, and which columns hold them."""

    def __init__(self, source: reading.Source, y: Any, label: str | None, ids: Any, groups: Any):
        self.detected: list[str] = []
        label = label or (source.label if y is None else None)
        if y is None and label is None:
            raise UserError(f"{source.name}: name the label's column; it has {', '.join(source.columns[:12])}, ...")
        by_name = {"label": label, "id": ids if isinstance(ids, str) else None}
        by_name["group"] = groups if isinstance(groups, str) else None
        by_name = {what: source.need(name, what) for what, name in by_name.items() if name is not None}
        self.taken, self.label = set(by_name.values()), by_name.get("label")
        wanted = list(dict.fromkeys(by_name.values())) or source.columns[:1]
        read = source.whole(wanted)
        self.n = len(read)
        column = {what: read[name] for what, name in by_name.items()}
        y = column.get("label") if y is None else y
        values, missing = _labels(y, f"label '{label}'" if label else "y", len(read))
        if missing.any():
            self.detected.append(f"{missing.sum():,} rows without a label: left out")
        self.rows = np.flatnonzero(~missing)
        self.classes, self.codes = np.asarray(values.names), values.codes
        self.ids = self._of_rows(column.get("id", ids), "ids", len(read))
        self.groups = self.group_names = None
        if (given := column.get("group", groups)) is not None:
            known = label_kinds.classes(self._of_rows(given, "groups", len(read)).astype(str), "groups")
            self.groups, self.group_names = known.codes, known.names
        what = f"label '{label}'" if label else "y"
        counts = np.bincount(self.codes)
        if len(counts) < 2:
            raise UserError(f"{what}: one class, '{self.classes[0]}', and nothing to tell it from; two are needed")
        if len(counts) > max(len(self.codes) / 10, 2):
            many = f"{len(counts):,} values in {len(self.codes):,} rows"
            raise UserError(f"{what}: {many}: an id or a quantity, no class")
        self.enough(self.codes, "")
        largest = counts.argmax()
        text = f"{len(counts)} classes, the largest '{self.classes[largest]}' ({counts[largest] / len(self.codes):.0%})"
        self.detected.append(f"{what}: {text}, the smallest {counts.min():,} rows")

    def enough(self, codes: NDArray, when: str) -> None:
        """Refuse a class too small to be trained on, tuned on and tested."""
        counts = np.bincount(codes, minlength=len(self.classes))
        if counts.min() < LEAST_OF_CLASS:
            few = f"class '{self.classes[counts.argmin()]}' has {counts.min()} examples"
            raise UserError(f"label: {when}{few}; {LEAST_OF_CLASS} are needed: merge it, or leave its rows out")

    def take(self, source: reading.Source, names: list[str], rows: NDArray, in_order: bool = False) -> pd.DataFrame:
        """Some of the labelled rows of a source, by number, ascending; ``in_order``: as ``rows`` has them."""
        wanted, at, parts = np.sort(self.rows[rows]), 0, []
        for block in source.blocks(names):
            inside = wanted[(wanted >= at) & (wanted < at + len(block))] - at
            parts.append(block.iloc[inside])
            at += len(block)
        if at != self.n:
            raise UserError(f"{source.name}: has {at:,} rows for {self.n:,} labels; one row an example is needed")
        taken = pd.concat(parts, ignore_index=True)
        return taken.iloc[np.argsort(np.argsort(rows))].reset_index(drop=True) if in_order else taken

    def _of_rows(self, values: Any, what: str, n: int) -> NDArray:
        if values is None:
            return self.rows
        array = np.asarray(values)
        if array.shape != (n,):
            raise UserError(f"{what}: need one for each of the {n:,} rows, got shape {array.shape}")
        return array[self.rows]


def _labels(y: Any, what: str, n: int) -> tuple[label_kinds.Classes, NDArray[np.bool_]]:
    """The classes of the labels that are there, and which are missing."""
    if np.ma.isMaskedArray(y):
        missing = np.ma.getmaskarray(y).reshape(len(y), -1).any(1)
        y = y.data
    else:
        y = y if hasattr(y, "dtype") else np.asarray(y, dtype=object if any(v is None for v in y) else None)
        missing = np.asarray(pd.isna(y)) if np.ndim(y) == 1 else np.zeros(len(y), dtype=bool)
    if len(y) != n:
        raise UserError(f"{what}: {len(y):,} labels for {n:,} rows; one for each is needed")
    if isinstance(y, pd.Series) and (y.dtype == object or isinstance(y.dtype, pd.StringDtype)):
        words = features.words(y, ("", "nan", "<na>"))
        if y.map(type, na_action="ignore").nunique() <= 1 and y.dropna().map(lambda v: isinstance(v, str)).all():
            y, missing = words, words.isna().to_numpy()
    if missing.all():
        raise UserError(f"{what}: every label is missing")
    return label_kinds.classes(y[~missing], what), missing


def _pool_rows(codes: NDArray, seed: int) -> NDArray[np.int64]:
    """The rows the pilot sees: all, or ``POOL`` drawn by class, a small class whole as far as it counts."""
    if len(codes) <= POOL:
        return np.arange(len(codes))
    counts, rng = allot(np.bincount(codes), POOL, 4 * LEAST_OF_CLASS), seeds.generator(seed, "advise", "pool")
    drawn = [rng.permutation(np.flatnonzero(codes == c))[:count] for c, count in enumerate(counts)]
    return np.sort(np.concatenate(drawn))


def _encoded(
    table: _Table, source: reading.Source, names: list[str], columns: features.Columns, fitted: features.Encode
) -> Iterator[tuple[NDArray, NDArray]]:
    """Row numbers and features of all labelled rows, block by block."""
    start, position = 0, np.full(table.rows.max() + 1, -1)
    position[table.rows] = np.arange(len(table.rows))
    for block in source.blocks(names):
        for i in range(0, len(block), 8192):
            part = block.iloc[i : i + 8192]
            at = position[start + i : start + i + len(part)]
            frame = columns.typed(part[: len(at)][at >= 0])
            if len(frame):
                yield at[at >= 0], fitted(frame, np.arange(len(frame)))
        start += len(block)


def _own(given: Any, table: _Table) -> NDArray:
    if isinstance(given, str | Path):
        try:
            given = np.load(given, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"pred_probs '{Path(given).name}': no array that can be read ({str(error)[:80]})") from None
    p = label_kinds.shares(given, "pred_probs")
    if p.ndim != 2 or p.shape[1] != len(table.classes) or len(p) != table.n:
        need = f"({table.n}, {len(table.classes)}), classes in sorted order"
        raise UserError(f"pred_probs: need {need}, got shape {p.shape}")
    return p[table.rows]


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _clean(
    X: Any, y: Any, table: _Table, columns: features.Columns, names: list[str], read: dict | None
) -> tuple[pd.DataFrame | None, NDArray | None]:
    """The clean test rows, typed, and their labels in the table's classes."""
    if X is None:
        return None, None
    source = reading.read(X, **(read or {}))
    frame = source.whole()
    if absent := [name for name in names if name not in source.columns]:
        raise UserError(f"test '{source.name}': has no column '{absent[0]}', which is a feature")
    if y is None and (table.label is None or table.label not in frame):
        raise UserError(f"test '{source.name}': has no label; its column must be called as in the data")
    values, missing = _labels(frame[table.label] if y is None else y, "test label", len(frame))
    known = {name: code for code, name in enumerate(table.classes.astype(str))}
    if unknown := [name for name in values.names.astype(str) if name not in known]:
        raise UserError(f"test label: class '{unknown[0]}' is not among the data's {len(known)} classes")
    codes = np.array([known[name] for name in values.names.astype(str)])[values.codes]
    return columns.typed(frame[~missing][names]).reset_index(drop=True), codes


def _check(minutes: float, splits: int | None, seed: int) -> None:
    if not 0 < minutes < 10_000:
        raise UserError(f"minutes: {minutes} will not do; give a number above 0, such as 10")
    if splits is not None and not (isinstance(splits, int) and 2 <= splits <= 200):
        raise UserError(f"splits: {splits} will not do; give 2 to 200 (20 are enough)")
    if not (isinstance(seed, int) and 0 <= seed < 2**32):
        raise UserError(f"seed: {seed} will not do; give a whole number from 0")
