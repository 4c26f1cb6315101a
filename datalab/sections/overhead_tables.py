"""Section 4.5's tables: ratios within a repetition, their median per data set, t-intervals over the data sets."""

from collections.abc import Mapping

import pandas as pd

from datalab import framework
from datalab.sections.compare import cell_text, mean_with_interval
from datalab.sections.overhead_cell import SCORING

BASES = {
    "Feature Extraction": "baseline",
    "Adaptive Weighting": "baseline",
    "Regularization": "Adaptive Weighting",
    "Total": "baseline",
}
PARTS = tuple(name for name in BASES if name != "Total")
COLUMNS = {
    "train": "Training Time Overhead (%)",
    "infer": "Inference Time Overhead (%)",
    "memory": "Memory Overhead (%)",
}
_KEYS = {"Feature Extraction": "fe", "Adaptive Weighting": "aw", "Regularization": "reg", "Total": "total"}
_SUFFIX = {"train": "train", "infer": "infer", "memory": "mem"}


def claim_id(configuration: str, measure: str) -> str:
    """The ledger's id of one cell of table 4.5."""
    return f"T5.{_KEYS[configuration]}.{_SUFFIX[measure]}"


def overhead(rows: pd.DataFrame, variant: str, configuration: str, measure: str) -> pd.Series:
    """The overhead, a ratio less 1, one value a data set: the median over repetitions of ratios within each."""
    if configuration == SCORING:
        ratio = rows[rows.configuration == SCORING].set_index("dataset").eval("train / base")
        return ratio.groupby(level="dataset", sort=False).median() - 1
    part = rows[rows.variant == variant]
    table = part.pivot_table(index=["dataset", "repetition"], columns="configuration", values=measure, sort=False)
    ratio = table[configuration] / table[BASES[configuration]]
    return ratio.groupby(level="dataset", sort=False).median() - 1


def cells(rows: pd.DataFrame, printed: Mapping[str, float]) -> pd.DataFrame:
    """A row per variant, component and measure: the paper's overhead and ours, in %."""
    found = []
    for variant in framework.VARIANTS:
        for name in BASES:
            for measure, title in COLUMNS.items():
                values = 100 * overhead(rows, variant, name, measure)
                row = {"variant": variant, "component": name, "against": BASES[name], "measure": title}
                row |= {"paper": printed[claim_id(name, measure)]}
                found.append(row | mean_with_interval(values, "ours") | {"sets": len(values)})
    values = 100 * overhead(rows, "paper", SCORING, "train")
    row = {"variant": "both", "component": SCORING, "against": "baseline", "measure": COLUMNS["train"]}
    found.append(row | mean_with_interval(values, "ours") | {"sets": len(values)})
    return pd.DataFrame(found)


def paper_shape(cells: pd.DataFrame, variant: str) -> pd.DataFrame:
    """Table 4.5 with the paper's rows and columns, for one variant: ours [95 % interval]; paper's."""
    found = []
    for name, one in cells[cells.variant == variant].groupby("component", sort=False):
        texts = {row.measure: cell_text(row, "ours", row.paper, decimals=1) for _, row in one.iterrows()}
        found.append({"component": name} | texts | {"n (data sets)": int(one.sets.iloc[0])})
    return pd.DataFrame(found)


def times(rows: pd.DataFrame) -> pd.DataFrame:
    """The medians behind the ratios: milliseconds for 50 steps of training and for one pass over the test set, KiB."""
    part = rows[rows.configuration != SCORING]
    part = part.groupby(["variant", "configuration"], sort=False)[["train", "infer", "memory"]].median()
    scale = {"train": (1000, "50 training steps (ms)"), "infer": (50, "a test set (ms)"), "memory": (1 / 1024, "KiB")}
    return pd.DataFrame({title: part[name] * factor for name, (factor, title) in scale.items()}).reset_index()
