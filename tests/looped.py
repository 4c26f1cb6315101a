"""Training as everybody writes it, one model at a time: the reference that stacked training must equal."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from datalab.training import Recipe, batch_order, cosine, initialise, make_stack


def fit_loop(
    module: nn.Sequential,
    x: torch.Tensor,
    labels: np.ndarray,
    kept: np.ndarray,
    seeds: Sequence[int],
    recipe: Recipe,
) -> list[nn.Sequential]:
    """One ordinary module, autograd and ``torch.optim.Adam`` per model."""
    order = batch_order(kept, seeds, recipe.steps * recipe.batch_size).reshape(len(seeds), recipe.steps, -1)
    initial = make_stack(module, len(seeds), x.dtype)
    initialise(initial, seeds)
    trained = []
    for s in range(len(seeds)):
        model = initial.model(s)
        optimiser = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.l2)
        for step, rows in enumerate(order[s]):
            optimiser.param_groups[0]["lr"] = cosine(recipe.learning_rate, step, recipe.steps)
            loss = nn.functional.cross_entropy(model(x[rows]), torch.as_tensor(labels[s, rows]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        trained.append(model)
    return trained
