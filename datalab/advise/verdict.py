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
from datalab.advise.pilot import CAPS, ESTIMATED, KEEP_ALL, PRIOR, RANDOM, RELABEL, SUREST
from datalab.protocol import protocol

# Where no label is wrong, the surest rows' error is at most this share of all rows': chosen on the sets looked at, of
# which it holds in 15 of 17 (45 of 60 of all); bench_advise.py says how often the limits below then do.
HARD = 0.7
NO_BETTER = 0.05  # macro-F1 above guessing, below which nothing was learned
# Among arms that are within the smallest effect of the best, the first of these: the one that costs least.
ORDER = (PRIOR, RELABEL, "confident learning", "loss", "influence")
KEEP, ACT, UNSURE = "keep everything", "act", "too little data to tell"


class Verdict(NamedTuple):
    """``answer`` KEEP, ACT or UNSURE; the ``arm`` (method, amount) to follow; its row of ``gains``, or the best arm's.

    KEEP: no arm can be better by the smallest effect; UNSURE: one may be. ``gains`` has a row an arm: its mean score,
    gain over keeping everything, whose mean score is ``kept``, with limits and p, and over random, with limits;
    ``noise`` is what :func:`noise` says; ``ties`` are the other methods that do as well at the arm's amount.
    """

    answer: str
    arm: tuple[str, str]
    best: pd.Series
    gains: pd.DataFrame
    kept: float
    noise: dict[str, float]
    ties: tuple[str, ...]


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
        gains.loc[which, columns] = np.column_stack(test)[:, : len(columns)]

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
    kept = float(scores.loc[keep].mean())
    if shown.empty:
        return Verdict(KEEP if candidates.high.max() <= sesoi else UNSURE, keep, best, gains, kept, rate, ())
    near = shown[shown.gain >= shown.gain.max() - sesoi]
    chosen = near.loc[min(near.index, key=lambda i: (ORDER.index(near.method[i]), -near.gain[i]))]
    ties = tuple(near[near.amount.eq(chosen.amount) & near.method.ne(chosen.method)].method)
    return Verdict(ACT, (chosen.method, chosen.amount), chosen, gains, kept, rate, ties)


def noise(rows: pd.DataFrame, ratio: float, rng: np.random.Generator) -> dict[str, float]:
    """The share of wrong labels: ``estimate`` with the limits ``low`` and ``high``, and what two counts say of it.

    The estimate is the share of labels that differ among the surest rows, r + d_s with r wrong and d_s hard ones; among
    all rows it is about r + d. As d_s >= 0 its upper limit is one of r; with d_s <= HARD d the lower one is that of
    (surest - HARD all) / (1 - HARD). Both are limits of a mean over resampled splits, at 95 % together. Where
    all splits agree these have no width, and the upper one is Clopper and Pearson's of one split's surest rows.
    """
    of = rows[rows.kind == "noise"][["surest", "all", "calibrated", "counted"]].astype(float)
    least = (of.surest - HARD * of["all"]) / (1 - HARD)
    below, above = (stats.corrected_resampled_t(values, ratio, rng) for values in (least, of.surest))
    low, high = np.clip([below.low[0], above.high[0]], 0, 1)
    low = low if low <= high else 0.0  # where the surest rows are the wronger ones nothing is known from below
    if of.surest.nunique() == 1:
        count = -(-int(rows.n_train.mean()) // SUREST)
        high = binomtest(round(of.surest.mean() * count), count).proportion_ci(0.95).high
    return {"estimate": of.surest.mean(), "low": low, "high": high, **of[["calibrated", "counted"]].mean()}


def lines(v: Verdict, facts: dict[str, Any], hit: str) -> list[str]:
    """The answer in five lines, of which ``hit``, who is flagged or dropped, is the fourth.

    Of ``facts`` it takes n, classes, splits, planned, stopped, flagged, dropped and clean.
    """
    arm, tried = name(*v.arm), v.best.arm
    gain = f"{v.best.gain:+.3f} [{v.best.low:+.3f}, {v.best.high:+.3f}] macro-F1 over keeping everything"
    if not np.isnan(v.best["over random"]):
        limits = f"[{v.best['random low']:+.3f}, {v.best['random high']:+.3f}]"
        gain += f", {v.best['over random']:+.3f} {limits} over random"
    if v.answer == ACT and v.arm[0] == RELABEL:
        first = f"Look at the {facts['flagged']:,} flagged labels first: replacing them by the suggested ones pays."
    elif v.answer == ACT and v.arm[0] == PRIOR:
        first = "Keep everything, and take half the log of each class's share off the models' outputs: it pays."
    elif v.answer == ACT:
        first = f"{arm[0].upper()}{arm[1:]}" + (f": {facts['dropped']:,} rows." if facts["dropped"] else ": it pays.")
    elif v.answer == UNSURE and v.best.low > 0 and v.best["random low"] <= 0:
        first = f"Keep everything: {tried} beats it, and is not shown to beat as many rows dropped at random."
    elif v.answer == UNSURE:
        unsettled = v.gains[v.gains.method != RANDOM].sort_values("high").iloc[-1]
        first = "Keep everything: nothing else is shown to be better, though it is not ruled out"
        first += f" ({unsettled.arm}: {unsettled.gain:+.3f}, at most {unsettled.high:+.3f})."
    else:
        first = "Keep everything: nothing tried is better by a point of macro-F1."
    guessing = 1 / facts["classes"]  # a class guessed as often as it comes has its share for F1, and these sum to 1
    blind = v.kept < guessing + NO_BETTER and v.arm[0] != RELABEL  # which is shown to pay, if it is advised
    if v.answer != ACT and facts["flagged"] and not blind:
        first += f" Look at the flagged labels ({facts['flagged']:,}) by hand."
    judged = "clean test labels" if facts["clean"] else "held-out labels as noisy as the rest"
    second = f"{'Best of all arms tried, ' if v.answer != ACT else ''}{tried}: {gain}"
    second += f" ({facts['splits']} splits, {judged}; 95 % for all arms at once)."
    second += f" With everything kept macro-F1 is {v.kept:.3f}; guessing has {guessing:.3f}."
    if blind:
        second += " These features hardly tell the classes apart: trust no flag."
    if v.ties:
        second += f" {' and '.join(v.ties).capitalize()} does as well within a point."
    rate = {key: f"{100 * value:.0f}" for key, value in v.noise.items()}
    third = f"Wrong labels: {rate['low']} to {rate['high']} % (95 %); {rate['estimate']} % where the models are surest,"
    third += f" {rate['calibrated']} and {rate['counted']} % by the confident joint, which counts hard rows too."
    if facts["flagged"] > v.noise["high"] * facts["n"]:
        third += f" More are flagged ({facts['flagged']:,}): most of them are hard, not wrong."
    fifth = "Limits: a small network on fixed features; a gain picked as the largest is a little too high"
    fifth += "." if facts["clean"] else "; noise that follows the features misleads labels that judge."
    if facts["stopped"]:
        why = facts["stopped"].replace("slower", "the machine was slower than at the start")
        fifth = f"Answer so far ({why}): {facts['splits']} of {facts['planned']} splits. {fifth}"
    return [first, second, third, hit, fifth]
