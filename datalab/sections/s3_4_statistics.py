"""Section 3.4: do the tests hold their level, the intervals their coverage, and can the design see what matters?

Simulated studies whose truth is known (:mod:`datalab.stats.simulation` and, of the rules of verdict,
:mod:`datalab.stats.verdict_levels`: the section's tasks) give counts; the tables here make them rates, each with its
Monte Carlo interval (Wilson, 99 %).
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pydantic
from scipy import stats as scipy_stats

from datalab import ledger, stats
from datalab.protocol import protocol
from datalab.record import Statement
from datalab.record.parameters import SectionParameters
from datalab.sections.parameters import estimated
from datalab.seeds import generator
from datalab.stats import simulation, verdict_levels
from datalab.sweep import Task

FEW = (3, 5, 8)  # seeds, timed data sets or streams: what some statements rest on
MONTE_CARLO = 0.99  # confidence of the intervals on simulated rates
LENIENT = 0.05  # the conventional level, shown beside the protocol's
# The title's, as the first record has it at its primary cell (slope of d, spread over data sets and seeds), where the
# crossover lies near 0; and a steep one at 15 %.
CROSSOVERS = ((0.016, 0.075), (0.15, 0.2))
CROSSOVER = {"unit_sd": 0.025, "seed_sd": 0.02, "resamples": 500, "seeds": 5}
NEEDED = "difference found with 80 % power (F1)"
# Of a kind of study what is promised of its rate, a share or the level, and the readings below and above the promise.
KINDS = dict.fromkeys(("calibration", "family"), ("alpha", "conservative", "liberal"))
KINDS |= dict.fromkeys(("coverage", "crossover", "apart", "gain"), (simulation.CONFIDENCE, "too narrow", "wide"))
KINDS["power"] = (0.8, "below 80 %", "above 80 %")

QUANTITIES = {
    "mean": "mean difference (F1)",
    "t_low": "95 % t-interval, low",
    "t_high": "95 % t-interval, high",
    "bootstrap_low": "95 % bootstrap interval, low",
    "bootstrap_high": "95 % bootstrap interval, high",
    "p_t": "p, paired t",
    "p_bootstrap": "p, studentised bootstrap",
    "p_sign_flip": "p, sign-flip",
    "p_wilcoxon": "p, Wilcoxon signed-rank",
    "p_floor": "smallest p the sign-flip test could give",
    "d_z": "Cohen's d_z",
    "d_z_low": "95 % interval of d_z, low",
    "d_z_high": "95 % interval of d_z, high",
    "rank_biserial": "rank-biserial correlation",
    "p_shapiro": "p, Shapiro-Wilk (normality)",
}

Count = Annotated[int, pydantic.Field(ge=2, le=60, strict=True)]
Units = Annotated[int, pydantic.Field(ge=4, le=60, strict=True)]
Spread = Annotated[float, pydantic.Field(gt=0, le=1)]


class Parameters(SectionParameters):
    """What this section takes beside the shared parameters; F1 differences in units of F1."""

    simulations: Annotated[int, pydantic.Field(ge=40, le=10**6, strict=True)]
    resamples: Annotated[int, pydantic.Field(ge=1999, le=10**6, strict=True)] = protocol().statistics["resamples"]
    units: Annotated[tuple[Units, ...], pydantic.Field(min_length=1)] = (15, 24, 40)
    seed_counts: Annotated[tuple[Count, ...], pydantic.Field(min_length=1)] = (5, 9, 13)
    seed_sds: Annotated[tuple[Spread, ...], pydantic.Field(min_length=1)] = (0.005, 0.01, 0.02)
    unit_sd: Spread = 0.02
    benchmarks: Annotated[int, pydantic.Field(ge=2, le=100, strict=True)] = 15

    @property
    def levels(self) -> list[float]:
        """The lenient level, the protocol's, and the protocol's divided by the benchmarks."""
        alpha = protocol().statistics["alpha"]
        return [LENIENT, alpha, alpha / self.benchmarks]

    @property
    def effect(self) -> float:
        """The smallest effect of interest, in F1."""
        return protocol().statistics["sesoi"]["f1"]


def tasks(p: Parameters) -> list[Task]:
    """Every simulated study of the section, the slowest first."""
    shared = {"simulations": p.simulations, "root_seed": p.root_seed}
    many = shared | {"resamples": p.resamples}
    few = {"simulations": max(20, p.simulations // 8), "rates": list(protocol().noise["rates"])}
    families = {"seeds": max(p.seed_counts), "benchmarks": p.benchmarks, "alphas": p.levels[:2]}
    work = p.simulations / 4000  # the costs below were measured at as many, with 10,000 resamples
    two_shapes, studys_rates = simulation.SHAPES[:2], protocol().profiles["study"]["length_rates"]
    kinds = (
        ("calibration", {"shape": simulation.SHAPES, "units": p.units},
         many | {"alphas": p.levels[:2]}, 3.0 * work * p.resamples / 10_000),
        *(("crossover_coverage", {"shape": two_shapes, "units": p.units},
           shared | few | CROSSOVER | {"truth": truth, "slope": slope}, 0.0015 * few["simulations"])
          for truth, slope in CROSSOVERS),
        ("apart_coverage", {"case": simulation.APART, "shape": two_shapes, "units": p.units},
         shared | few | {"rates": list(studys_rates), "resamples": CROSSOVER["resamples"]}, 0.003 * few["simulations"]),
        ("gain_coverage", {"shape": two_shapes, "units": p.units},
         shared | {"simulations": few["simulations"], "resamples": 1999}, 0.003 * few["simulations"]),
        ("power", {"seeds": p.seed_counts, "seed_sd": p.seed_sds},
         many | {"effect": p.effect, "alphas": p.levels}, work * p.resamples / 10_000),
        ("family", {"dependence": ("independent", "correlated"), "true_effects": (0, max(1, p.benchmarks // 3))},
         shared | families, 0.1 * work),
    )  # fmt: skip
    tasks = [
        Task(f"{simulation.__name__}:{name}", dict(zip(varied, values, strict=True)) | given, cost)
        for name, varied, given, cost in kinds
        for values in itertools.product(*varied.values())
    ]
    half = shared | {"simulations": max(20, p.simulations // 2), "small": p.effect}
    measured = protocol().measured_verdict
    how = half | {"alpha": p.levels[1], "equivalence": measured["equivalence_confidence"]}
    how["tolerance"] = measured["tolerance_f1"]
    for name, rule in verdict_levels.RULES.items():
        units = [*(FEW if rule.few else ()), *p.units]
        effects = [len(case.truths) for (of, _), case in verdict_levels.CASES.items() if of == name]
        cost = (0.00002 * sum(effects) if rule.drawn is None else 0.0008 * len(effects)) * len(units)
        of_rule = {"rule": name, "units": units} | how
        tasks.append(Task(f"{verdict_levels.__name__}:rule_levels", of_rule, cost * half["simulations"]))
    rules = protocol().title_verdict, protocol().protocol_2["title_verdict"]
    first, second = ({key: dict(of) if isinstance(of, Mapping) else of for key, of in rule.items()} for rule in rules)
    readings = len(protocol().protocol_2["readings"])
    versions = (
        {"version": 1, "rule": first, "rates": few["rates"], "readings": 1},
        {"version": 2, "rule": second, "rates": list(studys_rates), "readings": readings},
    )
    worlds = [(case, "normal") for case in verdict_levels.TITLE] + [("no effect", "skewed")]
    for given, (case, shape) in itertools.product(versions, worlds):
        if units := [count for count in p.units if count >= given["rule"]["min_datasets"]]:
            of_title = given | half | {"truth": case, "shape": shape, "units": units}
            cost = 0.0001 * half["simulations"] * len(units)
            tasks.append(Task(f"{verdict_levels.__name__}:title_levels", of_title, cost))
    return tasks


estimate = estimated(tasks, memory=0.5e9)


def part(rows: pd.DataFrame, what: str) -> pd.DataFrame:
    """The rows of one kind of study, with its own columns only."""
    frame = rows[rows["what"] == what].dropna(axis=1, how="all").drop(columns="what").reset_index(drop=True)
    counts = [name for name in ("units", "seeds", "true_effects", "simulations", "hits") if name in frame]
    return frame.astype(dict.fromkeys(counts, int))


def rated(rows: pd.DataFrame, promised: pd.Series | float, words: Sequence[str]) -> pd.DataFrame:
    """Counts as rates in %, with Wilson intervals and a reading against what was ``promised`` (a share).

    ``words`` are the readings of a rate whose whole interval lies (below, above) the promise; otherwise "holds".
    """
    pairs = zip(rows.hits, rows.simulations, strict=True)
    counts = [scipy_stats.binomtest(int(hits), int(total)) for hits, total in pairs]
    limits = [count.proportion_ci(MONTE_CARLO, method="wilson") for count in counts]
    rates = {"promised": 100 * promised, "rate": 100 * rows.hits / rows.simulations}
    rates |= {end: [100 * getattr(limit, end) for limit in limits] for end in ("low", "high")}
    frame = rows.drop(columns="hits").assign(**rates)
    below, above = frame.high < frame.promised, frame.low > frame.promised
    return frame.assign(reading=np.select([below, above], words, "holds"))


def rates(rows: pd.DataFrame, what: str) -> pd.DataFrame:
    """:func:`rated` of one kind of study, what :data:`KINDS` promises of it: a row a design and method.

    ``found`` of families is in % of the true effects, ``open`` and ``width`` of crossovers in % and points of the rate.
    """
    frame, (promised, *words) = part(rows, what), KINDS[what]
    frame = rated(frame, frame[promised] if promised == "alpha" else promised, words)
    shares = {"family": ["found"], "crossover": ["open", "width"]}.get(what, [])
    return frame.assign(**{name: 100 * frame[name] for name in shares if name in frame})


def example(p: Parameters) -> tuple[pd.DataFrame, dict[str, float]]:
    """One simulated comparison under the whole protocol: as a table, and as ``stats.paired_summary`` returns it.

    The true mean is the smallest effect of interest, the spread over data sets twice that, both in F1.
    """
    rng = generator(p.root_seed, "example row")
    row = stats.paired_summary(rng.normal(p.effect, 2 * p.effect, size=15), rng)
    shown = [(title, row[name]) for name, title in QUANTITIES.items() if name in row]
    return pd.DataFrame(shown, columns=["quantity", "value"]), row


def levels_of_verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """How often (%) each verdict rule says what is wrong, promised and found: a row a rule, case, word and size.

    ``reproduced``: how often (%) a rule of the title says that, rightly or not.
    """
    frame = part(rows, "verdict")
    if "reproduced" in frame:  # of the title's rules
        frame["reproduced"] *= 100 / frame["simulations"]
    return rated(frame.drop(columns="promised"), frame.promised, ("conservative", "liberal"))


def powers(rows: pd.DataFrame, p: Parameters) -> pd.DataFrame:
    """Power at the smallest effect of interest, in %, beside the t-test's by formula (``pingouin.power_ttest``)."""
    frame = rates(rows, "power").rename(columns={"promised": "wanted"})
    t = frame[frame.method == "t"]
    designs = zip(t.seed_sd, t.seeds, t.alpha, strict=True)
    exact = [100 * stats.power(p.effect / sd, count, alpha) for sd, count, alpha in designs]
    return frame.assign(formula=pd.Series(exact, t.index))


