"""The architectures: plain ``nn.Sequential`` modules that end in a Linear layer, of layers the influence code takes.

Every model maps the flat features (n, d) of a data set to logits (n, C). ``grid`` = (channels, height, width) says how
the d features lie in space: an image is 2-D, a signal a (1, 1, d) line, and so are a table's features and a text's
components, whose order carries no meaning. No batch norm: an example's gradient must not depend on its batch.

``ARCHITECTURES`` are the eight of section 3.2, by ``FAMILIES``; ``REFERENCES`` are softmax regression and the MLP.
``hidden`` sizes each of them.
"""

from collections.abc import Callable

from torch import nn

from datalab.errors import UserError, did_you_mean
from datalab.models.convolutional import cnn, convnext, resnet
from datalab.models.hybrids import cct, coatnet
from datalab.models.parts import Grid
from datalab.models.reference import mlp, softmax
from datalab.models.transformers import deep_transformer, ft_transformer, vit

Architecture = Callable[[Grid, int, int], nn.Sequential]

REFERENCES: dict[str, Architecture] = {"softmax": softmax, "mlp": mlp}
FAMILIES: dict[str, dict[str, Architecture]] = {
    "CNN-based": {"cnn": cnn, "resnet": resnet, "convnext": convnext},
    "transformer-based": {"vit": vit, "ft_transformer": ft_transformer, "deep_transformer": deep_transformer},
    "hybrid": {"cct": cct, "coatnet": coatnet},
}
ARCHITECTURES: dict[str, Architecture] = {name: make for family in FAMILIES.values() for name, make in family.items()}
ALL = REFERENCES | ARCHITECTURES


def build(architecture: str, grid: Grid, n_classes: int, hidden: int = 64) -> nn.Sequential:
    """The named architecture for features on ``grid``; raises UserError for an unknown name."""
    if architecture not in ALL:
        raise UserError(f"unknown architecture '{architecture}'{did_you_mean(architecture, list(ALL))}")
    return ALL[architecture](grid, n_classes, hidden)


def family(architecture: str) -> str:
    """The family of an architecture; ``reference`` for softmax regression and the MLP."""
    return next((name for name, members in FAMILIES.items() if architecture in members), "reference")
