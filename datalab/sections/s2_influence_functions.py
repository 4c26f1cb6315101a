"""Section 2.2: are our influence scores right?

They are held against the truth: what a removal changes, what training on random halves gives, and which labels we
flipped. A task returns rows with a ``kind``, of which the tables are made. Intervals are 95 % t-intervals over data
sets, each counted by its mean over repeats.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pydantic
import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor

from datalab import ledger, noise, pruning, seeds, stats
from datalab.influence import EKFAC, KFAC, TRAK, Arnoldi, DataInf, ExactGGN, GradDot, LastLayerGGN, TracIn, retraining
from datalab.influence.damping import damping_path, lds_path, relative_damping
from datalab.influence.estimator import AUTO_RELATIVE, Estimator, quiet
from datalab.influence.tracin import Checkpoints
from datalab.protocol import protocol
from datalab.record import Statement
from datalab.record.parameters import Estimate, SectionParameters
from datalab.sections import compare, pictures, plots
from datalab.sections.compare import mean_with_interval
from datalab.sections.parameters import Caps, Datasets, RatesAbove0, pooled
from datalab.sections.trial import Trial, mean_of_references
from datalab.sweep import Task
from datalab.sweep.cost import timed
from datalab.training import fit_many, protocol_recipe

HERE = "datalab.sections.s2_influence_functions"
SOFTMAX_PARAMETERS = 1500  # a refit to convergence takes up to a second below
EXACT_PARAMETERS = 5000  # the full matrix of an MLP takes seconds below
REFIT_L2 = 0.01  # refits are of a strictly convex objective, so that they have one answer
RELATIVE_DAMPINGS = (AUTO_RELATIVE, 1e-2, 1e-1, 1.0, 10.0)  # times the mean diagonal of H, on top of l2
PATH = 10.0 ** np.arange(-7, 1.01, 0.5)  # the dampings of one model's path
HEAVIER = "EKFAC, damping 1 x mean diagonal"  # instead of a thousandth
VALIDATION = "EKFAC on validation loss"
FREE = ("gradient norm", "EL2N", "loss")  # scores that need no curvature
ORDER = ("ExactGGN", "LastLayerGGN", "EKFAC", "KFAC", "TRAK", "Arnoldi", "DataInf", "TracIn", *FREE, VALIDATION)
RATE, DAMPING = "flipped labels (%)", "damping / mean diagonal"

Rows = list[dict[str, Any]]


class Parameters(SectionParameters):
    """What section 2.2 takes; ``None`` is the profile's value."""

    datasets: Datasets
    repeats: Annotated[int, pydantic.Field(ge=1, le=1000, strict=True)]
    refits: Annotated[int, pydantic.Field(ge=3, le=10_000, strict=True)]
    halves: Annotated[int, pydantic.Field(ge=10, le=10_000, strict=True)]
    retrain_seeds: Annotated[int, pydantic.Field(ge=2, le=100, strict=True)]
    lds_tests: Annotated[int, pydantic.Field(ge=10, le=100_000, strict=True)]
    mislabel_rates: RatesAbove0
    picture_dataset: Literal["mnist5k", "optdigits", "digits"]
    caps: Caps
    encoder: Literal["fast", "pretrained"]

    @property
    def needs(self) -> tuple[str, ...]:
        """The data sets that must be on disk."""
        return tuple(dict.fromkeys((*self.datasets, self.picture_dataset)))

    @property
    def agreement_rate(self) -> float:
        """The rate at which estimators are compared with each other: the one nearest to 20 %."""
        return min(self.mislabel_rates, key=lambda rate: abs(rate - 0.2))


