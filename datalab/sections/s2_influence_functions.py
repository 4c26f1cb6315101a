"""Section 2.2: are our influence scores right?

They are held against the truth: what a removal changes, what training on random halves gives, and which labels we
flipped (:mod:`datalab.sections.trials.flipped_labels`). A task returns rows with a ``kind``, of which the tables are
made. Intervals are 95 % t-intervals over data sets.
"""

import itertools
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pydantic
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from datalab import data, ledger, noise, retraining, seeds
from datalab.influence import EKFAC, KFAC, TRAK, DataInf, ExactGGN, GradDot, LastLayerGGN
from datalab.influence.estimator import AUTO_RELATIVE, quiet
from datalab.protocol import protocol
from datalab.record import Statement
from datalab.sections import compare
from datalab.sections.compare import mean_with_interval
from datalab.sections.parameters import Count, Datasets, RatesAbove0, TrialParameters, estimated
from datalab.sections.trials import flipped_labels
from datalab.sections.trials.flipped_labels import exact_if_small
from datalab.sections.trials.trial import Trial, labelled_examples
from datalab.sweep import Task
from datalab.training import fit_many, protocol_recipe

SOFTMAX_PARAMETERS = 1500  # a refit to convergence takes up to a second below
REFIT_L2 = 0.01  # refits are of a strictly convex objective, so that they have one answer
RELATIVE_DAMPINGS = (AUTO_RELATIVE, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)  # times the mean diagonal of H, on top of l2
PATH = 10.0 ** np.arange(-7, 1.01, 0.5)  # the dampings of one model's path
HEAVIER = "EKFAC, damping 1 x mean diagonal"  # instead of a thousandth
TITLES = "LastLayerGGN"  # by which the title prunes, at its damping
DAMPING = "damping / mean diagonal"

Rows = list[dict[str, Any]]


