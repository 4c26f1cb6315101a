"""Section 4.2: does performance fall as the influence of the training set rises?

Training sets of equal size and rising influence are drawn in three ways (``draw``), every method is trained on all of
them, and F1 is read against the level. The data set is the unit; it counts by its mean over architectures and seeds.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import rankdata

from datalab import ledger, seeds, stats
from datalab.protocol import protocol
from datalab.record import Statement
from datalab.sections import compare, parameters, plots, sentences
from datalab.sections.trials import trial
from datalab.sections.trials.trial import DATALAB, Trial
from datalab.sweep import Task

DRAWS = {  # how a level is made, as a figure's title
    "matched": "by influence, noise held equal",
    "unmatched": "by influence",
    "leverage": "by leverage (no labels)",
}
OTHER = "unmatched"  # stands beside the verdicts' draw in their reasons
NAMES = ("Minimal", "Low", "Medium", "High", "Extreme")  # the paper's, from the lowest tilt to the highest
BASELINE = "vanilla"
METHODS = {BASELINE: "baseline"} | {method: f"ours, {variant}" for variant, method in DATALAB.items()}


class Parameters(parameters.StoppedTraining, parameters.ArchitectureParameters):
    main_architectures: parameters.Architectures


def tasks(p: Parameters) -> list[Task]:
    """One task a data set and architecture, of the first seed, with all levels, draws and methods; stopped early."""
    return parameters.stopped_once(fixed_tasks(p), p, once=protocol().reference["models"])


def fixed_tasks(p: Parameters, draws: Sequence[str] = tuple(DRAWS)) -> list[Task]:
    """The same of every seed, for the recipe's length."""
    trained = len(draws) * len(METHODS) * len(NAMES) + protocol().reference["models"]
    given = {"architectures": p.main_architectures, "draws": list(draws)}
    return parameters.per_set_and_seed(p, f"{__name__}:run_task", 1.1 * len(draws) / len(DRAWS), trained, **given)


def architecture_tasks(p: Parameters) -> list[Task]:
    """The same of the other architectures, of one seed and by the protocol's draw; if none is named, of the main."""
    if not p.other_architectures:
        return fixed_tasks(p)
    small = {"datasets": p.framework_datasets, "main_architectures": p.other_architectures, "seeds": 1}
    return fixed_tasks(p.model_copy(update=small), [protocol().influence_levels["verdict_draw"]])


estimate = parameters.estimated(lambda p: tasks(p) + fixed_tasks(p) + architecture_tasks(p), memory=1e9)


def run_task(draws: Sequence[str], lengths: Sequence[int] = (), **given: Any) -> list[dict[str, Any]]:
    """A row per draw, level and method: macro-F1 and accuracy on the clean test set.

    Of ``lengths``, where they are named, each model's validation labels choose one; what is drawn stays the same.
    ``tilt`` is the level, ``flipped`` the share of flipped labels in the set, ``mean_rank`` the mean standardised rank
    of its examples. ``matched`` draws by self-influence at the same share of flipped labels in all levels. ``given`` is
    as for :class:`Trial`.
    """
    study = Trial(rates=(protocol().framework["verdict_rate"],), **given)
    observed = study.observed[0]
    flipped = observed != study.prepared.y_train
    by_influence = standardised_ranks(trial.self_influence(study, *trial.references(study))[0])
    by_leverage = standardised_ranks(trial.leverage(study.prepared.x_train))
    sets, kept = [], []
    for draw, tilt in itertools.product(draws, protocol().influence_levels["tilts"]):
        ranks = by_leverage if draw == "leverage" else by_influence
        groups = flipped if draw == "matched" else np.zeros_like(flipped)
        # One generator a draw: the levels differ by their tilt, not by luck.
        mask = tilted_draw(ranks, tilt, groups, study.rng("level", draw))
        kept.append(mask)
        sets.append({"draw": draw, "tilt": tilt, "flipped": flipped[mask].mean(), "mean_rank": ranks[mask].mean()})

    # All at the default lambdas: nothing but the length is tuned, so that levels differ by their data.
    kept, labels, lambdas = np.array(kept), np.tile(observed, (len(kept), 1)), trial.default_lambdas(len(kept))
    trained = {BASELINE: partial(trial.fit, study, labels, kept)}
    for variant, method in DATALAB.items():
        trained[method] = partial(trial.fit_datalab, study, study.datalab(variant=variant), labels, lambdas, kept)
    common = {"dataset": study.dataset, "architecture": study.architecture, "seed": study.seed}
    common["realised_rate"] = flipped.mean()
    return [
        common | drawn | {"method": method} | tested
        for method, train in trained.items()
        for drawn, tested in zip(
            sets, trial.scores_on_test_set(study, trial.read_off(study, train, lengths)), strict=True
        )
    ]


