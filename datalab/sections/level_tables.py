"""Section 4.2's tables. The data set is the unit; a data set counts by its mean over architectures and seeds."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from datalab import seeds, stats
from datalab.protocol import protocol
from datalab.sections.compare import cell_text, mean_with_interval
from datalab.sections.level_cell import DRAWS
from datalab.sections.trial import DATALAB

NAMES = ("Minimal", "Low", "Medium", "High", "Extreme")
BASELINE = "vanilla"
METHODS = (BASELINE, *DATALAB.values())
RUN = ["dataset", "architecture", "seed"]


def level_name(tilt: float) -> str:
    """The paper's name of a level: from Minimal, the lowest tilt, to Extreme."""
    return NAMES[list(protocol().influence_levels["tilts"]).index(tilt)]


def scores(rows: pd.DataFrame, draw: str, method: str) -> pd.DataFrame:
    """F1 (data sets x tilts), each its mean over runs."""
    part = rows[(rows.draw == draw) & (rows.method == method)]
    return part.pivot_table(index="dataset", columns="tilt", values="macro_f1", sort=False).sort_index(axis=1)


def levels(rows: pd.DataFrame, printed: Mapping[str, float]) -> pd.DataFrame:
    """A row per draw, variant and level: baseline and ours with intervals, the gap, Cohen's d_z, and the paper's.

    The gap is ours less baseline in points of F1; d_z standardises it by its standard deviation over the data sets.
    """
    found = []
    for draw in DRAWS:
        base = scores(rows, draw, BASELINE)
        about = rows[(rows.draw == draw) & (rows.method == BASELINE)].groupby("tilt")[["flipped", "mean_rank"]].mean()
        for variant, method in DATALAB.items():
            ours = scores(rows, draw, method)
            for tilt in base:
                name, gap = level_name(tilt), (ours[tilt] - base[tilt]).to_numpy()
                key = f"T2.{name.lower()}"
                row = {"draw": draw, "variant": variant, "level": name}
                row |= {"Baseline F1, paper": printed[f"{key}.baseline_f1"]} | mean_with_interval(
                    base[tilt], "Baseline F1"
                )
                row |= {"Ours F1, paper": printed[f"{key}.ours_f1"]} | mean_with_interval(ours[tilt], "Ours F1")
                row |= {"Gap (pp), paper": printed[f"{key}.gap_pp"]} | mean_with_interval(100 * gap, "Gap (pp)")
                row |= {"Cohen's d, paper": printed[f"{key}.cohen_d"]} | _d_z(gap)
                row |= {"flipped labels (%)": 100 * about.flipped[tilt], "mean rank": about.mean_rank[tilt]}
                found.append(row | {"sets": len(gap)})
    return pd.DataFrame(found)


def _d_z(gap: np.ndarray) -> dict[str, float]:
    if len(gap) < 2:
        return {"d_z": np.nan, "d_z low": np.nan, "d_z high": np.nan}
    effect = stats.cohens_dz(gap)
    return {"d_z": effect.estimate, "d_z low": effect.low, "d_z high": effect.high}


def paper_shape(levels: pd.DataFrame, draw: str, variant: str) -> pd.DataFrame:
    """Table 4.2 with the paper's rows and columns, for one draw and variant: ours [95 % interval]; paper's."""
    part = levels[(levels.draw == draw) & (levels.variant == variant)]
    columns = {"Baseline F1": "Baseline F1", "Ours F1": "Ours F1", "Gap (pp)": "Gap (pp)", "d_z": "Cohen's d"}
    found = []
    for _, row in part.iterrows():
        cells = {title: cell_text(row, name, row[f"{title}, paper"]) for name, title in columns.items()}
        found.append({"level": row.level} | cells | {"n (data sets)": row.sets})
    return pd.DataFrame(found)


