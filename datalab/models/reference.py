"""The reference heads: softmax regression and a perceptron on the flat features."""

import math

from torch import nn

from datalab.models.parts import Grid


def softmax(grid: Grid, n_classes: int, hidden: int = 64) -> nn.Sequential:
    """Softmax regression: one linear layer; ``hidden`` is not used."""
    return nn.Sequential(nn.Linear(math.prod(grid), n_classes))


def mlp(grid: Grid, n_classes: int, hidden: int = 64) -> nn.Sequential:
    """A perceptron with one hidden layer of ``hidden`` ReLU units."""
    return nn.Sequential(nn.Linear(math.prod(grid), hidden), nn.ReLU(), nn.Linear(hidden, n_classes))