class Parameters(TrialParameters):
    datasets: Datasets
    repeats: Count
    refits: Annotated[int, pydantic.Field(ge=3, le=10_000, strict=True)]
    halves: Annotated[int, pydantic.Field(ge=10, le=10_000, strict=True)]
    retrain_seeds: Annotated[int, pydantic.Field(ge=2, le=100, strict=True)]
    lds_tests: Annotated[int, pydantic.Field(ge=10, le=100_000, strict=True)]
    mislabel_rates: RatesAbove0
    picture_dataset: Literal["mnist5k", "optdigits", "digits"]

    @property
    def agreement_rate(self) -> float:
        """The rate at which estimators are compared with each other: the one nearest to 20 %."""
        return min(self.mislabel_rates, key=lambda rate: abs(rate - 0.2))

    @property
    def unfit(self) -> str:
        """A rate that rounds to no flipped label in a class, or to all, leaves nothing to tell apart."""
        for name, rate in (
            *itertools.product(self.datasets, self.mislabel_rates),
            (self.picture_dataset, self.agreement_rate),
        ):
            card = data.REGISTRY[name]
            rows = min(self.caps["train"], int(protocol().splits["train"] * card.unique_rows))
            of_class = -(-rows // card.classes)
            if not 0 < round(rate * of_class) < of_class:
                few = f"{rate:g} of {of_class} rows a class of '{name}' rounds to {round(rate * of_class)} wrong labels"
                return f"parameter 'mislabel_rates': {few}; name a rate of some right and wrong ones, or raise 'caps'"
        return super().unfit


def tasks(p: Parameters) -> list[Task]:
    """For a data set removals, random halves, and wrong labels with a task a seed; and a look at single examples."""
    rates = {"rates": list(p.mislabel_rates), "agreement_rate": p.agreement_rate}
    size, trainings, n_rates = p.caps["train"] / 1000, p.retrain_seeds, len(p.mislabel_rates)

    def task(function: str, dataset: str, cost: float, models: int, **given: Any) -> Task:
        return Task(function, {"dataset": dataset} | given | p.of_trial, cost, models)

    grid = []
    for name in p.datasets:
        given = {"refits": p.refits, "model_seeds": trainings}
        cost = p.refits * (0.03 * size + 0.008 * trainings)
        grid.append(task(f"{__name__}:removal_task", name, cost, (p.refits + 2) * trainings, **given))
        given = {"halves": p.halves, "model_seeds": trainings, "tests": p.lds_tests}
        cost = 0.015 * p.halves * trainings + 2.5 * size
        grid.append(task(f"{__name__}:halves_task", name, cost, (p.halves + 1) * trainings, **given))
        models, cost = n_rates * protocol().reference["models"], 0.5 * size * n_rates
        for seed in range(p.repeats):
            grid.append(task(f"{flipped_labels.__name__}:mislabel_task", name, cost, models, seed=seed, **rates))
    return [*grid, task(f"{__name__}:picture_task", p.picture_dataset, 2.0, 1, rate=p.agreement_rate)]


estimate = estimated(tasks, memory=1.2e9, start=12)


def removal_task(refits: int, model_seeds: int, **of: Any) -> Rows:
    """Leave-one-out: a row an estimator and example, ``predicted`` and ``actual`` change of the mean validation loss.

    In nats; ``of`` names the :class:`~datalab.sections.trials.trial.Trial`. ``kind`` "refit": softmax regression
    refitted to convergence, where it is small. "retrained": the MLP, the prediction the mean over its seeds, with
    ``half_a`` and ``half_b``, the actual change by either half of the seeds.
    """
    trial, recipe, frames = Trial(architecture="mlp", seed=0, rates=(), **of), protocol_recipe(), []
    p, x, x_val = trial.prepared, trial.x, trial.x_val
    if (x.shape[1] + 1) * p.n_classes <= SOFTMAX_PARAMETERS:
        train, target = (
            (torch.as_tensor(features, dtype=torch.float64), torch.as_tensor(labels))
            for features, labels in ((p.x_train, p.y_train), (p.x_val, p.y_val))
        )
        model = retraining.fit_softmax(*train, p.n_classes, REFIT_L2)
        kinds = (ExactGGN, LastLayerGGN, EKFAC, KFAC)
        estimators = {kind.__name__: kind(model, REFIT_L2, l2=REFIT_L2).fit(*train) for kind in kinds}
        refit = partial(retraining.refitted_without, model, *train, *target, l2=REFIT_L2)
        frames.append(retraining.removals(estimators, train, target, refits, refit).assign(kind="refit"))
    drawn = [seeds.integer(trial.root_seed, trial.dataset, "leave one out", i) for i in range(model_seeds)]
    module, parts = trial.classifier(), (x, p.y_train, x_val, p.y_val)
    stack = fit_many(module, x, p.y_train, None, drawn, recipe)
    train, target = (x, trial.tensor(p.y_train)), (x_val, trial.tensor(p.y_val))
    with quiet():
        light, title = (kind(stack, l2=recipe.l2).fit(*train) for kind in (EKFAC, LastLayerGGN))
    heavy = light.redamped(retraining.relative_damping(light, 1.0, recipe.l2))
    predicted = {"EKFAC": light, HEAVIER: heavy, TITLES: title}
    retrain = partial(retraining.retrained_without, module, *parts, model_seeds=drawn, recipe=recipe)
    frames.append(retraining.removals(predicted, train, target, refits, retrain).assign(kind="retrained"))
    return pd.concat(frames).assign(dataset=trial.dataset, n=len(x)).to_dict("records")


def halves_task(halves: int, model_seeds: int, tests: int, **of: Any) -> Rows:
    """The linear datamodeling score of every estimator over its dampings, for the MLP: rows of ``kind`` "lds".

    The columns are those of :func:`datalab.retraining.lds_path`, by the protocol's number of reference models.
    """
    trial, recipe = Trial(architecture="mlp", seed=0, rates=(), **of), protocol_recipe()
    models = range(protocol().reference["models"])
    name, module, x, y = (trial.root_seed, trial.dataset), trial.classifier(), trial.x, trial.prepared.y_train
    x_test, y_test = trial.x_test[:tests], trial.prepared.y_test[:tests]
    drawn = [seeds.integer(*name, "halves", i) for i in range(model_seeds)]
    rng = seeds.generator(*name, "subsets")
    subsets = retraining.retrained_on_halves(module, x, y, x_test, y_test, halves, drawn, rng, recipe)
    stack = fit_many(module, x, y, None, [seeds.integer(*name, "lds reference", i) for i in models], recipe)
    sets, common = ((x, trial.tensor(y)), (x_test, trial.tensor(y_test))), {"dataset": trial.dataset, "n": len(x)}
    return [
        common | {"kind": "lds", "estimator": kind.__name__} | row
        for kind in (*exact_if_small(module), EKFAC, KFAC, LastLayerGGN, DataInf, GradDot, TRAK)
        for row in retraining.lds_path(kind, stack, RELATIVE_DAMPINGS, *sets, subsets, recipe.l2)
    ]


def picture_task(rate: float, **of: Any) -> Rows:
    """One MLP on labels flipped at ``rate``, scored by EK-FAC: rows of ``kind`` "example" (score and labels, and the
    pixels of those to be shown) and "damping": from one curvature, how the scores move with it, the one choice that
    every estimator leaves to its user (``own``: the estimator's; ``spearman``: with the scores under that).
    """
    trial, l2 = Trial(architecture="mlp", seed=0, rates=(), **of), protocol_recipe().l2
    p, name = trial.prepared, (trial.root_seed, trial.dataset, "pictures")
    observed = noise.corrupt(p.y_train, "symmetric", rate, p.n_classes, seeds.generator(*name))
    x, y = trial.x, trial.tensor(observed)
    stack = fit_many(trial.classifier(), x, observed, None, [seeds.integer(*name)], protocol_recipe())
    with quiet():
        estimator = EKFAC(stack.model(0), l2=l2).fit(x, y)
    scores, path = estimator.self_influence(x, y).double().cpu().numpy(), []
    for damping in sorted({*map(float, PATH), estimator.damping_}):
        under = estimator.redamped(damping).self_influence(x, y).double().cpu().numpy()
        row = {"damping": damping, "own": damping == estimator.damping_, "median": float(np.median(under))}
        row |= {"spearman": float(spearmanr(under, scores).statistic)}
        path.append(row | {"auroc": float(roc_auc_score(observed != p.y_train, under))})
    examples = labelled_examples(p, observed, {"score": scores})
    kinds = (("example", examples), ("damping", path))
    return [{"dataset": trial.dataset, "kind": kind} | row for kind, rows in kinds for row in rows]


def of_kind(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows of one kind, with their own columns only."""
    part = rows[rows["kind"] == kind].drop(columns="kind")
    return part.dropna(axis=1, how="all") if len(part) else part


def refit_agreement(rows: pd.DataFrame) -> pd.DataFrame:
    """A row an estimator: how it predicts true refits of softmax regression."""

    def measure(part: pd.DataFrame) -> dict[str, float]:
        by_set = part.groupby("dataset", sort=False)[["predicted", "actual"]]
        pearson = by_set.apply(lambda g: g.predicted.corr(g.actual))
        error = by_set.apply(lambda g: np.sqrt(((g.predicted - g.actual) ** 2).mean() / (g.actual**2).mean()))
        intervals = mean_with_interval(pearson, "Pearson", bounds=compare.SIGNED)
        intervals |= mean_with_interval(error, "relative RMS error", bounds=compare.RATIO)
        return intervals | {"refits": len(part), "sets": len(pearson)}

    return compare.table(of_kind(rows, "refit"), "estimator", measure)


def retrained(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a data set: how EK-FAC and the title's estimator predict retraining an MLP, beside how well that predicts
    itself.

    If halves of the seeds correlate at r, the mean over all of them correlates with what it estimates at
    sqrt(2 r / (1 + r)) (Spearman-Brown): no prediction can be expected above that.
    """

    def size(part: pd.DataFrame) -> float:
        return np.sqrt((part.predicted**2).mean() / (part.actual**2).mean())

    def measure(part: pd.DataFrame) -> dict[str, float]:
        of = {"EKFAC": "EKFAC", HEAVIER: "EKFAC, heavier damping", TITLES: "LastLayerGGN (the title's)"}
        light, heavy, _ = parts = [part[part.estimator == name] for name in of]
        half = light.half_a.corr(light.half_b)
        row = {"half of the seeds with the other": half, "best to be had": np.sqrt(max(2 * half / (1 + half), 0))}
        row |= {word: own.predicted.corr(own.actual) for word, own in zip(of.values(), parts, strict=True)}
        row |= {"size of prediction / change": size(light), "the same, heavier damping": size(heavy)}
        return row | {"examples": len(light)}

    return compare.table(of_kind(rows, "retrained"), "dataset", measure).rename(columns={"dataset": "data set"})


def worst_retrained(table: pd.DataFrame) -> str:
    """On how many data sets EK-FAC's correlation is below half of the best to be had, and the worst by name."""
    share, worst = table.EKFAC / table["best to be had"], table.loc[table.EKFAC.idxmin()]
    return (
        f"EK-FAC reaches at least half of the best to be had on {int((share >= 0.5).sum())} of {len(table)} data sets; "
        f"the worst is **{worst['data set']}, r = {worst.EKFAC:.2f}** ({worst['EKFAC, heavier damping']:.2f} at the "
        f"heavier damping, {worst['best to be had']:.2f} to be had), which no mean or median over data sets shows."
    )


def lds(rows: pd.DataFrame) -> pd.DataFrame:
    """A row an estimator and damping: the linear datamodeling score."""

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        default = {"default": "yes" if part.automatic.all() else ""}
        row = default | mean_with_interval(part.lds, "LDS", bounds=compare.SIGNED)
        return row | {"one model alone": part.each.mean(), "sets": len(part)}

    part = of_kind(rows, "lds").rename(columns={"relative_damping": DAMPING})
    return compare.table(part, ["estimator", DAMPING], measure, dropna=False)


def tuned_lds(rows: pd.DataFrame) -> pd.DataFrame:
    """A row an estimator: LDS at its default, and at a damping chosen, for each data set, on all the *others*; and how
    far EK-FAC so tuned is ahead, paired over the data sets both were run on.
    """
    part = of_kind(rows, "lds")
    # A damping that is not moved is -1: a missing one names no column.
    part = part.assign(setting=part.relative_damping.fillna(-1.0), automatic=part.automatic.astype(bool))

    def tuned(part: pd.DataFrame) -> pd.DataFrame:
        return compare.tuned_elsewhere(part, "setting", "lds", alone=part[part.automatic].setting.iloc[0])

    ours = tuned(part[part.estimator == "EKFAC"]).lds

    def measure(part: pd.DataFrame) -> dict[str, float]:
        chosen, default = tuned(part), part[part.automatic].lds
        if len(chosen) == 1:  # there is no elsewhere
            chosen = chosen.iloc[:0]
        ahead = ours - chosen.lds if part.estimator.iloc[0] != "EKFAC" else []
        columns = mean_with_interval(default, "default", bounds=compare.SIGNED)
        columns |= mean_with_interval(chosen.lds, "tuned elsewhere", bounds=compare.SIGNED)
        columns[DAMPING] = best = chosen.relative_damping.median()
        ends = part.relative_damping.min(), part.relative_damping.max()
        columns["at the grid's edge"] = "yes" if best in ends and ends[0] < ends[1] else ""
        return columns | mean_with_interval(ahead, "EKFAC ahead") | {"sets": part.dataset.nunique()}

    table = compare.table(part, "estimator", measure)
    return table.sort_values("tuned elsewhere", ascending=False, ignore_index=True)


def verdicts() -> list[Statement]:
    """The section's two statements are about the literature: no run can reach them."""
    return [ledger.read(claim_id, None) for claim_id in ("S2.2.confound", "S2.2.single_benchmark")]
