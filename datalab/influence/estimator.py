"""The one interface of all estimators, and what they share: checking, batching, damping.

Signs and units (design: Koh & Liang 2017, eq. 2): for the per-example loss l without a regulariser, and H the mean
curvature over the training set, ``influence_on`` and ``pairwise`` are -grad L' (H + d I)^-1 grad l_i, the derivative
of the target loss (nats) with respect to example i's weight in a mean loss that otherwise stays as it is. Positive:
more weight on i raises the target's loss. The diagonal of ``pairwise`` on the training set is minus the
self-influence.
"""

import math
from abc import ABC, abstractmethod
from typing import Literal, Self

import torch
from torch import Tensor, nn

from datalab.errors import UserError
from datalab.influence import features
from datalab.influence.features import Factors

AUTO_RELATIVE = 1e-3


class Estimator(ABC):
    """Influence on one model, from any of its curvatures.

    Parameters
    ----------
    model
        Maps x (n, ...) to logits (n, C); its dtype and device are those of all results. It is not changed.
    damping
        d, at least 0, or ``"auto"``: d = l2 + 1e-3 * mean diagonal of H over the parameters that the estimator covers.
    l2
        The penalty of training, l2/2 |theta|^2; ``"auto"`` adds it, since it is curvature. A damping given in numbers
        is used as it is.
    batch_size
        Examples per pass; bounds the memory and changes no result.

    After ``fit``, ``damping_`` is d and ``n_`` the size of the training set.
    """

    def __init__(
        self, model: nn.Module, damping: float | Literal["auto"] = "auto", *, l2: float = 0.0, batch_size: int = 512
    ):
        if damping != "auto" and not (isinstance(damping, int | float) and math.isfinite(damping) and damping >= 0):
            raise UserError(f"damping: must be 'auto' or a number of at least 0, got {damping!r}")
        if not (math.isfinite(l2) and l2 >= 0):
            raise UserError(f"l2: must be a number of at least 0, got {l2!r}")
        if batch_size < 1:
            raise UserError(f"batch_size: must be at least 1, got {batch_size}")
        self.model, self.damping, self.l2, self.batch_size = model, damping, l2, batch_size

    def fit(self, x: Tensor, y: Tensor) -> Self:
        """Take the curvature on the training set x (n, ...), y (n,) int64."""
        x, y = self._checked("x, y", x, y)
        self._fit(x, y)
        self.n_ = len(x)
        return self

    def self_influence(self, x: Tensor, y: Tensor) -> Tensor:
        """g_i' (H + d I)^-1 g_i of each example, (n,), at least 0; high = the model bends itself to fit it."""
        x, y = self._checked("x, y", x, y, fitted=True)
        return torch.cat([self._self_influence(self._factors(*batch)) for batch in self._batches(x, y)])

    def influence_on(self, x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor) -> Tensor:
        """Influence of each example of x (n, ...), y (n,) on the mean loss of the target set, (n,): one solve."""
        x, y = self._checked("x, y", x, y, fitted=True)
        x_val, y_val = self._checked("x_val, y_val", x_val, y_val)
        sums = [[features.total(f) for f in self._factors(*batch)] for batch in self._batches(x_val, y_val)]
        return self._influence(x, y, self._solve(features.mean(sums, len(x_val))))[0]

    def pairwise(self, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Tensor:
        """Influence of each example of x (n, ...), y (n,) on the loss of each test example, (n_test, n)."""
        x, y = self._checked("x, y", x, y, fitted=True)
        x_test, y_test = self._checked("x_test, y_test", x_test, y_test)
        rows = []
        for batch in features.batches(x_test, y_test, min(self.batch_size, 64)):
            solved = self._solve([features.per_example(f) for f in self._factors(*batch)])
            rows.append(self._influence(x, y, solved))
        return torch.cat(rows)

    @abstractmethod
    def _fit(self, x: Tensor, y: Tensor) -> None:
        """Take the curvature and set ``damping_``."""

    @abstractmethod
    def _factors(self, x: Tensor, y: Tensor) -> list[Factors]:
        """The loss gradients of one batch, layer by layer."""

    @abstractmethod
    def _self_influence(self, factors: list[Factors]) -> Tensor:
        """Of one batch, (m,)."""

    @abstractmethod
    def _solve(self, gradients: list[Tensor]) -> list[Tensor]:
        """(H + d I)^-1 of k gradients, each layer's (k, out, in)."""

    def _influence(self, x: Tensor, y: Tensor, solved: list[Tensor]) -> Tensor:
        def rows(batch: tuple[Tensor, Tensor]) -> Tensor:
            return -sum(features.dot(f, v) for f, v in zip(self._factors(*batch), solved, strict=True))

        return torch.cat([rows(batch) for batch in self._batches(x, y)], dim=1)

    def _batches(self, x: Tensor, y: Tensor) -> features.Iterator[tuple[Tensor, Tensor]]:
        return features.batches(x, y, self.batch_size)

    def _auto(self, mean_diagonal: float) -> float:
        return self.l2 + AUTO_RELATIVE * mean_diagonal if self.damping == "auto" else float(self.damping)

    def _checked(self, name: str, x: Tensor, y: Tensor, fitted: bool = False) -> tuple[Tensor, Tensor]:
        if fitted and not hasattr(self, "n_"):
            raise UserError(f"{type(self).__name__}: call fit(x_train, y_train) first")
        like = next(self.model.parameters(), None)
        if like is None:
            raise UserError("model: has no Linear or Conv2d layer, nothing to differentiate")
        x, y = torch.as_tensor(x, device=like.device), torch.as_tensor(y, device=like.device)
        x = x.to(like.dtype) if x.is_floating_point() else x
        if y.dim() != 1 or x.dim() < 2 or len(x) != len(y) or not len(x):
            raise UserError(f"{name}: need x (n, ...) and y (n,) with n > 0, got {tuple(x.shape)} and {tuple(y.shape)}")
        if y.is_floating_point() or y.dtype == torch.bool:
            raise UserError(f"{name}: y must be integer class labels, got {y.dtype}")
        if not torch.isfinite(x).all():
            raise UserError(f"{name}: x must be finite, got NaN or infinity")
        with torch.no_grad():
            n_classes = self.model(x[:1]).shape[-1]
        if y.min() < 0 or y.max() >= n_classes:
            raise UserError(f"{name}: labels must lie in 0..{n_classes - 1}, got {int(y.min())}..{int(y.max())}")
        return x, y.long()
