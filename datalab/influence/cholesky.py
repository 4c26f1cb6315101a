"""Solver: Cholesky in place, for a symmetric positive definite matrix of which only the lower triangle is read.

On the CPU by LAPACK through scipy, which copies nothing and is twice as fast as torch's on processors not of Intel.
"""

from collections.abc import Sequence

import torch
from scipy.linalg import get_blas_funcs, get_lapack_funcs
from torch import Tensor

from datalab.errors import UserError


def factorise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The factor L of ``matrix`` (D, D) in the lower triangle, and a number that is 0 where it is positive definite.

    The upper triangle is neither read nor cleared. A C-contiguous matrix is overwritten. Equivalent to
    ``torch.linalg.cholesky_ex``. The number is for ``refuse_indefinite``, once for many: it waits for the device.
    """
    if matrix.device.type != "cpu":
        return torch.linalg.cholesky_ex(matrix)
    a = matrix.numpy().T  # row-major lower = column-major upper
    (potrf,) = get_lapack_funcs(("potrf",), (a,))
    upper, info = potrf(a, lower=0, clean=0, overwrite_a=1)
    return torch.from_numpy(upper.T), torch.tensor(info)


def refuse_indefinite(infos: Sequence[Tensor], dampings: Tensor, dtype: torch.dtype) -> None:
    """Raise UserError where a curvature with one of ``dampings`` (k,) on its diagonal was not positive definite."""
    bad = torch.stack(list(infos)) != 0
    if bool(bad.any()):
        damping, why = float(dampings[int(bad.int().argmax())]), f"is not positive definite in {str(dtype)[6:]}"
        raise UserError(f"damping: the curvature plus {damping:.3g} {why}; a larger damping would be")


def solve(factor: Tensor, right: Tensor) -> Tensor:
    """(L L')^-1 ``right`` for ``right`` (D, m); overwritten where it is C-contiguous."""
    return half_solve(factor, half_solve(factor, right), transposed=True)


def half_solve(factor: Tensor, right: Tensor, transposed: bool = False) -> Tensor:
    """L^-1 ``right``, or L'^-1 ``right``, likewise."""
    if factor.device.type != "cpu":
        return torch.linalg.solve_triangular(factor.mT if transposed else factor, right, upper=transposed)
    # (L^-1 R)' = R' U^-1, with U = L' as BLAS sees it
    a, b = factor.numpy().T, right.numpy().T
    (trsm,) = get_blas_funcs(("trsm",), (a, b))
    return torch.from_numpy(trsm(1.0, a, b, side=1, lower=0, trans_a=int(transposed), overwrite_b=1).T)
