"""Simulated studies whose truth is known: how often a test rejects, an interval covers, a correction lets one slip.

Each function is a task of section 3.4: plain parameters in, rows out, counts (``hits`` of ``simulations``) rather than
rates, so that the table can put the Monte Carlo interval on them. Differences have mean 0 and standard deviation 1
unless said.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.stats import bootstrap
from scipy.stats import nct as noncentral_t

from datalab.seeds import generator
from datalab.stats.clustered_f1 import clustered_f1_lead
from datalab.stats.correlation import mean_correlation, moments
from datalab.stats.crossover import crossover, crossover_bootstrap, crossovers_apart
from datalab.stats.decision import DIFFERENCE, HOLDS, NULL, OPPOSITE, decide, refuting_p
from datalab.stats.measurement import Measurement, jackknifed
from datalab.stats.multiplicity import bonferroni, holm
from datalab.stats.paired import (
    PairedBootstrap,
    guarded_interval,
    paired_bootstrap,
    sign_flip_test,
    t_interval,
    t_test,
    wilcoxon,
)
from datalab.stats.variance import common_share_measured

SHAPES = ("normal", "skewed", "heavy-tailed")
CONFIDENCE = 0.95
TRUE_EFFECT = 0.5  # the d_z whose interval is checked, and the shift it is checked at
BATCH = 200  # simulated studies that share their resamples: few enough that these do not show in the rates


def draw(shape: str, rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Differences of mean 0, standard deviation 1: normal, exponential - 1 (skewness 2) or Student t with 3 d.f."""
    if shape == "normal":
        return rng.normal(size=size)
    if shape == "skewed":
        return rng.exponential(size=size) - 1
    return rng.standard_t(3, size=size) / np.sqrt(3)


def calibration(
    shape: str, units: int, simulations: int, resamples: int, alphas: list[float], root_seed: int
) -> list[dict[str, Any]]:
    """How often each test rejects when the mean difference is 0, and each 95 % interval covers the truth.

    The percentile bootstrap is here for comparison only: over data sets the study uses none. ``width`` is the
    interval's mean width as a multiple of the t-interval's.
    """
    rng = generator(root_seed, "calibration", shape, units)
    batches, covered, width = [], dict.fromkeys(("t", "bootstrap", "percentile", "d_z"), 0), {}
    for size in _batches(simulations):
        d = draw(shape, rng, (size, units))
        boot, t = paired_bootstrap(d, rng, resamples, CONFIDENCE), t_interval(d, CONFIDENCE)
        batches.append(p_values(d, boot, rng))
        limits = {"t": (t.low, t.high), "bootstrap": (boot.interval.low, boot.interval.high)}
        limits["percentile"] = percentile_limits(d, rng, resamples)
        for name, (low, high) in limits.items():
            covered[name] += int(np.sum((low <= 0) & (high >= 0)))
            width[name] = width.get(name, 0.0) + float(np.sum((high - low) / (t.high - t.low))) / simulations
        covered["d_z"] += d_z_covers(d + TRUE_EFFECT)
    row = {"shape": shape, "units": units, "simulations": simulations}
    rows = [{"what": "calibration", **row, **hits} for hits in rejections(batches, alphas)]
    for name, hits in covered.items():
        rows.append({"what": "coverage", **row, "method": name, "hits": hits, "width": width.get(name)})
    return rows


def power(
    seeds: int, seed_sd: float, effect: float, simulations: int, resamples: int, alphas: list[float], root_seed: int
) -> list[dict[str, Any]]:
    """How often each test on ``seeds`` paired runs, normal with ``seed_sd``, finds a true mean of ``effect``."""
    rng, batches = generator(root_seed, "power", seeds, seed_sd, effect), []
    for size in _batches(simulations):
        d = rng.normal(effect, seed_sd, (size, seeds))
        batches.append(p_values(d, paired_bootstrap(d, rng, resamples), rng))
    row = {"what": "power", "seeds": seeds, "seed_sd": seed_sd, "simulations": simulations}
    return [row | hits for hits in rejections(batches, alphas)]


def _batches(simulations: int) -> Iterator[int]:
    for start in range(0, simulations, BATCH):
        yield min(BATCH, simulations - start)


