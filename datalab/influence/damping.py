"""How scores move with the damping, the one choice that every estimator leaves to its user."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score
from torch import Tensor

from datalab.errors import UserError
from datalab.influence.estimator import Estimator
from datalab.influence.retraining import Subsets, lds


def damping_path(
    estimator: Estimator,
    dampings: Sequence[float],
    x: Tensor,
    y: Tensor,
    *,
    flipped: np.ndarray | None = None,
    test: tuple[Tensor, Tensor] | None = None,
    subsets: Subsets | None = None,
) -> pd.DataFrame:
    """A row for each damping, and one for the estimator's own, from one curvature.

    Parameters
    ----------
    estimator
        Fitted, on one model, with one damping (DataInf's automatic one is a number a layer).
    dampings
        Numbers above 0.
    x, y
        The training set (n, ...), (n,).
    flipped
        (n,) bool, which labels are known to be wrong; adds ``auroc``, of self-influence for finding them.
    test, subsets
        A test set and the models trained on random subsets (:func:`~datalab.influence.retraining.retrained_on_halves`);
        adds ``lds``, the mean over test examples of the linear datamodeling score.

    Columns: ``damping``; ``own``, whether it is the estimator's; ``median``, the median self-influence; ``spearman``,
    the rank correlation of self-influence with that under the estimator's own damping; ``auroc`` and ``lds`` as asked
    for. Rows by rising damping. Raises UserError where something does not fit.
    """
    if not isinstance(getattr(estimator, "damping_", None), float):
        raise UserError("estimator: must be fitted, on one model, with one damping for all its layers")
    if not len(dampings) or not all(d > 0 for d in dampings):
        raise UserError(f"dampings: need numbers above 0, got {list(dampings)}")
    if (test is None) != (subsets is None):
        raise UserError("test, subsets: need both or neither")
    if flipped is not None and len(flipped) != len(x):
        raise UserError(f"flipped: need one per example, got {len(flipped)} for {len(x)}")
    own = _numpy(estimator.self_influence(x, y))
    rows = []
    for damping in sorted({*dampings, estimator.damping_}):
        moved = estimator.redamped(float(damping))
        scores = _numpy(moved.self_influence(x, y))
        row = {"damping": float(damping), "own": damping == estimator.damping_, "median": float(np.median(scores))}
        row["spearman"] = float(scipy_stats.spearmanr(scores, own).statistic)
        if flipped is not None:
            row["auroc"] = float(roc_auc_score(flipped, scores))
        if test is not None and subsets is not None:
            row["lds"] = float(lds(moved.pairwise(x, y, *test), subsets).mean())
        rows.append(row)
    return pd.DataFrame(rows)


def _numpy(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