def tasks(p: Parameters) -> list[Task]:
    """For a data set removals, random halves, and wrong labels with a task a seed; and a look at single examples."""
    trial = {"root_seed": p.root_seed, "caps": dict(p.caps), "encoder": p.encoder, "device": p.chosen_device}
    rates = {"rates": list(p.mislabel_rates), "agreement_rate": p.agreement_rate}
    size, trainings, n_rates = p.caps["train"] / 1000, p.retrain_seeds, len(p.mislabel_rates)

    def task(name: str, dataset: str, cost: float, models: int, **given: Any) -> Task:
        return Task(f"{HERE}:{name}_task", {"dataset": dataset} | given | trial, cost, models)

    grid = []
    for name in p.datasets:
        cost = p.refits * (0.03 * size + 0.008 * trainings)
        grid.append(task("removal", name, cost, (p.refits + 2) * trainings, refits=p.refits, model_seeds=trainings))
        cost, of = 0.015 * p.halves * trainings + 2.5 * size, {"halves": p.halves, "model_seeds": trainings}
        grid.append(task("halves", name, cost, (p.halves + 1) * trainings, **of, tests=p.lds_tests))
        models = n_rates * protocol().reference["models"]
        grid += [task("mislabel", name, 0.5 * size * n_rates, models, seed=i, **rates) for i in range(p.repeats)]
    return [*grid, task("picture", p.picture_dataset, 2.0, 1, rate=p.agreement_rate)]


def estimate(p: Parameters) -> Estimate:
    """The expected time, from what each kind of task took when it was measured, and the peak memory."""
    return pooled(p, tasks(p), f"{len(p.datasets)} data sets, {p.repeats} repeats", memory=1.2e9, start=12)


def mlp_trial(dataset: str, seed: int = 0, **where: Any) -> Trial:
    """A data set's parts and the study's MLP for it; ``where``: ``root_seed``, ``caps``, ``encoder`` and ``device``."""
    return Trial(dataset, "mlp", seed, rates=(), **where)


def removal_task(refits: int, model_seeds: int, **of: Any) -> Rows:
    """Leave-one-out: a row an estimator and example, ``predicted`` and ``actual`` change of the mean validation loss.

    In nats; ``of`` is as for :func:`mlp_trial`. Examples lie evenly over the ranks of the prediction. ``kind`` "refit":
    softmax regression refitted to convergence, where it is small. "retrained": the MLP, the prediction the mean over
    its seeds, with ``half_a`` and ``half_b``, the actual change by either half of the seeds.
    """
    trial, recipe, frames = mlp_trial(**of), protocol_recipe(), []
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
        light = EKFAC(stack, l2=recipe.l2).fit(*train)
    both = {"EKFAC": light, HEAVIER: light.redamped(relative_damping(light, 1.0, recipe.l2))}
    retrain = partial(retraining.retrained_without, module, *parts, model_seeds=drawn, recipe=recipe)
    frames.append(retraining.removals(both, train, target, refits, retrain).assign(kind="retrained"))
    return pd.concat(frames).assign(dataset=trial.dataset, n=len(x)).to_dict("records")


def halves_task(halves: int, model_seeds: int, tests: int, **of: Any) -> Rows:
    """The linear datamodeling score of every estimator over its dampings, for the MLP: rows of ``kind`` "lds".

    ``of`` is as for :func:`mlp_trial`; the columns are those of :func:`datalab.influence.damping.lds_path`, by the
    protocol's number of reference models.
    """
    trial, recipe, models = mlp_trial(**of), protocol_recipe(), range(protocol().reference["models"])
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
        for row in lds_path(kind, stack, RELATIVE_DAMPINGS, *sets, subsets, recipe.l2)
    ]


def exact_if_small(module: torch.nn.Module) -> list[type[ExactGGN]]:
    """ExactGGN, where it takes seconds."""
    return [ExactGGN] if sum(w.numel() for w in module.parameters()) <= EXACT_PARAMETERS else []


