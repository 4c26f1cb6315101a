"""From the pilot's rows to an answer: a pure function, so that the same rows always say the same.

Keeping everything is the answer unless an arm is *shown* to beat it, by more than the smallest effect, and one that
drops rows to beat as many dropped at random as well. The intervals are simultaneous over all arms
(:func:`datalab.stats.corrected_resampled_t`), so that they hold for the arm that was picked because it looked best. Its
estimate is still that of a maximum, a little too high, and the answer says so.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from datalab import seeds, stats
from datalab.advise.pilot import CAPS, ESTIMATED, KEEP_ALL, PRIOR, RANDOM, RELABEL
from datalab.correction import SUREST
from datalab.protocol import protocol

# Where no label is wrong, the surest rows' error is at most this share of all rows': chosen on the sets looked at, of
# which it holds in 15 of 17 (45 of 60 of all); bench_advise.py says how often the limits below then do.
HARD = 0.7
MOVED = 2
NO_BETTER = 0.05  # macro-F1 above guessing, below which nothing was learned
# Among arms that are within the smallest effect of the best, the first of these: the one that costs least.
ORDER = (PRIOR, RELABEL, "confident learning", "loss", "influence")
KEEP, ACT, UNSURE = "keep everything", "act", "too little data to tell"


class Verdict(NamedTuple):
    """``answer`` KEEP, ACT or UNSURE; the ``arm`` (method, amount) to follow; its row of ``gains``, or the best arm's.

    KEEP: no arm can be better by the smallest effect; UNSURE: one may be, and everything is kept. ``gains`` has a row
    an arm: its mean score, gain over keeping everything, whose mean is ``kept``, with limits and p, and over random;
    ``noise`` is what :func:`noise` says; ``ties`` are the other methods that do as well at the arm's amount; ``able``:
    whether the labels that judge can. Where they cannot no arm is followed.
    """

    answer: str
    arm: tuple[str, str]
    best: pd.Series
    gains: pd.DataFrame
    kept: float
    noise: dict[str, float]
    ties: tuple[str, ...]
    able: bool


def name(method: str, amount: str) -> str:
    """An arm's name for people."""
    plain = {KEEP_ALL: KEEP_ALL, PRIOR: "keep all, prior-corrected", RELABEL: "flagged labels replaced"}
    share = "the estimated share" if amount == ESTIMATED else amount
    return plain.get(method, f"drop {share} by {method}")


def conclude(rows: pd.DataFrame, seed: int) -> Verdict:
    """The verdict on the rows of :func:`datalab.advise.pilot.one_split` from two splits or more."""
    arms = rows[rows.kind == "arm"].astype({"split": int})
    # That clean test rows are more than could be held out makes no two splits more alike.
    ratio, keep = min(float((arms.n_test / arms.n_train).mean()), CAPS["test"] / CAPS["train"]), (KEEP_ALL, "")
    rng, sesoi = seeds.generator(seed, "advise", "verdict"), protocol().statistics["sesoi"]["f1"]
    scores = arms.pivot_table("macro_f1", ["method", "amount"], "split", sort=False)  # (arms, splits)
    dropped = arms.groupby(["method", "amount"], sort=False).dropped.mean()
    gains = pd.DataFrame({"score": scores.mean(axis=1), "dropped": dropped}).drop(keep)
    gains.insert(0, "arm", [name(*arm) for arm in gains.index])

    def compare(which: list[tuple[str, str]], base: NDArray, columns: list[str]) -> None:
        test = stats.corrected_resampled_t(scores.loc[which].to_numpy() - base, ratio, rng)
        gains.loc[which, columns] = np.clip(np.column_stack(test)[:, : len(columns)], -1, 1)  # no F1 gains more

    random = [arm for arm in gains.index if arm[0] == RANDOM]  # is compared with, never advised
    family = [arm for arm in gains.index if arm[0] != RANDOM]
    pruned = [arm for arm in family if arm[0] not in (PRIOR, RELABEL)]
    for which in (family, random):
        compare(which, scores.loc[keep].to_numpy(), ["gain", "low", "high", "p"])
    of_random = scores.loc[[(RANDOM, amount) for _, amount in pruned]].to_numpy()
    compare(pruned, of_random, ["over random", "random low", "random high"])
    rate = noise(rows, ratio, rng)
    candidates = gains.loc[family].reset_index()
    gains, best = gains.reset_index(), candidates.loc[candidates.gain.idxmax()]
    shown = candidates[(candidates.gain > sesoi) & (candidates.low > 0) & ~(candidates["random low"] <= 0)]
    kept, judged = float(scores.loc[keep].mean()), able(rows, rate["high"])
    if shown.empty or not judged:
        most = min(candidates.high.max(), 1 - kept)
        return Verdict(KEEP if most <= sesoi else UNSURE, keep, best, gains, kept, rate, (), judged)
    near = shown[shown.gain >= shown.gain.max() - sesoi]
    chosen = near.loc[min(near.index, key=lambda i: (ORDER.index(near.method[i]), -near.gain[i]))]
    ties = tuple(near[near.amount.eq(chosen.amount) & near.method.ne(chosen.method)].method)
    return Verdict(ACT, (chosen.method, chosen.amount), chosen, gains, kept, rate, ties, judged)


