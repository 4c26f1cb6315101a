"""How scores move with the damping, the one choice that every estimator leaves to its user."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score
from torch import Tensor

from datalab.errors import UserError
from datalab.influence.estimator import Estimator


def damping_path(
    estimator: Estimator, dampings: Sequence[float], x: Tensor, y: Tensor, *, flipped: np.ndarray | None = None
) -> pd.DataFrame:
    """A row for each of ``dampings``, numbers above 0, and one for the estimator's own, from one curvature; rising.

    The estimator is fitted, on one model, with one damping (DataInf's automatic one is a number a layer); x (n, ...), y
    (n,) is the training set. Columns: ``damping``; ``own``, whether it is the estimator's; ``median``, the median
    self-influence; ``spearman``, its rank correlation with that under the estimator's own damping; and with
    ``flipped`` (n,) bool, which labels are known to be wrong, ``auroc`` for finding them. Raises UserError where
    something does not fit.
    """
    if not isinstance(getattr(estimator, "damping_", None), float):
        raise UserError("estimator: must be fitted, on one model, with one damping for all its layers")
    if not len(dampings) or not all(d > 0 for d in dampings):
        raise UserError(f"dampings: need numbers above 0, got {list(dampings)}")
    if flipped is not None and len(flipped) != len(x):
        raise UserError(f"flipped: need one per example, got {len(flipped)} for {len(x)}")
    own, rows = estimator.self_influence(x, y).double().cpu().numpy(), []
    for damping in sorted({*dampings, estimator.damping_}):
        scores = estimator.redamped(float(damping)).self_influence(x, y).double().cpu().numpy()
        row = {"damping": float(damping), "own": damping == estimator.damping_, "median": float(np.median(scores))}
        row["spearman"] = float(scipy_stats.spearmanr(scores, own).statistic)
        if flipped is not None:
            row["auroc"] = float(roc_auc_score(flipped, scores))
        rows.append(row)
    return pd.DataFrame(rows)
