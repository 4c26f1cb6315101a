"""Section 3.1: does a stratified, importance-weighted metric rank systems otherwise than plain accuracy?

M_strat(f) = sum_k w_k M(f; D_k) over equal strata D_k of the test set, with accuracy for M. A *system* is an
architecture trained on everything, on what influence pruning keeps, or on a random subset. The data set is the unit.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata

from datalab import ledger, pruning, stats
from datalab.protocol import protocol
from datalab.record import Statement
from datalab.sections import compare, plots
from datalab.sections.parameters import StoppedTraining as Parameters
from datalab.sections.parameters import estimated, per_set_and_seed, stopped_once
from datalab.sections.trials import trial
from datalab.sections.trials.trial import Trial
from datalab.sweep import Task
from datalab.training import protocol_recipe

ARCHITECTURES = ("softmax", "mlp", "cnn")
METHODS = ("full", "influence", "random")
STRATA = ("influence", "leverage")  # what the test examples are stratified by
RESAMPLES = 300
UNIT = ["dataset", "seed"]
TAU, RATIO, TILT = "Kendall's tau", "variance ratio", "tilt of the target"


def tasks(p: Parameters) -> list[Task]:
    """One task a data set, of the first seed, with nine systems and both kinds of strata; all stopped early."""
    return stopped_once(fixed_tasks(p), p, once=2 * len(ARCHITECTURES))


def fixed_tasks(p: Parameters) -> list[Task]:
    """The same of every seed, for the recipe's length."""
    # Three architectures, each with two references and three models to compare.
    return per_set_and_seed(p, f"{__name__}:run_task", cost=0.35, models=15)


estimate = estimated(lambda p: tasks(p) + fixed_tasks(p), memory=8e8)


def run_task(lengths: Sequence[int] = (), **of: Any) -> list[dict[str, Any]]:
    """Rows of ``part`` "stratum", one a kind of strata, stratum and system: the test examples and the share right.

    And of ``part`` "variance", one a kind of strata, target's tilt and system: the variance of the metric over
    bootstrap samples of the test set, its strata cut anew in each.

    ``of`` names the trial. Systems are trained at the protocol's verdict rate. Strata are equal shares of the test set
    by the self-influence of the test example with its true label, under an MLP's reference models (``influence``), or
    by its leverage (``leverage``, which needs no label). Of ``lengths``, where they are named, each system's validation
    labels choose one.
    """
    rates = (protocol().framework["verdict_rate"],)
    right = {}  # (architecture, method): which test examples it gets right, (n_test,)
    for name in ARCHITECTURES:
        study = Trial(architecture=name, rates=rates, **of)
        references = trial.references(study)
        kept = subsets(study, trial.self_influence(study, *references)[0])
        trained = partial(trial.fit, study, np.tile(study.observed[0], (len(kept), 1)), kept)
        predicted = trial.read_off(study, trained, lengths)
        hits = predicted == study.prepared.y_test
        right |= {(name, method): hit for method, hit in zip(METHODS, hits, strict=True)}
        if name == "mlp":
            mlp, scores = study, strata_scores(study, *references)
    rows = []
    for kind, values in scores.items():
        stratum = quantiles(values)
        by_tilt = resampled_variances(np.stack(list(right.values())), values, mlp.rng("resampled", kind))
        for i, ((architecture, method), hit) in enumerate(right.items()):
            common = {"dataset": mlp.dataset, "seed": mlp.seed, "architecture": architecture, "method": method}
            common["strata"] = kind
            for k in range(protocol().stratified_metric["strata"]):
                in_k = stratum == k
                rows.append(common | {"part": "stratum", "stratum": k, "n": int(in_k.sum()), "right": hit[in_k].mean()})
            for tilt, variance in by_tilt.items():
                rows.append(common | {"part": "variance", "tilt": tilt, "variance": variance[i]})
    return rows


def subsets(study: Trial, scores: NDArray) -> NDArray[np.bool_]:
    """What each of ``METHODS`` trains on, (3, n); ``scores`` (n,) are what influence prunes by."""
    keep, observed = protocol().primary_cell["keep_fraction"], study.observed[0]
    pruned = pruning.keep(scores, observed, keep)
    drawn = pruning.random_subset(observed, keep, rng=study.rng("random", "metric"))
    return np.stack([np.ones_like(pruned), pruned, drawn])


