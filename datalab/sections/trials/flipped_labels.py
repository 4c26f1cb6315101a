"""Finding flipped labels: which score of section 2.2 puts them first, and does any do so better than the loss?

What the title's method lives on. A task returns rows with a ``kind``, of which the tables are made. Intervals are 95 %
t-intervals over data sets, each counted by its mean over repeats.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor

from datalab import noise, pruning, seeds, stats
from datalab.influence import (
    EKFAC,
    KFAC,
    TRAK,
    Arnoldi,
    Checkpoints,
    DataInf,
    ExactGGN,
    GradDot,
    LastLayerGGN,
    TracIn,
)
from datalab.influence.estimator import Estimator, quiet
from datalab.protocol import protocol
from datalab.sections import compare, plots
from datalab.sections.compare import mean_with_interval, rows_of_kind
from datalab.sections.trials.trial import Trial, mean_of_references
from datalab.sweep.cost import timed
from datalab.training import cosine, fit_many, protocol_recipe

EXACT_PARAMETERS = 5000  # the full matrix of an MLP takes seconds below
VALIDATION = "EKFAC on validation loss"
FREE = ("gradient norm", "EL2N", "loss")  # scores that need no curvature
ORDER = ("ExactGGN", "LastLayerGGN", "EKFAC", "KFAC", "TRAK", "Arnoldi", "DataInf", "TracIn", *FREE, VALIDATION)
RATE = "flipped labels (%)"


def mislabel_task(rates: list[float], agreement_rate: float, **of: Any) -> list[dict[str, Any]]:
    """Finding flipped labels: the AUROC of every score at every rate, as rows of ``kind`` "auroc".

    ``of`` names the :class:`~datalab.sections.trials.trial.Trial`. Labels are flipped symmetrically; scores are means
    over the protocol's number of reference models, trained by the recipe on the flipped labels; those that take one
    model at a time, and up to a second for it, only at ``agreement_rate``. There also rows of ``kind`` "agreement"
    (``spearman`` with the ``other`` score); and of ``kind`` "cost" (``seconds`` to fit and score, a model).
    """
    trial = Trial(architecture="mlp", rates=(), **of)
    per_rate, recipe = protocol().reference["models"], protocol_recipe()
    p, x, stem = trial.prepared, trial.x, (trial.root_seed, trial.dataset, trial.seed, "mislabelled")
    streams = [seeds.generator(*stem, rate) for rate in rates]
    observed, observed_validation = (
        np.array([noise.corrupt(y, "symmetric", r, p.n_classes, rng) for r, rng in zip(rates, streams, strict=True)])
        for y in (p.y_train, p.y_val)
    )
    labels, labels_validation = (np.repeat(y, per_rate, axis=0) for y in (observed, observed_validation))
    drawn = [seeds.integer(*stem, i) for _ in rates for i in range(per_rate)]
    rates_of_steps = [cosine(recipe.learning_rate, step, recipe.steps) for step in range(recipe.steps)]
    path = Checkpoints(rates_of_steps, count=4)
    stack = fit_many(trial.classifier(), x, labels, None, drawn, recipe, on_step=path)
    y, target, l2 = trial.tensor(labels), (trial.x_val, trial.tensor(labels_validation)), recipe.l2
    fast = {kind.__name__: partial(own, kind(stack, l2=l2), x, y) for kind in (LastLayerGGN, EKFAC, KFAC, DataInf)}
    fast |= {
        "TracIn": lambda: own(TracIn(path.models, path.rates), x, y),
        VALIDATION: lambda: EKFAC(stack, l2=l2).fit(x, y).influence_on(x, y, *target),
        "gradient norm": lambda: own(GradDot(stack), x, y).sqrt(),
        "loss": lambda: pruning.loss(torch.softmax(stack(x), -1).cpu().numpy(), labels),
        "EL2N": lambda: pruning.el2n(torch.softmax(stack(x), -1).cpu().numpy(), labels),
    }
    at = rates.index(agreement_rate)
    here = [(stack.model(s), y[s]) for s in range(at * per_rate, (at + 1) * per_rate)]

    def one_by_one(kind: Callable, **how: Any) -> Tensor:
        return torch.stack([own(kind(model, l2=l2, **how), x, seen) for model, seen in here])

    slow = {"Arnoldi": partial(one_by_one, Arnoldi, rank=50), "TRAK": partial(one_by_one, TRAK)}
    slow |= {kind.__name__: partial(one_by_one, kind) for kind in exact_if_small(here[0][0])}
    common, rows = {"dataset": trial.dataset, "seed": trial.seed, "n": len(x)}, []
    scores: list[dict[str, np.ndarray]] = [{} for _ in rates]
    for kinds, where in ((fast, scores), (slow, scores[at : at + 1])):
        for name, compute in kinds.items():
            with quiet():
                seconds, values = timed(compute)
            rows.append(common | {"kind": "cost", "estimator": name, "seconds": seconds / (per_rate * len(where))})
            for of_rate, mean in zip(where, mean_of_references(values), strict=True):
                of_rate[name] = mean
    for rate, flipped, of_rate in zip(rates, observed != p.y_train, scores, strict=True):
        for name, values in of_rate.items():
            row = common | {"kind": "auroc", "estimator": name, "rate": rate}
            rows.append(row | {"auroc": roc_auc_score(flipped, values)})
    for (name, values), (other, others) in itertools.product(scores[at].items(), repeat=2):
        row = common | {"kind": "agreement", "estimator": name, "other": other}
        rows.append(row | {"spearman": float(spearmanr(values, others).statistic)})
    return rows


def own(estimator: Estimator | TracIn, x: Tensor, y: Tensor) -> Tensor:
    """The self-influence of the training set, (S, n) or (n,), the fit included."""
    return estimator.fit(x, y).self_influence(x, y)


def exact_if_small(module: torch.nn.Module) -> list[type[ExactGGN]]:
    """ExactGGN, where it takes seconds."""
    return [ExactGGN] if sum(w.numel() for w in module.parameters()) <= EXACT_PARAMETERS else []


def auroc(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a score and rate: AUROC for finding flipped labels."""
    table = compare.means(flips(rows), ["score", RATE], {"auroc": ("AUROC", compare.SHARE)})
    return table.assign(free=np.where(table.score.isin(FREE), "yes", ""))


