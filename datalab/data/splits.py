"""Train, validation and test rows: stratified by class, or whole groups apart, then cut to size, class by class."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from datalab.errors import UserError
from datalab.protocol import protocol

PARTS = ("train", "validation", "test")
LEAST = {"train": 2, "validation": 1, "test": 1}  # rows of every class in each part


@dataclass(frozen=True, eq=False)
class Split:
    """Row ids of the three parts, disjoint and in random order, and the classes too small to be split."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    dropped_classes: tuple[int, ...]


def check_caps(caps: Mapping[str, int | None]) -> dict[str, int | None]:
    """``caps`` with every part named; a part left out or None is not cut. Raises :class:`UserError`."""
    for part, cap in caps.items():
        if part not in PARTS:
            raise UserError(f"caps: unknown part '{part}'; the parts are {', '.join(PARTS)}")
        if cap is not None and (isinstance(cap, bool) or not isinstance(cap, (int, np.integer)) or cap < 1):
            raise UserError(f"caps: {part} must be a whole number of rows from 1, or None; got {cap!r}")
    return {part: caps.get(part) for part in PARTS}


def allot(counts: np.ndarray, cap: int | None, least: int) -> np.ndarray:
    """How many rows of each class to keep so that they sum to at most ``cap``, in proportion to ``counts`` (C,).

    Largest remainder, ties to the lower class; every class keeps ``least`` rows (or all it has).
    """
    if cap is None or cap >= counts.sum():
        return counts.copy()
    floor = np.minimum(counts, least)
    if floor.sum() > cap:
        raise UserError(
            f"caps: {cap} rows cannot hold {least} of each of {len(counts)} classes; give {floor.sum()} or more"
        )
    quota = cap * counts / counts.sum()
    rows = np.maximum(np.floor(quota).astype(np.int64), floor)
    while rows.sum() > cap:  # the floors took too much: give back where we are furthest above the quota
        rows[np.argmax(np.where(rows > floor, rows - quota, -np.inf))] -= 1
    while rows.sum() < cap:
        rows[np.argmax(np.where(rows < counts, quota - rows, -np.inf))] += 1
    return rows


def split(
    labels: np.ndarray, groups: np.ndarray | None, rng: np.random.Generator, caps: Mapping[str, int | None]
) -> Split:
    """Split rows with ``labels`` (n,) by the protocol's shares and cut each part to its cap by class.

    With ``groups`` (n,) every group lies in one part. A class that cannot have two train rows and one in each other
    part (without groups: fewer than four rows) is dropped before the split.
    """
    caps, shares = check_caps(caps), protocol().splits
    if groups is None:
        parts, dropped = _by_class(labels, rng, shares)
    else:
        parts = _by_group(groups, rng, shares)
        present = [np.bincount(labels[rows], minlength=labels.max() + 1) for rows in parts]
        dropped = np.flatnonzero((present[0] < LEAST["train"]) & (np.bincount(labels) > 0)).tolist()
        parts = [rows[~np.isin(labels[rows], dropped)] for rows in parts]
    cut = []
    for part, rows in zip(PARTS, parts, strict=True):
        classes, counts = np.unique(labels[rows], return_counts=True)
        kept = allot(counts, caps[part], LEAST[part])
        rows = np.concatenate([rows[labels[rows] == c][:k] for c, k in zip(classes, kept, strict=True)])
        cut.append(rng.permutation(rows).astype(np.int64))
    return Split(*cut, dropped_classes=tuple(dropped))


def _by_class(labels: np.ndarray, rng: np.random.Generator, shares: Mapping) -> tuple[list[np.ndarray], list[int]]:
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    parts: list[list[np.ndarray]] = [[], [], []]
    dropped = []
    ends = np.cumsum(np.bincount(labels))
    for label, rows in enumerate(np.split(order, ends[:-1])):
        n = len(rows)
        if n < sum(LEAST.values()):
            dropped += [label] if n else []
            continue
        train = min(max(round(shares["train"] * n), LEAST["train"]), n - 2)
        test = min(max(round(shares["test"] * n), LEAST["test"]), n - train - 1)
        for part, piece in zip(parts, np.split(rows, [train, n - test]), strict=True):
            part.append(piece)
    return [np.concatenate(pieces) for pieces in parts], dropped


def _by_group(groups: np.ndarray, rng: np.random.Generator, shares: Mapping) -> list[np.ndarray]:
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) < 3:
        raise UserError(f"a grouped split needs at least 3 groups; there are {len(names)}")
    order = rng.permutation(len(names))
    reached = np.cumsum(sizes[order]) / sizes.sum()
    # The cut after the group that brings us nearest to the share, leaving one group at least for every part.
    first = 1 + int(np.argmin(np.abs(reached[: len(names) - 2] - shares["train"])))
    target = shares["train"] + shares["validation"]
    second = first + 1 + int(np.argmin(np.abs(reached[first : len(names) - 1] - target)))
    rows = rng.permutation(len(groups))
    return [rows[np.isin(groups[rows], names[piece])] for piece in np.split(order, [first, second])]
