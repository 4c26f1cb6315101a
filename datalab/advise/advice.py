"""The whole way from a file to an :class:`Advice`: read, pilot, conclude, score every row."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datalab import pruning, seeds
from datalab.advise import pilot
from datalab.advise.verdict import KEEP, UNSURE, Verdict, conclude, lines, name
from datalab.data.splits import allot
from datalab.influence.settings import number
from datalab.intake import examples, features, reading
from datalab.record.folder import printable

POOL = 10_000  # rows of a larger file that the pilot and the final models see
SCORING = 2.5e-6  # of a split's time: what scoring a row takes
SHOWN = 50  # the most suspicious rows on the page
HARDLY = 1 / 3  # a class's F1 below which it is hardly ever told from the others


@dataclass(frozen=True, eq=False)
class Advice:
    """The answer; ``str()`` gives its five lines, ``facts`` is what ``advice.json`` holds.

    All of ``facts`` but ``seconds`` follows from the data, the seed and the number of splits. ``kept`` has a row for
    each kept row: id and the label to train on. ``flagged`` has one for each row whose label looks wrong: id, given
    label, suggested label, score (how much more probable the suggested one is), agreement (share of repeats that count
    the label as wrong), reason, group; first those on which the repeats agree. ``hit`` has one for each class and group
    (``kind``, ``of``): the share flagged and dropped, mean loss, how many, a class's F1 with everything kept; ``rows``
    are the pilot's; ``shown`` the first flagged rows as they were read.
    """

    verdict: Verdict
    facts: dict[str, Any]
    kept: pd.DataFrame
    flagged: pd.DataFrame
    hit: pd.DataFrame
    rows: pd.DataFrame
    shown: pd.DataFrame
    source: reading.Source

    def __repr__(self) -> str:
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
    say: Callable[[str], None] | None = None,
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
    started, say = time.perf_counter(), say or (lambda line: None)
    began = started if began is None else began
    minutes = number("minutes", minutes, "above 0 and below 10,000, such as 10", lambda given: 0 < given < 10_000)
    seed = int(number("seed", seed, "a whole number from 0, below 2**32", lambda of: of % 1 == 0 and 0 <= of < 2**32))
    if splits is not None:
        splits = int(number("splits", splits, "2 to 200 (20 are enough)", range(2, 201).__contains__))
    given = examples.gather(X, y, label, ids, groups, X_test, y_test, embedded, pred_probs, read)
    table, codes, own, detected = given.table, given.codes, given.probabilities, given.source.detected
    n, classes, told = int((codes >= 0).sum()), len(table.names), len(detected)
    for line in detected:
        say(printable(line))  # whatever a column or a class is called
    if pretrained:
        say("texts and pictures are embedded now, before the minutes are known")
    pooled = examples.sample(given, _pool_rows(codes, seed), pretrained)
    at, frame, preparing = pooled.at, pooled.frame, pooled.seconds - time.perf_counter()
    encoder = features.fit(frame)
    x = encoder(frame)
    preparing += time.perf_counter()
    if classes > pilot.INFLUENCE_CLASSES:
        detected.append(f"influence is not tried with more than {pilot.INFLUENCE_CLASSES} classes")
    if pooled.typed < n:
        detected.append(f"the pilot sees {len(at):,} of {n:,} rows, drawn by class; all are scored")
    for line in detected[told:]:
        say(printable(line))

    def encode(train: NDArray) -> Callable[[NDArray | None], NDArray]:
        encoder = features.fit(frame.iloc[train])
        return lambda rows: encoder(pooled.test if rows is None else frame.iloc[rows])

    over, whole = time.perf_counter() - started, len(at) == n

    def after(pace: float) -> float:
        """Seconds: the file read once or twice more, every row prepared; final models, every row scored."""
        return 3 + over + (0 if whole else preparing * n / pooled.typed) + pace * (0.6 + SCORING * n)

    judged = pooled.test_codes, None if own is None else own[at]
    pool = pilot.Pool(codes[at], classes, pooled.groups, encode, *judged, pooled.twins)
    rows, planned, stopped = pilot.run(pool, seed, minutes, splits, began, after, say)
    v, steps = conclude(rows, seed), int(rows[rows.kind == "noise"].steps.mode()[0])
    blocks = [(at, x, np.arange(n))] if whole else pooled.stream(given, encoder)
    scored = pilot.score(pilot.Trainer(x, classes, (steps,)), at, blocks, codes, v.arm[0], own, seed, pool.units)
    facts = {"data": printable(given.source.name), "n": n, "classes": classes, "seed": seed}
    facts |= {"splits": int(rows.split.nunique()), "planned": planned, "stopped": stopped}
    facts["where"] = features.prevailing(frame, scored.wrong.loc[at].to_numpy())
    facts |= {"clean": pooled.test is not None, "detected": [*map(printable, detected)]}
    advice = _advice(table, given.source, v, rows, scored.join(table.rows), facts)
    advice.facts["seconds"] = round(time.perf_counter() - began, 1)
    return advice


def _advice(
    table: examples.Labelled, source: reading.Source, v: Verdict, rows: pd.DataFrame, scored: pd.DataFrame, facts: dict
) -> Advice:
    names, labels = table.names, scored.suggested.where(scored.wrong & (v.arm[0] == pilot.RELABEL), scored.code)
    scored = scored.assign(flagged=scored.wrong, dropped=False, loss=-np.log(np.maximum(scored.given, 1e-12)))
    scored["score"] = scored.probability - scored.given  # here: given to an empty frame, a column brings its rows along
    if v.arm[0] in pilot.SCORES:
        share = pilot.drop_share(v.arm[1], v.noise["estimate"])
        for _, part in scored.groupby("trained"):  # of rows that no model was trained on all losses are higher
            scored.loc[part.index, "dropped"] = ~pruning.keep(part["drop"], part.code, 1 - share)
    kept = pd.DataFrame({"id": scored.id, "label": pd.Categorical.from_codes(labels, names)})[~scored.dropped]
    flagged = scored[scored.wrong].sort_values(["agreement", "score"], ascending=False, kind="stable")
    suggested, shares = names[flagged.suggested], flagged[["probability", "given"]].round(2).astype(str)
    said = "models that did not see it give '" + suggested + "' " + shares.probability + ", its label " + shares.given
    listed = pd.DataFrame({"id": flagged.id, "given label": names[flagged.code], "suggested label": suggested})
    listed = listed.assign(score=flagged.score.round(4), agreement=flagged.agreement.round(2), reason=said)
    if "group" in flagged:
        listed["group"] = flagged.group
    scored["class"], parts = pd.Categorical.from_codes(scored.code, names), []
    for kind in ("class", "group")[: 1 + ("group" in scored)]:
        part = scored.groupby(kind, observed=True)[["flagged", "dropped", "loss"]]
        part = part.mean().assign(rows=part.size(), kind=kind).rename_axis("of").reset_index()
        parts.append(part[part.rows >= examples.LEAST_OF_CLASS])  # a share of fewer rows says little
    hit = pd.concat(parts, ignore_index=True).astype({"of": str})
    arms = rows[rows.kind == "arm"].groupby(["method", "amount"]).class_f1.agg(lambda f1: np.mean([*f1], axis=0))
    hit.loc[hit.kind == "class", "f1"] = arms[pilot.KEEP_ALL, ""]
    facts |= {"flagged": len(flagged), "dropped": int(scored.dropped.sum()), "columns": table.named}
    facts |= {"advice": KEEP if v.arm[0] == pilot.KEEP_ALL else name(*v.arm), "arm": name(*v.arm)}
    facts |= {"settled": v.answer != UNSURE}
    facts |= {"best_arm_tried": v.best.arm, "p": v.best.p}
    over = {"keeping_all": ["gain", "low", "high"], "random": ["over random", "random low", "random high"]}
    for base, columns in over.items():
        facts[f"gain_over_{base}"] = dict(zip(("estimate", "low", "high"), v.best[columns], strict=True))
    facts |= {"interval": "95 %, simultaneous over all arms, corrected resampled t", "noise_rate": v.noise}
    facts |= {"metric": "macro-F1", "keeping_all": v.kept, "gains": v.gains.drop(columns="method").to_dict("records")}
    facts["versions"] = {name: version(name) for name in ("datalab-reproduction", "torch", "numpy", "scikit-learn")}
    change = arms[v.arm] - arms[pilot.KEEP_ALL, ""]
    facts["hit"] = hit.round(4).to_dict("records")
    who = _hit(hit, change, listed["suggested label"], facts.pop("where", ""))
    facts["lines"] = [printable(line) for line in lines(v, facts, who)]
    first = flagged.index[:SHOWN]
    shown = source.take(source.columns, first).loc[first]
    return Advice(v, facts, kept, listed.reset_index(drop=True), hit, rows, shown, source)


def _hit(hit: pd.DataFrame, change: NDArray, suggested: pd.Series, where: str) -> str:
    """Who is dropped, or flagged: the classes and groups most and least; which class is hardly told, or loses F1."""
    what, texts = "dropped" if hit.dropped.any() else "flagged", []
    if not hit[what].any():
        return "No label looks wrong."
    for kind, part in hit.groupby("kind"):
        ends = zip(("most", "least"), part.loc[[part[what].idxmax(), part[what].idxmin()]].itertuples(), strict=True)
        shares = [f"'{at.of}' {end} ({getattr(at, what) * at.rows:,.0f} of {at.rows:,})" for end, at in ends]
        texts.append(f"{kind} {', '.join(shares)}")
    text = f"Who is {what}: {'; '.join(texts)}."
    if what == "flagged":
        often = suggested.value_counts()
        text += f" Suggested most often: '{often.index[0]}' ({often.iloc[0]:,} of {len(suggested):,})."
        text += f" {where}: look there first, or name it as the group." if where else ""
    for at in hit[(hit.kind == "class") & (hit.f1 < HARDLY) & (hit.flagged > 0)].nsmallest(2, "f1").itertuples():
        text += f" Class '{at.of}' is hardly ever told (F1 {at.f1:.2f} with everything kept): its flags say little."
    if change.min() < -0.005:
        text += f" Class '{hit.of[change.argmin()]}' loses {-change.min():.3f} F1 by it."
    return text


def _pool_rows(codes: NDArray, seed: int) -> NDArray[np.int64]:
    """The rows the pilot sees: all, or ``POOL`` drawn by class, a small class whole as far as it counts."""
    labelled, rng = np.flatnonzero(codes >= 0), seeds.generator(seed, "advise", "pool")
    if len(labelled) <= POOL:
        return labelled
    sizes = np.bincount(codes[labelled])
    counts = allot(sizes, POOL, min(4 * examples.LEAST_OF_CLASS, POOL // len(sizes)))
    drawn = [rng.permutation(np.flatnonzero(codes == c))[:count] for c, count in enumerate(counts)]
    return np.sort(np.concatenate(drawn))
