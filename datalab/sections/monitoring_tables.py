"""Section 5.1's tables: the failure predictor, the monitors, and weights on top of published methods."""

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from datalab import data, seeds, stats
from datalab.protocol import protocol
from datalab.sections import metric_tables
from datalab.sections.compare import by_set, mean_with_interval
from datalab.sections.s4_1_main_results import main
from datalab.sections.monitor_cell import STATISTICS

SHIFTED = "shifted streams"  # what the baseline loses on them, among other stresses
FEATURES = ("estimated noise", "log classes")
UNIT = ["dataset", "architecture", "seed", "rate"]


def failures(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per configuration (data set, architecture, seed, rate): whether influence pruning loses to random.

    ``fails`` is F1(influence) <= mean F1(random). The features are known without a clean label: the noise rate as
    confident learning estimates it, and the number of classes.
    """
    part = main(rows)
    f1 = {name: part[part.method == name].groupby(UNIT, sort=False).macro_f1.mean() for name in ("influence", "random")}
    noise = part[part.method == "label_noise"].groupby(UNIT, sort=False).estimated_noise.mean()
    frame = pd.DataFrame({"d": f1["influence"] - f1["random"], "estimated noise": noise}).reset_index()
    cards = {name: data.REGISTRY[name] for name in frame.dataset.unique()}
    frame["log classes"] = frame.dataset.map({name: np.log(card.classes) for name, card in cards.items()})
    frame["fails"] = frame.d <= 0
    return frame


def predictions(frame: pd.DataFrame) -> pd.DataFrame:
    """Each rule's prediction of ``fails``, never fitted on the data set it speaks of.

    ``logistic regression`` on the features, and a ``threshold on the estimated noise``, are fitted on the other data
    sets; ``the title`` says: loses where at most 15 % are estimated flipped; ``it always loses`` is the trivial rule.
    """
    found = frame.copy()
    threshold = protocol().title_verdict["reproduced"]["crossover_interval_contains"]
    found["it always loses"] = True
    found["the title's 15 %"] = frame["estimated noise"] <= threshold
    for name in ("threshold on the estimated noise", "logistic regression"):
        found[name] = False
    for held in frame.dataset.unique():
        out, rest = frame.dataset == held, frame[frame.dataset != held]
        if rest.fails.nunique() < 2:
            both = bool(rest.fails.iloc[0]) if len(rest) else True
            found.loc[out, ["threshold on the estimated noise", "logistic regression"]] = both
            continue
        cuts = np.unique(rest["estimated noise"])
        said, fails = rest["estimated noise"].to_numpy() <= cuts[:, None], rest.fails.to_numpy()
        counts = np.stack([(said & fails).sum(1), (said & ~fails).sum(1), (~said & fails).sum(1)], axis=1)
        best = cuts[np.argmax(_f1(counts))]
        found.loc[out, "threshold on the estimated noise"] = frame.loc[out, "estimated noise"] <= best
        scaler = StandardScaler().fit(rest[list(FEATURES)])
        model = LogisticRegression().fit(scaler.transform(rest[list(FEATURES)]), rest.fails)
        found.loc[out, "logistic regression"] = model.predict(scaler.transform(frame.loc[out, list(FEATURES)]))
    return found


RULES = ("it always loses", "the title's 15 %", "threshold on the estimated noise", "logistic regression")


def predictor(frame: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """A row per rule: F1 of foreseeing a failure, its 95 % interval over data sets, and its lead over the trivial one.

    F1's interval resamples data sets (clusters), all of a set's configurations together. The lead's is a t-interval
    of the jackknife over data sets at the protocol's alpha, since a verdict is read on it.
    """
    found = predictions(frame)
    sets = found.dataset.unique()
    rng = seeds.generator(root_seed, "5.1", "predictor")
    groups = {name: found[found.dataset == name] for name in sets}
    counts = {rule: np.array([_counts(groups[name], rule) for name in sets]) for rule in RULES}
    drawn = rng.multinomial(len(sets), np.full(len(sets), 1 / len(sets)), protocol().statistics["resamples"])
    rows = []
    for rule in RULES:
        resampled = _f1(drawn @ counts[rule])
        low, high = np.nanpercentile(resampled, [2.5, 97.5])
        estimate = float(_f1(counts[rule].sum(0)))
        lead, lead_low, lead_high = _lead(counts[rule], counts[RULES[0]])
        row = {"rule": rule, "F1": estimate, "F1 low": low, "F1 high": high}
        row |= {"accuracy": float((found[rule].astype(bool) == found.fails).mean())}
        row |= {"less the trivial rule": lead, "less low": lead_low, "less high": lead_high}
        rows.append(row | {"failures": int(found.fails.sum()), "configurations": len(found), "sets": len(sets)})
    return pd.DataFrame(rows)


def _lead(counts: np.ndarray, trivial: np.ndarray) -> tuple[float, float, float]:
    """F1 less the trivial rule's, from counts (sets, 3), with limits from the jackknife over sets."""
    lead = float(_f1(counts.sum(0)) - _f1(trivial.sum(0)))
    n = len(counts)
    if n < 2:
        return lead, np.nan, np.nan
    without = np.array(
        [_f1(counts.sum(0) - one) - _f1(trivial.sum(0) - other) for one, other in zip(counts, trivial, strict=True)]
    )
    interval = stats.t_interval(n * lead - (n - 1) * without, 1 - protocol().statistics["alpha"])
    return lead, interval.low, interval.high


def _counts(group: pd.DataFrame, rule: str) -> list[int]:
    """True positives, false positives and false negatives."""
    said = group[rule].astype(bool)
    return [int((said & group.fails).sum()), int((said & ~group.fails).sum()), int((~said & group.fails).sum())]


def _f1(counts: np.ndarray) -> np.ndarray:
    tp, fp, fn = np.moveaxis(np.atleast_2d(counts), -1, 0)
    with np.errstate(invalid="ignore"):
        f1 = 2 * tp / (2 * tp + fp + fn)
    return f1 if np.ndim(counts) > 1 else f1[0]


def monitors(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per stream and statistic, means over seeds.

    ``false alarms`` is the share of quiet windows with an alarm (the threshold aims at the protocol's rate). ``alarm``
    and ``failure`` are the first of two shifted windows in a row with an alarm (the stream's length where there is
    none), and with an accuracy below the reference by more than the protocol's drop; ``fails`` is the share of seeds
    with a failure, and ``delay`` alarm less failure over these: below 0 the monitor warns first. ``AUROC`` is the
    chance that a window of low accuracy has the larger statistic.
    """
    drop, found = protocol().monitoring["accuracy_drop"], []
    for name in dict.fromkeys(rows.dataset):
        one = rows[rows.dataset == name]
        for statistic in STATISTICS:
            each = [_of_seed(part, statistic, drop) for _, part in one.groupby("seed", sort=False)]
            means = pd.DataFrame(each).mean()
            found.append(
                {"data set": name, "shift": one.kind.iloc[0], "statistic": statistic}
                | means.to_dict()
                | {"seeds": one.seed.nunique()}
            )
    return pd.DataFrame(found)


def _of_seed(part: pd.DataFrame, statistic: str, drop: float) -> dict[str, float]:
    quiet, shifted = part[part.part == "quiet"], part[part.part == "shifted"].sort_values("window")
    alarm = shifted[f"{statistic} alarm"].to_numpy(dtype=bool)
    low = (shifted.accuracy < shifted.reference_accuracy - drop).to_numpy()
    twice = _twice(low)
    fallen = (part.accuracy < part.reference_accuracy - drop).to_numpy()
    known = 0 < fallen.sum() < len(fallen)
    first = [int(np.argmax(each)) if each.any() else len(each) for each in (_twice(alarm), twice)]
    return {
        "false alarms": float(quiet[f"{statistic} alarm"].mean()),
        "fails": float(twice.any()),
        "alarm": first[0],
        "failure": first[1] if twice.any() else np.nan,
        "delay": first[0] - first[1] if twice.any() else np.nan,
        "AUROC": float(roc_auc_score(fallen, part[statistic])) if known else np.nan,
    }


def _twice(flags: np.ndarray) -> np.ndarray:
    """Where a flag and the next one are both set."""
    return flags & np.append(flags[1:], False)


def late(rows: pd.DataFrame) -> pd.DataFrame:
    """The windows of each stream's last quarter, where the shift is furthest."""
    shifted = rows[rows.part == "shifted"]
    return shifted[shifted.window >= 0.75 * (shifted.groupby("dataset").window.transform("max") + 1)]


def silence(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per stream: how far accuracy and mean confidence fall over the last quarter of the shift, over seeds.

    A degradation is silent where accuracy falls, and confidence by less than half as much ("half less it" above zero).
    """
    found = []
    for name in dict.fromkeys(rows.dataset):
        one = late(rows[rows.dataset == name])
        by_seed = one.groupby("seed")[["accuracy", "reference_accuracy", "confidence", "reference_confidence"]].mean()
        fall = by_seed.reference_accuracy - by_seed.accuracy
        sure = by_seed.reference_confidence - by_seed.confidence
        row = {"data set": name, "shift": one.kind.iloc[0]} | mean_with_interval(fall, "accuracy falls by")
        row |= mean_with_interval(sure, "confidence falls by") | mean_with_interval(fall / 2 - sure, "half less it")
        found.append(row | {"seeds": len(by_seed)})
    return pd.DataFrame(found)


def existing(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per published method and variant: F1 with DATA-LAB's weights less F1 without, t-intervals over sets."""
    found = []
    for method in dict.fromkeys(rows.method):
        base = by_set(rows, "macro_f1", method=method, weights="none")
        for weights in dict.fromkeys(rows.weights):
            values = by_set(rows, "macro_f1", method=method, weights=weights)
            row = {"method": method, "weights": weights} | mean_with_interval(values, "F1")
            if weights != "none":
                row |= mean_with_interval(values - base, "less without")
            found.append(row | {"note": "the base row" if weights == "none" else "", "sets": len(values)})
    return pd.DataFrame(found)


def natural_against_stratified(rows: pd.DataFrame) -> pd.Series:
    """How much larger pruning's effect on the MLP is on a test set tilted to high strata than on a natural one.

    |accuracy(influence) - accuracy(full)| on the test set whose high-leverage strata weigh more, less the same on the
    test set as it is, a value a data set. Strata by leverage: by self-influence they would hold the errors by
    construction.
    """
    part, tilt = rows[rows.architecture == "mlp"], max(protocol().stratified_metric["tilts"])
    effect = {}
    for at in (0.0, tilt):
        table = metric_tables.by_set(metric_tables.metric(part, "leverage", at))
        effect[at] = (table.loc["mlp, influence"] - table.loc["mlp, full"]).abs()
    return effect[tilt] - effect[0.0]


def weights_gain(rows: pd.DataFrame, weights: str) -> dict[str, np.ndarray]:
    """F1 with the weights less F1 without, a value a data set, for each published method."""
    found = {}
    for method in dict.fromkeys(rows.method):
        base = by_set(rows, "macro_f1", method=method, weights="none")
        found[method] = (by_set(rows, "macro_f1", method=method, weights=weights) - base).to_numpy()
    return found


def by_stream(table: pd.DataFrame, column: str) -> np.ndarray:
    """A column's mean of every stream, (streams,)."""
    return table[column].to_numpy()


def stress(rows: pd.DataFrame, silence: pd.DataFrame) -> dict[str, np.ndarray]:
    """What the baseline loses under noise (F1, a value a data set) and under shift (accuracy, a value a stream)."""
    rates = sorted(rows.rate.unique())
    if len(rates) < 2 or rates[0] > 0:
        return {SHIFTED: by_stream(silence, "accuracy falls by")}
    clean, noisy = (by_set(main(rows), "macro_f1", method="vanilla", rate=at) for at in (rates[0], rates[-1]))
    found = {f"{100 * rates[-1]:g} % flipped labels": (clean - noisy).to_numpy()}
    if len(silence) > 1:
        found[SHIFTED] = by_stream(silence, "accuracy falls by")
    return found
