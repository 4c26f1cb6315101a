"""Transformers: an encoder over patches, a deeper one, and one whose tokens are the features themselves."""

from torch import nn

from datalab.models.parts import LONGEST_LINE, Grid, Positions, Tokens, encoder_block, head, padded, patch, width_of


def vit(grid: Grid, n_classes: int, hidden: int = 64, blocks: int = 2) -> nn.Sequential:
    """ViT-style (Dosovitskiy et al. 2021): a token a patch of 2 x 2 pixels, or a chunk of a line, and an encoder.

    Width ``hidden/2``, two blocks, learned positions; the mean of the tokens is read, in place of a class token.
    """
    width, kernel = width_of(hidden, 2), patch(grid)
    layers, (_, height, length) = padded(grid, kernel)
    places = (height // kernel[0]) * (length // kernel[1])
    tokens = [nn.Conv2d(grid[0], width, kernel, stride=kernel), Tokens(), Positions(places, width)]
    encoder = [layer for _ in range(blocks) for layer in encoder_block(width)]
    return nn.Sequential(*layers, *tokens, *encoder, *head(width, n_classes, 1))


def deep_transformer(grid: Grid, n_classes: int, hidden: int = 64) -> nn.Sequential:
    """The same with six blocks at half the width, ``hidden/4``."""
    return vit(grid, n_classes, hidden // 2, blocks=6)


def ft_transformer(grid: Grid, n_classes: int, hidden: int = 64) -> nn.Sequential:
    """FT-Transformer-style (Gorishniy et al. 2021): a token a feature, x_j w_j + b_j with weights of its own.

    Of more than ``LONGEST_LINE`` features, neighbours share a token, whose weights are still its own, so that there
    are no positions to learn. Width ``hidden/2``, two blocks, the mean of the tokens in place of a class token.
    """
    features, width = grid[0] * grid[1] * grid[2], width_of(hidden, 2)
    chunk = -(-features // LONGEST_LINE)
    tokens = -(-features // chunk)
    return nn.Sequential(
        nn.ZeroPad1d((0, tokens * chunk - features)),
        nn.Unflatten(1, (tokens, chunk)),
        nn.Conv1d(tokens, tokens * width, chunk, groups=tokens),
        nn.Flatten(),
        nn.Unflatten(1, (tokens, width)),
        *encoder_block(width),
        *encoder_block(width),
        *head(width, n_classes, 1),
    )