def flips(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of AUROC with the tables' keys, ``score`` and the rate in %."""
    part = rows_of_kind(rows, kind="auroc")[["dataset", "estimator", "rate", "auroc"]]
    return part.rename(columns={"estimator": "score"}).assign(**{RATE: 100 * part.rate})


def against_loss(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a score and rate: its AUROC less that of the loss, which costs nothing, paired over the data sets."""
    part = flips(rows)
    free = part[part.score == "loss"].groupby([RATE, "dataset"]).auroc.mean()

    def measure(part: pd.DataFrame) -> dict[str, float]:
        d = (compare.by_set(part, "auroc") - free[part[RATE].iloc[0]]).dropna()
        p = stats.t_test(d.to_numpy()).p if len(d) > 1 and np.ptp(d) > 0 else np.nan
        return mean_with_interval(d, "AUROC difference", bounds=compare.SIGNED) | {"p (t)": p, "sets": len(d)}

    return compare.with_correction(compare.table(part[part.score != "loss"], ["score", RATE], measure), "p (t)")


def agreement(rows: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of every two scores of the training set, a square table, means over data sets."""
    by_set = rows_of_kind(rows, kind="agreement").groupby(["estimator", "other", "dataset"]).spearman.mean()
    square = by_set.groupby(level=[0, 1]).mean().unstack()
    names = [name for name in ORDER if name in square.index]
    return square.loc[names, names].rename_axis(index="score", columns=None).reset_index()


def cost(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a score: time to fit and score the training set, a model, over data sets; and in units of EK-FAC's."""
    seconds = rows_of_kind(rows, kind="cost").groupby(["dataset", "estimator"]).seconds.median().unstack()
    ratio = seconds.div(seconds.EKFAC, axis=0).median()
    table = pd.DataFrame({"milliseconds": 1000 * seconds.median(), "times EKFAC's": ratio}).rename_axis("score")
    return table.sort_values("milliseconds").reset_index()


def auroc_figure(table: pd.DataFrame, difference: pd.DataFrame) -> Figure:
    """Left the mean AUROC by rate, a line a score; right the paired difference to the loss's."""
    left = table.assign(value=table.AUROC, low=np.nan, high=np.nan, panel="AUROC: which score finds the wrong labels?")
    right = difference[difference.score != VALIDATION].assign(panel="AUROC less the loss's: is it better?")
    right = right.rename(columns=lambda name: name.replace("AUROC difference", "value").removeprefix("value "))
    rates = table.groupby("score")[RATE].nunique()
    both = pd.concat([left, right])
    both = both[both.score.map(rates) == rates.max()]  # not those of a single rate
    words = {"title": "Finding flipped labels", "xlabel": RATE, "ylabel": "AUROC"}
    figure = plots.curves(both, RATE, "value", by="score", panel="panel", sharey=False, horizontal={}, **words)
    zero = figure.axes[1]
    zero.axhline(0, color="black", linewidth=0.8)
    zero.text(0.01, 0, "the loss itself", transform=zero.get_yaxis_transform(), color=plots.GREY, va="bottom")
    return figure


def answer(table: pd.DataFrame) -> str:
    """Whether any influence score finds wrong labels better than the loss, which is free: the section's headline.

    A gain is one that Holm's correction leaves at the protocol's alpha; "no better" needs every interval to end below
    the smallest difference of interest; anything else is open.
    """
    alpha, small = protocol().statistics["alpha"], protocol().statistics["sesoi"]["accuracy"]
    paid = table[~table.score.isin(FREE) & table["AUROC difference low"].notna()]
    shown = paid.loc[paid["p (Holm)"] <= alpha, "AUROC difference"]
    gains, losses = (shown > 0).sum(), (shown < 0).sum()
    text = f"Of {len(paid)} comparisons with the loss, after Holm's correction at {alpha:g}, {gains} find a gain"
    text += f" and {losses} a deficit. "
    if gains:
        return text + "**Some influence score finds flipped labels that the loss does not.**"
    if len(paid) and (paid["AUROC difference high"] < small).all():
        return text + f"**No influence score finds flipped labels better than the loss by {small:g} AUROC or more.**"
    return text + "**Whether influence finds flipped labels better than the loss is open on these data sets.**"
