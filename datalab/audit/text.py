"""Abstract, sections 1 to 3, 5.2 and 6: counts, repeated figures and what was promised.

``READ_IN_TEXT`` holds the few numbers that a reader counts in the paper's prose; every other number is a printed figure
of the ledger. Checks that use a number or a list read in the text are named in ``COUNTED``, the one that simulates in
``SIMULATED``; both are marked so wherever they are shown.
"""

from fractions import Fraction
from math import prod

import numpy as np

from datalab.audit.outcomes import (
    ABLATIONS,
    BENCHMARKS,
    INCONSISTENT,
    LEVELS,
    METHODS,
    PARTS,
    SIZES,
    UNCHECKABLE,
    Figures,
    Outcome,
    check,
    difference,
    equals,
    extremes,
    relative_gain,
    same_everywhere,
    status,
    within_hull,
)
from datalab.ledger.rounding import RoundingInterval, hull

READ_IN_TEXT = {
    "ABS.n_recommendations": 3,  # headed pieces of advice in 5.1, where 5 are announced
    "ABS.n_open_problems": 0,  # none is stated after the introduction
    "S1.n_contributions": 3,
    "S2.3.n_differences": 3,
}
_PROMISED = {  # what the text says is reported, and the table column that would show it
    "S3.2.arch_reported": {"per-architecture results": "architecture"},
    "S3.2.metrics": {"accuracy": "accuracy", "F1": "f1", "BLEU": "bleu"},
    "S3.2.secondary": {"ECE": "ece", "inference latency": "infer", "memory footprint": "mem"},
}
_COMPONENTS = {"Feature Extraction": "fe", "Adaptive Weighting": "aw", "Regularization": "reg"}
COUNTED = (*READ_IN_TEXT, *_PROMISED, "S3.3.T1_rows")
SIMULATED = ("S3.3.kl_prevents_collapse",)

# --- counts ---

_SAME_COUNT = {
    "ABS.vs.S1.n_instances": ("ABS.n_instances", "S1.n_instances"),
    "ABS.vs.S1.n_datasets": ("ABS.n_datasets", "S1.n_benchmarks"),
    "S2.3.scale": ("S2.3.scale", "S1.n_instances"),
    "S3.2.n_arch": ("S3.2.n_arch", "S1.n_arch"),
    "S3.4.bonferroni": ("S3.4.bonferroni", "S1.n_benchmarks"),
    "S5.2.n_benchmarks": ("S5.2.n_benchmarks", "S1.n_benchmarks"),
    "S5.2.n_arch": ("S5.2.n_arch", "S1.n_arch"),
}


@check("{}", _SAME_COUNT)
def _same_count(figures: Figures, statement_id: str) -> Outcome:
    one, other = _SAME_COUNT[statement_id]
    return difference(figures(one), figures(other), f"{one} - {other}")


@check("{}", READ_IN_TEXT)
def _read(figures: Figures, statement_id: str) -> Outcome:
    counted = RoundingInterval.point(READ_IN_TEXT[statement_id])
    return difference(counted, figures(statement_id), "found in the text - announced")


@check("S3.2.n_levels")
def _levels(figures: Figures) -> Outcome:
    rows = RoundingInterval.point(len(LEVELS))
    return difference(rows, figures("S3.2.n_levels"), "rows of the table - announced")


@check("S5.2.n_limitations")
def _limitations(figures: Figures) -> Outcome:
    listed = RoundingInterval.point(sum(s.kind == "limitation" for s in figures.statements.values()))
    return difference(listed, figures("S5.2.n_limitations"), "limitations in the ledger - announced")


def _missing(promised: dict[str, str], shown: set[str], formula: str) -> Outcome:
    missing = [name for name, column in promised.items() if column not in shown]
    return Outcome({"promised": len(promised), "missing": missing}, status(not missing), formula)


@check("{}", _PROMISED)
def _promised(figures: Figures, statement_id: str) -> Outcome:
    shown = set().union(*(figures.columns(table) for table in ("T1", "T1b", "T2", "T3", "T4", "T5")))
    return _missing(_PROMISED[statement_id], shown, "promised in the text, without a column in any table")


