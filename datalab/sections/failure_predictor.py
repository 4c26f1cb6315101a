"""Can it be foreseen, without clean labels, that influence pruning will lose to random? Four rules, and their F1.

A *failure* is a configuration in which influence pruning scores no higher than random pruning. Every rule is asked
about data sets that it was not fitted on, and intervals resample whole data sets: configurations of one set are no
independent evidence. Section 5.1 reads the abstract's figures on this.
"""

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datalab import data, seeds, stats
from datalab.protocol import protocol

RULES = ("it always loses", "the title's 15 %", "threshold on the estimated noise", "logistic regression")
TRIVIAL, TITLE, THRESHOLD, LOGISTIC = RULES
FEATURES = ["estimated noise", "log classes"]


def failures(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per configuration (data set, architecture, seed, rate): whether influence pruning loses to random.

    ``fails`` is F1(influence) <= mean F1(random). The features are known without a clean label: the noise rate as
    confident learning estimates it, and the number of classes.
    """
    unit, rows = ["dataset", "architecture", "seed", "rate"], rows[rows.part == "main"]
    f1 = rows.pivot_table("macro_f1", unit, "method", sort=False)
    noise = rows[rows.method == "label_noise"].groupby(unit, sort=False).estimated_noise.mean()
    frame = pd.DataFrame({"d": f1.influence - f1.random, "estimated noise": noise}).reset_index()
    frame["log classes"] = np.log([data.REGISTRY[name].classes for name in frame.dataset])
    frame["fails"] = frame.d <= 0
    return frame


def predictions(frame: pd.DataFrame) -> pd.DataFrame:
    """Each rule's prediction of ``fails``, never fitted on the data set it speaks of.

    A logistic regression on the features and a threshold on the estimated noise are fitted on the other data sets;
    the title says: loses where at most 15 % are estimated flipped; "it always loses" is the trivial rule.
    """
    noise = frame["estimated noise"]
    guesses = pd.DataFrame(True, frame.index, list(RULES))
    guesses[TITLE] = noise <= protocol().title_verdict["reproduced"]["crossover_interval_contains"]
    for held in frame.dataset.unique():
        out, rest = frame.dataset == held, frame[frame.dataset != held]
        if rest.fails.nunique() < 2:
            guesses.loc[out, [THRESHOLD, LOGISTIC]] = bool(rest.fails.all())
            continue
        guesses.loc[out, THRESHOLD] = noise[out] <= best_threshold(rest["estimated noise"], rest.fails)
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(rest[FEATURES], rest.fails)
        guesses.loc[out, LOGISTIC] = model.predict(frame.loc[out, FEATURES])
    return guesses


def best_threshold(noise: pd.Series, fails: pd.Series) -> float:
    """The estimated noise rate up to which predicting a failure has the highest F1; the lowest of equals."""
    cuts = np.unique(noise)
    predicted, fails = noise.to_numpy() <= cuts[:, None], fails.to_numpy()
    f1 = 2 * (predicted & fails).sum(1) / (predicted.sum(1) + fails.sum())
    return float(cuts[np.argmax(f1)])


def predictor(frame: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """A row per rule: F1 of foreseeing a failure, its 95 % interval over data sets, and its lead over the trivial one.

    F1's interval resamples data sets (clusters), all of a set's configurations together. The lead's is a t-interval
    of the jackknife over data sets at the protocol's alpha, since a verdict is read on it.
    """
    guesses, confidence = predictions(frame), 1 - protocol().statistics["alpha"]
    counts = np.stack([stats.outcomes(guesses[rule], frame.fails, frame.dataset) for rule in RULES])
    f1 = stats.clustered_f1(counts, seeds.generator(root_seed, "5.1", "predictor"))
    lead = [stats.clustered_f1_lead(rule, counts[0], confidence) for rule in counts]
    accuracy = [(guesses[rule] == frame.fails).mean() for rule in RULES]
    columns = {"rule": RULES, "F1": f1.estimate, "F1 low": f1.low, "F1 high": f1.high, "accuracy": accuracy}
    columns |= {"less the trivial rule": [i.estimate for i in lead]}
    columns |= {"less low": [i.low for i in lead], "less high": [i.high for i in lead]}
    return pd.DataFrame(columns).assign(failures=frame.fails.sum(), configurations=len(frame), sets=f1.n)