def p_values(d: np.ndarray, boot: PairedBootstrap, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The p of each test on differences d (studies, units), (studies,) each; ``boot`` is their bootstrap."""
    flips = sign_flip_test(d, rng)
    return {"t": t_test(d).p, "bootstrap": boot.p, "sign-flip": flips.p, "Wilcoxon": wilcoxon(d).p}


def rejections(batches: list[dict[str, np.ndarray]], alphas: list[float]) -> list[dict[str, Any]]:
    """A row per test and level: in how many studies p is at most the level."""
    return [
        {"method": test, "alpha": alpha, "hits": sum(int(np.sum(p[test] <= alpha)) for p in batches)}
        for test in batches[0]
        for alpha in alphas
    ]


def percentile_limits(d: np.ndarray, rng: np.random.Generator, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """The plain percentile bootstrap's limits of the mean of d (studies, units), (studies,) each."""
    n = d.shape[-1]
    means = d @ rng.multinomial(n, np.full(n, 1 / n), size=resamples).T / n
    ranks = [int(resamples * (1 - CONFIDENCE) / 2), resamples - 1 - int(resamples * (1 - CONFIDENCE) / 2)]
    ordered = np.partition(means, ranks, axis=1)
    return ordered[:, ranks[0]], ordered[:, ranks[1]]


def d_z_covers(d: np.ndarray) -> int:
    """How many rows' exact d_z intervals hold TRUE_EFFECT: those whose t is no tail value under it (no inversion)."""
    n = d.shape[-1]
    t = d.mean(axis=1) / d.std(axis=1, ddof=1) * np.sqrt(n)
    below = noncentral_t.cdf(t, n - 1, TRUE_EFFECT * np.sqrt(n))
    return int(np.sum((below >= (1 - CONFIDENCE) / 2) & (below <= (1 + CONFIDENCE) / 2)))


def family(
    dependence: str, true_effects: int, benchmarks: int, seeds: int, simulations: int, alphas: list[float],
    root_seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """How often at least one true null among ``benchmarks`` paired t-tests is rejected, uncorrected and corrected.

    ``dependence``: "independent", or "correlated" (every pair of benchmarks shares half its seeds' variance). The first
    ``true_effects`` benchmarks have a true d_z of 1.5; ``found`` is the mean share of these that is detected.
    """
    rng = generator(root_seed, "family", dependence, true_effects, benchmarks, seeds)
    d = rng.normal(size=(simulations, benchmarks, seeds))
    if dependence == "correlated":
        d = np.sqrt(0.5) * d + np.sqrt(0.5) * rng.normal(size=(simulations, 1, seeds))
    d[:, :true_effects] += 1.5
    p, rows = np.asarray(t_test(d).p), []
    for correction, adjusted in (("none", p), ("Bonferroni", bonferroni(p)), ("Holm", holm(p))):
        for alpha in alphas:
            rejected = adjusted <= alpha
            row = {"what": "family", "dependence": dependence, "true_effects": true_effects, "method": correction}
            row |= {"alpha": alpha, "hits": int(np.sum(rejected[:, true_effects:].any(axis=1)))}
            row |= {"found": float(rejected[:, :true_effects].mean()) if true_effects else None}
            rows.append(row | {"simulations": simulations})
    return rows


def crossover_coverage(
    shape: str, units: int, seeds: int, rates: list[float], truth: float, slope: float, unit_sd: float,
    seed_sd: float, simulations: int, resamples: int, root_seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """How often the study's 95 % interval, and the percentile one, hold the crossover of the population of data sets.

    The mean difference is ``slope * (rate - truth)``; each data set is shifted by ``unit_sd`` times a draw of
    ``shape``, each (seed, rate) by normal noise of ``seed_sd``. ``open`` is the share of intervals that end in an
    infinity, ``width`` the median width of the others in units of the rates.
    """
    rng, grid = generator(root_seed, "crossover", shape, units, seeds), np.asarray(rates)
    limits = {"t-limits": np.empty((simulations, 2)), "percentile": np.empty((simulations, 2))}
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    for i in range(simulations):
        shift = unit_sd * draw(shape, rng, (units, 1, 1))
        d = slope * (grid - truth) + shift + rng.normal(0, seed_sd, (units, seeds, len(grid)))
        boot = crossover_bootstrap(d, grid, rng, resamples, CONFIDENCE)
        limits["t-limits"][i] = boot.low, boot.high
        limits["percentile"][i] = np.quantile(boot.draws, tails, method="inverted_cdf")
    rows = []
    for method, ends in limits.items():
        low, high = ends.T
        closed = np.isfinite(ends).all(1)
        row = {"what": "crossover", "shape": shape, "units": units, "truth": truth, "slope": slope, "method": method}
        row |= {"hits": int(np.sum((low <= truth) & (truth <= high))), "open": float(1 - closed.mean())}
        width = float(np.median(high[closed] - low[closed])) if closed.any() else None
        rows.append(row | {"width": width, "simulations": simulations})
    return rows


# Two readings of a study like the title's: crossover and slope of each, spread over data sets of their shifts and of
# single rates, and the share of both variances that the readings have in common (rounded from the study's own data).
APART: dict[str, tuple[float, float, float, float, float, float, float]] = {
    "alike": (0.004, 0.075, 0.012, 0.075, 0.011, 0.020, 0.85),  # as on balanced data sets
    "apart": (-0.10, 0.10, 0.11, 0.20, 0.025, 0.035, 0.3),  # as on skewed ones; the first beyond the rates
    "one flat": (0.36, 0.03, 0.11, 0.20, 0.025, 0.035, 0.3),
}


def apart_coverage(
    case: str, shape: str, units: int, rates: list[float], simulations: int, resamples: int, root_seed: int
) -> list[dict[str, Any]]:
    """How often 95 % limits of the difference of two crossovers (:data:`APART`) hold the truth, by three methods.

    A crossover beyond the rates counts at their end, in the truth too. "squares added" is
    :func:`crossovers_apart`, which the study uses; the jackknife's pseudo-values and the percentiles of resampled sets
    stand beside it. One seed a data set, as in the study.
    """
    first, slope, second, other, unit_sd, rate_sd, common = APART[case]
    rng, grid = generator(root_seed, "apart", case, shape, units), np.asarray(rates)
    ends = grid[0], grid[-1]
    truth = float(np.clip(first, *ends) - np.clip(second, *ends))
    hits = dict.fromkeys(("squares added", "jackknife", "percentile"), 0)

    def less(means: np.ndarray) -> np.ndarray:
        return np.subtract(*crossover(grid, means).clip(*ends))  # of means (2, ..., rates)

    for _ in range(simulations):
        line = np.stack([slope * (grid - first), other * (grid - second)])[:, None]
        pair = line + _in_common(shape, rng, (2, units), len(grid), (unit_sd, rate_sd), common)
        weights = rng.multinomial(units, np.full(units, 1 / units), resamples) / units
        without = less((pair.sum(axis=1, keepdims=True) - pair) / (units - 1))  # each set in turn
        pseudo = less(pair.mean(axis=1)) + (units - 1) * (without.mean() - without)
        inside = {"squares added": crossovers_apart(*pair[:, :, None], grid, CONFIDENCE)[1:3]}
        inside["jackknife"] = t_interval(pseudo, CONFIDENCE)[1:3]
        inside["percentile"] = np.quantile(less(weights @ pair), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        for name, (low, high) in inside.items():
            hits[name] += int(low - 1e-9 <= truth <= high + 1e-9)
    row = {"what": "apart", "case": case, "shape": shape, "units": units, "simulations": simulations}
    return [row | {"method": name, "hits": count} for name, count in hits.items()]


def _in_common(
    shape: str, rng: np.random.Generator, size: tuple[int, ...], rates: int, sds: tuple[float, float], common: float
) -> np.ndarray:
    """What data sets add to the means, (..., readings, sets, rates) with ``size`` (..., readings, sets).

    A shift of each set and noise of each rate, of standard deviations ``sds``; the readings share ``common`` of both
    variances.
    """
    alike, added = (*size[:-2], 1, size[-1]), np.zeros(())
    for sd, k in zip(sds, (1, rates), strict=True):
        shared, own = (draw(shape, rng, (*of, k)) for of in (alike, size))
        added = added + sd * (np.sqrt(common) * shared + np.sqrt(1 - common) * own)
    return added


def gain_coverage(shape: str, units: int, simulations: int, resamples: int, root_seed: int) -> list[dict[str, Any]]:
    """How often each 95 % interval of a ratio of means holds the truth: a relative gain of 2 %.

    F1 differs by .18 between data sets, the gain of ``shape`` by .02; units are the data sets. The percentile and the
    BCa bootstrap (``scipy.stats.bootstrap``) stand beside the jackknife's studentised interval, which the study uses.
    """
    rng, hits = generator(root_seed, "gain", shape, units), dict.fromkeys(("jackknife", "percentile", "BCa"), 0)

    def gain(ours: np.ndarray, base: np.ndarray, axis: int = -1) -> np.ndarray:
        return ours.mean(axis=axis) / base.mean(axis=axis) - 1

    for _ in range(simulations):
        base = 0.7 + 0.18 * rng.uniform(-1.5, 1.5, units)
        ours = base + 0.02 * 0.7 + 0.02 * draw(shape, rng, (units,))
        inside = {"jackknife": jackknifed(gain, ours, base).interval(CONFIDENCE)[1:3]}
        how = {"paired": True, "vectorized": True, "n_resamples": resamples, "rng": rng, "confidence_level": CONFIDENCE}
        for name in ("percentile", "BCa"):
            inside[name] = bootstrap((ours, base), gain, method=name, **how).confidence_interval
        for name, (low, high) in inside.items():
            hits[name] += int(low <= 0.02 <= high)
    row = {"what": "gain", "shape": shape, "units": units, "simulations": simulations}
    return [row | {"method": name, "hits": count} for name, count in hits.items()]


# The rules by which verdicts are read, each in cases whose truth is known: the side that is claimed, the true effects
# in smallest effects of interest (several: a claim that all must hold), their standard deviation over the data sets,
# and what it would be wrong to say, with the level it may be said at: alpha's, or the equivalence test's.
ALPHA, HALF, TAIL = "alpha", "alpha / 2", "one equivalence tail"
RULES: dict[tuple[str, str], tuple[str, tuple[float, ...], float, dict[str, str]]] = {
    ("a difference", "null"): ("greater", (0,), 2, {HOLDS: HALF, OPPOSITE: HALF}),
    ("a difference", "null, skewed"): ("greater", (0,), 2, {HOLDS: HALF, OPPOSITE: HALF}),
    ("a difference", "boundary"): ("greater", (1,), 1, {NULL: TAIL}),
    ("a difference", "boundary, skewed"): ("greater", (1,), 1, {NULL: TAIL}),
    ("no difference", "null"): ("none", (0,), 2, {DIFFERENCE: ALPHA}),
    ("no difference", "boundary"): ("none", (1,), 1, {HOLDS: TAIL}),
    ("not greater", "null"): ("not_greater", (0,), 2, {OPPOSITE: HALF}),
    ("not greater", "boundary"): ("not_greater", (1,), 2, {HOLDS: HALF}),
    ("all of four", "one null"): ("greater", (0, 10, 10, 10), 2, {HOLDS: HALF}),
    ("all of four", "four nulls"): ("greater", (0, 0, 0, 0), 2, {OPPOSITE: HALF}),
    ("all of four", "boundary"): ("greater", (1, 1, 1, 1), 1, {NULL: TAIL}),
    ("share of variance", "null"): ("greater", (0,), 0, {HOLDS: HALF}),
    ("share of variance", "null, interaction"): ("greater", (0,), 0.05, {HOLDS: HALF}),
    ("share of variance", "boundary, interaction"): ("greater", (1,), 0.05, {NULL: TAIL}),
    ("lead in F1", "null"): ("greater", (0,), 0, {HOLDS: HALF, OPPOSITE: HALF}),
    ("lead in F1", "null, sets differ"): ("greater", (0,), 1, {HOLDS: HALF, OPPOSITE: HALF}),
    ("none of four less", "one boundary"): ("not_less", (-1, 10, 10, 10), 2, {HOLDS: HALF}),
    ("none of four less", "four nulls"): ("not_less", (0, 0, 0, 0), 2, {OPPOSITE: HALF}),
    ("relative gain", "null"): ("greater", (0,), 2, {HOLDS: HALF, OPPOSITE: HALF}),
    ("relative gain", "boundary"): ("greater", (1,), 1, {NULL: TAIL}),
    ("mean correlation", "null"): ("less", (0,), 0, {HOLDS: HALF, OPPOSITE: HALF}),
    ("AUROC against 0.5", "null"): ("greater", (0,), 0.15, {HOLDS: HALF, OPPOSITE: HALF}),
}
# Those that the study also reads on a handful of units: seeds, timed data sets, streams.
FEW_UNITS = ("a difference", "relative gain", "AUROC against 0.5")


def verdict_level(
    rule: str, case: str, units: int, alpha: float, equivalence: float, small: float, simulations: int, root_seed: int
) -> list[dict[str, Any]]:
    """How often a rule of :data:`RULES` says what is wrong in a case, beside the level that it promises.

    ``small`` is the smallest effect of interest. What refutes a claim of several effects is picked from all of them,
    and read by Bonferroni, as in the study.
    """
    side, truths, spread, wrong = RULES[rule, case]
    rng, said = generator(root_seed, "verdict", rule, case, units), dict.fromkeys(wrong, 0)
    bounds, against = None, 0.0
    if rule in MEASURED:
        measured = [MEASURED[rule](truths[0] * small, spread, units, rng) for _ in range(simulations)]
        bounds, against = measured[0].bounds, measured[0].against
        made = np.array([[of.values] for of in measured])
    else:
        shape = "skewed" if "skewed" in case else "normal"
        d = draw(shape, rng, (simulations, len(truths), units))
        made = small * (np.array(truths)[:, None] + spread * d)
    if against:
        made, bounds = made - against, (bounds[0] - against, bounds[1] - against)
    alone, picked = (
        _decided(made, side, small, alpha / tests, (1 - equivalence) / tests, bounds) for tests in (1, len(truths))
    )
    for word in wrong:
        said[word] = int(np.all(alone == word, axis=1).sum() if word == HOLDS else np.any(picked == word, axis=1).sum())
    row = {"what": "verdict", "rule": rule, "case": case, "units": units, "simulations": simulations}
    promised = {ALPHA: alpha, HALF: alpha / 2, TAIL: (1 - equivalence) / 2}
    return [row | {"wrongly said": word, "promised": promised[wrong[word]], "hits": said[word]} for word in wrong]


def _decided(
    made: np.ndarray, side: str, small: float, alpha: float, tails: float, bounds: tuple[float, float] | None
) -> np.ndarray:
    """What is decided (studies, effects) of differences (studies, effects, units): all at once, as one by one."""
    wide, narrow = (np.stack(guarded_interval(made, 1 - tail, bounds)[:3], -1) for tail in (alpha, tails))
    of_effect = zip(wide.reshape(-1, 3), narrow.reshape(-1, 3), strict=True)
    words = [decide(w[0], (w[1], w[2]), (n[1], n[2]), side, small) for w, n in of_effect]
    return np.array(words).reshape(wide.shape[:2])


def _simulated_share(truth: float, spread: float, units: int, rng: np.random.Generator) -> Measurement:
    """Of F1 of 2 runs at 5 levels: data sets differ by .18, runs by .02; ``spread`` is of each set's own pattern."""
    levels = np.arange(5) - 2.0
    patterns = rng.normal(size=(units, 2)) @ np.stack([levels, levels**2 - 2]) * spread / np.sqrt(2)
    common = np.sqrt(truth / (1 - truth) * (0.18**2 + 0.02**2 + 2.4 * spread**2) / 2) * levels
    y = rng.normal(0, 0.18, (units, 1, 1)) + patterns[:, None] + common + rng.normal(0, 0.02, (units, 2, 5))
    return common_share_measured(y)


def _simulated_lead(truth: float, spread: float, units: int, rng: np.random.Generator) -> Measurement:
    """Of two rules that guess, of 15 cases a set (``truth`` is 0); with ``spread`` the sets' failures differ."""
    share = rng.beta(2, 2, (units, 1)) if spread else 0.5
    fails, *guesses = (rng.random((units, 15)) < chance for chance in (share, 0.5, 0.5))
    counts = [np.stack([(g & fails).sum(1), (g & ~fails).sum(1), (~g & fails).sum(1)], 1) for g in guesses]
    return clustered_f1_lead(*counts)


def _simulated_gain(truth: float, spread: float, units: int, rng: np.random.Generator) -> Measurement:
    """A relative gain times the mean .7 that it is relative to: in F1, as ``truth`` is. Data sets differ by .18."""
    base = 0.7 + 0.18 * rng.uniform(-1.5, 1.5, units)
    ours = base + truth + 0.01 * spread * rng.normal(size=units)
    return jackknifed(lambda some, others: 0.7 * (some.mean() / others.mean() - 1), ours, base)


def _simulated_correlation(truth: float, spread: float, units: int, rng: np.random.Generator) -> Measurement:
    """Of 10 independent pairs a data set (``truth`` is 0), as two runs at five levels are."""
    return mean_correlation([moments(*pairs) for pairs in rng.normal(size=(units, 2, 10))])


def _simulated_auroc(truth: float, spread: float, units: int, rng: np.random.Generator) -> Measurement:
    values = np.clip(0.5 + truth + spread * rng.normal(size=units), 0, 1)
    return Measurement(values, bounds=(0, 1), against=0.5)


MEASURED = {
    "share of variance": _simulated_share,
    "lead in F1": _simulated_lead,
    "relative gain": _simulated_gain,
    "mean correlation": _simulated_correlation,
    "AUROC against 0.5": _simulated_auroc,
}

# The title's rules in four worlds: the slope and the crossover of every reading's d (0: no effect at any rate), and
# what it would be wrong to say there.
TITLE = {
    "no effect": (0.0, 0.0, "refuted"),
    "a threshold at 15 %": (0.15, 0.15, "refuted"),
    "a crossover at 5 %": (0.15, 0.05, "reproduced"),
    "a crossover at 30 %": (0.15, 0.30, "reproduced"),
}


def title_level(
    version: int, truth: str, shape: str, units: int, rates: list[float], rule: dict[str, Any], small: float,
    readings: int, simulations: int, root_seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """How often a version's rule of the title (``rule``, the protocol's) says what is wrong: ``truth`` is a case of
    :data:`TITLE`.

    ``promised`` is Holm's level (version 2), one side of the crossover's interval ("reproduced"), or what the 95 %
    limits of version 1 leave, although it reads several rates. ``reproduced`` is how often that is said, rightly or
    not. Data sets vary and readings agree as the study's balanced ones do.
    """
    slope, crosses, wrong = TITLE[truth]
    rng, grid, said = generator(root_seed, "title", version, truth, shape, units), np.asarray(rates), []
    for size in _batches(simulations):
        sets = _in_common(shape, rng, (size, readings, units), len(grid), (0.011, 0.020), 0.85)
        said.append(title_words(version, slope * (grid - crosses) + sets, grid, rule, small))
    words = np.concatenate(said)
    promised = (1 - CONFIDENCE) / 2 if wrong == "reproduced" else 1 - CONFIDENCE
    if version == 2 and wrong == "refuted":
        promised = rule["refuted"]["alpha"]
    row = {"what": "verdict", "rule": f"the title, version {version}", "units": units, "simulations": simulations}
    row |= {"case": f"{truth}, skewed" if shape == "skewed" else truth, "wrongly said": wrong, "promised": promised}
    return [row | {"hits": int(np.sum(words == wrong)), "reproduced": int(np.sum(words == "reproduced"))}]


def title_words(version: int, d: np.ndarray, rates: np.ndarray, rule: dict[str, Any], small: float) -> np.ndarray:
    """What the title's rule says (studies,) of d (studies, readings, sets, rates): the ledger's words, many at once."""
    by_rate = np.moveaxis(d, 2, -1)  # (studies, readings, rates, sets)
    limits = t_interval(by_rate, CONFIDENCE)
    low, high = crossover(rates, limits.high), crossover(rates, limits.low)

    def up_to(bound: float) -> np.ndarray:
        return rates <= bound + 1e-9

    def from_(bound: float) -> np.ndarray:
        return rates >= bound - 1e-9

    refuted, reproduced = rule["refuted"], rule["reproduced"]
    target, (least, most) = reproduced["crossover_interval_contains"], reproduced["crossover_interval_inside"]
    holds = ((low <= target) & (target <= high) & (low > least) & (high < most)).all(axis=1)
    if version == 1:
        early, late = refuted["lower_limit_above_0_at_rate_at_most"], refuted["upper_limit_below_0_at_rate_at_least"]
        ahead, behind = limits.low[..., up_to(early)] > 0, limits.high[..., from_(late)] < 0
        against = ahead.any((1, 2)) | behind.any((1, 2))
        flat = limits.high[..., up_to(reproduced["upper_limit_below_sesoi_at_rate_at_most"])] < small
        clear = limits.low[..., from_(reproduced["lower_limit_above_0_at_rate_at_least"])] > 0
        holds &= flat.all((1, 2)) & clear.all((1, 2))
    else:
        early, late = up_to(refuted["ahead_at_rate_at_most"]), from_(refuted["behind_at_rate_at_least"])
        p = refuting_p(np.concatenate([by_rate[..., early, :], -by_rate[..., late, :]], axis=-2))
        against = (holm(p) < refuted["alpha"]).any(axis=-1)
    return np.where(against, "refuted", np.where(holds, "reproduced", rule["otherwise"]))
