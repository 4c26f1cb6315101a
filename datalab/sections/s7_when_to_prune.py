"""Beyond the paper: when does pruning pay, what foretells it, and what else does as well?

The rows are section 0's (:mod:`datalab.sections.trials.training_length`). A *case* is a data set, seed and noise rate,
trained for one length. Everything that a rule may look at is known without a clean label; what it is judged by is the
clean test set. Rules are fitted on the data sets that had been looked at before version 2 of the protocol, and read on
the untouched ones.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datalab import data, stats
from datalab.sections import compare, readings, sentences
from datalab.sections.compare import STOPPED
from datalab.sections.parameters import estimated
from datalab.sections.readings import LOOKED_AT, RATE, RULES, THRESHOLD, UNTOUCHED, named_d, with_strata
from datalab.sections.trials import training_length
from datalab.sections.trials.training_length import tasks
from datalab.sections.trials.trial import HUMAN

MARGIN = RULES["when_to_prune"]["margin"]
PRUNED_ARMS = ("influence, quota", "influence, no quota", "loss, quota", "loss, no quota", "confident learning")
# A predictor: the columns that a logistic regression is fitted on; the two rules of the title fit nothing.
TITLE_RULE, HALF_RULE = "noise above 15 % (the title)", "noise above half of what is pruned"
PREDICTORS = {
    "label-free features": ["log classes", "log features", "log rows", "balance"],
    "total error (noisy validation)": ["noisy error"],
    "noise rate and features": ["rate", "log classes", "log features", "log rows", "balance"],
    "gap": ["gap"],
    "pilot": ["validation_d"],
    "pilot and gap": ["validation_d", "gap"],
}


class Parameters(training_length.LengthParameters):
    """What the section takes; ``None`` is the profile's value."""


estimate = estimated(tasks, lambda p: 0.9e9 + 160_000 * (p.caps["train"] + p.caps["test"]), start=15.0)


