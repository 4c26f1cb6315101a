"""Curvature: the Fisher information of softmax outputs, which for cross-entropy is the Gauss-Newton matrix.

It is the mean over examples of sum_c p_c J' (p - e_c) (p - e_c)' J. Each term is the square of a gradient that one
backward pass gives, for the cotangent sqrt(p_c) (p - e_c): exact over the classes, or over a few classes drawn from
p. The *empirical* Fisher takes the observed class alone, with weight 1: it is the second moment of the loss gradients,
and no curvature once the model fits its labels (Kunstner et al. 2019). Logits are (..., m, C).
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

MAX_EXACT_CLASSES = 20

Fisher = Literal["auto", "exact", "sampled", "empirical"]


def loss_cotangent(logits: Tensor, labels: Tensor) -> Tensor:
    """The gradient p - y (..., m, C) of each example's cross-entropy; at the label minus the others' sum."""
    return towards(torch.softmax(logits.detach(), -1), labels[..., None])


def exact_cotangents(logits: Tensor) -> Iterator[Tensor]:
    """C cotangents (..., m, C) whose squares add up to diag(p) - p p' of each example."""
    p = torch.softmax(logits.detach(), -1)
    for c in range(p.shape[-1]):
        yield towards(p, torch.full_like(p[..., :1], c, dtype=torch.int64)) * p[..., c : c + 1].sqrt()


def sampled_cotangents(logits: Tensor, uniforms: Tensor) -> Iterator[Tensor]:
    """As many cotangents (..., m, C) as ``uniforms`` (m, samples) in [0, 1) has columns; unbiased for diag(p) - p p'.

    Column s draws example i's class by its number u_is, so a draw belongs to the example and not to the batch.
    """
    p = torch.softmax(logits.detach(), -1)
    edges = p.cumsum(-1)
    u = uniforms.to(edges).expand(*edges.shape[:-1], -1) * edges[..., -1:]
    drawn = torch.searchsorted(edges, u, right=True).clamp(max=p.shape[-1] - 1)
    for s in range(uniforms.shape[1]):
        yield towards(p, drawn[..., s : s + 1]) / uniforms.shape[1] ** 0.5


def cotangents(kind: Fisher, logits: Tensor, labels: Tensor, uniforms: Tensor) -> Iterator[Tensor]:
    """The cotangents of one batch; ``"auto"`` is exact up to 20 classes and sampled above."""
    if kind == "empirical":
        return iter([loss_cotangent(logits, labels)])
    if kind == "exact" or (kind == "auto" and logits.shape[-1] <= MAX_EXACT_CLASSES):
        return exact_cotangents(logits)
    return sampled_cotangents(logits, uniforms)


def towards(p: Tensor, classes: Tensor) -> Tensor:
    """p - e_c, without cancellation at c; classes is (..., m, 1)."""
    others = p.scatter(-1, classes, 0.0)
    return others.scatter(-1, classes, -others.sum(-1, keepdim=True))
