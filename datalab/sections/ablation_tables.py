"""Section 4.3's tables: leave-one-out ablations, and contributions as Shapley values over the eight on/off sets.

The data set is the unit; a data set counts by its mean over architectures and seeds.
"""

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from datalab import framework, seeds, stats
from datalab.sections.compare import cell_text, mean_with_interval, with_correction

COMPONENTS = {"projection": "Feature Extraction", "weighting": "Adaptive Weighting", "regularisation": "Regularization"}
SHORT = {"projection": "fe", "weighting": "aw", "regularisation": "reg"}
SETS = tuple(itertools.product((False, True), repeat=len(COMPONENTS)))
FULL, NONE = (True, True, True), (False, False, False)
ROWS = {
    FULL: ("Full model", "full"),
    (False, True, True): ("w/o Feature Extraction", "wo_fe"),
    (True, False, True): ("w/o Adaptive Weighting", "wo_aw"),
    (True, True, False): ("w/o Regularization", "wo_reg"),
    NONE: ("w/o All (baseline)", "wo_all"),
}


def scores(rows: pd.DataFrame, variant: str, rate: float) -> pd.DataFrame:
    """F1 (data sets x the eight sets of components), columns in the order of ``SETS``."""
    part = rows[(rows.part == "ablation") & (rows.variant == variant) & (rows.rate == rate)]
    table = part.pivot_table(index="dataset", columns=list(COMPONENTS), values="macro_f1", sort=False)
    return table.set_axis([tuple(bool(on) for on in column) for column in table.columns], axis=1)[list(SETS)]


def ablation(rows: pd.DataFrame, rate: float, printed: Mapping[str, float]) -> pd.DataFrame:
    """Table 4.3 cell by cell, a row per variant and configuration; deltas are to the full model, paired by data set.

    p is the Wilcoxon test's; Holm's correction is over the whole table.
    """
    found = []
    for variant in framework.VARIANTS:
        table = scores(rows, variant, rate)
        for on, (name, key) in ROWS.items():
            row = {"variant": variant, "configuration": name, "F1, paper": printed[f"T3.{key}.f1"]}
            row |= mean_with_interval(table[on], "F1")
            row |= {"Delta vs Full, paper": printed[f"T3.{key}.delta"]}
            row["note"] = "the base row: no delta" if on == FULL else ""
            if on != FULL:
                d = (table[on] - table[FULL]).to_numpy()
                row |= mean_with_interval(d, "Delta vs Full")
                row["p (Wilcoxon)"] = stats.wilcoxon(d).p if len(d) > 1 else np.nan
                row["p, paper"] = printed[f"T3.{key}.p"]
            found.append(row | {"sets": len(table)})
    return with_correction(pd.DataFrame(found))


def paper_shape(table: pd.DataFrame, variant: str) -> pd.DataFrame:
    """Table 4.3 with the paper's rows and columns, for one variant: ours [95 % interval]; paper's."""
    found = []
    for _, row in table[table.variant == variant].iterrows():
        base = row.configuration == ROWS[FULL][0]
        paper = f"paper {row['Delta vs Full, paper']:g}"
        found.append(
            {
                "configuration": row.configuration,
                "F1 Score": cell_text(row, "F1", row["F1, paper"]),
                "Delta vs Full": f"the base row; {paper}"
                if base
                else cell_text(row, "Delta vs Full", row["Delta vs Full, paper"]),
                "p-value (vs Full)": "the base row" if base else _p(row),
                "n (data sets)": row.sets,
            }
        )
    return pd.DataFrame(found)


def _p(row: pd.Series) -> str:
    ours = "too few data sets" if np.isnan(row["p (Wilcoxon)"]) else f"{row['p (Wilcoxon)']:.3g}"
    printed = row["p, paper"]
    return f"{ours}; paper {'<' if printed == 0.001 else ''}{printed:g}"


def all_sets(rows: pd.DataFrame) -> pd.DataFrame:
    """F1 of every set of components, a row per variant, rate and set."""
    found = []
    for variant in framework.VARIANTS:
        for rate in sorted(rows.rate.unique()):
            table = scores(rows, variant, rate)
            for on in SETS:
                names = [COMPONENTS[name] for name, each in zip(COMPONENTS, on, strict=True) if each]
                row = {"variant": variant, "noise rate (%)": 100 * rate, "components on": ", ".join(names) or "none"}
                found.append(row | mean_with_interval(table[on], "F1") | {"sets": len(table)})
    return pd.DataFrame(found)


def shapley_values(table: pd.DataFrame) -> pd.DataFrame:
    """Each component's Shapley value of F1 on every data set (sets x components); they sum to full less none.

    phi_i = sum over sets S without i of |S|! (2 - |S|)! / 3! (v(S with i) - v(S)) (Shapley 1953): the mean gain of
    switching i on, over all orders of switching on.
    """
    found = {}
    for at, name in enumerate(COMPONENTS):
        value = 0.0
        for without in SETS:
            if without[at]:
                continue
            with_it = tuple(on or i == at for i, on in enumerate(without))
            size = sum(without)
            weight = math.factorial(size) * math.factorial(2 - size) / math.factorial(3)
            value = value + weight * (table[with_it] - table[without])
        found[name] = value
    return pd.DataFrame(found)


def contributions(rows: pd.DataFrame, printed: Mapping[str, float], root_seed: int, resamples: int) -> pd.DataFrame:
    """A row per variant, rate and component: its Shapley value, its share of the total gain, and P(it is the largest).

    Values have 95 % t-intervals over data sets. A share has a 95 % percentile bootstrap over data sets, and is given
    only where the total gain's interval excludes 0: elsewhere it would be a ratio to nothing.
    """
    found = []
    for variant in framework.VARIANTS:
        for rate in sorted(rows.rate.unique()):
            values = shapley_values(scores(rows, variant, rate))
            gain = values.sum(axis=1).to_numpy()
            total = mean_with_interval(gain, "total gain")
            settled = bool(total["total gain low"] > 0 or total["total gain high"] < 0)
            means = _resampled(values.to_numpy(), seeds.generator(root_seed, "4.3", variant, rate), resamples)
            shares = 100 * means / means.sum(1, keepdims=True)
            largest = np.bincount(means.argmax(1), minlength=len(COMPONENTS)) / len(means)
            for at, (name, title) in enumerate(COMPONENTS.items()):
                row = {"variant": variant, "noise rate (%)": 100 * rate, "component": title}
                row |= mean_with_interval(values[name], "Shapley value (F1)")
                row |= {"share of gain, paper (%)": printed[f"S4.3.share_{SHORT[name]}"]}
                share = "none: the sign of the gain is open"
                if settled:
                    low, high = np.percentile(shares[:, at], [2.5, 97.5])
                    share = f"{100 * values[name].mean() / gain.mean():.0f} [{low:.0f}, {high:.0f}]"
                row |= {"share of gain (%)": share, "P(largest)": largest[at]} | total
                found.append(row | {"gain settled": settled, "sets": len(values)})
    return pd.DataFrame(found)


def _resampled(values: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Means (resamples, components) over data sets drawn with replacement."""
    counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), resamples)
    return counts @ values / len(values)