def floors(p: Parameters) -> pd.DataFrame:
    """The smallest two-sided p a permutation test can print, by number of seeds, and the levels it reaches."""
    frame = pd.DataFrame({"seeds": range(2, 17)})
    frame = frame.assign(paired=frame.seeds.map(stats.p_floor), unpaired=frame.seeds.map(stats.p_floor_unpaired))
    return frame.assign(**{f"paired reaches {alpha:.2g}": frame.paired <= alpha for alpha in p.levels})


def design(p: Parameters) -> pd.DataFrame:
    """Data sets against seeds: the power of a t-test over data sets at the smallest effect of interest."""
    alpha, rows = protocol().statistics["alpha"], []
    for units, count in itertools.product(p.units, p.seed_counts):
        d_z = stats.nested_dz(p.effect, p.unit_sd, max(p.seed_sds), count)
        row = {"data sets": units, "seeds": count, "d_z": d_z}
        row |= {f"power at {level:g} (%)": 100 * stats.power(d_z, units, level) for level in (LENIENT, alpha)}
        rows.append(row | {NEEDED: stats.effect_needed(units, alpha) * p.effect / d_z})
    return pd.DataFrame(rows)


def by_units(frame: pd.DataFrame, index: list[str], off: str) -> pd.DataFrame:
    """A table of rates (%) for the page: a row an ``index``, a column a number of units, and where the reading is off.

    ``off`` is the reading that is named: in its column stand the numbers of units at which a rate has it.
    """
    shown = frame.pivot_table("rate", index, "units", sort=False).sort_index(axis=1)
    where = frame.assign(at=frame.units.astype(str).where(frame.reading == off)).groupby(index, sort=False)["at"]
    shown.columns = [f"{units} units" for units in shown.columns]
    return shown.assign(**{off: where.agg(lambda at: ", ".join(at.dropna()))}).reset_index()