def trends(rows: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """A row per draw and method: how F1 moves with the level.

    ``slope`` is the F1 gained per level and ``end to end`` the F1 of Extreme less that of Minimal, t-intervals over
    data sets; ``r, runs`` is Pearson's over all runs, its 95 % percentile interval resampling data sets; ``r, within``
    the same after each data set's mean is taken out; ``r, level means`` is over the five means.
    """
    found = []
    for draw in DRAWS:
        for method in METHODS:
            part = rows[(rows.draw == draw) & (rows.method == method)]
            by_set = scores(rows, draw, method)
            tilts = by_set.columns.to_numpy(dtype=float)
            slope = by_set.to_numpy() @ (tilts - tilts.mean()) / ((tilts - tilts.mean()) ** 2).sum()
            row = {"draw": draw, "method": method} | mean_with_interval(slope, "slope")
            row |= mean_with_interval(by_set.iloc[:, -1] - by_set.iloc[:, 0], "end to end")
            rng = seeds.generator(root_seed, "4.2", draw, method)
            row |= _correlations(part, rng)
            means = by_set.mean()
            row["r, level means"] = float(np.corrcoef(tilts, means)[0, 1]) if np.ptp(means) else np.nan
            found.append(row | {"runs": len(part), "sets": len(by_set)})
    return pd.DataFrame(found)


def correlation_by_set(rows: pd.DataFrame, draw: str, method: str) -> np.ndarray:
    """Pearson's r of level and F1 over the runs of each data set, (sets,); 0 where F1 does not vary."""
    part = rows[(rows.draw == draw) & (rows.method == method)]
    groups = [one[["tilt", "macro_f1"]].to_numpy(dtype=float) for _, one in part.groupby("dataset", sort=False)]
    return np.nan_to_num(_pearson(np.array([_moments(one) for one in groups])))


def _correlations(part: pd.DataFrame, rng: np.random.Generator) -> dict[str, float]:
    """Pearson's r of level and F1 over runs, and within data sets, with cluster bootstrap intervals."""
    groups = [one[["tilt", "macro_f1"]].to_numpy(dtype=float) for _, one in part.groupby("dataset", sort=False)]
    within = [np.column_stack([one[:, 0], one[:, 1] - one[:, 1].mean()]) for one in groups]
    found = {}
    for name, each in (("r, runs", groups), ("r, within", within)):
        moments = np.array([_moments(one) for one in each])
        found[name] = float(_pearson(moments.sum(0)))
        low = high = np.nan
        if len(each) > 1:
            counts = rng.multinomial(len(each), np.full(len(each), 1 / len(each)), protocol().crossover["resamples"])
            low, high = np.nanpercentile(_pearson(counts @ moments), [2.5, 97.5])
        found |= {f"{name} low": low, f"{name} high": high}
    return found


def _moments(values: np.ndarray) -> np.ndarray:
    x, y = values.T
    return np.array([len(x), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()])


def _pearson(moments: np.ndarray) -> np.ndarray:
    """r from n, sums, squares and products (..., 6): what a bootstrap over clusters needs to add up."""
    n, x, y, xx, yy, xy = np.moveaxis(np.atleast_2d(moments), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (n * xy - x * y) / np.sqrt((n * xx - x**2) * (n * yy - y**2))
    return r if np.ndim(moments) > 1 else r[0]


def variance_explained(rows: pd.DataFrame, root_seed: int, permutations: int) -> pd.DataFrame:
    """A row per draw: the share of the variance of F1 over runs that the level explains (eta squared), three ways.

    Over the runs of vanilla and of the ``paper`` variant, a balanced design: ``total`` is SS_level / SS_total,
    ``partial`` SS_level / (SS_level + SS_rest) with data set, seed and method taken out, ``within data set`` the part
    of the variance inside each data set that its own levels explain. p: levels permuted within each run (data set,
    architecture, seed), alike for both methods, (1 + as large) / (1 + permutations); one p for the first two, which
    are monotone in each other. ``by chance`` is the total share's mean over the permutations, ``excess`` the share
    less that, with percentile limits of a bootstrap over data sets at the protocol's alpha.
    """
    found = []
    for draw in DRAWS:
        part = rows[(rows.draw == draw) & rows.method.isin([BASELINE, DATALAB["paper"]])]
        table = part.pivot_table(index=[*RUN, "method"], columns="tilt", values="macro_f1", sort=False)
        y, sets = table.to_numpy(), table.index.get_level_values("dataset").to_numpy()
        # Both methods of a run were trained on the same sets: their levels are permuted alike.
        runs = table.reset_index().groupby(RUN, sort=False).ngroup().to_numpy()
        rng = seeds.generator(root_seed, "4.2 variance", draw)
        sizes = {"models": y.size, "sets": len(set(sets))}
        found.append({"draw": draw} | eta_squared(y, sets, runs, rng, permutations) | sizes)
    return pd.DataFrame(found)


def eta_squared(
    y: np.ndarray, sets: np.ndarray, runs: np.ndarray, rng: np.random.Generator, permutations: int
) -> dict[str, float]:
    """The three shares for F1 (rows, levels); rows of one of ``runs`` (rows,) share their training sets.

    ``sets`` (rows,) names each row's data set.
    """
    of_set = np.array([sets == name for name in dict.fromkeys(sets)], dtype=float)
    of_set /= of_set.sum(1, keepdims=True)
    ss_total = ((y - y.mean()) ** 2).sum()
    ss_runs = y.shape[1] * ((y.mean(1) - y.mean()) ** 2).sum()
    set_means = of_set @ y.mean(1)
    ss_within = ((y - (set_means @ (of_set > 0))[:, None]) ** 2).sum()
    sizes = (of_set > 0).sum(1)

    def of_level(values: np.ndarray) -> tuple[float, float]:
        ss_level = len(values) * ((values.mean(0) - y.mean()) ** 2).sum()
        means = of_set @ values  # (sets, levels)
        return ss_level, (sizes[:, None] * (means - means.mean(1, keepdims=True)) ** 2).sum()

    level, inside = of_level(y)
    levels_ = np.arange(y.shape[1])
    drawn = np.empty((permutations, 2))
    for i in range(permutations):
        order = rng.permuted(np.tile(levels_, (runs.max() + 1, 1)), axis=1)
        drawn[i] = of_level(np.take_along_axis(y, order[runs], 1))
    p, p_inside = (1 + (drawn >= np.array([level, inside]) * (1 - 1e-12)).sum(0)) / (1 + permutations)
    chance, alpha = drawn[:, 0] / ss_total, protocol().statistics["alpha"]
    share = level / ss_total
    groups = [y[sets == name] for name in dict.fromkeys(sets)]
    taken = rng.integers(0, len(groups), (permutations, len(groups)))
    low, high = np.quantile(
        [_share(np.concatenate([groups[i] for i in one])) for one in taken], [alpha / 2, 1 - alpha / 2]
    )
    return {
        "total (%)": 100 * share,
        "partial (%)": 100 * level / (ss_total - ss_runs),
        "p": p,
        "within data set (%)": 100 * inside / ss_within,
        "p, within": p_inside,
        "by chance (%)": 100 * chance.mean(),
        "excess (%)": 100 * (share - chance.mean()),
        "excess low": 100 * (low - chance.mean()),
        "excess high": 100 * (high - chance.mean()),
    }


def _share(y: np.ndarray) -> float:
    """SS_level / SS_total of F1 (rows, levels)."""
    return len(y) * ((y.mean(0) - y.mean()) ** 2).sum() / ((y - y.mean()) ** 2).sum()
