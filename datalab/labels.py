"""Labels as people have them, made one kind of array, or refused by name: the one place that knows a label's types.

Text, bytes, dates, booleans, whole numbers in any type (floats, -1/1, nullable, one column of a matrix) become a plain
array without a gap, whose equal entries are equal labels. What numpy would turn into something else in silence (masked
entries, sparse matrices, "1" compared with 1, a share taken for a class) is refused in one line.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datalab.errors import UserError

KINDS = {"i": "whole numbers", "U": "text", "M": "dates"}


class Classes(NamedTuple):
    """``codes`` (n,) int64 in 0..C-1, and ``names`` (C,), the labels they stand for, in ascending order."""

    codes: NDArray[np.int64]
    names: NDArray


def dense(values: Any, what: str) -> NDArray:
    """Any array as numpy's. Raises UserError for what ``np.asarray`` would drop or wrap: a mask, a sparse matrix."""
    if np.ma.isMaskedArray(values):
        if gaps := int(np.ma.getmaskarray(values).sum()):
            raise UserError(f"{what}: {gaps} entries are masked; drop these rows, or fill them, first")
        return np.asarray(values.data)
    if (hasattr(values, "toarray") and hasattr(values, "nnz")) or getattr(values, "is_sparse", False):
        raise UserError(f"{what}: a sparse matrix of shape {tuple(values.shape)}; pass a dense array (.toarray())")
    if hasattr(values, "detach"):  # a tensor, perhaps on a device
        values = values.detach().cpu().numpy()
    if hasattr(values, "dtype") and hasattr(values, "isna"):  # pandas: its missing values survive no cast to numbers
        if gaps := int(np.asarray(values.isna()).sum()):
            raise UserError(f"{what}: {gaps} entries are missing; drop these rows first")
        values = values.to_numpy()
    try:
        return np.asarray(values)
    except ValueError:
        raise UserError(f"{what}: rows of different lengths make no array; pass one entry an example") from None


def plain(labels: Any, what: str = "labels") -> NDArray:
    """Labels of any type and shape as int64, text or datetime64, whose equal entries are equal labels.

    A matrix of one column (n, 1) becomes (n,). Raises UserError for a missing or masked label, a number that is not
    whole, text and numbers mixed, and whatever is no label (complex, nested, sparse).
    """
    y = dense(labels, what)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype == object:
        y = _of_objects(y, what)
    if y.dtype.kind == "S":
        y = _decoded(y, what)
    if y.dtype.kind in "biu":
        if y.size and y.dtype.kind == "u" and y.max() > np.iinfo(np.int64).max:
            raise UserError(f"{what}: {y.max()} is too large for a class; pass such ids as text")
        return y.astype(np.int64)
    if y.dtype.kind == "f":
        return _whole(y, what)
    if y.dtype.kind == "M" and np.isnat(y).any():
        raise UserError(f"{what}: {np.isnat(y).sum()} dates are missing; drop these rows first")
    if y.dtype.kind not in KINDS:
        raise UserError(f"{what}: {y.dtype} is no label; use text, whole numbers, booleans or dates")
    return y


def classes(labels: Any, what: str = "labels") -> Classes:
    """The class of every label (n,) of any type, numbered by ascending label. Raises UserError as :func:`plain`."""
    y = plain(labels, what)
    if y.ndim != 1:
        hint = "for one-hot rows or votes pass .argmax(1)" if y.ndim == 2 else "pass one label an example"
        raise UserError(f"{what}: shape {y.shape} will not do, need (n,); {hint}")
    names, codes = np.unique(y, return_inverse=True)
    return Classes(codes.astype(np.int64), names)


def codes(labels: Any, n_classes: int | None = None, what: str = "labels") -> NDArray[np.int64]:
    """Labels that index a class's column: whole numbers in 0..n_classes-1, of any shape, in any type that holds them.

    Raises UserError for anything else; for text it names :func:`classes`, which numbers it.
    """
    y = plain(labels, what)
    if y.dtype.kind != "i":
        raise UserError(f"{what}: {KINDS[y.dtype.kind]} name no column; number them: datalab.labels.classes(y).codes")
    if y.size and (y.min() < 0 or (n_classes is not None and y.max() >= n_classes)):
        upto = "..." if n_classes is None else n_classes - 1
        hint = "; number them: datalab.labels.classes(y).codes" if y.min() < 0 else ""
        raise UserError(f"{what}: must lie in 0..{upto}, got {y.min()}..{y.max()}{hint}")
    return y


