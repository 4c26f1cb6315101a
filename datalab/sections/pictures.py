"""Single examples, looked at: a row an example, with the pixels of those whose score is at either end."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from datalab import data

SHOWN = 10  # at either end


def ends(scores: ArrayLike) -> NDArray[np.int64]:
    """The places of the highest scores (n,), highest first, then those of the lowest, lowest first."""
    order = np.argsort(np.asarray(scores), kind="stable")
    return np.concatenate([order[::-1][:SHOWN], order[:SHOWN]])


def labelled_examples(
    prepared: data.Prepared, observed: NDArray[np.int64], values: Mapping[str, NDArray]
) -> list[dict[str, Any]]:
    """A row a training example: both labels by name, ``values`` (n,) by name, and the pixels at the ends of the first.

    ``observed`` (n,) are the labels as a model saw them. ``pixels`` lie flat, row by row of ``width``; None inside.
    """
    shown = ends(next(iter(values.values())))
    pixels = data.load(prepared.name).features.iloc[prepared.train_ids[shown]].to_numpy(dtype=np.float64)
    width = data.REGISTRY[prepared.name].grid[2]
    pictures = {int(i): {"pixels": image.tolist(), "width": width} for i, image in zip(shown, pixels, strict=True)}
    names = np.asarray(prepared.class_names)
    return [
        {"example": i, "observed": str(names[observed[i]]), "clean": str(names[prepared.y_train[i]])}
        | {name: float(value[i]) for name, value in values.items()}
        | pictures.get(i, {"pixels": None, "width": None})
        for i in range(len(observed))
    ]


def strips(examples: pd.DataFrame, score: str, of: str = "") -> dict[str, pd.DataFrame]:
    """The examples of highest and of lowest ``score``, for :func:`datalab.sections.plots.images`; ``of`` leads the
    word beside a strip.
    """
    at_ends = examples.iloc[ends(examples[score])]
    return {f"{of}highest": at_ends[:SHOWN], f"{of}lowest": at_ends[SHOWN:]}
