"""Section 3.4: do the tests hold their level, the intervals their coverage, and can the design see what matters?

Simulated studies (:mod:`datalab.experiments.simulation`) give counts; this file puts them into tables, with the Monte
Carlo interval of every rate (Wilson, 99 %), and says in a sentence what a table shows.
"""

from typing import Annotated, Any

import pandas as pd
import pydantic
from scipy import stats as scipy_stats

from datalab import stats, sweep
from datalab.experiments import simulation
from datalab.experiments.parameters import Estimate, SectionParameters
from datalab.protocol import protocol
from datalab.sweep import Cell

MONTE_CARLO = 0.99  # confidence of the intervals on simulated rates
LENIENT = 0.05  # the conventional level, shown beside the protocol's
CROSSOVER = {"truth": 0.15, "slope": 0.2, "unit_sd": 0.02, "seed_sd": 0.02, "resamples": 500, "seeds": 5}

Count = Annotated[int, pydantic.Field(ge=2, le=60, strict=True)]
Units = Annotated[int, pydantic.Field(ge=4, le=60, strict=True)]
Spread = Annotated[float, pydantic.Field(gt=0, le=1)]


class Parameters(SectionParameters):
    """What this section takes beside the shared parameters; F1 differences in units of F1."""

    simulations: Annotated[int, pydantic.Field(ge=40, le=10**6, strict=True)]
    resamples: Annotated[int, pydantic.Field(ge=1999, le=10**6, strict=True)] = protocol().statistics["resamples"]
    units: Annotated[tuple[Units, ...], pydantic.Field(min_length=1)] = (12, 15, 23)
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