def strata_scores(study: Trial, stack: trial.AnyStack, labels: NDArray) -> dict[str, NDArray]:
    """What the test examples are stratified by, (n_test,) each. The true test labels enter: a metric may know them."""
    estimator = trial.streamed(stack, study.x, labels, protocol_recipe().l2)
    influence = estimator.self_influence(study.x_test, study.tensor(study.prepared.y_test)).mean(0).cpu().numpy()
    x = np.vstack([study.prepared.x_train, study.prepared.x_test])
    return {"influence": influence, "leverage": trial.leverage(x)[len(study.x) :]}


def quantiles(scores: NDArray) -> NDArray[np.int64]:
    """The stratum (n,) of each score, 0 the lowest: equal shares by rank, up to one; equal scores keep their order."""
    count = protocol().stratified_metric["strata"]
    return ((rankdata(scores, method="ordinal") - 1) * count // len(scores)).astype(int)


def target_weights(sizes: NDArray, tilt: float) -> NDArray[np.float64]:
    """w_k ~ n_k exp(tilt * (k - middle)) of sum 1, for strata of sizes (..., K); at tilt 0 their own shares."""
    k = np.arange(sizes.shape[-1])
    w = sizes * np.exp(tilt * (k - k.mean()))
    return w / w.sum(-1, keepdims=True)


def resampled_variances(right: NDArray[np.bool_], scores: NDArray, rng: np.random.Generator) -> dict[float, NDArray]:
    """The variance of M_strat of every system (systems,), by tilt, over bootstrap samples of the n test examples.

    right is (systems, n), scores (n,). In each sample the strata are equal shares by score once more.
    """
    rule, n = protocol().stratified_metric, len(scores)
    ranked = right[:, np.argsort(scores, kind="stable")]
    ends = np.linspace(0, n, rule["strata"] + 1).round().astype(int)
    sizes = np.diff(ends)
    means = np.empty((RESAMPLES, len(right), rule["strata"]))
    for i in range(RESAMPLES):
        sample = ranked[:, np.sort(rng.integers(0, n, n))]  # in the order of the scores: strata are runs
        means[i] = np.add.reduceat(sample, ends[:-1], axis=1, dtype=np.int64) / sizes
    return {float(tilt): (means @ target_weights(sizes, tilt)).var(0, ddof=1) for tilt in rule["tilts"]}


def of_part(rows: pd.DataFrame, part: str, **where: object) -> pd.DataFrame:
    """The rows of a part and kind, with the system's name: ``mlp, influence``."""
    rows = compare.rows_of_kind(rows, part=part, **where)
    return rows.assign(system=rows.architecture + ", " + rows.method)


def metric(rows: pd.DataFrame, strata: str, tilt: float) -> pd.DataFrame:
    """M_strat of every system: systems x (data set, seed)."""
    part = of_part(rows, "stratum", strata=strata)
    wide = part.pivot_table(index=["system", *UNIT], columns="stratum", values=["right", "n"], sort=False)
    return (wide["right"] * target_weights(wide["n"].to_numpy(), tilt)).sum(axis=1).unstack(UNIT)


def variances(rows: pd.DataFrame, strata: str, tilt: float) -> pd.DataFrame:
    """The variance of M_strat over bootstrap samples of the test set, shaped as ``metric``."""
    part = of_part(rows, "variance", strata=strata, tilt=tilt)
    return part.set_index(["system", *UNIT]).variance.unstack(UNIT)


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds: systems x (data set, seed) -> systems x data sets."""
    return table.T.groupby(level="dataset", sort=False).mean().T


def by_stratum(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of every system in every stratum, with 95 % t-intervals over data sets."""
    part = of_part(rows, "stratum")
    part, by = part.assign(stratum=part.stratum.astype(int) + 1), ["strata", "system", "stratum"]
    return compare.means(part, by, {"right": ("accuracy", compare.SHARE)}).drop(columns="sets")


def systems(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per system: plain accuracy, and M_strat under every target by both kinds of strata, with its rank."""
    plain = over_seeds(metric(rows, STRATA[0], 0.0)).mean(axis=1)
    table = pd.DataFrame({"plain accuracy": plain, "rank": plain.rank(ascending=False).astype(int)})
    for strata, tilt in itertools.product(STRATA, protocol().stratified_metric["tilts"]):
        if tilt:  # at tilt 0 the metric is plain accuracy
            table[f"{strata} {tilt:+g}"] = over_seeds(metric(rows, strata, tilt)).mean(axis=1)
            table[f"rank, {strata} {tilt:+g}"] = table[f"{strata} {tilt:+g}"].rank(ascending=False).astype(int)
    return table.rename_axis("system").reset_index().sort_values("rank", kind="stable", ignore_index=True)


def agreement(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per kind of strata and target: does the metric rank the systems as plain accuracy does, and how precisely?

    ``Kendall's tau`` is over the systems, within each data set, its mean with a 95 % t-interval over data sets.
    ``reversed pairs`` are pairs of systems ordered one way by plain accuracy and the other way by M_strat on average
    over the data sets; ``both significant`` those where both differences have Wilcoxon p < alpha after Holm's
    correction over all pairs. ``variance ratio`` is M_strat's variance over bootstrap samples of the
    test set, strata cut anew in each, over that of plain accuracy.
    """
    plain = over_seeds(metric(rows, STRATA[0], 0.0))

    def row(strata: str, tilt: float) -> dict[str, Any]:
        other = over_seeds(metric(rows, strata, tilt))
        # Equal systems are ties, whatever the rounding.
        tau = [kendalltau(plain[name].round(12), other[name].round(12)).statistic for name in plain]
        ratio = over_seeds(variances(rows, strata, tilt) / variances(rows, strata, 0.0)).mean()
        pairs = reversed_pairs(plain, other)
        row = {"strata": strata, TILT: tilt} | compare.mean_with_interval(tau, TAU, bounds=compare.SIGNED)
        row |= {"pairs": len(pairs), "reversed pairs": pairs["reversed"].sum()}
        row |= {"both significant": pairs["both significant"].sum()}
        return row | compare.mean_with_interval(ratio, RATIO, bounds=compare.RATIO) | {"sets": plain.shape[1]}

    return pd.DataFrame([row(*key) for key in itertools.product(STRATA, protocol().stratified_metric["tilts"])])


def reversed_pairs(plain: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Every pair of systems: its mean difference by both metrics (systems x data sets), and whether they disagree."""
    first, second = (list(names) for names in zip(*itertools.combinations(plain.index, 2), strict=True))
    pairs, alpha = pd.DataFrame({"a": first, "b": second}), protocol().statistics["alpha"]
    significant = []
    for name, table in (("plain", plain), ("stratified", other)):
        d = table.loc[first].to_numpy() - table.loc[second].to_numpy()
        pairs[name] = d.mean(1)
        significant.append(stats.holm(stats.wilcoxon(d).p) < alpha if d.shape[1] > 1 else np.zeros(len(d), bool))
    pairs["reversed"] = np.sign(pairs.plain) * np.sign(pairs.stratified) < 0
    return pairs.assign(**{"both significant": pairs["reversed"] & significant[0] & significant[1]})


def pruning_effect(rows: pd.DataFrame) -> pd.DataFrame:
    """What pruning by influence does to the MLP in each stratum: accuracy less full training's, t-intervals."""
    part, by = of_part(rows, "stratum", architecture="mlp"), ["strata", "stratum"]
    right = part.pivot_table("right", [*by, "dataset"], "method", sort=False).reset_index()
    right = right.assign(effect=right.influence - right.full, stratum=right.stratum.astype(int) + 1)
    return compare.means(right, by, {"effect": ("influence less full", None)}).drop(columns="sets")


def strata(by_stratum: pd.DataFrame) -> Figure:
    """A panel a kind of strata: accuracy of every system in each stratum; colour: architecture, marker: method."""
    names = by_stratum.system.str.split(", ", expand=True).set_axis(["architecture", "method"], axis=1)
    looks = {"hue": "architecture", "style": "method", "markers": True, "kind": "line"}
    grid = sns.relplot(by_stratum.join(names), x="stratum", y="accuracy", col="strata", height=3.8, **looks)
    grid.set(ylim=(0, 1.03), xticks=sorted(set(by_stratum.stratum)))
    grid.set_axis_labels("stratum of the test set (1: lowest)", "accuracy, mean over data sets")
    grid.set_titles("strata by {col_name}")
    return plots.titled(grid.figure, "Where do systems differ?")


def precision(agreement: pd.DataFrame) -> Figure:
    """Left the rank agreement with plain accuracy, right the variance against it (log), by the target's tilt."""
    kinds = agreement.assign(strata="strata by " + agreement.strata)
    shown = plots.long_form(kinds, [TAU, RATIO], ["strata", TILT], "measure")
    words = {"xlabel": "tilt of the target towards high strata", "ylabel": "M_strat beside plain accuracy"}
    words["title"] = "Does M_strat rank the systems as plain accuracy does, and what does it cost in precision?"
    how = {"by": "strata", "panel": "measure", "sharey": False, "horizontal": {}}
    figure = plots.curves(shown, TILT, "value", **how, **words)
    right = figure.axes[1]
    right.set_yscale("log")
    right.set_yticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
    right.minorticks_off()
    right.axhline(1, color="black", linewidth=0.8)
    return figure


def agreement_sentence(agreement: pd.DataFrame) -> str:
    """Whether the metric turns pairs of systems around, and at what cost in variance."""
    lines = []
    for strata, part in agreement[agreement[TILT] != 0].groupby("strata", sort=False):
        lines.append(
            f"**Strata by {strata}**: {part['reversed pairs'].sum()} of {part.pairs.sum()} pairs of systems are "
            f"reversed over {len(part)} targets, {part['both significant'].sum()} of them with both differences "
            f"significant; Kendall's tau from {part[TAU].min():.2f}; variance {part[RATIO].min():.2f} to "
            f"{part[RATIO].max():.2f} times plain accuracy's."
        )
    return " ".join(lines)


def clearest_reversal(rows: pd.DataFrame) -> tuple[str, dict[str, pd.Series], int]:
    """Of all pairs of systems and all targets the one whose order the metric reverses most clearly.

    Its name; accuracy of the one that plain accuracy favours less the other's, and M_strat of the other less its, a
    value a data set each: both are above 0 where the order is reversed; and from how many pairs it was picked.
    """
    plain = over_seeds(metric(rows, STRATA[0], 0.0))
    targets = [tilt for tilt in protocol().stratified_metric["tilts"] if tilt]
    kinds = list(itertools.product(STRATA, targets))
    others = [over_seeds(metric(rows, *kind)).loc[plain.index] for kind in kinds]
    of, *pair = stats.clearest_reversal(plain, np.stack(others))
    (strata, tilt), other, (a, b) = kinds[of], others[of], plain.index[pair]
    d = {"by plain accuracy": plain.loc[a] - plain.loc[b], "by M_strat": other.loc[b] - other.loc[a]}
    name = f"{a} against {b}, strata by {strata}, tilt {tilt:+g}"
    return name, d, len(kinds) * len(plain) * (len(plain) - 1) // 2


def verdicts(rows: pd.DataFrame, agreement: pd.DataFrame) -> list[Statement]:
    """The section's statements: is plain accuracy too coarse, and is the metric what it is said to be?

    An order is reversed beyond chance where both differences are, in the clearest of all pairs, by Bonferroni over
    these; no pair alone can show that there is none.
    """
    own, moved = agreement[agreement[TILT] == 0], agreement[agreement[TILT] != 0]
    turned, sure = int(moved["reversed pairs"].sum()), int(moved["both significant"].sum())
    where = {"table": "agreement", "row": "all targets", "raw": compare.raw_of(rows)}
    name, d, pairs = clearest_reversal(rows)
    counts = f"the clearest of {pairs} pairs: {name}; {turned} reversed on average, {sure} with both significant (Holm)"
    how = {"side": "greater", "metric": None, "tests": pairs, "beside": counts}
    tau = own[TAU].min()
    plain = ledger.read("S3.1.stratified_metric", tau, **where | {"row": "tilt 0"})
    same = f"at its own weights it orders the systems as plain accuracy does (tau {tau:.3f})"
    return [
        ledger.judge_all("S3.1.standard_metric", d, **how, **where),
        replace(plain, why=f"{plain.why}; {same}"),
    ]