@check("S3.3.T1_rows")
def _rows_match_components(figures: Figures) -> Outcome:
    return _missing(_COMPONENTS, set(METHODS), "components without a row of that name in table 4.1")


@check("S3.3.n_components")
def _components(figures: Figures) -> Outcome:
    announced = figures("S3.3.n_components")
    tables = (RoundingInterval.point(len(ABLATIONS) - 2), RoundingInterval.point(len(PARTS)))
    apart = sum(abs(int((table - announced).middle)) for table in tables)
    return Outcome(apart, status(apart == 0), "single parts in tables 4.3 and 4.5, against the text")


def _abstract_interval(figures: Figures) -> tuple[RoundingInterval, RoundingInterval, RoundingInterval]:
    low, high = figures("ABS.framework_f1_ci", "lo"), figures("ABS.framework_f1_ci", "hi")
    return low, high, hull([low, high])


@check("ABS.framework_f1_ci")
def _contains_point(figures: Figures) -> Outcome:
    point, box = figures("ABS.framework_f1"), _abstract_interval(figures)[2]
    return Outcome(float(point.middle), status(point.meets(box)), "the point lies in its interval", box, point)


@check("ABS.framework_f1_ci.shape")
def _midpoint(figures: Figures) -> Outcome:
    low, high, _ = _abstract_interval(figures)
    return equals(figures("ABS.framework_f1"), (low + high).scaled(Fraction(1, 2)), "(low + high) / 2")


@check("ABS.f1_vs_headline")
def _headline_in_abstract(figures: Figures) -> Outcome:
    headline, box = figures("S4.1.headline_f1"), _abstract_interval(figures)[2]
    return Outcome(float(headline.middle), status(headline.meets(box)), "0.849 lies in the interval", box, headline)


@check("ABS.variance_explained.from_T2")
def _variance_share(figures: Figures) -> Outcome:
    """Eta squared of the level factor on table 4.2's ten cell means: within-cell variance can only lower it."""
    cells = [figures(f"T2.{level}.{column}") for column in ("baseline_f1", "ours_f1") for level in LEVELS]

    def eta_squared(values: np.ndarray) -> float:
        table = values.reshape(2, len(LEVELS))
        around = table - table.mean()
        return float(100 * 2 * (around.mean(axis=0) ** 2).sum() / (around**2).sum())

    ceiling, printed = extremes(eta_squared, cells), figures("ABS.variance_explained")
    agrees = printed.low <= ceiling.high
    return Outcome(float(ceiling.middle), status(agrees), "eta^2 of level, 10 cell means", ceiling, printed)


@check("S3.2.grid_prime")
def _grid(figures: Figures) -> Outcome:
    n = int(figures("S3.2.grid").middle)
    factors = sum(n % divisor == 0 for divisor in range(2, n))
    return Outcome({"n": n, "proper_factors": factors}, status(factors > 0), "divisors of 163 other than 1 and 163")


@check("S3.2.cost")
def _cost(figures: Figures) -> Outcome:
    counts = ("S1.n_benchmarks", "S3.2.n_arch", "S3.2.n_levels", "T4.n_sizes", "S3.2.n_seeds", "S3.2.grid")
    runs = prod(int(figures(key).middle) for key in counts)
    return Outcome(runs, UNCHECKABLE, "benchmarks x architectures x levels x sizes x seeds x grid; no total is printed")


@check("S3.3.kl_prevents_collapse")
def _collapse(figures: Figures) -> Outcome:
    """Effective sample size 1 / sum w^2 at the optimum w ~ exp(-loss / lambda2), for 1,000 simulated losses.

    The paper prints no losses; these are drawn from Gamma(2, 0.5), mean 1. Only the trend in lambda2 is judged.
    """
    losses = np.random.default_rng(0).gamma(2.0, 0.5, 1000)
    sizes = {}
    for strength in (0.001, 0.1, 1.0, 100.0):
        weights = np.exp(-(losses - losses.min()) / strength)
        sizes[str(strength)] = float(weights.sum() ** 2 / (weights**2).sum())
    rising = bool(np.all(np.diff(list(sizes.values())) > 0))
    return Outcome(sizes, status(rising), "(sum w)^2 / sum w^2, w = exp(-loss / lambda2), simulated losses")


