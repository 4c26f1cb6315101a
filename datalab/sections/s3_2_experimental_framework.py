"""Section 3.2: the data sets, architectures and seeds of the study, and what the recipe reaches on clean labels."""

import itertools
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import pydantic
import torch
from matplotlib.figure import Figure

from datalab import data, ledger, metrics, models, noise, seeds
from datalab.protocol import protocol
from datalab.record import Statement
from datalab.sections import compare, plots
from datalab.sections.compare import mean_with_interval
from datalab.sections.parameters import LONGER, Count, Datasets, Rate, TrainingParameters, estimated
from datalab.sections.trials.trial import Trial
from datalab.sweep import Task
from datalab.sweep.cost import timed
from datalab.training import fit_many, protocol_recipe

SECONDS = 0.025  # of a reference head's training of 200 steps on one core, as measured
MISS = {"class_deviation": "largest miss in a class (labels)", "points": "largest miss of the rate (points)"}


class Parameters(TrainingParameters):
    architecture_seeds: Count
    architecture_datasets: Datasets
    noise_kinds: tuple[Literal["symmetric", "pair", "instance"], ...] = pydantic.Field(min_length=1)
    noise_rates: tuple[Rate, ...] = pydantic.Field(min_length=1)

    @property
    def trained(self) -> tuple[str, ...]:
        """The data sets that the eight architectures are trained on: those of ``datasets`` that are named for it."""
        return tuple(name for name in self.datasets if name in self.architecture_datasets) or self.datasets[:1]

    @property
    def needs(self) -> tuple[str, ...]:
        """The data sets that must be on disk."""
        return self.datasets

    @property
    def unfit(self) -> str:
        """The profile's choice gives way to other ``datasets``; one's own is not dropped without a word."""
        other = sorted(set(self.architecture_datasets) - set(self.datasets))
        if other and self.architecture_datasets != protocol().profiles[self.profile]["architecture_datasets"]:
            return f"parameter 'architecture_datasets': '{other[0]}' is not among 'datasets'; name it there as well"
        return super().unfit


def tasks(p: Parameters) -> list[Task]:
    """A task a data set for the noise, and one a data set and architecture; the dearest first."""
    common = {"root_seed": p.root_seed, "caps": dict(p.caps), "encoder": p.encoder}
    given = {"seeds_": p.seeds, "noise_kinds": list(p.noise_kinds), "noise_rates": list(p.noise_rates)} | common
    grid = [Task(f"{__name__}:noise_task", {"dataset": name} | given, cost=0.2 * p.seeds) for name in p.datasets]
    for name in models.ALL:
        # Times are compared, so every architecture is trained alike: one model at a time.
        n_seeds, sets = (p.seeds, p.datasets) if name in models.REFERENCES else (p.architecture_seeds, p.trained)
        given = {"architecture": name, "seeds_": n_seeds, "device": p.chosen_device} | common
        cost = n_seeds * (LONGER.get(name, 1.0) * SECONDS + 0.05)
        grid += [Task(f"{__name__}:model_task", {"dataset": dataset} | given, cost, n_seeds) for dataset in sets]
    return sorted(grid, key=lambda task: -task.cost)


estimate = estimated(tasks, memory=1e9)


def model_task(dataset: str, architecture: str, seeds_: int, root_seed: int, **where: Any) -> list[dict[str, Any]]:
    """One architecture on clean labels, a row a seed: macro-F1, accuracy, ECE, the majority class's accuracy.

    ``where``: ``caps``, ``encoder`` and ``device``. ``seconds`` is the training of one model, measured.
    """
    rows = []
    for seed in range(seeds_):
        trial = Trial(dataset, architecture, seed, root_seed, rates=(), **where)
        p, module = trial.prepared, trial.classifier()
        model_seed = seeds.integer(root_seed, dataset, architecture, seed, "model")
        train = partial(fit_many, module, trial.x, p.y_train, None, [model_seed], protocol_recipe())
        seconds, stack = timed(train)
        probabilities = torch.softmax(stack(trial.x_test)[0], -1).cpu().numpy()
        predicted = probabilities.argmax(1)
        rows.append(
            {"dataset": dataset, "seed": seed, "kind": "model", "architecture": architecture}
            | {"parameters": sum(w.numel() for w in module.parameters()), "seconds": seconds}
            | {"macro_f1": metrics.macro_f1(p.y_test, predicted, p.n_classes)}
            | {"accuracy": metrics.accuracy(p.y_test, predicted)}
            | {"majority": float(np.mean(p.y_test == np.bincount(p.y_train).argmax()))}
            | {"ece": metrics.ece(p.y_test, probabilities)}
        )
    return rows


