"""Section 4.1's tables. The data set is the unit; a data set counts by its mean over architectures, seeds and draws."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from datalab import data, seeds, stats
from datalab.sections.compare import by_set, cell_text, mean_with_interval, with_correction
from datalab.sections.s4_1_main_results import CLEAN
from datalab.sections.trial import DATALAB

METRICS = {"precision": "precision", "recall": "recall", "macro_f1": "F1", "accuracy": "accuracy", "ece": "ECE"}
ROWS = {
    "vanilla": "Baseline (vanilla)",
    "influence": "+ influence functions",
    "label_noise": "+ label noise",
    DATALAB["paper"]: "Ours (full), paper",
    DATALAB["label-aware"]: "Ours (full), label-aware",
    CLEAN: "Oracle upper bound (clean labels)",
    "random": "random subset (not in the paper)",
}
# A method's id in the ledger.
CLAIMED = {
    "vanilla": "vanilla",
    "influence": "if",
    "label_noise": "ln",
    DATALAB["paper"]: "full",
    DATALAB["label-aware"]: "full",
    CLEAN: "oracle",
}
RIVALS = ("vanilla", "influence", "label_noise", "random")  # what DATA-LAB is compared with: all but the upper bound
_COLUMN = {"precision": "precision", "recall": "recall", "macro_f1": "f1", "accuracy": "accuracy"}


def main(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the table, without the ablations."""
    return rows[rows.part == "main"]


def level(rows: pd.DataFrame, method: str, metric: str, rate: float) -> pd.Series:
    """A method's score at one rate, a value a data set, in the rows' order."""
    return by_set(main(rows), metric, method=method, rate=rate)


def claim_id(method: str, metric: str) -> str | None:
    """The ledger's id of one cell of table 4.1; None for what the paper does not print."""
    return f"T1.{CLAIMED[method]}.{_COLUMN[metric]}" if method in CLAIMED and metric in _COLUMN else None


def cells(rows: pd.DataFrame, rate: float, printed: Mapping[str, float]) -> pd.DataFrame:
    """A row per cell of table 4.1 at one rate: the paper's figure, ours, the difference to vanilla, and its tests.

    ``printed`` maps the ledger's ids to figures (accuracy in %). p is the Wilcoxon test's over the data sets; Holm's
    correction is over the whole table.
    """
    found = []
    for method, name in ROWS.items():
        for metric, column in METRICS.items():
            values, base = level(rows, method, metric, rate), level(rows, "vanilla", metric, rate)
            key = claim_id(method, metric)
            scale = 0.01 if metric == "accuracy" else 1.0
            row = {"method": name, "metric": column, "paper": np.nan if key is None else scale * printed[key]}
            row |= mean_with_interval(values, "ours")
            if method != "vanilla":
                d = (values - base).to_numpy()
                row |= mean_with_interval(d, "less vanilla") | _tests(d)
            notes = ["the paper prints none"] if np.isnan(row["paper"]) else []
            notes += ["the base row: no difference"] if method == "vanilla" else []
            found.append(row | {"sets": len(values), "note": "; ".join(notes)})
    return with_correction(pd.DataFrame(found))


def _tests(d: np.ndarray) -> dict[str, float]:
    if len(d) < 2:
        return {"d_z": np.nan, "p (Wilcoxon)": np.nan}
    return {"d_z": stats.cohens_dz(d).estimate, "p (Wilcoxon)": stats.wilcoxon(d).p}


def paper_shape(cells: pd.DataFrame) -> pd.DataFrame:
    """Table 4.1 with the paper's rows and columns: ours [95 % interval]; paper's."""
    found = []
    for name, one in cells.groupby("method", sort=False):
        row = {"method": name}
        for _, cell in one.iterrows():
            row[cell.metric] = cell_text(cell, "ours", None if np.isnan(cell.paper) else cell.paper)
        found.append(row | {"n (data sets)": int(one.sets.iloc[0])})
    return pd.DataFrame(found)


def by_noise(rows: pd.DataFrame) -> pd.DataFrame:
    """Every method's F1 at every rate, and its difference to vanilla's; Holm's correction over the whole table."""
    found = []
    for rate in sorted(rows.rate.unique()):
        base = level(rows, "vanilla", "macro_f1", rate)
        for method, name in ROWS.items():
            values = level(rows, method, "macro_f1", rate)
            row = {"noise rate (%)": 100 * rate, "method": name} | mean_with_interval(values, "F1")
            if method != "vanilla":
                d = (values - base).to_numpy()
                row |= mean_with_interval(d, "less vanilla") | _tests(d) | {"sets better": int((d > 0).sum())}
            found.append(row | {"sets": len(values)})
    return with_correction(pd.DataFrame(found))


