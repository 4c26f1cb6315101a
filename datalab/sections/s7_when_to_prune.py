"""Beyond the paper: when does pruning pay, what foretells it, and what else does as well?

The rows are section 0's (:mod:`datalab.sections.trials.training_length`). A *case* is a data set, seed and noise rate,
trained for one length. Everything that a rule may look at is known without a clean label; what it is judged by is the
clean test set. Rules are fitted on the data sets that had been looked at before version 2 of the protocol, in all
trainings together, and read on the untouched ones, in each training by itself.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import ttest_1samp, ttest_ind
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datalab import data, stats
from datalab.sections import compare, readings, sentences
from datalab.sections.compare import STOPPED
from datalab.sections.parameters import estimated
from datalab.sections.readings import LOOKED_AT, RATE, RULES, THRESHOLD, UNTOUCHED, WORDS, named_d, with_strata
from datalab.sections.trials import training_length
from datalab.sections.trials.training_length import tasks
from datalab.sections.trials.trial import HUMAN

MARGIN = RULES["when_to_prune"]["margin"]
BALANCED = RULES["title_verdict"]["stratum"]
SHOWN_AT = 100 * RULES["title_verdict"]["refuted"]["behind_at_rate_at_least"]  # the rate (%) that sentences speak of
LEVEL = 0.05  # of a p after Holm's correction, two-sided: that of the 95 % intervals
BY_SCORE = ("influence, quota", "influence, no quota", "loss, quota", "loss, no quota")
PRUNED_ARMS = (*BY_SCORE, "confident learning")
DROPPING = (*PRUNED_ARMS, "AUM, no quota", "cross-validated loss, no quota", "influence, quota of estimated shares")
CLASSES = ("two classes", "three or more")
LESS = "less keep all, stopped early"
# A predictor: the columns that a logistic regression is fitted on; these two fit nothing.
TITLE_RULE, ALWAYS = "noise above 15 % (the title)", "it always pays"
AHEAD, RANKED = "less the title's", "noise rate"  # by which an AUC ranks the cases for the title's rule
PREDICTORS = {
    "label-free features": ["log classes", "log features", "log rows", "balance"],
    "total error (noisy validation)": ["noisy error"],
    "noise rate and features": ["rate", "log classes", "log features", "log rows", "balance"],
    "gap": ["gap"],
    "pilot": ["validation_d"],
    "pilot and gap": ["validation_d", "gap"],
}
PREDICTED = (ALWAYS, TITLE_RULE, *PREDICTORS)


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
    """Every arm less keeping everything, trained alike: by training, stratum, arm and noise rate, over the sets.

    Stopped early and trained to the end. ``p`` is the t-test's, Holm's correction is over the whole table.
    """

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        means = compare.by_set(part, "d").dropna()
        p = float(ttest_1samp(means, 0).pvalue) if len(means) > 1 and means.any() else np.nan
        return named_d(means) | {"p": p, "p (Holm)": np.nan, "sets": len(means)}

    by = ["stratum", "arm", RATE]
    tables = {}
    for trained, part in _ends(every).items():
        d = with_strata(readings.against_full(part, metric))
        tables[trained] = compare.table(compare.together(d, by[:2]), by, measure)
    return compare.with_correction(compare.below(tables, "trained"), "p")


def _ends(every: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return {name: every[name] for name in (STOPPED, list(every)[-1])}


def by_classes(stopped: pd.DataFrame) -> pd.DataFrame:
    """Arms that prune by a score less keeping everything, all stopped early, by classes of the balanced sets.

    Two classes, three or more, and how far the latter are ahead (Welch's 95 % interval), at the lowest rate and from
    the example's on. Nobody had asked for it before the results were seen.
    """

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        of = {kind: compare.by_set(part, "d", classes=kind) for kind in CLASSES}
        line = {}
        for kind, means in of.items():
            line |= compare.mean_with_interval(means, kind)
        apart = [np.nan, np.nan]
        if min(map(len, of.values())) > 1:
            apart = ttest_ind(of[CLASSES[1]], of[CLASSES[0]], equal_var=False).confidence_interval()
        return line | dict(
            zip(("apart", "apart low", "apart high"), (line[CLASSES[1]] - line[CLASSES[0]], *apart), strict=True)
        )

    d = compare.below({word: readings.against_full(stopped, metric) for word, metric in WORDS.items()}, "score")
    d = with_strata(d[d.arm.isin([*BY_SCORE, "AUM, no quota"])])
    d = d[(d.stratum == BALANCED) & ((d.rate == d.rate.min()) | (d[RATE] > SHOWN_AT - 1e-9))]
    several = {name: data.REGISTRY[name].classes > 2 for name in d.dataset.unique()}
    d["classes"] = d.dataset.map(several).map({False: CLASSES[0], True: CLASSES[1]})
    by = ["score", "arm", RATE]
    return compare.table(compare.together(d, by[:2]), by, measure)


def stopped_or_pruned(every: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Macro-F1 of keeping everything and of pruning 30 %, stopped early and trained to the end, over the sets.

    Beside each its difference from keeping everything and stopping early, paired over the sets.
    """
    frame = compare.below({name: readings.arms(part) for name, part in _ends(every).items()}, "trained")
    names = {"keep all": "keep all", "influence, no quota": "prune 30 %", "oracle": "oracle"}
    frame = frame[frame.arm.isin(names)].astype({"macro_f1": float})
    frame = frame.assign(arm=frame.arm.map(names) + ", " + frame.trained)
    base = frame.arm == f"keep all, {STOPPED}"
    kept = frame[base].set_index(readings.CASE)[["macro_f1"]].add_prefix("kept ")
    frame = frame.join(kept, on=readings.CASE)
    frame[LESS] = (frame.macro_f1 - frame["kept macro_f1"]).mask(base)
    by = ["stratum", "arm", RATE]
    frame = compare.together(with_strata(frame), by[:2])

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        level = stats.Measurement(compare.by_set(part, "macro_f1").to_numpy(), (0, 1))
        less = compare.mean_with_interval(compare.by_set(part, LESS), LESS)
        return compare.measured(level, "F1") | less | {"sets": level.n}

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
    p = frame.assign(**{ALWAYS: 1.0, TITLE_RULE: (frame.rate > THRESHOLD).astype(float)})
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


def balanced_accuracy(score: np.ndarray, pays: np.ndarray) -> float:
    """The mean of two shares: of the cases that pay, how many have a score above a half; of the others, how many not.

    ``pays`` is 1, 0 or, where there is no case, nan. nan where all pay, or none.
    """
    wins, losses = score[pays == 1] > 0.5, score[pays == 0] > 0.5
    return float((wins.mean() + 1 - losses.mean()) / 2) if wins.size and losses.size else np.nan


def auc(score: np.ndarray, pays: np.ndarray) -> float:
    """The chance that a case that pays has a higher score than one that does not; arguments as above."""
    wins, losses = score[pays == 1], score[pays == 0]
    return float((np.sign(wins[:, None] - losses).mean() + 1) / 2) if wins.size and losses.size else np.nan


def predictors(p: pd.DataFrame) -> pd.DataFrame:
    """Every predictor's balanced accuracy and AUC, each also less the title's, with intervals over the data sets.

    ``p`` is :func:`foretold`'s. By training, stopped early first, and by data sets: untouched (rules fitted on the
    others) and looked at (each set left out in turn). For the AUC the title's rule ranks by the noise rate. ``right``
    is the share of cases foretold rightly, ``says yes`` the share in which pruning is foretold to pay.
    """
    lines = []
    for trained, which in itertools.product(p.trained.unique(), (UNTOUCHED, LOOKED_AT)):
        part = p[(p.trained == trained) & (p["data sets"] == which)]
        if part.empty:
            continue
        values = ["pays", RANKED, *PREDICTED]
        wide = part.assign(**{RANKED: part.rate}).pivot(index="dataset", columns=["seed", "rate"], values=values)
        of = {name: wide[name].to_numpy(dtype=float) for name in values}
        for name in PREDICTED:
            guess = part[name] > 0.5
            line = {"trained": trained, "data sets": which, "predictor": name}
            for word, figure, title in (("balanced accuracy", balanced_accuracy, TITLE_RULE), ("AUC", auc, RANKED)):
                own = of[title if name == TITLE_RULE else name]
                line |= compare.measured(stats.jackknifed(figure, own, of["pays"], bounds=(0, 1)), word)
                line |= compare.measured(_lead(figure, own, of[title], of["pays"]), f"{word} {AHEAD}")
            shares = {"right (%)": 100 * (guess == part.pays).mean(), "says yes (%)": 100 * guess.mean()}
            lines.append(line | shares | {"cases": len(part), "sets": part.dataset.nunique()})
    return pd.DataFrame(lines)


def _lead(figure: Callable[..., float], own: np.ndarray, title: np.ndarray, pays: np.ndarray) -> stats.Measurement:
    """A figure of one score less that of the title's; of the title's own there is none."""
    if own is title:
        return stats.Measurement(np.array([]))
    return stats.jackknifed(lambda a, b, of: figure(a, of) - figure(b, of), own, title, pays, bounds=(-1, 1))


def _points(row: Mapping[str, float] | pd.Series, word: str, sign: str = "+") -> str:
    """A share of a table's row in points, with its limits where there are any."""
    names = (word, f"{word} low", f"{word} high") if f"{word} low" in row else (word, "low", "high")
    value, low, high = (f"{100 * row[name]:{sign}.1f}" for name in names)
    return f"{value} [{low}, {high}]" if "nan" not in low else value


def expectation(predictors: pd.DataFrame, predictor: str = "gap") -> str:
    """Whether a predictor says more than the noise rate, as was expected: held, failed or open, by its leads."""
    lines = []
    for row in predictors[predictors.predictor == predictor].to_dict("records"):
        said = []
        for lead in (f"balanced accuracy {AHEAD}", f"AUC {AHEAD}"):
            came = "held" if row[f"{lead} low"] > 0 else "failed" if row[f"{lead} high"] < 0 else "open"
            said.append(f"{lead.removesuffix(AHEAD)}{_points(row, lead)}, {came}")
        lines.append(f"{row['trained']}, data sets {row['data sets']}: {'; '.join(said)}")
    return f"The {predictor} less the noise rate, in points, unadjusted. {'. '.join(lines)}."


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

    A row a stratum, data sets and rule: the mean gain with its interval over sets, how often it decides to prune, and
    how often it loses more than the margin. The pilot's rule takes the pruned arm with the best macro-F1 on the noisy
    validation labels if that is ahead of keeping everything by more than the margin. The best arm in hindsight is what
    there is to win.
    """
    d = readings.against_full(stopped)
    d, unit = d[d.arm.isin(PRUNED_ARMS)], ["dataset", "seed", "rate"]
    gain = d.pivot(index=unit, columns="arm", values="d")[list(PRUNED_ARMS)]
    seen = d.pivot(index=unit, columns="arm", values="validation_d")[list(PRUNED_ARMS)]
    rate = gain.index.get_level_values("rate")
    picked = gain.to_numpy()[np.arange(len(gain)), seen.to_numpy().argmax(1)]
    always = gain["influence, quota"]
    decided = {  # whether each rule prunes, case by case, and what is gained if it does
        "pilot: the best arm on noisy validation, if ahead by a point": (seen.max(axis=1) > MARGIN, picked),
        "the title: prune above 15 % noise": (rate > THRESHOLD, always),
        "always prune 30 %": (True, always),
        "always what confident learning flags": (True, gain["confident learning"]),
        "hindsight: the best arm on the test set": (gain.max(axis=1) > 0, gain.max(axis=1)),
    }
    made = {rule: gain[[]].assign(prunes=prunes, d=np.where(prunes, d, 0)) for rule, (prunes, d) in decided.items()}
    frame = compare.below({rule: part.reset_index() for rule, part in made.items()}, "rule")
    frame = with_strata(frame.assign(loses=frame.d < -MARGIN))
    by = ["stratum", "data sets", "rule"]

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        shares = {f"{word} (%)": 100 * compare.by_set(part, word).mean() for word in ("prunes", "loses")}
        return named_d(compare.by_set(part, "d")) | shares | {"sets": part.dataset.nunique()}

    return compare.table(compare.together(frame, by), by, measure)


def foretells(part: pd.DataFrame) -> str:
    """How well the title's rule, saying yes always, and the best of the rest foretell, of one kind of data sets."""
    own = part[part.trained == STOPPED].set_index("predictor")
    best = own.drop(index=[ALWAYS, TITLE_RULE])["balanced accuracy"].fillna(0).idxmax()

    each = [
        f"{name} {_points(own.loc[name], 'balanced accuracy', '')}, right in {own['right (%)'][name]:.0f} % of cases"
        for name in (TITLE_RULE, ALWAYS, best)
    ]
    leads = [
        f"{row.trained} {_points(row, f'balanced accuracy {AHEAD}')}, by AUC {_points(row, f'AUC {AHEAD}')}"
        for _, row in part[part.predictor == best].iterrows()
    ]
    return (
        f"Does pruning beat random? Stopped early, data sets {own['data sets'].iloc[0]}, balanced accuracy (the mean "
        f"of two shares in %: foretold, of cases that pay and of those that do not; guessing: 50): {'; '.join(each)}. "
        f"The last is the best of {len(own) - 2}, picked after the look; {AHEAD}, in points: {'; '.join(leads)}."
    )


def recommended(full: pd.DataFrame, accuracy: pd.DataFrame) -> str:
    """Keep everything or prune, all stopped early: which comparisons of :func:`against_everything` show a gain.

    Shown is a gain whose p, corrected over its whole table, is below the level; large enough to be acted on is one
    whose lower limit is above a point as well.
    """
    tables = compare.below({"F1": full, "accuracy": accuracy}, "score")
    asked = tables[(tables.trained == STOPPED) & tables.arm.isin(DROPPING)]
    ahead = asked[asked.low > 0]
    shown = ahead[ahead["p (Holm)"] < LEVEL]
    large = shown[shown.low > MARGIN]
    where = sentences.listed(
        f"{r.arm}, {r.score} on {r.stratum} sets at {r[RATE]:g} % wrong labels, in points {_points(r, 'd')}, "
        f"p {r['p (Holm)']:.2g}"
        for _, r in shown.iterrows()
    )
    influence = int(shown.arm.str.startswith("influence").sum())
    keep = "Keep everything, and stop training early"
    advice = f"{keep}, but prune where that gains a point" if len(large) else keep
    return (
        f"**{advice}.** Dropping examples was compared with that {len(asked)} times: {asked.arm.nunique()} ways to "
        f"choose them, {asked[RATE].nunique()} shares of wrong labels, {asked.stratum.nunique()} kinds of data sets, "
        f"{asked.score.nunique()} scores. Corrected for so many looks (Holm) it gains in {len(shown)} "
        f"({where}), by influence in {influence}, and by a point or more for certain in {len(large)}. Uncorrected it "
        f"gains in {len(ahead)}."
    )


def classes_apart(by_classes: pd.DataFrame) -> str:
    """What pruning by influence gains over keeping everything in sets of two classes and of more."""
    own = by_classes[(by_classes.score == "F1") & (by_classes.arm == BY_SCORE[0])]
    each = []
    for r in own.to_dict("records"):
        two, more = (_points(r, kind) for kind in CLASSES)
        each.append(f"at {r[RATE]:g} % {two} and {more}")
    return (
        f"Split after the look, balanced sets of {CLASSES[0]} and of {CLASSES[1]}: {BY_SCORE[0]} less keeping "
        f"everything, in points of F1, {'; '.join(each)}."
    )


def levels(stopped_or_pruned: pd.DataFrame) -> list[str]:
    """Macro-F1 at one noise rate, stopped early or to the end, everything kept or pruned; a sentence a stratum."""
    lines = []
    at = stopped_or_pruned[stopped_or_pruned[RATE].sub(SHOWN_AT).abs() < 1e-6]
    for stratum, part in at[~at.arm.str.startswith("oracle")].groupby("stratum", sort=False):
        each = []
        for r in part.to_dict("records"):
            less = f" ({_points(r, LESS)})" if pd.notna(r[LESS]) else ""
            each.append(f"{r['arm']} {r['F1']:.3f}{less}")
        rate, sets = f"{SHOWN_AT:g} % wrong labels", f"{part.sets.max()} {stratum} sets"
        lines.append(f"F1 at {rate} on {sets} (in brackets: points {LESS}): {'; '.join(each)}.")
    return lines


def answer(
    full: pd.DataFrame,
    accuracy: pd.DataFrame,
    by_classes: pd.DataFrame,
    stopped_or_pruned: pd.DataFrame,
    predictors: pd.DataFrame,
    rules: pd.DataFrame,
) -> list[str]:
    """What to take home, as sentences that follow the tables of those names; the recommendation first."""
    lines = [recommended(full, accuracy), *levels(stopped_or_pruned)]
    lines += [classes_apart(by_classes)] if len(by_classes) else []
    lines += [foretells(part) for _, part in predictors.groupby("data sets", sort=False)]
    own = predictors[predictors.trained == STOPPED]
    lines.append(expectation(own))
    for (stratum, which), part in rules.groupby(["stratum", "data sets"], sort=False):
        each = [f"{r.rule} {100 * r.d:+.2f} [{100 * r.low:+.2f}, {100 * r.high:+.2f}]" for _, r in part.iterrows()]
        lines.append(f"F1 points gained over always keeping everything, {stratum} sets {which}: {'; '.join(each)}.")
    return lines