def standardised_ranks(values: NDArray) -> NDArray[np.float64]:
    """Ranks (n,), equal values sharing theirs, of mean 0 and standard deviation 1."""
    ranks = rankdata(values)
    return (ranks - ranks.mean()) / max(ranks.std(), 1e-12)


def tilted_draw(ranks: NDArray, tilt: float, groups: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A set drawn without replacement, one example after another with probability ~ exp(tilt * rank), as a mask (n,).

    It is ``influence_levels.share`` of the examples, and the same share of each group, up to rounding. By exponential
    keys (Efraimidis & Spirakis 2006).
    """
    share = protocol().influence_levels["share"]
    keys = rng.exponential(size=len(ranks)) / np.exp(tilt * ranks)
    size, mask = round(share * len(ranks)), np.zeros(len(ranks), dtype=bool)
    of_second = round(size * groups.mean())
    for members, count in ((np.flatnonzero(groups), of_second), (np.flatnonzero(~groups), size - of_second)):
        mask[members[np.argsort(keys[members], kind="stable")[:count]]] = True
    return mask


def by_level(rows: pd.DataFrame, draw: str, method: str) -> pd.DataFrame:
    """F1 (data sets x tilts), each its mean over runs."""
    part = compare.rows_of_kind(rows, draw=draw, method=method)
    return part.pivot_table(index="dataset", columns="tilt", values="macro_f1", sort=False).sort_index(axis=1)


def levels(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per draw, variant and level: baseline and ours with intervals, the gap, Cohen's d_z, and the paper's.

    The gap is ours less baseline in points of F1; d_z standardises it by its standard deviation over the data sets.
    """
    printed, names = ledger.printed(), dict(zip(protocol().influence_levels["tilts"], NAMES, strict=True))

    def row(draw: str, variant: str, tilt: float) -> dict[str, Any]:
        key = f"T2.{names[tilt].lower()}"
        base, ours = (by_level(rows, draw, method)[tilt] for method in (BASELINE, DATALAB[variant]))
        sets = compare.rows_of_kind(rows, draw=draw, method=BASELINE, tilt=tilt)
        return (
            {"draw": draw, "variant": variant, "level": names[tilt]}
            | compare.and_papers(base, "Baseline F1", printed[f"{key}.baseline_f1"], compare.SHARE)
            | compare.and_papers(ours, "Ours F1", printed[f"{key}.ours_f1"], compare.SHARE)
            | compare.and_papers(100 * (ours - base), "Gap (pp)", printed[f"{key}.gap_pp"])
            | {"Cohen's d, paper": printed[f"{key}.cohen_d"]}
            | compare.measured(stats.EffectSize((ours - base).to_numpy()), "d_z")
            | {"flipped labels (%)": 100 * sets.flipped.mean(), "mean rank": sets.mean_rank.mean(), "sets": len(base)}
        )

    return pd.DataFrame([row(*of) for of in itertools.product(DRAWS, DATALAB, names)])


def paper_shape(levels: pd.DataFrame, draw: str, variant: str) -> pd.DataFrame:
    """Table 4.2 with the paper's rows and columns, for one draw and variant: ours [95 % interval]; paper's."""
    columns = {"Baseline F1": "Baseline F1", "Ours F1": "Ours F1", "Gap (pp)": "Gap (pp)", "d_z": "Cohen's d"}
    part = compare.rows_of_kind(levels, draw=draw, variant=variant)
    return compare.beside_paper(part, "level", columns).assign(**{"n (data sets)": part.sets.to_numpy()})


def trends(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per draw and method: how F1 moves with the level.

    ``slope`` is the F1 gained per level and ``end to end`` the F1 of Extreme less that of Minimal; ``r`` the mean of
    the data sets' own Pearson's r; ``r, runs`` Pearson's over all runs of all sets. All with 95 % intervals over data
    sets, those of correlations inside [-1, 1]. ``r, level means`` is over the five means.
    """

    def row(draw: str, method: str) -> dict[str, Any]:
        f1, slope = by_level(rows, draw, method), slopes(rows, draw)[method]
        tilts, means = f1.columns.to_numpy(dtype=float), f1.mean()
        of_sets = moments(rows, draw, method)
        return (
            {"draw": draw, "method": method}
            | compare.mean_with_interval(slope, "slope")
            | compare.mean_with_interval(f1.iloc[:, -1] - f1.iloc[:, 0], "end to end")
            | compare.measured(stats.mean_correlation(of_sets), "r")
            | compare.measured(stats.clustered_correlation(of_sets), "r, runs")
            | {"r, level means": float(np.corrcoef(tilts, means)[0, 1]) if np.ptp(means) else np.nan}
            | {"runs": int(of_sets[:, 0].sum()), "sets": len(f1)}
        )

    return pd.DataFrame([row(draw, method) for draw in rows.draw.unique() for method in METHODS])


def slopes(rows: pd.DataFrame, draw: str) -> pd.DataFrame:
    """The F1 gained per level: a row a data set, a column a method."""
    of_method = {method: by_level(rows, draw, method) for method in METHODS}
    return pd.DataFrame({name: np.polyfit(f1.columns.astype(float), f1.T, 1)[0] for name, f1 in of_method.items()})


def by_architecture(rows: pd.DataFrame) -> pd.DataFrame:
    """:func:`trends` of the protocol's draw by architecture."""
    of_draw = compare.rows_of_kind(rows, draw=protocol().influence_levels["verdict_draw"])
    parts = {name: trends(part) for name, part in of_draw.groupby("architecture", sort=False)}
    return compare.below(parts, "architecture")


def moments(rows: pd.DataFrame, draw: str, method: str) -> NDArray[np.float64]:
    """Of level and F1 over the runs of each data set, (sets, 6)."""
    part = compare.rows_of_kind(rows, draw=draw, method=method)
    return np.array([stats.moments(runs.tilt, runs.macro_f1) for _, runs in part.groupby("dataset", sort=False)])


def scores(rows: pd.DataFrame, draw: str) -> NDArray[np.float64]:
    """F1 (sets, runs and methods, levels) of vanilla and of ``paper``, for the variance that the level explains."""
    part = compare.rows_of_kind(rows, draw=draw)
    part = part[part.method.isin([BASELINE, DATALAB["paper"]])]
    wide = part.pivot_table("macro_f1", ["dataset", "architecture", "seed", "method"], "tilt", sort=False)
    return np.stack([of_set.to_numpy() for _, of_set in wide.groupby("dataset", sort=False)])


def variance_explained(rows: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """A row per draw: how much of the variance of F1 the level explains.

    ``common`` is the share by what the level does alike in every data set, with its 95 % interval over data sets
    (:func:`datalab.stats.common_share_measured`): what the verdict is read on. ``p``: levels exchanged within each data
    set, as often as the protocol says. ``total``, ``partial`` (data sets, seeds and methods taken out) and ``within
    data set`` are eta squared: sums of squares, which count each data set's own pattern as the level's and have no
    interval.
    """

    def line(draw: str) -> dict[str, Any]:
        y = scores(rows, draw)
        ss = stats.sums_of_squares(np.concatenate(y), np.repeat(np.arange(len(y)), y.shape[1]))
        rng = seeds.generator(root_seed, "4.2 variance", draw)
        return (
            {"draw": draw}
            | compare.measured(stats.common_share_measured(y), "common (%)", scale=100)
            | {"p": stats.levels_exchanged(y, rng, protocol().statistics["resamples"])}
            | {"total (%)": 100 * ss.level / ss.total, "partial (%)": 100 * ss.level / (ss.total - ss.rows)}
            | {"within data set (%)": 100 * ss.level_within / ss.within, "models": y.size, "sets": len(y)}
        )

    return pd.DataFrame([line(draw) for draw in DRAWS])


def changes(rows: pd.DataFrame) -> pd.DataFrame:
    """F1 of every method less its own at the lowest level, paired by data set: a row a draw, method and level.

    The limits are of that difference: those of the levels themselves are as wide as data sets are apart.
    """
    lines = []
    for (draw, title), (method, word) in itertools.product(DRAWS.items(), METHODS.items()):
        f1 = by_level(rows, draw, method)
        for name, tilt in zip(NAMES, f1, strict=True):
            change = compare.mean_with_interval(f1[tilt] - f1.iloc[:, 0], "change")
            lines.append({"level": name, "panel": title, "of": word} | change)
    return pd.DataFrame(lines)


def curves(changes: pd.DataFrame) -> Figure:
    """A panel a draw: :func:`changes` by level; thin grey: the paper's."""
    printed = ledger.printed()
    title = "Does F1 fall as the influence of the training set rises? (thin grey: the paper)"
    axes = {"title": title, "xlabel": "influence level", "ylabel": "macro-F1 less that at the minimal level"}
    figure = plots.curves(changes, "level", "change", by="of", panel="panel", **axes)
    for place, (column, line) in itertools.product(figure.axes, {"baseline_f1": "-", "ours_f1": "--"}.items()):
        paper = [printed[f"T2.{name.lower()}.{column}"] for name in NAMES]
        place.plot(range(len(NAMES)), np.subtract(paper, paper[0]), line, color="#888888", linewidth=0.9)
    return figure


def verdicts(rows: pd.DataFrame, variance: pd.DataFrame) -> list[Statement]:
    """The section's statements, on the protocol's draw and the variant ``paper``."""
    draw, ours = protocol().influence_levels["verdict_draw"], DATALAB["paper"]
    both, raw = (BASELINE, ours), compare.raw_of(rows) | {"architecture": list(rows.architecture.unique())}
    f1 = {method: by_level(rows, draw, method) for method in both}
    lowest, *_, highest = tilts = list(f1[BASELINE])

    def at(table: str, row: str, *methods: str, **where: Any) -> dict[str, Any]:
        return {"table": table, "row": row, "raw": raw | {"draw": draw, "method": list(methods)} | where}

    statements = []
    for tilt, name in zip(tilts, NAMES, strict=True):
        for column, method in (("baseline_f1", BASELINE), ("ours_f1", ours)):
            where = at("levels", f"{name}, {column}", method, tilt=sorted({tilt, lowest}))
            levels = f1[method][tilt], f1[method][tilt] - f1[method][lowest]
            statements.append(ledger.judge_level(f"T2.{name.lower()}.{column}", *levels, **where))
        gap = f1[ours][tilt] - f1[BASELINE][tilt]
        where = at("levels", f"{name}, d", *both, tilt=tilt) | {"side": "greater"}
        standardised = stats.EffectSize(gap.to_numpy())
        statements.append(ledger.judge(f"T2.{name.lower()}.gap_pp", gap, scale=100, **where))
        statements.append(ledger.judge(f"T2.{name.lower()}.cohen_d", standardised, metric=None, **where))

    ends = {"tilt": [lowest, highest]}
    change = {method: f1[method][highest] - f1[method][lowest] for method in both}
    sharply = stats.Measurement(change[BASELINE].to_numpy(), against=-0.05)
    falls = {"end to end": change[BASELINE], "by more than 5 points": sharply}
    of_baseline, of_ours = (at("trends", f"matched, {method}", method, **ends) for method in both)
    of_both = at("trends", "matched, both", *both, **ends)

    r = {method: stats.mean_correlation(moments(rows, draw, method)) for method in both}
    weaker = stats.Measurement(abs(r[BASELINE].values) - abs(r[ours].values), bounds=compare.SIGNED)
    negative = at("trends", "matched, vanilla", BASELINE) | {"side": "less", "metric": None}
    if draw != OTHER and OTHER in set(rows.draw):
        apart = by_level(rows, OTHER, BASELINE)
        of_r = compare.measured(stats.mean_correlation(moments(rows, OTHER, BASELINE)), "r")
        of_fall = compare.mean_with_interval(apart[highest] - apart[lowest], "end to end")
        not_held = "the share of flipped labels held equal; where it is not, "
        negative["beside"] = f"{not_held}r is {sentences.with_limits(of_r, 'r')}"
        of_baseline["beside"] = f"{not_held}{sentences.points(of_fall, 'end to end')} points end to end"
    of_two = at("trends", f"matched, {ours}", *both) | {"side": "greater", "metric": None}

    share = variance[variance.draw == draw].iloc[0]
    where = at("variance", draw, *both) | {"side": "greater", "metric": "variance_share", "scale": 100}
    explained = stats.common_share_measured(scores(rows, draw))
    other = f"p = {share.p:.2g}; eta squared {share['total (%)']:.1f} % of the total"
    count = ledger.read("S3.2.n_levels", len(NAMES), **at("levels", "all", *both))
    return [
        *statements,
        ledger.judge_all("S4.2.baseline_drops", falls, side="less", **of_baseline),
        ledger.judge("S4.2.ours_robust", change[ours], side="not_less", **of_ours),
        ledger.judge("S4.2.gap_widens", change[ours] - change[BASELINE], side="greater", **of_both),
        ledger.judge("S4.2.r_baseline", r[BASELINE], **negative),
        ledger.judge("S4.2.strong_relationship", r[BASELINE], **negative),
        ledger.judge("S4.2.r_ours", weaker, beside=f"ours r {r[ours].estimate:+.3f}", **of_two),
        ledger.judge("ABS.variance_explained", explained, beside=other, **where),
        replace(count, why=f"{count.why}; what a level is had to be chosen, see above"),
    ]
