"""Abstract, sections 1 to 3, 5.2 and 6: counts, repeated figures and what was promised.

``COUNTED`` names the checks that use a number or a list which a reader takes from the paper's prose, ``SIMULATED`` the
one that simulates; both are marked so wherever they are shown. Every other number is a printed figure of the ledger.
"""

from fractions import Fraction
from math import prod

import numpy as np

from datalab.audit import check
from datalab.audit.check import INCONSISTENT, UNCHECKABLE, Figures, Outcome, status
from datalab.ledger.rounding import hull

READ_IN_TEXT = {
    "ABS.n_recommendations": 3,  # headed pieces of advice in 5.1, where 5 are announced
    "ABS.n_open_problems": 0,  # none is stated after the introduction
    "S1.n_contributions": 3,
    "S2.3.n_differences": 3,
}
PROMISED = {  # what the text says is reported, and the table column that would show it
    "S3.2.arch_reported": {"per-architecture results": "architecture"},
    "S3.2.metrics": {"accuracy": "accuracy", "F1": "f1", "BLEU": "bleu"},
    "S3.2.secondary": {"ECE": "ece", "inference latency": "infer", "memory footprint": "mem"},
}
COUNTED = (*READ_IN_TEXT, *PROMISED, "S3.3.T1_rows")
SIMULATED = ("S3.3.kl_prevents_collapse",)


def counts(figures: Figures) -> dict[str, Outcome]:
    """Numbers of things: announced here and there, announced and listed."""
    same = {
        "ABS.vs.S1.n_instances": ("ABS.n_instances", "S1.n_instances"),
        "ABS.vs.S1.n_datasets": ("ABS.n_datasets", "S1.n_benchmarks"),
        "S2.3.scale": ("S2.3.scale", "S1.n_instances"),
        "S3.2.n_arch": ("S3.2.n_arch", "S1.n_arch"),
        "S3.4.bonferroni": ("S3.4.bonferroni", "S1.n_benchmarks"),
        "S5.2.n_benchmarks": ("S5.2.n_benchmarks", "S1.n_benchmarks"),
        "S5.2.n_arch": ("S5.2.n_arch", "S1.n_arch"),
    }
    checks = {
        statement: check.difference(figures.count(here), figures.count(there), f"{here} - {there}")
        for statement, (here, there) in same.items()
    }
    listed = {statement: (number, "found in the text - announced") for statement, number in READ_IN_TEXT.items()}
    listed["S3.2.n_levels"] = len(figures.table("T2")), "rows of the table - announced"
    limitations = sum(claim.kind == "limitation" for claim in figures.statements.values())
    listed["S5.2.n_limitations"] = limitations, "limitations in the ledger - announced"
    for statement, (number, formula) in listed.items():
        checks[statement] = check.difference(number, figures.count(statement), formula)

    announced = figures.count("S3.3.n_components")
    single, parts = (figures.table(key).drop(whole) for key, whole in (("T3", ["full", "wo_all"]), ("T5", "total")))
    apart = sum(abs(len(table) - announced) for table in (single, parts))
    # The claim about the nine benchmarks that are not printed cannot be checked, unless a printed one already fails.
    table = figures.table("T1b")
    failed = INCONSISTENT if any(gain.high <= 0 for gain in table.ours_f1 - table.baseline_f1) else UNCHECKABLE
    missing, announced = len(table) - figures.count("S4.1.consistent_all"), figures.count("S1.n_benchmarks")
    return checks | {
        "S3.3.n_components": Outcome(apart, status(apart == 0), "single parts in tables 4.3 and 4.5, against the text"),
        "S4.1.listed_benchmarks": check.difference(announced, len(table), "benchmarks announced - rows printed"),
        "S4.1.consistent_all": Outcome(missing, failed, "rows printed - benchmarks claimed"),
    }


def promises(figures: Figures) -> dict[str, Outcome]:
    """What the text promises, and no table shows."""
    columns = {key: set(figures.table(key)) for key in ("T1", "T1b", "T2", "T3", "T4", "T5")}
    shown, lacking = set().union(*columns.values()), {}
    for statement, promised in PROMISED.items():
        missing = [name for name, column in promised.items() if column not in shown]
        lacking[statement] = promised, missing, "promised in the text, without a column in any table"
    components = {"Feature Extraction": "fe", "Adaptive Weighting": "aw", "Regularization": "reg"}
    missing = [name for name, row in components.items() if row not in figures.table("T1").index]
    lacking["S3.3.T1_rows"] = components, missing, "components without a row of that name in table 4.1"
    inferential = {"T1b": "benchmark table", "T3": "table 4.3", "T2": "table 4.2"}
    missing = [
        f"{name}: {letter}"
        for table, name in inferential.items()
        for letter, column in (("d", "cohen_d"), ("p", "p"))
        if column not in columns[table]
    ]
    lacking["S3.4.effect_sizes"] = inferential, missing, "inferential tables without d or without p"
    return {
        statement: Outcome({"promised": len(promised), "missing": missing}, status(not missing), formula)
        for statement, (promised, missing, formula) in lacking.items()
    }