def noise_task(
    dataset: str, seeds_: int, root_seed: int, noise_kinds: list[str], noise_rates: list[float], **where: Any
) -> list[dict[str, Any]]:
    """The sizes of the splits, and the realised noise of every kind and rate, for each seed.

    ``class_deviation``: the largest deviation of the flips from ``round(rate * n_c)`` over the classes; ``points``:
    that of the realised rate from the nominal one.
    """
    rows = []
    for seed in range(seeds_):
        p = data.prepare(dataset, seed, root_seed, **where)
        sizes = {"n_train": len(p.y_train), "n_validation": len(p.y_val), "n_test": len(p.y_test)}
        common = {"dataset": dataset, "seed": seed, "features": p.x_train.shape[1], "classes": p.n_classes} | sizes
        per_class = np.bincount(p.y_train)
        for kind, rate in itertools.product(noise_kinds, noise_rates):
            rng = seeds.generator(root_seed, dataset, "section 3.2", kind, rate, seed)
            observed = noise.corrupt(p.y_train, kind, rate, p.n_classes, rng, p.x_train)
            flips = np.bincount(p.y_train[observed != p.y_train], minlength=len(per_class))
            asked = [round(rate * n) for n in per_class]
            row = common | {"kind": "noise", "noise": kind, "rate": rate}
            row |= {"class_deviation": int(np.abs(flips - asked).max())}
            rows.append(row | {"points": 100 * abs(noise.realised_rate(p.y_train, observed) - rate)})
    return rows


