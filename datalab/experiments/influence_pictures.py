"""Section 2.2's look at single examples: one image set, one model, its scores and how they move with the damping."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from datalab import data, noise, seeds
from datalab.experiments.influence_cells import mlp
from datalab.experiments.influence_functions import Parameters
from datalab.influence import EKFAC
from datalab.influence.damping import damping_path
from datalab.influence.estimator import quiet
from datalab.training import fit_many, protocol_recipe

SHOWN = 10
PATH = tuple(10.0 ** np.arange(-7, 1.01, 0.5))


class Study(NamedTuple):
    """``images`` (n, h, w), ``observed`` and ``clean`` labels (n,), class ``names``, the places of the ``highest`` and
    ``lowest`` self-influence, ``scores`` (n,), and the ``path`` of the damping.
    """

    images: NDArray
    observed: NDArray[np.int64]
    clean: NDArray[np.int64]
    names: tuple[str, ...]
    highest: NDArray[np.int64]
    lowest: NDArray[np.int64]
    scores: NDArray
    path: pd.DataFrame


def study(p: Parameters) -> Study:
    """Flip labels at the rate of the comparison, train one MLP by the recipe, and score it with EK-FAC."""
    prepared = data.prepare(p.picture_dataset, 0, p.root_seed, dict(p.caps), p.encoder)
    rng = seeds.generator(p.root_seed, p.picture_dataset, "pictures")
    observed = noise.corrupt(prepared.y_train, "symmetric", p.agreement_rate, prepared.n_classes, rng)
    x = torch.as_tensor(prepared.x_train, device=p.chosen_device)
    y = torch.as_tensor(observed, device=x.device)
    seed = seeds.integer(p.root_seed, p.picture_dataset, "pictures")
    stack = fit_many(mlp(prepared), x, observed, None, [seed], protocol_recipe())
    with quiet():
        estimator = EKFAC(stack.model(0), l2=protocol_recipe().l2).fit(x, y)
    scores = estimator.self_influence(x, y).double().cpu().numpy()
    path = damping_path(estimator, PATH, x, y, flipped=observed != prepared.y_train)
    order = np.argsort(scores, kind="stable")
    spec = data.REGISTRY[p.picture_dataset]
    pixels = data.load(p.picture_dataset).features.iloc[prepared.train_ids].to_numpy(dtype=np.float64)
    images = pixels.reshape(-1, *spec.grid[1:])
    return Study(
        images, observed, prepared.y_train, prepared.class_names, order[::-1][:SHOWN], order[:SHOWN], scores, path
    )