def abstract(figures: Figures) -> dict[str, Outcome]:
    """The abstract's F1 and its interval, and the share of variance that the levels explain."""
    low, high = figures("ABS.framework_f1_ci", "lo"), figures("ABS.framework_f1_ci", "hi")
    point, headline, box = figures("ABS.framework_f1"), figures("S4.1.headline_f1"), hull([low, high])
    held = {
        "ABS.framework_f1_ci": (point, "the point lies in its interval"),
        "ABS.f1_vs_headline": (headline, "0.849 lies in the interval"),
    }
    checks = {
        statement: Outcome(float(value.middle), status(value.meets(box)), formula, box, value)
        for statement, (value, formula) in held.items()
    }

    def eta_squared(values: np.ndarray) -> float:
        """Of the level factor, in percent, on the cell means: within-cell variance can only lower it."""
        table = values.reshape(2, -1)
        around = table - table.mean()
        return float(100 * 2 * (around.mean(axis=0) ** 2).sum() / (around**2).sum())

    levels = figures.table("T2")
    cells = [*levels.baseline_f1, *levels.ours_f1]
    ceiling, printed = check.extremes(eta_squared, cells), figures("ABS.variance_explained")
    agrees, of_level = status(printed.low <= ceiling.high), "eta^2 of level, 10 cell means"
    return checks | {
        "ABS.framework_f1_ci.shape": check.equals(point, Fraction(1, 2) * (low + high), "(low + high) / 2"),
        "ABS.variance_explained.from_T2": Outcome(float(ceiling.middle), agrees, of_level, ceiling, printed),
    }


def repeated_figures(figures: Figures) -> dict[str, Outcome]:
    """One quantity in several places, and figures that pool the levels of table 4.2 or the strong baselines."""
    pooled = {
        "S3.1.metric_vs_tables": ("ours_f1", ("T1.full.f1", "T3.full.f1", "S4.1.headline_f1")),
        "S3.1.metric_vs_tables_baseline": ("baseline_f1", ("T1.vanilla.f1", "S4.1.baseline_f1", "T3.wo_all.f1")),
    }
    formula, checks = "between the smallest and largest level; T4.mean: of one balanced design, over the sizes", {}
    for statement, (column, ids) in pooled.items():
        sizes = figures.table("T4")[column]
        overall = {key: figures(key) for key in ids} | {"T4.mean": Fraction(1, len(sizes)) * sizes.sum()}
        checks[statement] = check.within_hull(overall, figures.table("T2")[column], formula)
    # The best comparator row of table 4.1: the full model and the oracle are none.
    best = max(figures.table("T1").f1.drop(["full", "oracle"]), key=lambda row: row.middle)
    printed = figures("S1.improvement")
    gains = {key: check.relative_gain(figures(key), best) for key in ("S4.1.headline_f1", "T1.full.f1", "T3.full.f1")}
    met = status(any(gain.meets(printed) for gain in gains.values()))
    values = {key: float(gain.middle) for key, gain in gains.items()}
    return checks | {
        "ABS.f1_vs_T1": check.same_everywhere(figures, "ABS.framework_f1", "T1.full.f1"),
        "S6.improvement": check.same_everywhere(figures, "S6.improvement", "S4.1.headline_rel", "S1.improvement"),
        "S1.improvement.comparator": Outcome(values, met, "100 (full / best comparator - 1)", printed=printed),
    }


def experiment(figures: Figures) -> dict[str, Outcome]:
    """The size of the grid and of the whole experiment."""
    grid, factors = figures.count("S3.2.grid"), ("S1.n_benchmarks", "S3.2.n_arch", "S3.2.n_levels", "T4.n_sizes")
    runs = prod(figures.count(key) for key in (*factors, "S3.2.n_seeds", "S3.2.grid"))
    divisors = sum(grid % divisor == 0 for divisor in range(2, grid))
    proper = {"n": grid, "proper_factors": divisors}
    product = "benchmarks x architectures x levels x sizes x seeds x grid; no total is printed"
    checks = {
        "S3.2.grid_prime": Outcome(proper, status(divisors > 0), "divisors of 163 other than 1 and 163"),
        "S3.2.cost": Outcome(runs, UNCHECKABLE, product),
    }
    largest = max(figures.count(f"T4.{size}.size") for size in figures.table("T4").index)
    for statement, totals in {
        "T4.capacity": ("ABS.n_instances", "S1.n_instances"),
        "S5.2.largest_experiment": ("S5.2.largest_experiment",),
    }.items():
        instances = {key: figures.count(key) for key in totals}
        fits = status(largest <= min(instances.values()))
        checks[statement] = Outcome({"max_size": largest} | instances, fits, "largest size <= instances")
    return checks


def collapse(figures: Figures) -> dict[str, Outcome]:
    """Effective sample size 1 / sum w^2 at the optimum w ~ exp(-loss / lambda2), for 1,000 simulated losses.

    The paper prints no losses; these are drawn from Gamma(2, 0.5), mean 1. Only the trend in lambda2 is judged.
    """
    losses = np.random.default_rng(0).gamma(2.0, 0.5, 1000)
    sizes = {}
    for strength in (0.001, 0.1, 1.0, 100.0):
        weights = np.exp(-(losses - losses.min()) / strength)
        sizes[str(strength)] = float(weights.sum() ** 2 / (weights**2).sum())
    rising = status(bool(np.all(np.diff(list(sizes.values())) > 0)))
    formula = "(sum w)^2 / sum w^2, w = exp(-loss / lambda2), simulated losses"
    return {"S3.3.kl_prevents_collapse": Outcome(sizes, rising, formula)}


TOPICS = (counts, promises, abstract, repeated_figures, experiment, collapse)