def wide(frame: pd.DataFrame, index: list[str], by: str, values: list[str]) -> pd.DataFrame:
    """A long table of rates for the page: a row an ``index``, the ``values`` at every level of ``by`` side by side."""
    parts = []
    for level, group in frame.groupby(by, sort=False):
        names = {value: f"{by} {level:.2g} {'(%)' if value == 'rate' else value}" for value in values}
        parts.append(group.set_index(index)[values].rename(columns=names))
    return pd.concat(parts, axis=1).dropna(axis=1, how="all").reset_index()


def design_sentence(frame: pd.DataFrame, p: Parameters) -> str:
    """What the largest design reaches, and whether seeds or data sets buy more."""
    column = f"power at {protocol().statistics['alpha']:g} (%)"
    cell = frame.set_index(["data sets", "seeds"])[[column, NEEDED]]
    (few, most), (less, more) = ((min(values), max(values)) for values in (p.units, p.seed_counts))
    start, by_seeds, by_sets = (f"{cell.loc[key, column]:.0f} %" for key in ((few, less), (few, more), (most, less)))
    return (
        f"From {few} data sets with {less} seeds (power {start}), {more} seeds raise it to {by_seeds}, {most} data "
        f"sets to {by_sets}. The largest design finds a difference of {cell.loc[(most, more), NEEDED]:.3f} F1 four "
        f"times in five; the smallest effect of interest is {p.effect:g}."
    )


