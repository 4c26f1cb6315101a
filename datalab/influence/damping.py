"""How scores move with the damping, the one choice that every estimator leaves to its user."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score
from torch import Tensor

from datalab.errors import UserError
from datalab.influence.datainf import AUTO_SHARE, DataInf
from datalab.influence.estimator import AUTO_RELATIVE, Estimator, quiet
from datalab.influence.gradients import GradDot
from datalab.influence.retraining import Labelled, Subsets, lds
from datalab.influence.trak import TRAK
from datalab.stack import Stack


def relative_damping(estimator: Estimator | TRAK, relative: float, l2: float) -> float:
    """d = ``l2`` + ``relative`` times the mean diagonal of H, from an estimator fitted with ``l2`` and "auto" damping.

    The diagonal is read off that damping, a mean over models and sites; DataInf's and TRAK's is that of the gradients'
    second moment.
    """
    automatic = float(torch.as_tensor(estimator.damping_, dtype=torch.float64).mean()) - l2
    return l2 + relative * (automatic / (AUTO_SHARE if isinstance(estimator, DataInf) else AUTO_RELATIVE))


def lds_path(
    kind: type, stack: Stack, relatives: Sequence[float], train: Labelled, test: Labelled, subsets: Subsets, l2: float
) -> list[dict[str, Any]]:
    """The linear datamodeling score of S models' influence by an estimator of a ``kind``, or TRAK: a row a damping.

    A damping is ``l2`` + ``relative_damping`` times the mean diagonal of H. ``lds`` is that of the mean of the models'
    scores, ``each`` the mean of theirs, both means over the test examples; ``automatic`` says whether the damping is
    the estimator's default. DataInf's is none of ``relatives``: a row more, with a ``relative_damping`` of NaN.
    GradDot, which has none, has that row alone.
    """

    def row(relative: float, automatic: bool, alone: Tensor, together: Tensor) -> dict[str, Any]:
        each = np.mean([lds(pairwise, subsets).mean() for pairwise in alone])
        score = lds(together, subsets).mean()
        return {"relative_damping": relative, "automatic": bool(automatic), "lds": score, "each": each}

    rows, sets = [], (*train, *test)
    if kind is TRAK:  # takes models, not a stack; all are given one damping
        together, models = TRAK(list(stack), l2=l2).fit(*train), [TRAK(model, l2=l2).fit(*train) for model in stack]
        for relative in relatives:
            d = relative_damping(together, relative, l2)
            alone = torch.stack([estimator.redamped(d).pairwise(*sets) for estimator in models])
            rows.append(row(relative, relative == AUTO_RELATIVE, alone, together.redamped(d).pairwise(*sets)))
        return rows
    with quiet():
        estimator = kind(stack, l2=l2).fit(*train)
    own_rule = kind in (DataInf, GradDot)
    for relative in [*(relatives if kind is not GradDot else ()), *([np.nan] if own_rule else ())]:
        automatic = np.isnan(relative) if own_rule else relative == AUTO_RELATIVE
        moved = estimator if automatic else estimator.redamped(relative_damping(estimator, relative, l2))
        alone = moved.pairwise(*sets)
        rows.append(row(relative, automatic, alone, alone.mean(0)))
    return rows


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
