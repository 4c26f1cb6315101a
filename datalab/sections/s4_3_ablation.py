"""Section 4.3: which of DATA-LAB's components earns its keep? Its tasks are section 4.1's, of every kind.

The data set is the unit; it counts by its mean over architectures and seeds.
"""

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd

from datalab import framework, ledger, seeds, stats
from datalab.protocol import protocol
from datalab.record import Statement
from datalab.sections import compare
from datalab.sections.compare import SHARE, and_papers, cell_text, mean_with_interval, tests, with_correction
from datalab.sections.s4_1_main_results import Parameters, architecture_tasks, estimate, tasks, tuned_tasks
from datalab.sections.trials.arms import COMPONENTS

__all__ = ["Parameters", "architecture_tasks", "estimate", "tasks", "tuned_tasks"]

TITLES = dict(zip(COMPONENTS, ("Feature Extraction", "Adaptive Weighting", "Regularization"), strict=True))
IN_LEDGER = dict(zip(COMPONENTS, ("fe", "aw", "reg"), strict=True))
SETS = tuple(itertools.product((False, True), repeat=len(COMPONENTS)))  # in the order of COMPONENTS
FULL, NONE = (True, True, True), (False, False, False)
ROWS = {
    FULL: ("Full model", "full"),
    (False, True, True): ("w/o Feature Extraction", "wo_fe"),
    (True, False, True): ("w/o Adaptive Weighting", "wo_aw"),
    (True, True, False): ("w/o Regularization", "wo_reg"),
    NONE: ("w/o All (baseline)", "wo_all"),
}
REMOVALS = {on: names for on, names in ROWS.items() if on != FULL}


def scores(rows: pd.DataFrame, variant: str, rate: float) -> pd.DataFrame:
    """F1 (data sets x the eight sets of components) of the ablations, columns in the order of ``SETS``."""
    own = rows[(rows.part == "ablation") & (rows.variant == variant) & (rows.rate == rate)]
    wide = own.pivot_table("macro_f1", "dataset", list(COMPONENTS), sort=False)
    return wide.set_axis([tuple(bool(on) for on in column) for column in wide.columns], axis=1)[list(SETS)]


def rates(rows: pd.DataFrame) -> list[float]:
    """The noise rates at which components were switched off."""
    return sorted(rows[rows.part == "ablation"].rate.unique())


def ablation(rows: pd.DataFrame, rate: float) -> pd.DataFrame:
    """Table 4.3 cell by cell, a row per variant and configuration; deltas to the full model, paired; Holm over all."""
    printed, lines = ledger.printed(), []
    for variant, (on, (name, key)) in itertools.product(framework.VARIANTS, ROWS.items()):
        f1 = scores(rows, variant, rate)
        row = {"variant": variant, "configuration": name} | and_papers(f1[on], "F1", printed[f"T3.{key}.f1"], SHARE)
        row |= {"Delta vs Full, paper": printed[f"T3.{key}.delta"], "note": "the base row: no delta"}
        if on != FULL:
            d = f1[on] - f1[FULL]
            row |= {"note": ""} | mean_with_interval(d, "Delta vs Full")
            row |= {"p (Wilcoxon)": tests(d)["p (Wilcoxon)"], "p, paper": printed[f"T3.{key}.p"]}
        lines.append(row | {"sets": len(f1)})
    return with_correction(pd.DataFrame(lines))


def removals(rows: pd.DataFrame) -> pd.DataFrame:
    """Each removal less the full model in F1 at the verdicts' rate, nothing tuned; paired by data set."""
    f1 = {variant: scores(rows, variant, protocol().framework["verdict_rate"]) for variant in framework.VARIANTS}
    return pd.DataFrame(
        {"variant": variant, "configuration": name}
        | compare.difference(of[on] - of[FULL], "less the full model")
        | {"sets": len(of)}
        for (variant, of), (on, (name, _)) in itertools.product(f1.items(), REMOVALS.items())
    )


def by_architecture(rows: pd.DataFrame) -> pd.DataFrame:
    """:func:`removals` by architecture; ``rows`` are of the same data sets and seed, too few for a Wilcoxon test."""
    parts = {name: removals(part) for name, part in rows.groupby("architecture", sort=False)}
    return compare.below(parts, "architecture").drop(columns="p (Wilcoxon)")


def paper_shape(cells: pd.DataFrame, variant: str) -> pd.DataFrame:
    """Table 4.3 with the paper's rows and columns, for one variant: ours [95 % interval]; paper's."""
    lines = []
    for row in cells[cells.variant == variant].to_dict("records"):
        delta, p = f"the base row; paper {row['Delta vs Full, paper']:g}", "the base row"
        if not row["note"]:
            delta = cell_text(row, "Delta vs Full", row["Delta vs Full, paper"])
            ours = "too few data sets" if np.isnan(row["p (Wilcoxon)"]) else f"{row['p (Wilcoxon)']:.3g}"
            p = f"{ours}; paper {'<' if row['p, paper'] == 0.001 else ''}{row['p, paper']:g}"
        line = {"configuration": row["configuration"], "F1 Score": cell_text(row, "F1", row["F1, paper"])}
        lines.append(line | {"Delta vs Full": delta, "p-value (vs Full)": p, "n (data sets)": row["sets"]})
    return pd.DataFrame(lines)


