"""Section 3.2: the data sets, architectures and seeds of the study, and what the recipe reaches on clean labels."""

import time
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pydantic
import torch

from datalab import data, metrics, models, noise, seeds
from datalab.protocol import protocol
from datalab.record.parameters import Estimate, SectionParameters
from datalab.sections.compare import mean_with_interval
from datalab.sections.parameters import Caps, Datasets, Rate, pooled
from datalab.sweep import Task
from datalab.training import fit_many, protocol_recipe

HERE = "datalab.sections.s3_2_experimental_framework"
ECE_BINS = 15
# Seconds of one training of 200 steps on one core, as measured; what is not named takes as long as the slowest.
_SECONDS = {"softmax": 0.02, "mlp": 0.02, "cnn": 0.05, "resnet": 0.7, "convnext": 0.6, "cct": 1.6, "coatnet": 1.2}
_SLOWEST = 2.5


class Parameters(SectionParameters):
    """What section 3.2 takes; ``None`` is the profile's value."""

    datasets: Datasets
    seeds: Annotated[int, pydantic.Field(ge=1, le=1000, strict=True)]
    architecture_seeds: Annotated[int, pydantic.Field(ge=1, le=1000, strict=True)]
    architecture_datasets: Datasets
    noise_kinds: tuple[Literal["symmetric", "pair", "instance"], ...]
    noise_rates: tuple[Rate, ...] = pydantic.Field(min_length=1)
    caps: Caps
    encoder: Literal["fast", "pretrained"]

    @property
    def trained(self) -> tuple[str, ...]:
        """The data sets that the eight architectures are trained on: those of ``datasets`` that are named for it."""
        return tuple(name for name in self.datasets if name in self.architecture_datasets) or self.datasets[:1]


def cells(p: Parameters) -> list[Task]:
    """A cell a data set for the noise, and one a data set and architecture; the dearest first."""
    common = {"root_seed": p.root_seed, "caps": dict(p.caps), "encoder": p.encoder}
    noise_ = {"seeds_": p.seeds, "noise_kinds": list(p.noise_kinds), "noise_rates": list(p.noise_rates)} | common
    found = [Task(f"{HERE}:noise_cell", {"dataset": name} | noise_, cost=0.2 * p.seeds) for name in p.datasets]
    for name in models.ALL:
        # Times are compared, so every architecture is trained alike: one model at a time.
        reference = name in models.REFERENCES
        seeds_, sets = (p.seeds, p.datasets) if reference else (p.architecture_seeds, p.trained)
        given = {"architecture": name, "seeds_": seeds_, "device": p.chosen_device} | common
        cost = seeds_ * (_SECONDS.get(name, _SLOWEST) + 0.05)
        found += [Task(f"{HERE}:model_cell", {"dataset": each} | given, cost, seeds_) for each in sets]
    return sorted(found, key=lambda cell: -cell.cost)


def estimate(p: Parameters) -> Estimate:
    """The expected time, from what a training of each architecture took when it was measured."""
    return pooled(p, cells(p), f"{len(p.datasets)} data sets, {p.seeds} seeds", memory=1e9, start=10)


def model_cell(
    dataset: str, architecture: str, seeds_: int, root_seed: int, caps: dict[str, int], encoder: str, device: str
) -> list[dict[str, Any]]:
    """One architecture on clean labels, a row a seed: macro-F1, accuracy, ECE, the majority class's accuracy.

    ``seconds`` is the training of one model, measured.
    """
    rows = []
    for seed in range(seeds_):
        p = data.prepare(dataset, seed, root_seed, caps, encoder)
        x, x_test = (torch.as_tensor(each, device=device) for each in (p.x_train, p.x_test))
        module = models.build(architecture, p.grid, p.n_classes, protocol().training["hidden"])
        model_seed = seeds.integer(root_seed, dataset, architecture, seed, "model")
        start = time.perf_counter()
        stack = fit_many(module, x, p.y_train, None, [model_seed], protocol_recipe())
        seconds = time.perf_counter() - start
        probabilities = torch.softmax(stack(x_test)[0], -1).cpu().numpy()
        predicted = probabilities.argmax(1)
        rows.append(
            {"dataset": dataset, "seed": seed, "kind": "model", "architecture": architecture}
            | {"parameters": sum(w.numel() for w in module.parameters()), "seconds": seconds}
            | {"macro_f1": metrics.macro_f1(p.y_test, predicted, p.n_classes)}
            | {"accuracy": metrics.accuracy(p.y_test, predicted)}
            | {"majority": float(np.mean(p.y_test == np.bincount(p.y_train).argmax()))}
            | {"ece": metrics.ece(p.y_test, probabilities, ECE_BINS)}
        )
    return rows


def noise_cell(
    dataset: str,
    seeds_: int,
    root_seed: int,
    caps: dict[str, int],
    encoder: str,
    noise_kinds: list[str],
    noise_rates: list[float],
) -> list[dict[str, Any]]:
    """The sizes of the splits, and the realised noise of every kind and rate, for each seed.

    A row has the largest deviation of the flips from ``round(rate * n_c)`` over the classes (symmetric and pair), and
    of the realised rate from the nominal one, in points.
    """
    rows = []
    for seed in range(seeds_):
        p = data.prepare(dataset, seed, root_seed, caps, encoder)
        sizes = {"n_train": len(p.y_train), "n_validation": len(p.y_val), "n_test": len(p.y_test)}
        common = {"dataset": dataset, "seed": seed, "features": p.x_train.shape[1], "classes": p.n_classes} | sizes
        for kind in noise_kinds:
            for rate in noise_rates:
                rng = seeds.generator(root_seed, dataset, "section 3.2", kind, rate, seed)
                observed = noise.corrupt(p.y_train, kind, rate, p.n_classes, rng, p.x_train)
                rows.append(
                    common | {"kind": "noise", "noise": kind, "rate": rate} | _realised(p.y_train, observed, rate)
                )
    return rows