def datasets(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a data set of the run: what its card says, and the sizes and features it was used with."""
    used = rows[rows.kind == "noise"].drop_duplicates("dataset").set_index("dataset")
    cards = [data.REGISTRY[name] for name in used.index]
    columns = {"data set": used.index, "benchmark": [card.benchmark or "" for card in cards]}
    columns |= {"domain": [card.domain for card in cards], "rows": [card.unique_rows for card in cards]}
    sizes = {"classes": "classes", "features": "features used"}
    sizes |= {f"n_{part}": part for part in ("train", "validation", "test")}
    columns |= {title: used[name].astype(int).to_numpy() for name, title in sizes.items()}
    return pd.DataFrame(columns | {"licence": [card.licence for card in cards]})


def injected_noise(rows: pd.DataFrame) -> pd.DataFrame:
    """The realised noise, the worst over data sets and seeds, a row a (kind, rate)."""
    part = rows[rows.kind == "noise"]
    worst = part.groupby(["noise", "rate"], sort=False)[list(MISS)].max().reset_index()
    # Where the count per class is not fixed (instance-dependent noise), a deviation from it says nothing.
    worst.loc[worst.noise == "instance", "class_deviation"] = np.nan
    return worst.assign(rate=100 * worst.rate).rename(columns=MISS | {"rate": "noise rate (%)"})


def noise_reading(rows: pd.DataFrame, table: pd.DataFrame) -> str:
    """Whether the noise misses what was asked by rounding alone, half a label a class; ``table``: injected_noise."""
    part = rows[rows.kind == "noise"]
    rounding = bool((part.points <= 50 * part.classes / part.n_train + 1e-9).all())
    missed, points = (table[name].max() for name in MISS.values())
    of_class = "" if np.isnan(missed) else f"a class misses its count of flips by {missed:g} labels at most, "
    return (
        f"{'Failed' if missed > 0 or not rounding else 'Held'}: {of_class}the whole its rate by {points:.2g} points, "
        f"which is {'' if rounding else 'more than '}rounding."
    )


def trained(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the trained models, in the order of the architectures."""
    order = list(models.ALL)
    return rows[rows.kind == "model"].sort_values("architecture", key=lambda c: c.map(order.index), kind="stable")


def architectures(rows: pd.DataFrame) -> pd.DataFrame:
    """A row an architecture: parameters, and what it reaches on clean labels, 95 % t-intervals over the data sets.

    ``less MLP`` is the accuracy less the MLP's on the seeds that both were trained with, paired by data set.
    """
    part = trained(rows)
    mlp = part[part.architecture == "mlp"].set_index(["dataset", "seed"]).accuracy

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        columns = {"parameters (median)": int(part.parameters.median())}
        for metric, title in (("macro_f1", "macro-F1"), ("accuracy", "accuracy"), ("ece", "ECE")):
            columns |= mean_with_interval(compare.by_set(part, metric), title, bounds=compare.SHARE)
        d = (part.set_index(["dataset", "seed"]).accuracy - mlp).dropna()
        columns |= mean_with_interval(d.groupby("dataset", sort=False).mean(), "less MLP")
        return columns | {"seeds": part.seed.nunique(), "sets": part.dataset.nunique()}

    table = compare.table(part, "architecture", measure)
    table.insert(0, "family", table.architecture.map(models.family))
    return table


def cost(rows: pd.DataFrame) -> pd.DataFrame:
    """A row an architecture: seconds to train one model by the recipe, the median over data sets; and in MLPs."""
    seconds = trained(rows).groupby(["architecture", "dataset"], sort=False).seconds.median()
    ratio = seconds / seconds["mlp"].reindex(seconds.index, level="dataset")
    medians = pd.DataFrame({"seconds a model": seconds, "times the MLP's": ratio})
    return medians.groupby("architecture", sort=False).median().reset_index()


def baselines(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a data set: each architecture's macro-F1 and accuracy on clean labels, means over seeds."""
    part = rows[rows.kind == "model"]
    wide = part.pivot_table(index="dataset", columns="architecture", values=["macro_f1", "accuracy"], sort=False)
    wide = wide[[(metric, name) for metric in ("macro_f1", "accuracy") for name in models.ALL]]
    wide.columns = [f"{architecture} {metric.replace('macro_f1', 'F1')}" for metric, architecture in wide.columns]
    return wide.join(part.groupby("dataset").majority.mean().rename("majority accuracy")).reset_index()


def baselines_figure(table: pd.DataFrame) -> Figure:
    """A row a data set, by the MLP's accuracy: each architecture's accuracy, and the majority class's."""
    names = {f"{name} accuracy": name.replace("_", "\n") for name in (*models.ALL, "majority")}
    wide = table.sort_values("mlp accuracy").set_index("dataset")[list(names)].rename(columns=names)
    return plots.heat(
        wide.rename_axis(index=None),
        title="What does the recipe reach on clean labels?",
        bar="accuracy on the clean test set",
        share=True,
    )


def verdicts(p: Parameters, table: pd.DataFrame) -> list[Statement]:
    """The paper's counts are settings: what this run used instead; ``table`` is :func:`architectures`."""
    raw = {"kind": "model"}
    families = ", ".join(f"{len(members)} {name}" for name, members in models.FAMILIES.items())
    shown = (
        ("S3.2.n_seeds", p.seeds, "baselines", f"this run uses {p.seeds} seeds of the reference heads and "
         f"{p.architecture_seeds} of the architectures; in this profile the title rests on "
         f"{protocol().profiles[p.profile]['length_seeds']} and 4.2, stopped early, on 1; five cannot reach p < 0.0625 "
         "by a paired permutation test (see 3.4)"),
        ("S3.2.secondary", table["ECE"].mean(), "architectures", f"this run reports calibration error for {len(table)} "
         "architectures; latency and memory belong to 4.5"),
        ("S3.2.n_arch", len(models.ARCHITECTURES), "architectures", f"this run trains {families}, and 2 reference "
         "heads; the paper splits no result by architecture"),
    )  # fmt: skip
    return [
        Statement(claim_id, measured, verdict=ledger.SHOWN, why=why, table=name, row="all", raw=raw)
        for claim_id, measured, name, why in shown
    ]
