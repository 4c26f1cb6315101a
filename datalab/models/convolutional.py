"""Convolutional networks: a patch CNN, a residual network and a ConvNeXt-style one."""

from torch import nn

from datalab.models.parts import Grid, Mean, Residual, convolution, head, padded, patch, stem, width_of, zeros


def cnn(grid: Grid, n_classes: int, hidden: int = 64) -> nn.Sequential:
    """A patch CNN: two convolutions whose stride equals their kernel, then a hidden layer of ``hidden/2`` units.

    Patches are 2 x 2 on an image and 1 x 4 on a line; zero padding makes the sides divisible. The filters number
    ``hidden/16`` and ``hidden/8``.
    """
    channels, height, width = grid
    kernel = (1, 4) if height == 1 else (2, 2)
    layers: list[nn.Module] = [nn.Unflatten(1, grid)]
    for filters in (max(hidden // 16, 1), max(hidden // 8, 1)):
        pad, (_, height, width) = zeros((channels, height, width), kernel)
        layers += [*pad, nn.Conv2d(channels, filters, kernel, stride=kernel), nn.ReLU()]
        channels, height, width = filters, height // kernel[0], width // kernel[1]
    flat, dense = channels * height * width, max(hidden // 2, 1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, dense), nn.ReLU(), nn.Linear(dense, n_classes))


def resnet(grid: Grid, n_classes: int, hidden: int = 64) -> nn.Sequential:
    """A residual network (He et al. 2016, pre-activation): two blocks, a convolution of stride 2 between them.

    ``hidden/4`` channels, then twice as many; group norm (Wu & He 2018) stands for batch norm; mean over the places.
    """
    narrow = width_of(hidden, 4)
    wide = 2 * narrow

    def block(channels: int) -> nn.Module:
        return Residual(
            nn.GroupNorm(4, channels),
            nn.ReLU(),
            convolution(grid, channels, channels),
            nn.GroupNorm(4, channels),
            nn.ReLU(),
            convolution(grid, channels, channels),
        )

    return nn.Sequential(
        *stem(grid, narrow),
        block(narrow),
        convolution(grid, narrow, wide, stride=2),
        block(wide),
        nn.GroupNorm(4, wide),
        nn.ReLU(),
        Mean(2, 3),
        nn.Linear(wide, n_classes),
    )


def convnext(grid: Grid, n_classes: int, hidden: int = 64) -> nn.Sequential:
    """ConvNeXt-style (Liu et al. 2022): patches, then two blocks of a depthwise convolution and a wide perceptron.

    ``hidden/2`` channels; the norm is over channels and places together (one group), the filters 3 wide, not 7, since
    the grids are small.
    """
    width, kernel = width_of(hidden, 2), patch(grid)
    layers, _ = padded(grid, kernel)
    block = [
        Residual(
            convolution(grid, width, width, depthwise=True),
            nn.GroupNorm(1, width),
            nn.Conv2d(width, 2 * width, 1),
            nn.GELU(),
            nn.Conv2d(2 * width, width, 1),
        )
        for _ in range(2)
    ]
    stem_ = nn.Conv2d(grid[0], width, kernel, stride=kernel)
    return nn.Sequential(*layers, stem_, *block, *head(width, n_classes, 2, 3))