def _realised(clean: np.ndarray, observed: np.ndarray, rate: float) -> dict[str, float]:
    flips = np.bincount(clean[observed != clean], minlength=clean.max() + 1)
    asked = np.array([round(rate * n) for n in np.bincount(clean)])
    points = 100 * abs(noise.realised_rate(clean, observed) - rate)
    return {"class_deviation": int(np.abs(flips - asked).max()), "points": points}


def datasets_table(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per data set of the run: what its card says, and the sizes and features it was used with."""
    used = rows[rows.kind == "noise"].drop_duplicates("dataset").set_index("dataset")
    used = used[["classes", "features", "n_train", "n_validation", "n_test"]].astype(int)
    cards = {name: data.REGISTRY[name] for name in used.index}
    return pd.DataFrame(
        {
            "data set": list(cards),
            "benchmark": [spec.benchmark or "" for spec in cards.values()],
            "domain": [spec.domain for spec in cards.values()],
            "rows": [spec.unique_rows for spec in cards.values()],
            "classes": used.classes.to_numpy(),
            "features used": used.features.to_numpy(),
            "train": used.n_train.to_numpy(),
            "validation": used.n_validation.to_numpy(),
            "test": used.n_test.to_numpy(),
            "licence": [spec.licence for spec in cards.values()],
        }
    )


def architectures_table(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per architecture: parameters, and what it reaches on clean labels, 95 % t-intervals over the data sets.

    ``less MLP`` is the accuracy less the MLP's on the seeds that both were trained with, paired by data set.
    """
    part = rows[rows.kind == "model"]
    mlp = part[part.architecture == "mlp"].set_index(["dataset", "seed"]).accuracy
    found = []
    for name in (each for each in models.ALL if each in set(part.architecture)):
        one = part[part.architecture == name]
        by_set = one.groupby("dataset", sort=False)[["macro_f1", "accuracy", "ece"]].mean()
        row = {"family": models.family(name), "architecture": name, "parameters (median)": int(one.parameters.median())}
        for metric, column in (("macro_f1", "macro-F1"), ("accuracy", "accuracy"), ("ece", "ECE")):
            row |= mean_with_interval(by_set[metric], column)
        d = one.set_index(["dataset", "seed"]).accuracy - mlp
        row |= mean_with_interval(d.dropna().groupby("dataset", sort=False).mean(), "less MLP")
        found.append(row | {"seeds": one.seed.nunique(), "sets": len(by_set)})
    return pd.DataFrame(found)


def cost_table(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per architecture: seconds to train one model by the recipe, the median over data sets; and in MLPs."""
    part = rows[rows.kind == "model"].groupby(["architecture", "dataset"], sort=False).seconds.median()
    mlp = part["mlp"]
    found = []
    for name in (each for each in models.ALL if each in part.index.get_level_values(0)):
        ratio = (part[name] / mlp).median()
        found.append({"architecture": name, "seconds a model": part[name].median(), "times the MLP's": ratio})
    return pd.DataFrame(found)


def baselines_table(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per data set: each architecture's macro-F1 and accuracy on clean labels, means over seeds."""
    part = rows[rows.kind == "model"]
    wide = part.pivot_table(index="dataset", columns="architecture", values=["macro_f1", "accuracy"], sort=False)
    wide = wide[[(metric, name) for metric in ("macro_f1", "accuracy") for name in models.ALL]]
    wide.columns = [f"{architecture} {metric.replace('macro_f1', 'F1')}" for metric, architecture in wide.columns]
    return wide.join(part.groupby("dataset").majority.mean().rename("majority accuracy")).reset_index()


def noise_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The realised noise, the worst over data sets and seeds, a row per (kind, rate)."""
    part = rows[rows.kind == "noise"]
    worst = part.groupby(["noise", "rate"], sort=False)[["class_deviation", "points"]].max().reset_index()
    # Where the count per class is not fixed (instance-dependent noise), a deviation from it says nothing.
    worst.loc[worst.noise == "instance", "class_deviation"] = np.nan
    return worst.assign(rate=100 * worst.rate).rename(
        columns={
            "rate": "noise rate (%)",
            "class_deviation": "largest miss in a class (labels)",
            "points": "largest miss of the rate (points)",
        }
    )


def baselines_figure(table: pd.DataFrame):
    """A row per data set: each architecture's accuracy, and the majority class's; a marker a family."""
    import matplotlib.pyplot as plt

    table = table.sort_values("mlp accuracy", ignore_index=True)
    figure, axes = plt.subplots(figsize=(8, 0.34 * len(table) + 1.6))
    y = np.arange(len(table))
    axes.scatter(table["majority accuracy"], y, marker="|", color="black", s=90, label="majority class")
    families = {"reference": "o"} | dict(zip(models.FAMILIES, "sD^", strict=True))
    for i, name in enumerate(models.ALL):
        style = {"marker": families[models.family(name)], "color": f"C{i % 6}", "alpha": 0.9}
        axes.scatter(table[f"{name} accuracy"], y, label=name, s=24, **style)
    axes.set_yticks(y, table.dataset)
    axes.set(
        xlim=(0, 1.02), xlabel="accuracy on the clean test set", title="What does the recipe reach on clean labels?"
    )
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9)
    return figure
