"""Curvature: the Fisher information of softmax outputs, which for cross-entropy is the Gauss-Newton matrix.

It is the mean over examples of sum_c p_c J' (p - e_c) (p - e_c)' J. Each term is the square of a gradient that one
backward pass gives, for the cotangent sqrt(p_c) (p - e_c): exact over the classes, or over a few classes drawn from
p.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

MAX_EXACT_CLASSES = 20


def exact_cotangents(logits: Tensor) -> Iterator[Tensor]:
    """C cotangents (m, C) whose squares add up to diag(p) - p p' of each example."""
    p = torch.softmax(logits.detach(), 1)
    for c in range(p.shape[1]):
        yield _towards(p, torch.full_like(p[:, :1], c, dtype=torch.int64)) * p[:, c : c + 1].sqrt()


def sampled_cotangents(logits: Tensor, uniforms: Tensor) -> Iterator[Tensor]:
    """As many cotangents (m, C) as ``uniforms`` (m, samples) in [0, 1) has columns; unbiased for diag(p) - p p'.

    Column s draws example i's class by its number u_is, so a draw belongs to the example and not to the batch.
    """
    p = torch.softmax(logits.detach(), 1)
    edges = p.cumsum(1)
    drawn = torch.searchsorted(edges, uniforms.to(edges) * edges[:, -1:], right=True).clamp(max=p.shape[1] - 1)
    for s in range(uniforms.shape[1]):
        yield _towards(p, drawn[:, s : s + 1]) / uniforms.shape[1] ** 0.5


def _towards(p: Tensor, classes: Tensor) -> Tensor:
    """p - e_c, without cancellation at c; classes is (m, 1)."""
    others = p.scatter(1, classes, 0.0)
    return others.scatter(1, classes, -others.sum(1, keepdim=True))