def flags(values: Any, what: str) -> NDArray[np.bool_]:
    """True or False, or 1 and 0 in any type that holds them. Raises UserError for other values, such as shares."""
    y = plain(values, what)
    if y.dtype.kind != "i" or not ((y == 0) | (y == 1)).all():
        raise UserError(f"{what}: must be True or False (or 1 and 0), got {y.flat[0]!r} and others")
    return y.astype(bool)


def same(a: ArrayLike, b: ArrayLike, what: tuple[str, str]) -> NDArray[np.bool_]:
    """Where two arrays of labels agree. Raises UserError for shapes or kinds that cannot be compared."""
    first, second = plain(a, what[0]), plain(b, what[1])
    if first.shape != second.shape:
        raise UserError(f"labels: {what[0]} and {what[1]} must have one shape, got {first.shape} and {second.shape}")
    if first.dtype.kind != second.dtype.kind and first.size:
        kinds = [KINDS[y.dtype.kind] for y in (first, second)]
        raise UserError(f"labels: {what[0]} are {kinds[0]}, {what[1]} {kinds[1]}; pass both as one kind")
    return first == second


def shares(values: Any, what: str = "probabilities") -> NDArray[np.floating]:
    """Probabilities (..., C): finite, in [0, 1], summing to 1 over the last axis (within .01: half precision).

    Raises UserError, naming percentages, votes or logits where they look like it.
    """
    p = dense(values, what)
    if p.ndim < 1 or p.dtype.kind not in "biuf":
        raise UserError(f"{what}: must be numbers (..., C), got {p.dtype} of shape {p.shape}")
    p = p if p.dtype.kind == "f" else p.astype(np.float64)
    if not p.size:
        return p
    low, high, sums = p.min(), p.max(), p.sum(-1, dtype=np.float64)
    if not np.isfinite(low + high):
        raise UserError(f"{what}: must be finite, got {int((~np.isfinite(p)).sum())} entries that are not")
    if low < -1e-6 or np.abs(sums - 1).max() > 0.01:
        looks = "logits, which softmax makes probabilities" if low < 0 else "votes; divide each row by its sum"
        if low >= 0 and np.abs(sums - 100).max() <= 1:
            looks = "percentages; divide by 100"
        raise UserError(f"{what}: rows must be in [0, 1] and sum to 1, got {low:g}..{high:g}; these look like {looks}")
    return p


def _of_objects(y: NDArray, what: str) -> NDArray:
    """An array of Python objects as the one kind that all of them are."""
    missing = [value is None or value != value for value in y.flat]  # NaN and NaT differ from themselves
    if gaps := sum(missing):
        raise UserError(f"{what}: {gaps} entries are missing; drop these rows first")
    values = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in y.flat]
    if not values or all(isinstance(value, str) for value in values):
        return np.array(values, dtype=str).reshape(y.shape)
    if any(isinstance(value, str) for value in values):
        raise UserError(f"{what}: text and other values mixed, such as {y.flat[0]!r}; pass one kind")
    kinds = {np.asarray(value).dtype.kind for value in values}
    made = np.array(values) if kinds <= set("biuf") else np.array([])
    if not made.size:
        dates = [str(value) for value in values if hasattr(value, "isoformat")]
        if len(dates) != len(values):
            raise UserError(f"{what}: {type(y.flat[0]).__name__} is no label; use text, numbers, booleans or dates")
        made = np.array(dates)
    return made.reshape(y.shape)


def _decoded(y: NDArray, what: str) -> NDArray:
    try:
        return np.char.decode(y, "utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{what}: bytes that are not UTF-8; decode them first") from None


def _whole(y: NDArray, what: str) -> NDArray[np.int64]:
    if gaps := int((~np.isfinite(y)).sum()):
        raise UserError(f"{what}: {gaps} entries are missing or not finite; drop these rows first")
    odd = y[(y != np.round(y)) | (np.abs(y) > 2**53)]
    if odd.size:
        raise UserError(f"{what}: {odd[0]:g} is a quantity, and classes are integers or text; bin it first")
    return y.astype(np.int64)
