"""The architectures, as plain ``nn.Sequential`` modules of layers that both the stack and the influence code take.

Every model maps the flat features (n, d) of a data set to logits (n, n_classes). ``grid`` = (channels, height, width)
says how the d features lie in space; a table's features form a (1, 1, d) line, whose order carries no meaning.
"""

import math
from collections.abc import Callable

from torch import nn

from datalab.errors import UserError, did_you_mean

Grid = tuple[int, int, int]


def softmax(grid: Grid, n_classes: int, hidden: int = 64) -> nn.Sequential:
    """Softmax regression: one linear layer; ``hidden`` is not used."""
    return nn.Sequential(nn.Linear(math.prod(grid), n_classes))


def mlp(grid: Grid, n_classes: int, hidden: int = 64) -> nn.Sequential:
    """A perceptron with one hidden layer of ``hidden`` ReLU units."""
    return nn.Sequential(nn.Linear(math.prod(grid), hidden), nn.ReLU(), nn.Linear(hidden, n_classes))


def cnn(grid: Grid, n_classes: int, hidden: int = 64) -> nn.Sequential:
    """A patch CNN: two convolutions whose stride equals their kernel, then a hidden layer of ``hidden/2`` units.

    Patches are 2 x 2 on an image and 1 x 4 on a line; zero padding makes the sides divisible. The filters number
    ``hidden/16`` and ``hidden/8``.
    """
    channels, height, width = grid
    kernel = (1, 4) if height == 1 else (2, 2)
    layers: list[nn.Module] = [nn.Unflatten(1, grid)]
    for filters in (max(hidden // 16, 1), max(hidden // 8, 1)):
        below, right = -height % kernel[0], -width % kernel[1]
        if below or right:
            layers.append(nn.ZeroPad2d((0, right, 0, below)))
        layers += [nn.Conv2d(channels, filters, kernel, stride=kernel), nn.ReLU()]
        channels, height, width = filters, (height + below) // kernel[0], (width + right) // kernel[1]
    flat, dense = channels * height * width, max(hidden // 2, 1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, dense), nn.ReLU(), nn.Linear(dense, n_classes))


ARCHITECTURES: dict[str, Callable[[Grid, int, int], nn.Sequential]] = {"softmax": softmax, "mlp": mlp, "cnn": cnn}


def build(architecture: str, grid: Grid, n_classes: int, hidden: int = 64) -> nn.Sequential:
    """The named architecture for features on ``grid``; raises UserError for an unknown name."""
    if architecture not in ARCHITECTURES:
        raise UserError(f"unknown architecture '{architecture}'{did_you_mean(architecture, list(ARCHITECTURES))}")
    return ARCHITECTURES[architecture](grid, n_classes, hidden)