def able(rows: pd.DataFrame, rate: float) -> bool:
    """Whether labels of which a share ``rate`` is wrong can say which arm has the better macro-F1: clean ones can.

    Symmetric flips bring a class of share pi to s = pi (1 - rate) + (1 - pi) rate / (C - 1): they fill small classes
    with wrong labels, and reward whoever predicts these too often (measured: tests/benchmarks/bench_advise.py). Such
    labels can where no class's share may have been moved by more than a factor ``MOVED``.
    """
    of = rows[rows.kind == "noise"].iloc[:1]
    classes, flips = int(of.classes.iloc[0]), rate / (int(of.classes.iloc[0]) - 1)
    observed = of[["smallest", "largest"]].astype(float).to_numpy()[0]
    true = (observed - flips) / max(1 - flips * classes, 1e-9)
    return bool(of.clean.iloc[0]) or bool(true[0] >= observed[0] / MOVED and true[1] <= observed[1] * MOVED)


def noise(rows: pd.DataFrame, ratio: float, rng: np.random.Generator) -> dict[str, float]:
    """The share of wrong labels: ``estimate`` with the limits ``low`` and ``high``, and what two counts say of it.

    The estimate is the share of labels that differ among the surest rows, r + d_s with r wrong and d_s hard ones; among
    all rows it is about r + d. With d_s <= HARD d the lower limit is one of (surest - HARD all) / (1 - HARD). As d_s is
    not below 0 the upper limit of r is one of the same share by predicted class: where one class is wronger than
    others, the surest rows of all hold too few of it. Both are limits of a mean over resampled splits, at 95 %
    together. Where all splits agree these have no width, and the upper one is Clopper and Pearson's of one split.
    """
    of = rows[rows.kind == "noise"][["surest", "all", "by_class", "calibrated", "counted"]].astype(float)
    least = (of.surest - HARD * of["all"]) / (1 - HARD)
    below, above = (stats.corrected_resampled_t(values, ratio, rng) for values in (least, of.by_class))
    low, high = np.clip([below.low[0], above.high[0]], 0, 1)
    low = low if low <= high else 0.0  # where the surest rows are the wronger ones nothing is known from below
    if of.by_class.nunique() == 1:
        count = -(-int(rows.n_train.mean()) // SUREST)
        high = binomtest(round(of.by_class.mean() * count), count).proportion_ci(0.95).high
    counts = of[["by_class", "calibrated", "counted"]].mean()
    return {"estimate": of.surest.mean(), "low": low, "high": high, **counts}


def lines(v: Verdict, facts: dict[str, Any], hit: str) -> list[str]:
    """The answer in five lines, of which ``hit``, who is flagged or dropped, is the fourth.

    Of ``facts`` it takes n, classes, splits, planned, stopped, flagged, dropped and clean.
    """
    arm, tried = name(*v.arm), v.best.arm
    arm = arm[0].upper() + arm[1:]
    gain = f"{v.best.gain:+.3f} [{v.best.low:+.3f}, {v.best.high:+.3f}] macro-F1 over keeping everything"
    if not np.isnan(v.best["over random"]):
        limits = f"[{v.best['random low']:+.3f}, {v.best['random high']:+.3f}]"
        gain += f", {v.best['over random']:+.3f} {limits} over random"
    if v.answer == ACT and v.arm[0] == RELABEL:
        first = f"Look at the {facts['flagged']:,} flagged labels first: replacing them by the suggested ones pays."
    elif v.answer == ACT and v.arm[0] == PRIOR:
        first = "Keep everything, and take half the log of each class's share off the models' outputs: it pays."
    elif v.answer == ACT:
        first = arm + (f": {facts['dropped']:,} rows." if facts["dropped"] else ": it pays.")
    elif v.answer == UNSURE and v.best.low > 0 and not v.able:
        first = f"Keep everything: {tried} looks better, but with classes so uneven labels so noisy cannot judge it;"
        first += " rows with clean labels (--test) can."
    elif v.answer == UNSURE and v.best.low > 0 and v.best["random low"] <= 0:
        first = f"Keep everything: {tried} beats it, and is not shown to beat as many rows dropped at random."
    elif v.answer == UNSURE and v.best.low > 0:
        first = f"Keep everything: {tried} beats it, but by less than a point."
    elif v.answer == UNSURE:
        most = min(v.gains[v.gains.method != RANDOM].high.max(), 1 - v.kept)
        first = f"Keep everything: nothing else is shown to be better; a gain of {most:.3f} is not ruled out."
    else:
        first = "Keep everything: nothing tried is better by a point of macro-F1."
    guessing = 1 / facts["classes"]  # a class guessed as often as it comes has its share for F1, and these sum to 1
    blind = v.kept < guessing + NO_BETTER and v.arm[0] != RELABEL  # which is shown to pay, if it is advised
    if v.answer != ACT and facts["flagged"] and not blind:
        first += f" Look at the flagged labels ({facts['flagged']:,}) by hand."
    judged = "clean test labels" if facts["clean"] else "held-out labels as noisy as the rest"
    best = "Best of all arms tried, " if v.best.gain > 0 else "No arm tried gained; the best of them, "
    second = f"{arm if v.answer == ACT else best + tried}: {gain}"
    second += f" ({facts['splits']} splits, {judged}; 95 % for all arms at once)."
    second += f" With everything kept macro-F1 is {v.kept:.3f}; guessing has {guessing:.3f}."
    if blind:
        second += " These features hardly tell the classes apart: trust no flag."
    if v.ties:
        second += f" As well within a point: {', '.join(v.ties)}."
    rate = {key: f"{100 * value:.0f}" for key, value in v.noise.items()}
    third = f"Wrong labels: {rate['low']} to {rate['high']}" if v.noise["high"] >= 0.01 else "Wrong labels: under 1"
    third += (
        f" % (95 %); {rate['estimate']} % where the models are surest, {rate['by_class']} % where surest of each class"
    )
    third += f", {rate['calibrated']} and {rate['counted']} % by the confident joint, which counts hard rows too."
    if facts["flagged"] > 2 * v.noise["high"] * facts["n"]:
        third += f" More are flagged ({facts['flagged']:,}): most of them are hard, not wrong."
    fifth = "Limits: a small network on fixed features; a gain picked as the largest is a little too high"
    fifth += "." if facts["clean"] else "; noise that follows the features misleads labels that judge."
    if facts["stopped"]:
        why = facts["stopped"].replace("slower", "the machine was slower than at the start")
        fifth = f"Answer so far ({why}): {facts['splits']} of {facts['planned']} splits. {fifth}"
    return [first, second, third, hit, fifth]