def verdicts(levels: pd.DataFrame, coverage: pd.DataFrame, family: pd.DataFrame, p: Parameters) -> list[Statement]:
    """The protocol's statements are settings: what each is worth is the rate in simulated studies that it gives."""
    alpha = protocol().statistics["alpha"]
    normal = {"shape": "normal", "units": p.units[len(p.units) // 2]}
    nulls = {"dependence": "independent", "true_effects": 0, "method": "Bonferroni", "alpha": alpha}
    flips, t = ({**normal, "method": method, "alpha": alpha} for method in ("sign-flip", "t"))
    return [
        shown("S3.4.bootstrap", "coverage", coverage, "coverage", {**normal, "method": "bootstrap"}),
        shown("S3.4.permutation", "levels", levels, "calibration", flips),
        shown("S3.4.alpha", "levels", levels, "calibration", t, setting=alpha),
        shown("S3.4.bonferroni", "family", family, "family", nulls, setting=p.benchmarks),
        ledger.read("S3.4.min_p", stats.p_floor(5), n="5 seeds", table="floors", row="5 seeds"),
    ]


def shown(
    claim: str, table: str, frame: pd.DataFrame, what: str, where: dict[str, Any], setting: float | None = None
) -> Statement:
    """A statement of the first row of ``frame`` with these values: a share, with its limits.

    With ``setting`` (a claim whose unit is no share) that is what was measured, and the share is in ``why``.
    """
    row = frame[(frame[list(where)] == pd.Series(where)).all(axis=1)].iloc[0]
    rate = f"{row['rate']:.2f} % [{row['low']:.2f}, {row['high']:.2f}] of simulated studies"
    measured = row[["rate", "low", "high"]] / 100 if setting is None else [setting]
    why = f"a setting, nothing to compare it to; {rate} where {row['promised']:g} % is promised: {row['reading']}"
    found = {"table": table, "row": " ".join(map(str, where.values())), "raw": {"what": what} | where}
    return Statement(
        claim, *measured, n=f"{row['simulations']} simulated studies", verdict=ledger.SHOWN, why=why, **found
    )