def benchmarks(
    rows: pd.DataFrame, variant: str, rate: float, printed: Mapping[str, Mapping[str, float]], root_seed: int
) -> pd.DataFrame:
    """Table 4.1b, a row per benchmark (per data set where none is one): F1 of vanilla and of one variant, and the gain.

    The seed is the unit here: an interval speaks of this data set under other splits and noise. ``p floor`` is the
    least p that the sign-flip test can print with so many seeds. ``printed`` maps a benchmark's letter to the paper's
    figures.
    """
    found = []
    part = main(rows)[main(rows).rate == rate]
    names = list(dict.fromkeys(part.dataset))
    named = [name for name in names if data.REGISTRY[name].benchmark]  # the correction is over the benchmarks
    for name in named or names:
        one = part[part.dataset == name]
        ours, base = (
            one[one.method == method].groupby("seed").macro_f1.mean() for method in (DATALAB[variant], "vanilla")
        )
        d = (ours - base).to_numpy()
        label = data.REGISTRY[name].benchmark
        row = {"benchmark": label or "not a benchmark", "data set": name, "paper": _printed(label, printed)}
        row |= {"Baseline F1": base.mean(), "Ours F1": ours.mean()} | mean_with_interval(d, "d")
        gain = 100 * (ours.to_numpy() / base.to_numpy() - 1)
        row |= mean_with_interval(gain, "improvement (%)")
        if len(d) > 1:
            flips = stats.sign_flip_test(d, seeds.generator(root_seed, "4.1", variant, name))
            row |= {"d_z": stats.cohens_dz(d).estimate, "p (t)": stats.t_test(d).p}
            row |= {"p (sign flip)": flips.p, "p floor": flips.floor}
        else:
            row |= {"d_z": np.nan, "p (t)": np.nan, "p (sign flip)": np.nan, "p floor": np.nan}
        found.append(row | {"seeds": len(d)})
    frame = pd.DataFrame(found)
    for correction in (stats.bonferroni, stats.holm):
        p = frame["p (t)"].to_numpy()
        known = np.isfinite(p)
        corrected = np.full(len(p), np.nan)
        corrected[known] = correction(p[known])
        frame[f"p ({correction.__name__.capitalize()})"] = corrected
    return frame


def _printed(label: str | None, printed: Mapping[str, Mapping[str, float]]) -> str:
    letter = (label or "").removeprefix("Bench-")
    if letter not in printed:
        return "prints A to F only"
    figures = printed[letter]
    return f"{figures['baseline_f1']:.2f} to {figures['ours_f1']:.2f}, {figures['improvement']:.2f} %"


def headline(rows: pd.DataFrame, rate: float, root_seed: int, resamples: int) -> pd.DataFrame:
    """A row per variant and comparator: mean F1, the relative gain with its bootstrap interval, the Wilcoxon test.

    The relative gain is that of the means, 100 (mean ours / mean comparator - 1); its 95 % percentile interval
    resamples data sets, then seeds within them.
    """
    found = []
    for variant, method in DATALAB.items():
        for rival in RIVALS:
            ours, base = (_by_seed(rows, name, rate) for name in (method, rival))
            rng = seeds.generator(root_seed, "4.1 headline", variant, rival)
            low, high = relative_gain_interval(ours, base, rng, resamples)
            d = ours.mean(1) - base.mean(1)
            row = {"variant": variant, "against": rival, "Ours F1": ours.mean(), "Baseline F1": base.mean()}
            row |= {"gain (%)": 100 * (ours.mean() / base.mean() - 1), "gain (%) low": low, "gain (%) high": high}
            row |= mean_with_interval(d, "d") | _tests(d)
            floor = stats.p_floor(len(d))
            found.append(row | {"p floor": floor, "sets better": int((d > 0).sum()), "sets": len(d)})
    return pd.DataFrame(found)


def _by_seed(rows: pd.DataFrame, method: str, rate: float) -> np.ndarray:
    """F1 of a method (sets, seeds)."""
    part = main(rows)[(main(rows).rate == rate) & (main(rows).method == method)]
    table = part.pivot_table(index="dataset", columns="seed", values="macro_f1", sort=False)
    return table.to_numpy()


def relative_gain_interval(
    ours: np.ndarray, base: np.ndarray, rng: np.random.Generator, resamples: int
) -> tuple[float, float]:
    """95 % percentile limits of 100 (mean ours / mean base - 1) for F1 (sets, seeds), resampling sets, then seeds."""
    sets, seeds_ = ours.shape
    if sets < 2:
        return np.nan, np.nan
    at_set = rng.integers(0, sets, (resamples, sets, 1))
    at_seed = rng.integers(0, seeds_, (resamples, sets, seeds_))
    gain = 100 * (ours[at_set, at_seed].mean((1, 2)) / base[at_set, at_seed].mean((1, 2)) - 1)
    low, high = np.percentile(gain, [2.5, 97.5])
    return float(low), float(high)


def weights(rows: pd.DataFrame) -> pd.DataFrame:
    """What the tuned weights look like: effective sample size, AUROC for clean labels and the lambdas chosen."""
    found = []
    for variant, method in DATALAB.items():
        for rate in sorted(rows.rate.unique()):
            one = main(rows)[(main(rows).method == method) & (main(rows).rate == rate)]
            row = {"variant": variant, "noise rate (%)": 100 * rate}
            row |= mean_with_interval(by_set(one, "ess"), "ESS / n")
            row |= mean_with_interval(by_set(one, "weights_auroc"), "AUROC")
            found.append(row | {"median lambda1": one.lambda1.median(), "median lambda2": one.lambda2.median()})
    return pd.DataFrame(found)


def by_architecture(rows: pd.DataFrame, rate: float) -> pd.DataFrame:
    """DATA-LAB less vanilla in F1 at one rate, a row per architecture and variant."""
    found = []
    for name, one in main(rows).groupby("architecture", sort=False):
        for variant, method in DATALAB.items():
            d = (level(one, method, "macro_f1", rate) - level(one, "vanilla", "macro_f1", rate)).to_numpy()
            found.append(
                {"architecture": name, "variant": variant} | mean_with_interval(d, "d (F1)") | {"sets": len(d)}
            )
    return pd.DataFrame(found)
