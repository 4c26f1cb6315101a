"""What the architectures are made of: residual branches, attention, the way from a grid to tokens and back to a vector.

Activations are (n, channels, height, width) or (n, tokens, width).
"""

import torch
from torch import Tensor, nn

Grid = tuple[int, int, int]

HEADS = 4
LONGEST_LINE = 32  # a line of more features is cut into this many chunks before anything costly sees it


class Residual(nn.Module):
    """x + branch(x)."""

    def __init__(self, *branch: nn.Module):
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class SelfAttention(nn.Module):
    """x + attention(norm(x)), each token looking at all of its example's (Vaswani et al. 2017; norm first)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, HEADS if width % HEADS == 0 else 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(x)
        # With the weights asked for, attention is plain matrix products, which torch.vmap batches; fused kernels not.
        return x + self.attention(z, z, z, need_weights=True)[0]


class Positions(nn.Module):
    """Adds a learned vector to each of ``tokens`` places."""

    def __init__(self, tokens: int, width: int):
        super().__init__()
        self.table = nn.Embedding(tokens, width)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(self.table.num_embeddings, device=x.device)
        return x + self.table(places.expand(x.shape[0], -1))


class Tokens(nn.Module):
    """(n, channels, height, width) as (n, height * width, channels): a token a place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mT


class Mean(nn.Module):
    """The mean over the dimensions ``over``."""

    def __init__(self, *over: int):
        super().__init__()
        self.over = over

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.over)


def encoder_block(width: int) -> list[nn.Module]:
    """One transformer block: attention, then a perceptron of twice the width at every token, both residual."""
    wide = 2 * width
    perceptron = Residual(nn.LayerNorm(width), nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width))
    return [SelfAttention(width), perceptron]


def head(width: int, n_classes: int, *over: int) -> list[nn.Module]:
    """Logits from the mean over the dimensions ``over``, normalised: the end of an architecture of ``width``."""
    return [Mean(*over), nn.LayerNorm(width), nn.Linear(width, n_classes)]


def width_of(hidden: int, share: int) -> int:
    """``hidden / share`` channels, a multiple of the attention heads and at least as many."""
    return max(hidden // share // HEADS, 1) * HEADS


def patch(grid: Grid) -> tuple[int, int]:
    """The cut of a grid into places: 2 x 2 pixels of an image; of a line, what leaves at most ``LONGEST_LINE / 2``."""
    _, height, width = grid
    return (2, 2) if height > 1 else (1, -(-width // (LONGEST_LINE // 2)))


def zeros(grid: Grid, kernel: tuple[int, int]) -> tuple[list[nn.Module], Grid]:
    """Zeros on the right and below until the grid's sides divide by the kernel's, where they do not; the grid then."""
    channels, height, width = grid
    below, right = -height % kernel[0], -width % kernel[1]
    pad = [nn.ZeroPad2d((0, right, 0, below))] if below or right else []
    return pad, (channels, height + below, width + right)


def padded(grid: Grid, kernel: tuple[int, int]) -> tuple[list[nn.Module], Grid]:
    """The flat features as a grid, with :func:`zeros`."""
    pad, larger = zeros(grid, kernel)
    return [nn.Unflatten(1, grid), *pad], larger


def convolution(grid: Grid, inputs: int, outputs: int, stride: int = 1, depthwise: bool = False) -> nn.Conv2d:
    """3 x 3 on an image, 1 x 3 on a line, with zeros around; ``depthwise``: a filter a channel."""
    tall = grid[1] > 1
    return nn.Conv2d(
        inputs,
        outputs,
        (3, 3) if tall else (1, 3),
        stride=(stride, stride) if tall else (1, stride),
        padding=(1, 1) if tall else (0, 1),
        groups=inputs if depthwise else 1,
    )


def stem(grid: Grid, width: int) -> list[nn.Module]:
    """The features as ``width`` channels on a grid short enough to work on: a convolution; patches of a long line."""
    if grid[1] > 1 or grid[2] <= LONGEST_LINE:
        return [nn.Unflatten(1, grid), convolution(grid, grid[0], width)]
    kernel = (1, -(-grid[2] // LONGEST_LINE))
    layers, _ = padded(grid, kernel)
    return [*layers, nn.Conv2d(grid[0], width, kernel, stride=kernel)]


def places_halved(grid: Grid) -> int:
    """How many places the grid has after :func:`stem` and a convolution of stride 2."""
    _, height, width = grid
    if height > 1:
        return (height + 1) // 2 * ((width + 1) // 2)
    chunk = -(-width // LONGEST_LINE)
    return (-(-width // chunk) + 1) // 2
