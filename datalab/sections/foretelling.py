"""What foretells that pruning by influence beats random: predictors fitted on some data sets and read on others.

A *case* is a data set, seed and noise rate, trained for one length. What a predictor looks at is known without a clean
label; what it is judged by is the clean test set.
"""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datalab import data, stats
from datalab.sections import compare, readings, sentences
from datalab.sections.compare import STOPPED
from datalab.sections.readings import ALL, LOOKED_AT, RULES, STRATA, THRESHOLD, UNTOUCHED, with_strata
from datalab.sections.sentences import points

# A predictor: the columns that a logistic regression is fitted on; these two fit nothing.
TITLE_RULE, ALWAYS = "noise above 15 % (the title)", "it always pays"
AHEAD, RANKED = "less the title's", "noise rate"  # by which an AUC ranks the cases for the title's rule
NOTHING = "Nothing to foretell: with all data sets, or without one, pruning pays in every case or in none."
PREDICTORS = {
    "label-free features": ["log classes", "log features", "log rows", "balance"],
    "total error (noisy validation)": ["noisy error"],
    "noise rate and features": ["rate", "log classes", "log features", "log rows", "balance"],
    "gap": ["gap"],
    "pilot": ["validation_d"],
    "pilot and gap": ["validation_d", "gap"],
}
PREDICTED = (ALWAYS, TITLE_RULE, *PREDICTORS)


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
    each = [frame.dataset == name for name in frame.dataset[looked_at].unique()]
    asked = [(~looked_at, looked_at), *((own, looked_at & ~own) for own in each)]
    for name, columns in PREDICTORS.items():
        p[name] = np.nan
        for out, fitted in asked:
            p.loc[out, name] = chance(frame[fitted][columns], frame.pays[fitted], frame[out][columns])
    return p


def chance(known: pd.DataFrame, outcomes: pd.Series, asked: pd.DataFrame) -> np.ndarray:
    """By a logistic regression on all columns: the chance (n,) that each of ``asked`` comes out as True.

    It is fitted on ``known`` and their ``outcomes``; where these are all alike, that is foretold.
    """
    if asked.empty or outcomes.nunique() < 2:
        return np.full(len(asked), float(outcomes.mean()) if len(known) else 0.5)
    x, wanted = known.to_numpy(), asked.to_numpy()  # as frames they are checked for half a second
    p = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, outcomes).predict_proba(wanted)[:, 1]
    return np.round(p, 9)  # equal cases stay equal where they are ranked: the last digits are the processor's


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

    ``p`` is :func:`foretold`'s. By training, stopped early first, by data sets, untouched (rules fitted on the others)
    and looked at (each set left out in turn), and by stratum, all first: one rule is read in each. For the AUC the
    title's rule ranks by the noise rate. ``right`` is the share of cases foretold rightly, ``says yes`` the share in
    which pruning is foretold to pay.
    """
    p, lines = readings.and_all(p, "stratum"), []
    for trained, which, stratum in itertools.product(p.trained.unique(), (UNTOUCHED, LOOKED_AT), (ALL, *STRATA)):
        part = compare.rows_of_kind(p, trained=trained, stratum=stratum, **{"data sets": which})
        if part.empty:
            continue
        values = ["pays", RANKED, *PREDICTED]
        wide = part.assign(**{RANKED: part.rate}).pivot(index="dataset", columns=["seed", "rate"], values=values)
        of = {name: wide[name].to_numpy(dtype=float) for name in values}
        for name in PREDICTED:
            guess = part[name] > 0.5
            line = {"trained": trained, "data sets": which, "stratum": stratum, "predictor": name}
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


def expectation(predictors: pd.DataFrame) -> str:
    """Whether the gap says more than the noise rate, as was expected: held, failed or open, by its leads."""
    lines = []
    leads = (f"balanced accuracy {AHEAD}", f"AUC {AHEAD}")
    gap = predictors[(predictors.predictor == "gap") & (predictors.stratum == ALL)]
    for row in gap.dropna(subset=leads).to_dict("records"):
        came = {lead: sentences.judged(pd.DataFrame([row]), lead) for lead in leads}
        said = [f"{lead.removesuffix(AHEAD)}{points(row, lead)}, {word}" for lead, word in came.items()]
        lines.append(f"{row['trained']}, data sets {row['data sets']}: {'; '.join(said)}")
    if not lines:
        return NOTHING
    return f"The gap less the noise rate, in points, unadjusted. {'. '.join(lines)}."


def by_gap(frame: pd.DataFrame) -> pd.DataFrame:
    """d against random, and against keeping everything, by the gap: means over the sets' means, 95 % t-intervals."""
    edges = [-np.inf, 0.02, 0.05, 0.10, 0.15, 0.30, np.inf]
    words = ["below .02", ".02 to .05", ".05 to .10", ".10 to .15", ".15 to .30", "above .30"]
    frame = frame.assign(gap=pd.cut(frame.gap, edges, labels=words).astype(str))
    frame = frame.sort_values("gap", key=lambda s: s.map(words.index), kind="stable")
    shown = compare.means(frame, "gap", {"d": ("d against random", None), "d_full": ("d against full", None)})
    shown.insert(shown.shape[1] - 1, "cases", frame.groupby("gap", sort=False).size().to_numpy())
    return shown


def foretells(part: pd.DataFrame) -> str:
    """How well the title's rule, saying yes always, and the best of the rest foretell, of one kind of data sets."""
    by_stratum = dict(list(part[part.trained == STOPPED].set_index("predictor").groupby("stratum", sort=False)))
    part, own = part[part.stratum == ALL], by_stratum.pop(ALL)
    if own["balanced accuracy"].isna().all():
        return f"Data sets {own['data sets'].iloc[0]}: {NOTHING}"
    best = own.drop(index=[ALWAYS, TITLE_RULE])["balanced accuracy"].fillna(0).idxmax()

    each = [
        f"{name} {points(own.loc[name], 'balanced accuracy', '')}, right in {own['right (%)'][name]:.0f} % of cases"
        for name in (TITLE_RULE, ALWAYS, best)
    ]
    leads = [
        f"{row.trained} {points(row, f'balanced accuracy {AHEAD}')}, by AUC {points(row, f'AUC {AHEAD}')}"
        for _, row in part[part.predictor == best].dropna(subset=f"balanced accuracy {AHEAD}").iterrows()
    ]
    apart = []
    for stratum, at in by_stratum.items():
        known = at.loc[[TITLE_RULE, best]].dropna(subset="balanced accuracy")
        said = [f"{name} {points(row, 'balanced accuracy', '')}" for name, row in known.iterrows()]
        lead = f", by AUC {AHEAD} {points(at.loc[best], f'AUC {AHEAD}')}" if best in known.index else ""
        apart.append(f"on {stratum} ones {', '.join(said) or NOTHING}{lead}")
    return (
        f"Does pruning beat random? Stopped early, data sets {own['data sets'].iloc[0]}, balanced accuracy (the mean "
        f"of two shares in %: foretold, of cases that pay and of those that do not; guessing: 50): {'; '.join(each)}. "
        f"The last is the best of {len(own) - 2}, picked after the look; {AHEAD}, in points: {'; '.join(leads)}. "
        f"Stopped early, by kind of set: {'; '.join(apart)}."
    )