def mislabel_task(rates: list[float], agreement_rate: float, **of: Any) -> Rows:
    """Finding flipped labels: the AUROC of every score at every rate, as rows of ``kind`` "auroc".

    ``of`` is as for :func:`mlp_trial`. Labels are flipped symmetrically; scores are means over the protocol's number of
    reference models, trained by the recipe on the flipped labels; those that take one model at a time, and up to a
    second for it, only at ``agreement_rate``. There also rows of ``kind`` "agreement" (``spearman`` with the ``other``
    score); and of ``kind`` "cost" (``seconds`` to fit and score, a model).
    """
    trial, per_rate, recipe = mlp_trial(**of), protocol().reference["models"], protocol_recipe()
    p, x, stem = trial.prepared, trial.x, (trial.root_seed, trial.dataset, trial.seed, "mislabelled")
    streams = [seeds.generator(*stem, rate) for rate in rates]
    observed, observed_validation = (
        np.array([noise.corrupt(y, "symmetric", r, p.n_classes, rng) for r, rng in zip(rates, streams, strict=True)])
        for y in (p.y_train, p.y_val)
    )
    labels, labels_validation = (np.repeat(y, per_rate, axis=0) for y in (observed, observed_validation))
    drawn = [seeds.integer(*stem, i) for _ in rates for i in range(per_rate)]
    path = Checkpoints(recipe, count=4)
    stack = fit_many(trial.classifier(), x, labels, None, drawn, recipe, on_step=path)
    y, target, l2 = trial.tensor(labels), (trial.x_val, trial.tensor(labels_validation)), recipe.l2
    fast = {kind.__name__: partial(own, kind(stack, l2=l2), x, y) for kind in (LastLayerGGN, EKFAC, KFAC, DataInf)}
    fast |= {
        "TracIn": lambda: own(TracIn(path.stacks, path.rates), x, y),
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


def picture_task(rate: float, **of: Any) -> Rows:
    """One MLP on labels flipped at ``rate``, scored by EK-FAC: rows of ``kind`` "example" (score and labels, and the
    pixels of those to be shown) and "damping" (:func:`datalab.influence.damping.damping_path`).
    """
    trial, l2 = mlp_trial(**of), protocol_recipe().l2
    p, name = trial.prepared, (trial.root_seed, trial.dataset, "pictures")
    observed = noise.corrupt(p.y_train, "symmetric", rate, p.n_classes, seeds.generator(*name))
    x, y = trial.x, trial.tensor(observed)
    stack = fit_many(trial.classifier(), x, observed, None, [seeds.integer(*name)], protocol_recipe())
    with quiet():
        estimator = EKFAC(stack.model(0), l2=l2).fit(x, y)
    scores = estimator.self_influence(x, y).double().cpu().numpy()
    path = damping_path(estimator, PATH, x, y, flipped=observed != p.y_train).to_dict("records")
    examples = pictures.labelled_examples(p, observed, {"score": scores})
    kinds = (("example", examples), ("damping", path))
    return [{"dataset": trial.dataset, "kind": kind} | row for kind, rows in kinds for row in rows]


def of_kind(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows of one kind, with their own columns only."""
    part = rows[rows["kind"] == kind].drop(columns="kind")
    return part.dropna(axis=1, how="all") if len(part) else part


def refits(rows: pd.DataFrame) -> pd.DataFrame:
    """A row an estimator: how it predicts true refits of softmax regression."""

    def measure(part: pd.DataFrame) -> dict[str, float]:
        by_set = part.groupby("dataset", sort=False)[["predicted", "actual"]]
        pearson = by_set.apply(lambda g: g.predicted.corr(g.actual))
        error = by_set.apply(lambda g: np.sqrt(((g.predicted - g.actual) ** 2).mean() / (g.actual**2).mean()))
        intervals = mean_with_interval(pearson, "Pearson") | mean_with_interval(error, "relative RMS error")
        return intervals | {"refits": len(part), "sets": len(pearson)}

    return compare.table(of_kind(rows, "refit"), "estimator", measure)


def retrained(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a data set: how EK-FAC predicts retraining an MLP, beside how well retraining predicts itself.

    If halves of the seeds correlate at r, the mean over all of them correlates with what it estimates at
    sqrt(2 r / (1 + r)) (Spearman-Brown): no prediction can be expected above that.
    """

    def size(part: pd.DataFrame) -> float:
        return np.sqrt((part.predicted**2).mean() / (part.actual**2).mean())

    def measure(part: pd.DataFrame) -> dict[str, float]:
        light, heavy = (of for _, of in part.groupby("estimator", sort=False))
        half = light.half_a.corr(light.half_b)
        return {
            "half of the seeds with the other": half,
            "best to be had": np.sqrt(max(2 * half / (1 + half), 0)),
            "EKFAC": light.predicted.corr(light.actual),
            "EKFAC, heavier damping": heavy.predicted.corr(heavy.actual),
            "size of prediction / change": size(light),
            "the same, heavier damping": size(heavy),
            "examples": len(light),
        }

    return compare.table(of_kind(rows, "retrained"), "dataset", measure).rename(columns={"dataset": "data set"})


def lds(rows: pd.DataFrame) -> pd.DataFrame:
    """A row an estimator and damping: the linear datamodeling score."""

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        default = {"default": "yes" if part.automatic.all() else ""}
        return default | mean_with_interval(part.lds, "LDS") | {"one model alone": part.each.mean(), "sets": len(part)}

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
        ahead = ours - chosen.lds if part.estimator.iloc[0] != "EKFAC" else []
        columns = mean_with_interval(default, "default") | mean_with_interval(chosen.lds, "tuned elsewhere")
        columns[DAMPING] = chosen.relative_damping.median()
        return columns | mean_with_interval(ahead, "EKFAC ahead") | {"sets": len(chosen)}

    table = compare.table(part, "estimator", measure)
    return table.sort_values("tuned elsewhere", ascending=False, ignore_index=True)


def auroc(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a score and rate: AUROC for finding flipped labels."""

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        by_set = compare.by_set(part, "auroc")
        free = "yes" if part.score.iloc[0] in FREE else ""
        return mean_with_interval(by_set, "AUROC") | {"sets": len(by_set), "free": free}

    return compare.table(flips(rows), ["score", RATE], measure)


def flips(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of AUROC with the tables' keys, ``score`` and the rate in %."""
    return of_kind(rows, "auroc").rename(columns={"estimator": "score"}).assign(**{RATE: lambda r: 100 * r.rate})


def against_loss(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a score and rate: its AUROC less that of the loss, which costs nothing, paired over the data sets."""
    part = flips(rows)
    free = part[part.score == "loss"].groupby([RATE, "dataset"]).auroc.mean()

    def measure(part: pd.DataFrame) -> dict[str, float]:
        d = (compare.by_set(part, "auroc") - free[part[RATE].iloc[0]]).dropna()
        p = stats.t_test(d.to_numpy()).p if len(d) > 1 and np.ptp(d) > 0 else np.nan
        return mean_with_interval(d, "AUROC difference") | {"p (t)": p, "sets": len(d)}

    return compare.with_correction(compare.table(part[part.score != "loss"], ["score", RATE], measure), "p (t)")


def agreement(rows: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of every two scores of the training set, a square table, means over data sets."""
    by_set = of_kind(rows, "agreement").groupby(["estimator", "other", "dataset"]).spearman.mean()
    square = by_set.groupby(level=[0, 1]).mean().unstack()
    names = [name for name in ORDER if name in square.index]
    return square.loc[names, names].rename_axis(index="score", columns=None).reset_index()


def cost(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a score: time to fit and score the training set, a model, over data sets; and in units of EK-FAC's."""
    seconds = of_kind(rows, "cost").groupby(["dataset", "estimator"]).seconds.median().unstack()
    ratio = seconds.div(seconds.EKFAC, axis=0).median()
    table = pd.DataFrame({"milliseconds": 1000 * seconds.median(), "times EKFAC's": ratio}).rename_axis("score")
    return table.sort_values("milliseconds").reset_index()


def auroc_figure(table: pd.DataFrame, difference: pd.DataFrame) -> Figure:
    """Left the mean AUROC by rate, a line a score, free ones dashed; right the paired difference to the loss's."""
    left = table.assign(value=table.AUROC, low=np.nan, high=np.nan, panel="AUROC: which score finds the wrong labels?")
    right = difference[difference.score != VALIDATION].assign(panel="AUROC less the loss's: is it better?")
    right = right.rename(columns=lambda name: name.replace("AUROC difference", "value").removeprefix("value "))
    rates = table.groupby("score")[RATE].nunique()
    both = pd.concat([left, right])
    both = both[both.score.map(rates) == rates.max()]  # not those of a single rate
    words = {"title": "Finding flipped labels", "xlabel": RATE, "ylabel": "AUROC"}
    how = {"panel": "panel", "sharey": False, "horizontal": {}, "dashed": FREE}
    figure = plots.curves(both, RATE, "value", by="score", **how, **words)
    figure.axes[1].axhline(0, color="black", linewidth=0.8)
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


def verdicts() -> list[Statement]:
    """The section's two statements are about the literature: no run can reach them."""
    return [ledger.read(claim_id, None) for claim_id in ("S2.2.confound", "S2.2.single_benchmark")]