def by_training(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of synthetic noise, one a model, by how training ended: early, at the second length, at the longest."""
    rows = rows[rows.noise != HUMAN]
    lengths = sorted(rows.steps.unique())
    fixed = {f"{n:.0f} steps": rows[rows.steps == n] for n in (lengths[min(1, len(lengths) - 1)], lengths[-1])}
    return {STOPPED: readings.early_stopped(rows)} | fixed


def against_everything(every: Mapping[str, pd.DataFrame], metric: str = "macro_f1") -> pd.DataFrame:
    """Every arm less keeping everything, trained alike: by training, stratum, arm and noise rate, over the sets."""
    tables = {trained: readings.against_full_table(part, metric) for trained, part in every.items()}
    return compare.below(tables, "trained")


def stopped_or_pruned(every: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Macro-F1 of keeping everything and of pruning 30 %, stopped early and trained to the end, over the sets."""
    frame = compare.below({name: readings.arms(every[name]) for name in (STOPPED, list(every)[-1])}, "trained")
    names = {"keep all": "keep all", "influence, no quota": "prune 30 %", "oracle": "oracle"}
    frame = frame[frame.arm.isin(names)].astype({"macro_f1": float})
    frame = frame.assign(arm=frame.arm.map(names) + ", " + frame.trained)
    by = ["stratum", "arm", RATE]
    frame = compare.together(with_strata(frame), by[:2])

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        level = stats.Measurement(compare.by_set(part, "macro_f1").to_numpy(), (0, 1))
        return compare.measured(level, "F1") | {"sets": level.n}

    return compare.table(frame, by, measure)


def cases(every: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Every case with ``d`` (influence less random, the clean test set's) and what is known without a clean label.

    ``gap`` is the full model's noisy training accuracy less its noisy validation accuracy, ``noisy error`` its noisy
    validation error, ``validation_d`` the difference of influence from random on the noisy validation labels.
    """
    reading, parts = readings.READINGS[RULES["predictors"]["reading"]], []
    for trained, part in every.items():
        d = readings.differences(part, reading)
        full = part[part.method == "full"].set_index(["dataset", "seed", "rate"])
        known = pd.DataFrame({"gap": full.train_accuracy - full.validation_accuracy})
        known["noisy error"] = 1 - full.validation_accuracy
        d = d[d.reference_chosen].join(known.astype(float), on=known.index.names)
        parts.append(d.assign(trained=trained))
    frame = with_strata(pd.concat(parts, ignore_index=True))
    specs = [data.REGISTRY[name] for name in frame.dataset]
    frame["balance"] = [spec.balance for spec in specs]
    for name, values in {"classes": "classes", "features": "features", "rows": "unique_rows"}.items():
        frame[f"log {name}"] = np.log([getattr(spec, values) for spec in specs])
    return frame.assign(pays=frame.d > 0)


def foretold(frame: pd.DataFrame) -> pd.DataFrame:
    """The chance that pruning pays, in every case by every predictor: a column each, beside the case's own.

    A case of a looked-at set is foretold by a rule fitted on the other looked-at sets; an untouched one by the rule
    fitted on all that were looked at. Where only one outcome was seen, that is foretold.
    """
    pruned = 1 - readings.PRIMARY_KEEP
    p = frame.assign(**{TITLE_RULE: frame.rate > THRESHOLD, HALF_RULE: frame.rate > pruned / 2})
    p = p.astype({TITLE_RULE: float, HALF_RULE: float})
    looked_at = frame["data sets"] == LOOKED_AT
    asked = [(~looked_at, looked_at)]
    for dataset in frame.dataset[looked_at].unique():
        asked.append((frame.dataset == dataset, looked_at & (frame.dataset != dataset)))
    for name, columns in PREDICTORS.items():
        p[name] = np.nan
        for out, fitted in asked:
            p.loc[out, name] = _fitted(frame[fitted], frame[out], columns)
    return p


def _fitted(known: pd.DataFrame, asked: pd.DataFrame, columns: list[str]) -> np.ndarray:
    if asked.empty or known.pays.nunique() < 2:
        return np.full(len(asked), float(known.pays.mean()) if len(known) else 0.5)
    x, wanted = known[columns].to_numpy(), asked[columns].to_numpy()  # as frames they are checked for half a second
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(x, known.pays).predict_proba(wanted)[:, 1]


def balanced_accuracy(counts: np.ndarray) -> float:
    """Of counts (clusters, 4), right and all of the cases that pay, right and all of those that do not; both means."""
    right, pays, rejected, not_pays = counts.sum(0)
    return float((right / pays + rejected / not_pays) / 2) if pays and not_pays else np.nan


def predictors(p: pd.DataFrame) -> pd.DataFrame:
    """Every predictor's balanced accuracy, Brier score and calibration (foretold less seen), with intervals over sets.

    ``p`` is :func:`foretold`'s. By the data sets: looked at (leave one set out) and untouched (fitted on the others).
    """
    names = [TITLE_RULE, HALF_RULE, *PREDICTORS]
    lines = []
    for which in (LOOKED_AT, UNTOUCHED):
        part = p[p["data sets"] == which]
        for name in names if len(part) else ():
            guess, pays = part[name] > 0.5, part.pays
            columns = {"a": guess & pays, "b": pays, "c": ~guess & ~pays, "d": ~pays}
            counts = part.assign(**columns).groupby("dataset", sort=False)[list(columns)].sum().to_numpy()
            figures = {"balanced accuracy": stats.jackknifed(balanced_accuracy, counts, bounds=(0, 1))}
            of_sets = part.assign(brier=(part[name] - pays) ** 2, lead=part[name] - pays).groupby("dataset")
            figures["Brier score"] = stats.Measurement(of_sets.brier.mean().to_numpy(), (0, 1))
            figures["foretold less seen"] = stats.Measurement(of_sets.lead.mean().to_numpy(), (-1, 1))
            line = {"data sets": which, "predictor": name}
            for word, measured in figures.items():
                line |= compare.measured(measured, word)
            lines.append(line | {"sets": part.dataset.nunique()})
    return pd.DataFrame(lines)


def by_gap(frame: pd.DataFrame) -> pd.DataFrame:
    """d against random, and against keeping everything, by the gap: means over the sets' means, 95 % t-intervals."""
    edges = [-np.inf, 0.02, 0.05, 0.10, 0.15, 0.30, np.inf]
    words = ["below .02", ".02 to .05", ".05 to .10", ".10 to .15", ".15 to .30", "above .30"]
    frame = frame.assign(gap=pd.cut(frame.gap, edges, labels=words).astype(str))

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        random = compare.mean_with_interval(compare.by_set(part, "d"), "d against random")
        full = compare.mean_with_interval(compare.by_set(part, "d_full"), "d against full")
        return random | full | {"cases": len(part), "sets": part.dataset.nunique()}

    frame = frame.sort_values("gap", key=lambda s: s.map(words.index), kind="stable")
    return compare.table(frame, "gap", measure)


def rules(stopped: pd.DataFrame) -> pd.DataFrame:
    """What each rule would have gained over always keeping everything, all stopped early, in macro-F1.

    A row a stratum, data sets and rule: the mean gain with its interval over sets, how often it prunes, and how often
    it loses more than the margin. The pilot's rule takes the pruned arm with the best macro-F1 on the noisy validation
    labels if that is ahead of keeping everything by more than the margin. The best arm in hindsight is what there is
    to win.
    """
    d = readings.against_full(stopped)
    d, unit = d[d.arm.isin(PRUNED_ARMS)], ["dataset", "seed", "rate"]
    gain = d.pivot(index=unit, columns="arm", values="d")[list(PRUNED_ARMS)]
    seen = d.pivot(index=unit, columns="arm", values="validation_d")[list(PRUNED_ARMS)]
    rate = gain.index.get_level_values("rate")
    picked = gain.to_numpy()[np.arange(len(gain)), seen.to_numpy().argmax(1)]
    always = gain["influence, quota"]
    gains = {
        "pilot: the best arm on noisy validation, if ahead by a point": np.where(seen.max(axis=1) > MARGIN, picked, 0),
        "the title: prune above 15 % noise": np.where(rate > THRESHOLD, always, 0),
        "always prune 30 %": always,
        "always what confident learning flags": gain["confident learning"],
        "hindsight: the best arm on the test set": np.maximum(gain.max(axis=1), 0),
    }
    frame = compare.below({rule: pd.Series(d, gain.index, name="d").reset_index() for rule, d in gains.items()}, "rule")
    frame = with_strata(frame.assign(loses=frame.d < -MARGIN, prunes=frame.d != 0))
    by = ["stratum", "data sets", "rule"]

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        shares = {f"{word} (%)": 100 * compare.by_set(part, word).mean() for word in ("prunes", "loses")}
        return named_d(compare.by_set(part, "d")) | shares | {"sets": part.dataset.nunique()}

    return compare.table(compare.together(frame, by), by, measure)


def answer(full: pd.DataFrame, predictors: pd.DataFrame, rules: pd.DataFrame) -> list[str]:
    """What to take home, as sentences that follow the tables :func:`against_everything`, predictors and rules."""
    stopped = full[(full.trained == STOPPED) & full.arm.isin(PRUNED_ARMS)]
    ahead = stopped[stopped.low > 0]
    where = sentences.listed(
        f"{r.arm} on {r.stratum} sets at {r[RATE]:g} % ({100 * r.d:+.1f})" for _, r in ahead.iterrows()
    )
    lines = [f"Stopped early, pruned arms ahead of keeping everything (F1 points, unadjusted 95 %): {where}."]
    for which, part in predictors.groupby("data sets", sort=False):
        shown = part.sort_values("balanced accuracy", ascending=False, kind="stable").set_index("predictor")
        shown = (100 * shown[[f"balanced accuracy{end}" for end in ("", " low", " high")]]).reset_index()
        each = ["{} {:.0f} [{:.0f}, {:.0f}]".format(*r) for r in shown.itertuples(index=False)]
        lines.append(f"Balanced accuracy (%) of the sign against random, data sets {which}: {'; '.join(each)}.")
    for (stratum, which), part in rules.groupby(["stratum", "data sets"], sort=False):
        each = [f"{r.rule} {100 * r.d:+.2f} [{100 * r.low:+.2f}, {100 * r.high:+.2f}]" for _, r in part.iterrows()]
        lines.append(f"F1 points gained over always keeping everything, {stratum} sets {which}: {'; '.join(each)}.")
    return lines
