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
from datalab.stats.crossover import crossover, crossover_bootstrap, crossovers_apart
from datalab.stats.measurement import jackknifed
from datalab.stats.multiplicity import bonferroni, holm
from datalab.stats.paired import (
    PairedBootstrap,
    paired_bootstrap,
    sign_flip_test,
    t_interval,
    t_test,
    wilcoxon,
)

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
    for size in in_batches(simulations):
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
    for size in in_batches(simulations):
        d = rng.normal(effect, seed_sd, (size, seeds))
        batches.append(p_values(d, paired_bootstrap(d, rng, resamples), rng))
    row = {"what": "power", "seeds": seeds, "seed_sd": seed_sd, "simulations": simulations}
    return [row | hits for hits in rejections(batches, alphas)]


def in_batches(simulations: int) -> Iterator[int]:
    """The sizes of the batches that make up so many studies."""
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
        pair = line + in_common(shape, rng, (2, units), len(grid), (unit_sd, rate_sd), common)
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


def in_common(
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
