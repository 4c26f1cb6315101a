"""Corrections for asking several questions at once. Both hold the family-wise error rate under any dependence."""

import numpy as np
from numpy.typing import ArrayLike

from datalab.errors import UserError
from datalab.labels import dense


def bonferroni(p: ArrayLike) -> np.ndarray:
    """Bonferroni-adjusted p of families ``(..., m)``: min(1, m p); compare with the uncorrected alpha.

    Equivalent to ``pingouin.multicomp(p, method="bonf")``, which takes one family at a time.
    """
    p = _family(p)
    return np.minimum(1.0, p * p.shape[-1])


def holm(p: ArrayLike) -> np.ndarray:
    """Holm's step-down adjusted p of families ``(..., m)`` (Holm 1979): never larger than Bonferroni's, same guarantee.

    Equivalent to ``pingouin.multicomp(p, method="holm")``, which takes one family at a time.
    """
    p = _family(p)
    order = np.argsort(p, axis=-1, kind="stable")
    stepped = np.take_along_axis(p, order, axis=-1) * np.arange(p.shape[-1], 0, -1)
    stepped = np.minimum(1.0, np.maximum.accumulate(stepped, axis=-1))
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, stepped, axis=-1)
    return adjusted


def _family(p: ArrayLike) -> np.ndarray:
    p = dense(p, "p-values").astype(float)
    if p.ndim == 0 or p.shape[-1] == 0:
        raise UserError("p-values: the family is empty; pass at least one p-value")
    if not np.all((p >= 0) & (p <= 1)):
        raise UserError("p-values: some lie outside [0, 1] or are nan; drop the tests that could not be made first")
    return p
