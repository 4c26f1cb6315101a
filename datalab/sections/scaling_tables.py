"""Section 4.4's tables. Only two data sets are large enough: the seed is the unit, and intervals speak of these two."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from datalab.sections.compare import cell_text, mean_with_interval
from datalab.sections.scaling_cell import METHODS
from datalab.sections.trial import DATALAB


def size_name(size: int) -> str:
    """``1K`` for 1,000."""
    return f"{size // 1000}K" if size % 1000 == 0 else f"{size:,}"


def by_seed(rows: pd.DataFrame, method: str, size: int, value: str = "macro_f1") -> np.ndarray:
    """A method's mean over data sets, architectures and draws, one value a seed."""
    part = rows[(rows.method == method) & (rows["size"] == size)]
    by_cell = part.groupby(["seed", "dataset", "architecture"], sort=True)[value].mean()
    return by_cell.groupby(level="seed").mean().to_numpy()


def scaling(rows: pd.DataFrame, printed: Mapping[str, float]) -> pd.DataFrame:
    """A row per variant and size: baseline, ours and the relative gain, with 95 % t-intervals over seeds."""
    found = []
    for variant, method in DATALAB.items():
        for size in sorted(rows["size"].unique()):
            base, ours = by_seed(rows, "vanilla", size), by_seed(rows, method, size)
            key = f"T4.{size_name(size)}"
            row = {"variant": variant, "Training Size": size_name(size)}
            row |= {"Baseline F1, paper": printed.get(f"{key}.baseline_f1")} | mean_with_interval(base, "Baseline F1")
            row |= {"Ours F1, paper": printed.get(f"{key}.ours_f1")} | mean_with_interval(ours, "Ours F1")
            row |= {"Relative Gain (%), paper": printed.get(f"{key}.rel_gain")}
            row |= mean_with_interval(100 * (ours / base - 1), "Relative Gain (%)")
            reached = rows[rows["size"] == size].groupby("dataset", sort=False).n.first()
            note = ", ".join(f"{name} {n:,}" for name, n in reached.items() if n < size)
            found.append(row | {"seeds": len(base), "note": f"no more rows: {note}" if note else ""})
    return pd.DataFrame(found)


def paper_shape(table: pd.DataFrame, variant: str) -> pd.DataFrame:
    """Table 4.4 with the paper's rows and columns, for one variant: ours [95 % interval]; paper's."""
    found = []
    for _, row in table[table.variant == variant].iterrows():
        texts = {
            name: cell_text(row, name, row[f"{name}, paper"], 1 if "%" in name else 3)
            for name in ("Baseline F1", "Ours F1", "Relative Gain (%)")
        }
        found.append(
            {"Training Size": row["Training Size"]} | texts | {"n (seeds)": row.seeds, "note": row.note or "-"}
        )
    return pd.DataFrame(found)


def methods(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per data set, architecture, size and method: F1, and less vanilla's, 95 % t-intervals over seeds."""
    found = []
    for (name, architecture, size), one in rows.groupby(["dataset", "architecture", "size"], sort=False):
        table = one.groupby(["seed", "method"]).macro_f1.mean().unstack()
        for method in METHODS:
            row = {"data set": name, "architecture": architecture, "size": size, "n": int(one.n.iloc[0])}
            row |= {"method": method} | mean_with_interval(table[method], "F1")
            if method != "vanilla":
                row |= mean_with_interval(table[method] - table.vanilla, "less vanilla")
            found.append(row | {"seeds": len(table), "note": "the base row" if method == "vanilla" else ""})
    return pd.DataFrame(found)


def cost(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per data set, architecture and size: seconds and memory of scoring the training set, medians over seeds."""
    part = rows[rows.method == "influence"]
    keys = ["dataset", "architecture", "size"]
    table = part.groupby(keys, sort=False)[["n", "seconds", "memory"]].median().reset_index()
    return table.assign(
        **{"microseconds an example": 1e6 * table.seconds / table.n, "memory (MB)": table.memory / 1e6}
    ).drop(columns="memory")


def growth(rows: pd.DataFrame) -> pd.DataFrame:
    """The exponent b of seconds ~ n^b, a row per data set and architecture, with a 95 % t-interval over seeds.

    A seed's exponent is the slope of log seconds on log n over its three largest sizes: below them the cost of calling
    torch at all hides how scoring grows.
    """
    found = []
    part = rows[rows.method == "influence"]
    for (name, architecture), one in part.groupby(["dataset", "architecture"], sort=False):
        slopes = []
        for _, seed in one.groupby("seed", sort=False):
            largest = seed.sort_values("n").drop_duplicates("n").tail(3)
            slopes.append(np.polyfit(np.log(largest.n.astype(float)), np.log(largest.seconds), 1)[0])
        row = {"data set": name, "architecture": architecture} | mean_with_interval(slopes, "exponent")
        found.append(row | {"from n": int(largest.n.min()), "to n": int(largest.n.max()), "seeds": len(slopes)})
    return pd.DataFrame(found)
