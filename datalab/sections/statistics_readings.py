"""What the tables of section 3.4 say, in sentences computed from them."""

import pandas as pd

from datalab import stats
from datalab.protocol import protocol
from datalab.sections import s3_4_statistics as statistics


def example(row: dict[str, float], alpha: float) -> str:
    """The spread of one comparison's p-values, which of them reject, and how open its effect size is."""
    tests = {"t": "p_t", "bootstrap": "p_bootstrap", "sign-flip": "p_sign_flip", "Wilcoxon": "p_wilcoxon"}
    values = [row[name] for name in tests.values()]
    found = [word for word, name in tests.items() if row[name] <= alpha]
    verdict = "these reject: " + ", ".join(found) if found else "none rejects, although the difference is real"
    return (
        f"The four *p*-values lie between {min(values):.3g} and {max(values):.3g}; at {alpha:g} {verdict}. The "
        f"interval of $d_z$ runs from {row['d_z_low']:.2f} to {row['d_z_high']:.2f}: open, on {row['n']} data sets."
    )


def floors(printed: list[float], p: statistics.Parameters, paper_seeds: int = 5) -> str:
    """How many of the paper's ``printed`` p-values lie below its seeds' floors, and how many seeds each level needs."""
    paired, unpaired = stats.p_floor(paper_seeds), stats.p_floor_unpaired(paper_seeds)
    needed = ", ".join(f"**{stats.seeds_needed(level)}** for {level:.2g}" for level in p.levels)
    return (
        f"With {paper_seeds} seeds a paired test cannot print less than {paired:g}, an unpaired one {unpaired:.4f}. Of "
        f"the paper's {len(printed)} printed *p*-values {sum(x < paired for x in printed)} lie below the first and "
        f"{sum(x < unpaired for x in printed)} below both. Seeds needed by a paired test: {needed}."
    )


def levels(frame: pd.DataFrame) -> str:
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
    flagged = len(frame) * (1 - statistics.MONTE_CARLO) / 2
    return "\n".join([*lines, f"\nOf {len(frame)} rates about {flagged:.1f} would be called liberal by chance alone."])


def coverage(frame: pd.DataFrame) -> str:
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


def family(frame: pd.DataFrame, alpha: float) -> str:
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


def power(frame: pd.DataFrame, alpha: float) -> str:
    """At ``alpha``: per number of seeds, the best test's power at every seed spread, and the formula's error."""
    at = frame[frame["alpha"] == alpha]
    lines = []
    for seeds, group in at.groupby("seeds", sort=False):
        best = group.loc[group.groupby("seed_sd", sort=False)["rate"].idxmax()]
        spans = [f"{r.rate:.0f} % at a seed spread of {r.seed_sd:g} ({r.method})" for r in best.itertuples()]
        flips = group.loc[group["method"] == "sign-flip", "rate"].max()
        lines.append(f"- **{seeds} seeds**: at best {', '.join(spans)}; the sign-flip test never above {flips:.0f} %.")
    return "\n".join(lines)


def formula(frame: pd.DataFrame) -> str:
    """How often the t-test's power by formula lies outside the simulation's interval."""
    t = frame.dropna(subset="formula")
    outside = ((t["formula"] < t["low"]) | (t["formula"] > t["high"])).sum()
    return (
        f"The t-test's power by formula lies outside the simulated interval in {outside} of {len(t)} designs, where "
        f"chance alone would give {len(t) * (1 - statistics.MONTE_CARLO):.1f}."
    )


def design(frame: pd.DataFrame, p: statistics.Parameters) -> str:
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


def crossover(frame: pd.DataFrame) -> str:
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