def all_sets(rows: pd.DataFrame) -> pd.DataFrame:
    """F1 of every set of components, a row per variant, rate and set."""
    lines = []
    for variant, rate, on in itertools.product(framework.VARIANTS, rates(rows), SETS):
        f1 = scores(rows, variant, rate)[on]
        names = ", ".join(TITLES[name] for name in itertools.compress(COMPONENTS, on)) or "none"
        row = {"variant": variant, "noise rate (%)": 100 * rate, "components on": names}
        lines.append(row | mean_with_interval(f1, "F1", bounds=SHARE) | {"sets": len(f1)})
    return pd.DataFrame(lines)


def shapley_values(f1: pd.DataFrame) -> pd.DataFrame:
    """Each component's Shapley value of F1 on every data set (sets x components); they sum to full less none.

    phi_i = sum over sets S without i of |S|! (2 - |S|)! / 3! (v(S with i) - v(S)) (Shapley 1953): the mean gain of
    switching i on, over all orders of switching on. ``f1`` is the table of :func:`scores`.
    """
    values = pd.DataFrame(0.0, f1.index, COMPONENTS)
    for i, name in enumerate(COMPONENTS):
        for without in (on for on in SETS if not on[i]):
            with_it, size = (*without[:i], True, *without[i + 1 :]), sum(without)
            weight = math.factorial(size) * math.factorial(2 - size) / math.factorial(3)
            values[name] += weight * (f1[with_it] - f1[without])
    return values


def contributions(rows: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """A row per variant, rate and component: its Shapley value, its share of the total gain, and P(it is the largest).

    Values have 95 % t-intervals over data sets. A share has the jackknife's over data sets, and is given only where
    the total gain's interval excludes 0: elsewhere it would be a ratio to nothing.
    """
    printed, resamples, lines = ledger.printed(), protocol().statistics["resamples"], []
    for variant, rate in itertools.product(framework.VARIANTS, rates(rows)):
        values = shapley_values(scores(rows, variant, rate))
        gain = values.sum(axis=1).to_numpy()
        total = mean_with_interval(gain, "total gain")
        settled = bool(total["total gain low"] > 0 or total["total gain high"] < 0)
        means = stats.resampled_means(values, seeds.generator(root_seed, "4.3", variant, rate), resamples)
        largest = np.bincount(means.argmax(1), minlength=len(COMPONENTS)) / resamples
        for i, (name, title) in enumerate(TITLES.items()):
            share = "none: the sign of the gain is open"
            if settled:
                of_gain = stats.jackknifed(lambda v, i=i: v[:, i].mean() / v.sum(1).mean(), values).interval()
                share = "{:.0f} [{:.0f}, {:.0f}]".format(*(100 * end for end in of_gain[:3]))
            lines.append(
                {"variant": variant, "noise rate (%)": 100 * rate, "component": title}
                | mean_with_interval(values[name], "Shapley value (F1)")
                | {"share of gain, paper (%)": printed[f"S4.3.share_{IN_LEDGER[name]}"], "share of gain (%)": share}
                | {"P(largest)": largest[i], **total, "gain settled": settled, "sets": len(values)}
            )
    return pd.DataFrame(lines)


def verdicts(rows: pd.DataFrame, rate: float, table: pd.DataFrame) -> list[Statement]:
    """The section's statements, read on the variant ``paper``; ``table`` is :func:`contributions`."""
    f1 = scores(rows, "paper", rate)
    phi = shapley_values(f1)
    share = table[(table.variant == "paper") & (table["noise rate (%)"] == 100 * rate)].set_index("component")
    raw = compare.raw_of(rows) | {"part": "ablation", "variant": "paper", "rate": rate}
    raw["architecture"] = list(rows.architecture.unique())

    def where(row: str, *sets: tuple[bool, ...]) -> dict[str, Any]:
        raws = [raw | dict(zip(COMPONENTS, on, strict=True)) for on in dict.fromkeys(sets)]
        return {"table": "cells", "row": row, "raw": raws}

    statements = []
    for on, (name, key) in ROWS.items():
        of_removal = where(f"paper, {name}", on, FULL)
        statements.append(ledger.judge_level(f"T3.{key}.f1", f1[on], f1[on] - f1[FULL], **of_removal))
    for on, (name, key) in REMOVALS.items():
        d, of_removal = f1[on] - f1[FULL], where(f"paper, {name}", on, FULL)
        statements.append(ledger.judge(f"T3.{key}.delta", d, **of_removal))
        statements.append(ledger.judge_p(f"T3.{key}.p", tests(d)["p (Wilcoxon)"], d, **of_removal))
    lost = {name: f1[FULL] - f1[on] for on, (name, _) in REMOVALS.items()}
    statements.append(ledger.judge_all("T3.full_is_best", lost, side="greater", **where("paper", *ROWS)))

    how = {"side": "greater", "table": "contributions", "raw": raw}
    for name, title in TITLES.items():
        # There is a share only of a gain that is there.
        both = {"the component": phi[name], "the total gain": phi.sum(axis=1)}
        of_share = {"row": f"paper, {title}", "beside": f"share of the gain (%): {share['share of gain (%)'][title]}"}
        claim = f"S4.3.share_{IN_LEDGER[name]}"
        statements.append(ledger.judge_all(claim, both, unit="F1", **of_share, **how))
    f, w, r = (phi[name] for name in COMPONENTS)
    most = {"weighting over regularisation": w - r, "weighting over feature extraction": w - f}
    via = {"weighting": w, "regularisation": r, "both over feature extraction": w + r - f}
    return [
        *statements,
        ledger.judge_all("S4.3.aw_most", most, row="paper", **how),
        ledger.judge("S4.3.reg_over_fe", r - f, row="paper", **how),
        ledger.judge_all("S6.via", via, row="paper", **how),
    ]