def cells(p: Parameters) -> list[Cell]:
    """Every simulated study of the section, the slowest first."""
    common = {"root_seed": p.root_seed, "code": simulation.statistics_code()}
    work = p.simulations / 4000 * p.resamples / 10_000  # the costs below were measured at these
    module, grid = "datalab.experiments.simulation", []
    for shape in simulation.SHAPES:
        for units in p.units:
            given = {"shape": shape, "units": units, "simulations": p.simulations, "resamples": p.resamples}
            grid.append(Cell(f"{module}:calibration", {**given, "alphas": p.levels[:2], **common}, 3.0 * work))
    for shape in simulation.SHAPES[:2]:
        for units in p.units:
            given = {"shape": shape, "units": units, "rates": list(protocol().noise["rates"]), **CROSSOVER}
            few = max(20, p.simulations // 8)
            grid.append(Cell(f"{module}:crossover_coverage", {**given, "simulations": few, **common}, 0.002 * few))
    for seeds in p.seed_counts:
        for sd in p.seed_sds:
            given = {"seeds": seeds, "seed_sd": sd, "effect": p.effect, "simulations": p.simulations}
            given |= {"resamples": p.resamples, "alphas": p.levels}
            grid.append(Cell(f"{module}:power", {**given, **common}, 1.0 * work))
    for dependence in ("independent", "correlated"):
        for true_effects in (0, max(1, p.benchmarks // 3)):
            given = {"dependence": dependence, "true_effects": true_effects, "benchmarks": p.benchmarks}
            given |= {"seeds": max(p.seed_counts), "simulations": p.simulations, "alphas": p.levels[:2]}
            grid.append(Cell(f"{module}:family", {**given, **common}, 0.1 * p.simulations / 4000))
    return grid


def estimate(p: Parameters) -> Estimate:
    """What running the notebook will cost: the simulations, and about 8 s of imports and figures."""
    grid = cells(p)
    workers = min(p.workers or sweep.available_cores(), len(grid))
    seconds = sum(cell.cost for cell in grid) / workers + 8 + (2 if workers > 1 else 0)
    memory = 0.5e9 * (workers + 1)
    what = f"{len(grid)} simulated designs, {p.simulations} studies each, {workers} processes"
    return Estimate(seconds, memory, what)


def part(rows: pd.DataFrame, what: str) -> pd.DataFrame:
    """The rows of one kind of study, with its own columns only."""
    frame = rows[rows["what"] == what].dropna(axis=1, how="all").drop(columns="what").reset_index(drop=True)
    counts = [name for name in ("units", "seeds", "true_effects", "simulations", "hits") if name in frame]
    return frame.astype(dict.fromkeys(counts, int))


def rated(rows: pd.DataFrame, promised: "pd.Series | float", words: tuple[str, str]) -> pd.DataFrame:
    """Counts as rates in %, with Wilson intervals and a reading against what was ``promised`` (a share).

    ``words`` are the readings of a rate whose whole interval lies (below, above) the promise; otherwise "holds".
    """
    frame = rows.copy()
    promised = pd.Series(promised, index=frame.index)
    limits = [
        scipy_stats.binomtest(int(hits), int(total)).proportion_ci(MONTE_CARLO, method="wilson")
        for hits, total in zip(frame["hits"], frame["simulations"], strict=True)
    ]
    frame["promised"] = 100 * promised
    frame["rate"] = 100 * frame["hits"] / frame["simulations"]
    frame["low"] = [100 * limit.low for limit in limits]
    frame["high"] = [100 * limit.high for limit in limits]
    below, above = frame["high"] < frame["promised"], frame["low"] > frame["promised"]
    frame["reading"] = below.map({True: words[0], False: "holds"}).mask(above, words[1])
    return frame.drop(columns=["hits"])


def levels(rows: pd.DataFrame) -> pd.DataFrame:
    """Rejections of a true null by each test: one row a distribution, number of units, test and level."""
    frame = part(rows, "calibration")
    return rated(frame, frame["alpha"], ("conservative", "liberal"))


def coverage(rows: pd.DataFrame) -> pd.DataFrame:
    """Coverage of each 95 % interval: one row a distribution, number of units and interval."""
    return rated(part(rows, "coverage"), simulation.CONFIDENCE, ("too narrow", "wide"))


def family_errors(rows: pd.DataFrame) -> pd.DataFrame:
    """Family-wise error over the benchmarks under each correction; ``found`` in % of the true effects."""
    frame = part(rows, "family")
    frame = rated(frame, frame["alpha"], ("conservative", "liberal"))
    return frame.assign(found=100 * frame["found"])


def crossovers(rows: pd.DataFrame) -> pd.DataFrame:
    """Coverage of the crossover's 95 % interval; ``open`` and ``width`` in % and points of the noise rate."""
    frame = rated(part(rows, "crossover"), simulation.CONFIDENCE, ("too narrow", "wide"))
    return frame.assign(open=100 * frame["open"], width=100 * frame["width"])


def powers(rows: pd.DataFrame, p: Parameters) -> pd.DataFrame:
    """Power at the smallest effect of interest, in %, beside the t-test's by formula (``pingouin.power_ttest``)."""
    frame = part(rows, "power")
    exact = {
        (seeds, sd, alpha): 100 * stats.power(p.effect / sd, seeds, alpha)
        for seeds, sd, alpha in set(zip(frame["seeds"], frame["seed_sd"], frame["alpha"], strict=True))
    }
    formula = [exact[key] for key in zip(frame["seeds"], frame["seed_sd"], frame["alpha"], strict=True)]
    frame = rated(frame, 0.8, ("below 80 %", "above 80 %")).rename(columns={"promised": "wanted"})
    return frame.assign(formula=[f if m == "t" else None for f, m in zip(formula, frame["method"], strict=True)])


def floors(p: Parameters, most: int = 16) -> pd.DataFrame:
    """The smallest two-sided p a permutation test can print, by number of seeds, and the levels it reaches."""
    rows = []
    for n in range(2, most + 1):
        row: dict[str, Any] = {"seeds": n, "paired": stats.p_floor(n), "unpaired": stats.p_floor_unpaired(n)}
        rows.append(row | {f"paired reaches {alpha:.2g}": row["paired"] <= alpha for alpha in p.levels})
    return pd.DataFrame(rows)


def design(p: Parameters) -> pd.DataFrame:
    """Data sets against seeds: the power of a t-test over data sets at the smallest effect of interest."""
    sd, alpha, rows = max(p.seed_sds), protocol().statistics["alpha"], []
    for units in p.units:
        for seeds in p.seed_counts:
            d_z = stats.nested_dz(p.effect, p.unit_sd, sd, seeds)
            row = {"data sets": units, "seeds": seeds, "d_z": d_z}
            row |= {f"power at {level:g} (%)": 100 * stats.power(d_z, units, level) for level in (LENIENT, alpha)}
            row["difference found with 80 % power (F1)"] = stats.effect_needed(units, alpha) * p.effect / d_z
            rows.append(row)
    return pd.DataFrame(rows)


def wide(frame: pd.DataFrame, index: list[str], by: str | None, values: list[str]) -> pd.DataFrame:
    """A long table of rates for the page: a row an ``index``, the ``values`` at every level of ``by`` side by side."""
    units = {"rate": "(%)", "low": "low", "high": "high", "reading": "reading", "found": "found (%)", "formula": "t"}
    if by is None:
        return frame[index + values]
    parts = []
    for level, group in frame.groupby(by, sort=False):
        renamed = {value: f"{by} {level:.2g} {units.get(value, value)}" for value in values}
        parts.append(group.set_index(index)[values].rename(columns=renamed))
    return pd.concat(parts, axis=1).reset_index()


# --- what the tables say ----------------------------------------------------------------------------------------------


def say_levels(frame: pd.DataFrame) -> str:
    """For each distribution: which tests hold every level, which are conservative, and the worst liberal rate."""
    lines = []
    for shape, group in frame.groupby("shape", sort=False):
        liberal = group[group["reading"] == "liberal"]
        safe = [m for m in group["method"].unique() if m not in set(liberal["method"])]
        text = f"- **{shape}**: at or below the level at every number of units: {', '.join(safe) or 'no test'}."
        for method, bad in liberal.groupby("method", sort=False):
            worst = bad.loc[(bad["rate"] / bad["promised"]).idxmax()]
            text += (
                f" {method} rejects too often in {len(bad)} of {(group['method'] == method).sum()} cells, at worst "
                f"{worst['rate']:.1f} % [{worst['low']:.1f}, {worst['high']:.1f}] for {worst['promised']:g} % "
                f"at {worst['units']} units."
            )
        lines.append(text)
    flagged = len(frame) * (1 - MONTE_CARLO) / 2
    return "\n".join([*lines, f"\nOf {len(frame)} rates about {flagged:.1f} would be called liberal by chance alone."])


def say_coverage(frame: pd.DataFrame) -> str:
    """For each interval: the range of its coverage within every distribution."""
    lines = []
    for method, group in frame.groupby("method", sort=False):
        spans = [
            f"{g['rate'].min():.1f} to {g['rate'].max():.1f} % ({shape})"
            for shape, g in group.groupby("shape", sort=False)
        ]
        narrow = (group["reading"] == "too narrow").sum()
        lines.append(f"- **{method}** covers {', '.join(spans)}; too narrow in {narrow} of {len(group)} designs.")
    return "\n".join(lines)


def say_family(frame: pd.DataFrame, alpha: float) -> str:
    """Family-wise error at ``alpha`` with all nulls true, and what Holm finds beyond Bonferroni."""
    at = frame[frame["alpha"] == alpha]
    none = at[at["true_effects"] == 0]
    lines = []
    for method, group in none.groupby("method", sort=False):
        worst = group.loc[group["rate"].idxmax()]
        lines.append(
            f"- **{method}**: a false finding in {worst['rate']:.1f} % [{worst['low']:.1f}, {worst['high']:.1f}] of "
            f"families at level {100 * alpha:g} % ({worst['dependence']} benchmarks, the worse case)."
        )
    found = at[at["true_effects"] > 0].groupby("method", sort=False)["found"].mean()
    gain = found["Holm"] - found["Bonferroni"]
    lines.append(
        f"- Where effects are real, Holm finds {found['Holm']:.1f} % of them, {gain:+.1f} points on Bonferroni."
    )
    return "\n".join(lines)


def say_power(frame: pd.DataFrame, alpha: float) -> str:
    """At ``alpha``: per number of seeds, the best test's power at every seed spread, and the formula's error."""
    at = frame[frame["alpha"] == alpha]
    lines = []
    for seeds, group in at.groupby("seeds", sort=False):
        best = group.loc[group.groupby("seed_sd", sort=False)["rate"].idxmax()]
        spans = [f"{r.rate:.0f} % at a seed spread of {r.seed_sd:g} ({r.method})" for r in best.itertuples()]
        flips = group.loc[group["method"] == "sign-flip", "rate"].max()
        lines.append(f"- **{seeds} seeds**: at best {', '.join(spans)}; the sign-flip test never above {flips:.0f} %.")
    t = frame.dropna(subset="formula")
    outside = ((t["formula"] < t["low"]) | (t["formula"] > t["high"])).sum()
    lines.append(
        f"\nThe t-test's power by formula lies outside the simulated interval in {outside} of {len(t)} designs."
    )
    return "\n".join(lines)


def say_design(frame: pd.DataFrame, p: Parameters) -> str:
    """What the largest design reaches, and whether seeds or data sets buy more."""
    alpha = protocol().statistics["alpha"]
    column, needed = f"power at {alpha:g} (%)", "difference found with 80 % power (F1)"
    cell = frame.set_index(["data sets", "seeds"])[[column, needed]]
    few, most = min(p.units), max(p.units)
    less, more = min(p.seed_counts), max(p.seed_counts)
    at = {key: f"{cell.loc[key, column]:.0f} %" for key in ((few, less), (few, more), (most, less))}
    return (
        f"From {few} data sets with {less} seeds (power {at[few, less]}), {more} seeds raise it to {at[few, more]}, "
        f"{most} data sets to {at[most, less]}. The largest design finds a difference of "
        f"{cell.loc[(most, more), needed]:.3f} F1 four times in five; the smallest effect of interest is {p.effect:g}."
    )


def say_crossover(frame: pd.DataFrame) -> str:
    """The coverage of the crossover's interval by distribution, its width, and how often it is open."""
    parts = [
        f"{g['rate'].min():.1f} to {g['rate'].max():.1f} % ({shape} shifts)"
        for shape, g in frame.groupby("shape", sort=False)
    ]
    return (
        f"The 95 % interval of the crossover covers {', '.join(parts)}; its median width falls from "
        f"{frame['width'].max():.1f} to {frame['width'].min():.1f} points of noise rate, and at most "
        f"{frame['open'].max():.1f} % of the intervals are open at one end."
    )