_WITHIN_LEVELS = {  # figures that pool the levels of table 4.2, and the column they pool
    "S3.1.metric_vs_tables": (("T1.full.f1", "T3.full.f1", "S4.1.headline_f1"), "ours_f1"),
    "S3.1.metric_vs_tables_baseline": (("T1.vanilla.f1", "S4.1.baseline_f1", "T3.wo_all.f1"), "baseline_f1"),
}


@check("{}", _WITHIN_LEVELS)
def _within_levels(figures: Figures, statement_id: str) -> Outcome:
    pooled, column = _WITHIN_LEVELS[statement_id]
    strata = list(figures.row("T2", LEVELS, column).values())
    return within_hull({key: figures(key) for key in pooled}, strata, "between the smallest and largest level")


_TOTALS = {
    "T4.capacity": ("ABS.n_instances", "S1.n_instances"),
    "S5.2.largest_experiment": ("S5.2.largest_experiment",),
}


@check("{}", _TOTALS)
def _capacity(figures: Figures, statement_id: str) -> Outcome:
    totals, largest = _TOTALS[statement_id], max(int(figures(f"T4.{size}.size").middle) for size in SIZES)
    values = {"max_size": largest} | {key: int(figures(key).middle) for key in totals}
    return Outcome(values, status(all(largest <= values[key] for key in totals)), "largest size <= instances")


_SAME_FIGURE = {
    "ABS.f1_vs_T1": ("ABS.framework_f1", "T1.full.f1"),
    "S6.improvement": ("S6.improvement", "S4.1.headline_rel", "S1.improvement"),
}


@check("{}", _SAME_FIGURE)
def _same_figure(figures: Figures, statement_id: str) -> Outcome:
    return same_everywhere(figures, _SAME_FIGURE[statement_id])


@check("S1.improvement.comparator")
def _strong_baselines(figures: Figures) -> Outcome:
    """The gain over the best comparator row of table 4.1 (the full model and the oracle are none)."""
    rows = [figures(f"T1.{row}.f1") for row in METHODS if row not in ("full", "oracle")]
    best, printed = max(rows, key=lambda row: row.middle), figures("S1.improvement")
    full = ("S4.1.headline_f1", "T1.full.f1", "T3.full.f1")
    gains = {key: relative_gain(figures(key), best) for key in full}
    met = any(gain.meets(printed) for gain in gains.values())
    values = {key: float(gain.middle) for key, gain in gains.items()}
    return Outcome(values, status(met), "100 (full / best comparator - 1)", printed=printed)


@check("S3.4.effect_sizes")
def _both_d_and_p(figures: Figures) -> Outcome:
    named = {"T1b": "benchmark table", "T3": "table 4.3", "T2": "table 4.2"}
    missing = []
    for table, name in named.items():
        columns = figures.columns(table)
        missing += [f"{name}: {letter}" for letter, column in (("d", "cohen_d"), ("p", "p")) if column not in columns]
    agrees = status(not missing)
    return Outcome({"promised": len(named), "missing": missing}, agrees, "inferential tables without d or without p")


@check("S4.1.listed_benchmarks")
def _listed_benchmarks(figures: Figures) -> Outcome:
    apart = figures("S1.n_benchmarks") - RoundingInterval.point(len(BENCHMARKS))
    return Outcome(int(apart.middle), status(apart.contains(0)), "benchmarks announced - rows printed")


@check("S4.1.consistent_all")
def _all_benchmarks(figures: Figures) -> Outcome:
    """Six rows are printed; the claim about the other nine cannot be checked, unless a printed one already fails."""
    gains = [figures(f"T1b.{row}.ours_f1") - figures(f"T1b.{row}.baseline_f1") for row in BENCHMARKS]
    missing = len(BENCHMARKS) - int(figures("S4.1.consistent_all").middle)
    failed = any(gain.high <= 0 for gain in gains)
    return Outcome(missing, INCONSISTENT if failed else UNCHECKABLE, "rows printed - benchmarks claimed")
