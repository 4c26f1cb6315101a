"""Section 2.2's look at single examples: one image set, one model, its scores and how they move with the damping."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from datalab import data, noise, seeds
from datalab.influence import EKFAC
from datalab.influence.damping import damping_path
from datalab.influence.estimator import quiet
from datalab.sections.influence_cells import mlp
from datalab.training import fit_many, protocol_recipe

SHOWN = 10
PATH = tuple(10.0 ** np.arange(-7, 1.01, 0.5))


class Study(NamedTuple):
    """``observed`` and ``clean`` labels by name (n,), the places of the ``highest`` and ``lowest`` self-influence with
    their ``images`` (h, w) by place, and the ``path`` of the damping.
    """

    images: dict[int, NDArray]
    observed: NDArray
    clean: NDArray
    highest: NDArray[np.int64]
    lowest: NDArray[np.int64]
    path: pd.DataFrame


def picture_cell(
    dataset: str, rate: float, root_seed: int, caps: dict[str, int], encoder: str, device: str
) -> list[dict[str, Any]]:
    """Flip labels at ``rate``, train one MLP by the recipe, and score it with EK-FAC.

    A row an ``example`` (its score, its labels, and the pixels of those to be shown) and a row a ``damping``.
    """
    prepared = data.prepare(dataset, 0, root_seed, dict(caps), encoder)
    rng = seeds.generator(root_seed, dataset, "pictures")
    observed = noise.corrupt(prepared.y_train, "symmetric", rate, prepared.n_classes, rng)
    x = torch.as_tensor(prepared.x_train, device=device)
    y = torch.as_tensor(observed, device=device)
    seed = seeds.integer(root_seed, dataset, "pictures")
    stack = fit_many(mlp(prepared), x, observed, None, [seed], protocol_recipe())
    with quiet():
        estimator = EKFAC(stack.model(0), l2=protocol_recipe().l2).fit(x, y)
    scores = estimator.self_influence(x, y).double().cpu().numpy()
    path = damping_path(estimator, PATH, x, y, flipped=observed != prepared.y_train)
    rows = labelled_examples(prepared, observed, {"score": scores}, shown=ends(scores))
    return [
        *({"dataset": dataset, "kind": "example", **row} for row in rows),
        *({"dataset": dataset, "kind": "damping", **row} for row in path.to_dict("records")),
    ]


def labelled_examples(
    prepared: Any, observed: NDArray, values: dict[str, NDArray], shown: NDArray
) -> list[dict[str, Any]]:
    """A row a training example: ``values`` (n,) by name, both labels by name, and the pixels of those ``shown``."""
    pixels = data.load(prepared.name).features.iloc[prepared.train_ids[shown]].to_numpy(dtype=np.float64)
    width = data.REGISTRY[prepared.name].grid[2]
    of = {int(i): {"pixels": image.tolist(), "width": width} for i, image in zip(shown, pixels, strict=True)}
    names = np.asarray(prepared.class_names)
    return [
        {"example": i, "observed": str(names[observed[i]]), "clean": str(names[prepared.y_train[i]])}
        | {name: float(value[i]) for name, value in values.items()}
        | of.get(i, {"pixels": None, "width": None})
        for i in range(len(observed))
    ]


def ends(scores: NDArray) -> NDArray[np.int64]:
    """The places of the highest scores, highest first, then those of the lowest, lowest first."""
    order = np.argsort(scores, kind="stable")
    return np.concatenate([order[::-1][:SHOWN], order[:SHOWN]])


def images(rows: pd.DataFrame) -> dict[int, NDArray]:
    """The pictures (h, w) among the examples' rows, by place."""
    kept = rows[rows.pixels.notna()]
    return {
        int(row.example): np.asarray(row.pixels, dtype=float).reshape(-1, int(row.width)) for row in kept.itertuples()
    }


def study(rows: pd.DataFrame) -> Study:
    """What the rows of :func:`picture_cell` hold."""
    examples = rows[rows.kind == "example"].reset_index(drop=True)
    chosen = ends(examples.score.to_numpy())
    path = rows.loc[rows.kind == "damping", ["damping", "own", "median", "spearman", "auroc"]].reset_index(drop=True)
    labels = (examples.observed.to_numpy(), examples.clean.to_numpy())
    return Study(images(examples), *labels, chosen[:SHOWN], chosen[SHOWN:], path.astype({"own": bool}))
