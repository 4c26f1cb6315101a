"""Influence without curvature: inner products of loss gradients, H + d I = I."""

from torch import Tensor

from datalab.errors import UserError
from datalab.influence.estimator import Batch, Directions, Estimator


class GradDot(Estimator):
    """H + d I is the identity: influence is -grad L' grad l_i, self-influence the squared gradient norm.

    ``damping`` plays no part. Self-influence is |g|^2 |a|^2 at each site where weights are not shared over positions,
    so it costs a forward and half a backward pass. It is the limit, times d, of an estimator that takes all of H, as d
    grows; and it predicts no retraining in nats, so ``leave_one_out`` refuses. Parameters:
    :class:`~datalab.influence.estimator.Estimator`.
    """

    def _fit(self, x: Tensor, y: Tensor) -> None:
        self._damp()
        for _ in self._batches(x, y):
            pass  # refuses what is not finite

    def _damp(self) -> None:
        self.damping_ = None

    def _solve(self, directions: Directions) -> Directions:
        return directions

    def _self_influence(self, batch: Batch) -> Tensor:
        return self._over_sites(f.square_norms() for f in self._factors(batch))

    def _against(self, x: Tensor, y: Tensor, tests: Batch) -> Tensor:
        targets = self._factors(tests)
        return self._columns(
            x, y, lambda batch: (f.products(t) for f, t in zip(self._factors(batch), targets, strict=True))
        )

    def _tests_at_once(self) -> int:
        return self.batch_size

    def _leave_one_out(self, x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor) -> Tensor:
        refuse_leave_one_out(type(self).__name__)

    def _warn_where_not_converged(self, x: Tensor, y: Tensor) -> None:
        pass  # it speaks of no optimum


def refuse_leave_one_out(name: str) -> None:
    """Raise UserError: what has no curvature of the training loss predicts no retraining in nats."""
    raise UserError(f"{name}: has no curvature, so it predicts no retraining; use EKFAC or ExactGGN")
