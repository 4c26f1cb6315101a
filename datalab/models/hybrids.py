"""Convolutions below, attention above."""

from torch import nn

from datalab.models.parts import (
    Grid,
    Positions,
    Residual,
    Tokens,
    convolution,
    encoder_block,
    head,
    places_halved,
    stem,
    width_of,
)


def cct(grid: Grid, n_classes: int, hidden: int = 64) -> nn.Sequential:
    """A convolutional tokeniser and an encoder (compact convolutional transformer, Hassani et al. 2021).

    Two convolutions, the second of stride 2 in place of the paper's max pooling; width ``hidden/2``, two blocks.
    """
    width = width_of(hidden, 2)
    return nn.Sequential(
        *stem(grid, width // 2),
        nn.ReLU(),
        convolution(grid, width // 2, width, stride=2),
        nn.ReLU(),
        Tokens(),
        Positions(places_halved(grid), width),
        *encoder_block(width),
        *encoder_block(width),
        *head(width, n_classes, 1),
    )


def coatnet(grid: Grid, n_classes: int, hidden: int = 64) -> nn.Sequential:
    """CoAtNet-style (Dai et al. 2021): an inverted bottleneck with a depthwise convolution, then an attention block.

    ``hidden/4`` channels, twice as many after the convolution of stride 2; group norm for batch norm, learned
    positions for relative attention.
    """
    narrow = width_of(hidden, 4)
    wide = 2 * narrow
    bottleneck = Residual(
        nn.GroupNorm(1, narrow),
        nn.Conv2d(narrow, wide, 1),
        nn.GELU(),
        convolution(grid, wide, wide, depthwise=True),
        nn.GELU(),
        nn.Conv2d(wide, narrow, 1),
    )
    return nn.Sequential(
        *stem(grid, narrow),
        bottleneck,
        convolution(grid, narrow, wide, stride=2),
        Tokens(),
        Positions(places_halved(grid), wide),
        *encoder_block(wide),
        *head(wide, n_classes, 1),
    )
