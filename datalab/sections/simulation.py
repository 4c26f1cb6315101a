"""Simulated studies whose truth is known: how often a test rejects, an interval covers, a correction lets one slip.

Each function is a sweep cell: plain parameters in, rows out, counts (``hits`` of ``simulations``) rather than rates, so
that the table can put the Monte Carlo interval on them. Differences have mean 0 and standard deviation 1 unless said.
``code`` enters the cell's key and nothing else: the sweep's key leaves the statistics room out, which these rows test.
"""

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from datalab import seeds as streams
from datalab import stats

SHAPES = ("normal", "skewed", "heavy-tailed")
CONFIDENCE = 0.95
TRUE_EFFECT = 0.5  # the d_z whose interval is checked, and the shift it is checked at
_BATCH = 200  # simulated studies that share their resamples: few enough that these do not show in the rates


@functools.cache
def statistics_code() -> str:
    """The hash of ``datalab/stats``, to put into the cells' parameters."""
    digest = hashlib.sha256()
    for path in sorted(Path(stats.__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def draw(shape: str, rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Differences of mean 0, standard deviation 1: normal, exponential - 1 (skewness 2) or Student t with 3 d.f."""
    if shape == "normal":
        return rng.normal(size=size)
    if shape == "skewed":
        return rng.exponential(size=size) - 1
    return rng.standard_t(3, size=size) / np.sqrt(3)


def calibration(
    shape: str, units: int, simulations: int, resamples: int, alphas: list[float], root_seed: int, code: str = ""
) -> list[dict[str, Any]]:
    """How often each test rejects when the mean difference is 0, and each 95 % interval covers the truth.

    The percentile bootstrap is here for comparison only; the study does not use it. ``width`` is the interval's mean
    width as a multiple of the t-interval's.
    """
    rng = streams.generator(root_seed, "calibration", shape, units)
    rejected = {(test, alpha): 0 for test in ("t", "bootstrap", "sign-flip", "Wilcoxon") for alpha in alphas}
    covered: dict[str, list[float]] = {name: [0, 0.0] for name in ("t", "bootstrap", "percentile", "d_z")}
    for size in _batches(simulations):
        d = draw(shape, rng, (size, units))
        boot = stats.paired_bootstrap(d, rng, resamples, CONFIDENCE)
        p = {"t": stats.t_test(d).p, "bootstrap": boot.p, "Wilcoxon": stats.wilcoxon(d).p}
        p["sign-flip"] = stats.sign_flip_test(d, rng).p
        for test, alpha in rejected:
            rejected[test, alpha] += int(np.sum(p[test] <= alpha))
        t = stats.t_interval(d, CONFIDENCE)
        limits = {"t": (t.low, t.high), "bootstrap": (boot.interval.low, boot.interval.high)}
        limits["percentile"] = _percentile(d, rng, resamples)
        for name, (low, high) in limits.items():
            covered[name][0] += int(np.sum((low <= 0) & (high >= 0)))
            covered[name][1] += float(np.sum((high - low) / (t.high - t.low))) / simulations
        covered["d_z"][0] += _dz_covers(d + TRUE_EFFECT)
    about = {"what": "calibration", "shape": shape, "units": units, "simulations": simulations}
    rows = [{**about, "method": t, "alpha": a, "hits": hits} for (t, a), hits in rejected.items()]
    for name, (hits, width) in covered.items():
        width = None if name == "d_z" else width
        rows.append({**about, "what": "coverage", "method": name, "hits": int(hits), "width": width})
    return rows


def family(
    dependence: str, true_effects: int, benchmarks: int, seeds: int, simulations: int, alphas: list[float],
    root_seed: int, code: str = "",
) -> list[dict[str, Any]]:  # fmt: skip
    """How often at least one true null among ``benchmarks`` paired t-tests is rejected, uncorrected and corrected.

    ``dependence``: "independent", or "correlated" (every pair of benchmarks shares half its seeds' variance). The first
    ``true_effects`` benchmarks have a true d_z of 1.5; ``found`` is the mean share of these that is detected.
    """
    rng = streams.generator(root_seed, "family", dependence, true_effects, benchmarks, seeds)
    d = rng.normal(size=(simulations, benchmarks, seeds))
    if dependence == "correlated":
        d = np.sqrt(0.5) * d + np.sqrt(0.5) * rng.normal(size=(simulations, 1, seeds))
    d[:, :true_effects] += 1.5
    p = np.asarray(stats.t_test(d).p)
    rows = []
    for correction, adjusted in (("none", p), ("Bonferroni", stats.bonferroni(p)), ("Holm", stats.holm(p))):
        for alpha in alphas:
            rejected = adjusted <= alpha
            hits = int(np.sum(rejected[:, true_effects:].any(axis=1)))
            found = float(rejected[:, :true_effects].mean()) if true_effects else None
            rows.append({"what": "family", "dependence": dependence, "true_effects": true_effects, "method": correction,
                         "alpha": alpha, "hits": hits, "found": found, "simulations": simulations})  # fmt: skip
    return rows


def power(
    seeds: int, seed_sd: float, effect: float, simulations: int, resamples: int, alphas: list[float],
    root_seed: int, code: str = "",
) -> list[dict[str, Any]]:  # fmt: skip
    """How often each test on ``seeds`` paired runs, normal with ``seed_sd``, finds a true mean of ``effect``."""
    rng = streams.generator(root_seed, "power", seeds, seed_sd, effect)
    rejected = {(test, alpha): 0 for test in ("t", "bootstrap", "sign-flip", "Wilcoxon") for alpha in alphas}
    for size in _batches(simulations):
        d = rng.normal(effect, seed_sd, (size, seeds))
        p = {"t": stats.t_test(d).p, "bootstrap": stats.paired_bootstrap(d, rng, resamples).p}
        p |= {"sign-flip": stats.sign_flip_test(d, rng).p, "Wilcoxon": stats.wilcoxon(d).p}
        for test, alpha in rejected:
            rejected[test, alpha] += int(np.sum(p[test] <= alpha))
    about = {"what": "power", "seeds": seeds, "seed_sd": seed_sd, "simulations": simulations}
    return [{**about, "method": t, "alpha": a, "hits": hits} for (t, a), hits in rejected.items()]


def crossover_coverage(
    shape: str, units: int, seeds: int, rates: list[float], truth: float, slope: float, unit_sd: float, seed_sd: float,
    simulations: int, resamples: int, root_seed: int, code: str = "",
) -> list[dict[str, Any]]:  # fmt: skip
    """How often the two-level bootstrap's 95 % interval holds the crossover of the population of data sets.

    The mean difference is ``slope * (rate - truth)``; each data set is shifted by ``unit_sd`` times a draw of
    ``shape``, each (seed, rate) by normal noise of ``seed_sd``. ``open`` is the share of intervals that end in an
    infinity, ``width`` the median width of the others in units of the rates.
    """
    rng = streams.generator(root_seed, "crossover", shape, units, seeds)
    grid = np.asarray(rates)
    hits, widths = 0, []
    for _ in range(simulations):
        shift = unit_sd * draw(shape, rng, (units, 1, 1))
        d = slope * (grid - truth) + shift + rng.normal(0, seed_sd, (units, seeds, len(grid)))
        found = stats.crossover_bootstrap(d, grid, rng, resamples, CONFIDENCE)
        hits += found.low <= truth <= found.high
        widths.append(found.high - found.low)
    finite = np.isfinite(widths)
    width = float(np.median(np.asarray(widths)[finite])) if finite.any() else None
    return [{"what": "crossover", "shape": shape, "units": units, "seeds": seeds, "hits": int(hits),
             "open": float(1 - finite.mean()), "width": width, "simulations": simulations}]  # fmt: skip


def _batches(total: int) -> Iterator[int]:
    for start in range(0, total, _BATCH):
        yield min(_BATCH, total - start)


def _percentile(d: np.ndarray, rng: np.random.Generator, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    n = d.shape[-1]
    means = d @ rng.multinomial(n, np.full(n, 1 / n), size=resamples).T / n
    ranks = [int(resamples * (1 - CONFIDENCE) / 2), resamples - 1 - int(resamples * (1 - CONFIDENCE) / 2)]
    ordered = np.partition(means, ranks, axis=1)
    return ordered[:, ranks[0]], ordered[:, ranks[1]]


def _dz_covers(d: np.ndarray) -> int:
    """How many rows' exact d_z intervals hold TRUE_EFFECT: those whose t is no tail value under it (no inversion)."""
    n = d.shape[-1]
    t = d.mean(axis=1) / d.std(axis=1, ddof=1) * np.sqrt(n)
    below = scipy_stats.nct.cdf(t, n - 1, TRUE_EFFECT * np.sqrt(n))
    return int(np.sum((below >= (1 - CONFIDENCE) / 2) & (below <= (1 + CONFIDENCE) / 2)))
