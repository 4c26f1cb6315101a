"""Section 3.2: the data sets, architectures and seeds of the study, and what the recipe reaches on clean labels."""

from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pydantic
import torch

from datalab import data, metrics, models, noise, seeds, stats, sweep
from datalab.experiments.parameters import Caps, Datasets, Estimate, Rate, SectionParameters
from datalab.protocol import protocol
from datalab.sweep import Cell
from datalab.training import fit_many, protocol_recipe

CELL = "datalab.experiments.experimental_framework:baseline_cell"
ECE_BINS = 15


class Parameters(SectionParameters):
    """What section 3.2 takes; ``None`` is the profile's value."""

    datasets: Datasets
    seeds: Annotated[int, pydantic.Field(ge=1, le=1000, strict=True)]
    noise_kinds: tuple[Literal["symmetric", "pair", "instance"], ...]
    noise_rates: tuple[Rate, ...] = pydantic.Field(min_length=1)
    caps: Caps
    encoder: Literal["fast", "pretrained"]


def cells(p: Parameters) -> list[Cell]:
    """One cell a data set: its seeds are trained as one stack each architecture."""
    common = {"seeds_": p.seeds, "root_seed": p.root_seed, "caps": dict(p.caps), "encoder": p.encoder}
    common |= {"noise_kinds": list(p.noise_kinds), "noise_rates": list(p.noise_rates)}
    return [Cell(CELL, {"dataset": name} | common, cost=0.5 * p.seeds) for name in p.datasets]


def estimate(p: Parameters) -> Estimate:
    """A few models a data set: a second each, and what importing costs."""
    grid = cells(p)
    workers = min(p.workers or sweep.available_cores(), len(grid))
    what = f"{len(grid)} data sets, {p.seeds} seeds, {workers} processes"
    return Estimate(10 + sum(cell.cost for cell in grid) / workers, workers * 1e9, what)


def baseline_cell(
    dataset: str,
    seeds_: int,
    root_seed: int,
    caps: dict[str, int],
    encoder: str,
    noise_kinds: list[str],
    noise_rates: list[float],
) -> list[dict[str, Any]]:
    """Every architecture on clean labels, and the realised noise of every kind and rate, for each seed.

    Rows of ``kind`` "model" have macro-F1, accuracy, ECE and the majority class's accuracy; rows of ``kind`` "noise"
    the largest deviation of the flips from ``round(rate * n_c)`` over the classes (symmetric and pair), and of the
    realised rate from the nominal one, in points.
    """
    rule = protocol().training
    rows = []
    for seed in range(seeds_):
        p = data.prepare(dataset, seed, root_seed, caps, encoder)
        sizes = {"n_train": len(p.y_train), "n_validation": len(p.y_val), "n_test": len(p.y_test)}
        common = {"dataset": dataset, "seed": seed, "features": p.x_train.shape[1], "classes": p.n_classes} | sizes
        majority = float(np.mean(p.y_test == np.bincount(p.y_train).argmax()))
        x, x_test = torch.as_tensor(p.x_train), torch.as_tensor(p.x_test)
        for architecture in models.ARCHITECTURES:
            module = models.build(architecture, p.grid, p.n_classes, rule["hidden"])
            model_seed = seeds.integer(root_seed, dataset, architecture, seed, "model")
            stack = fit_many(module, x, p.y_train, None, [model_seed], protocol_recipe())
            probabilities = torch.softmax(stack(x_test)[0], -1).numpy()
            predicted = probabilities.argmax(1)
            rows.append(
                common
                | {
                    "kind": "model",
                    "architecture": architecture,
                    "parameters": sum(w.numel() for w in module.parameters()),
                }
                | {"macro_f1": metrics.macro_f1(p.y_test, predicted, p.n_classes)}
                | {"accuracy": metrics.accuracy(p.y_test, predicted), "majority": majority}
                | {"ece": metrics.ece(p.y_test, probabilities, ECE_BINS)}
            )
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
    used = rows.drop_duplicates("dataset").set_index("dataset")
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
    """A row per architecture: parameters, and what it reaches on clean labels, 95 % t-intervals over the data sets."""
    found = []
    for name, one in rows[rows.kind == "model"].groupby("architecture", sort=False):
        by_set = one.groupby("dataset")[["macro_f1", "accuracy", "ece"]].mean()
        row = {"architecture": name, "parameters (median)": int(one.parameters.median())}
        for metric, column in (("macro_f1", "macro-F1"), ("accuracy", "accuracy"), ("ece", "ECE")):
            values = by_set[metric].to_numpy()
            row[column] = values.mean()
            if len(values) > 1:
                i = stats.t_interval(values)
                row |= {f"{column} low": i.low, f"{column} high": i.high}
        found.append(row | {"sets": len(by_set)})
    return pd.DataFrame(found)


def baselines_table(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per data set: each architecture's macro-F1 and accuracy on clean labels, means over seeds."""
    part = rows[rows.kind == "model"]
    wide = part.pivot_table(index="dataset", columns="architecture", values=["macro_f1", "accuracy"], sort=False)
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
    """A row per data set: each architecture's accuracy, and the majority class's."""
    import matplotlib.pyplot as plt

    table = table.sort_values("mlp accuracy", ignore_index=True)
    figure, axes = plt.subplots(figsize=(7, 0.3 * len(table) + 1.2))
    y = np.arange(len(table))
    axes.scatter(table["majority accuracy"], y, marker="|", color="black", s=90, label="majority class")
    for name, marker in zip(models.ARCHITECTURES, "osD", strict=False):
        axes.scatter(table[f"{name} accuracy"], y, marker=marker, label=name, s=28)
    axes.set_yticks(y, table.dataset)
    axes.set(
        xlim=(0, 1.02), xlabel="accuracy on the clean test set", title="What does the recipe reach on clean labels?"
    )
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.75 / figure.get_figheight()), ncols=4)
    return figure
