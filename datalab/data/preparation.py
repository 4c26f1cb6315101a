"""From a data set to what a model trains on: split, cut to size, encoded with everything fitted on train only."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from datalab.data import cache, encoders, splits
from datalab.data.registry import REGISTRY, check_names
from datalab.data.tables import Dataset, load
from datalab.errors import UserError, did_you_mean
from datalab.seeds import generator

ENCODERS = {"fast": encoders.fast, "pretrained": encoders.pretrained}


@dataclass(frozen=True, eq=False)
class Prepared:
    """One split of one data set, encoded. Labels are clean.

    ``x_*`` (n, d) float32, C-contiguous; ``y_*`` (n,) int64 in 0..n_classes-1; ``grid`` (channels, height, width)
    with product d, (1, 1, d) where the columns have no layout; ``*_ids`` (n,) the rows' ids in the
    :class:`~datalab.data.tables.Dataset`; ``human_labels_train`` and ``human_labels_val`` (n,) one random rater's
    labels, or None; ``dropped_classes`` names of classes too small to split; ``sha256`` of the content.
    """

    name: str
    x_train: np.ndarray
    x_val: np.ndarray
    x_test: np.ndarray
    y_train: np.ndarray
    y_val: np.ndarray
    y_test: np.ndarray
    n_classes: int
    class_names: tuple[str, ...]
    grid: tuple[int, int, int]
    train_ids: np.ndarray
    val_ids: np.ndarray
    test_ids: np.ndarray
    human_labels_train: np.ndarray | None
    human_labels_val: np.ndarray | None
    dropped_classes: tuple[str, ...]
    sha256: str


def prepare(name: str, seed: int, root_seed: int, caps: Mapping[str, int | None], encoder: str = "fast") -> Prepared:
    """Split data set ``name`` by the generator ``(root_seed, name, "split", seed)``, cut to ``caps`` and encode it.

    ``caps`` holds the most rows for ``train``, ``validation`` and ``test``; a part left out is not cut. ``encoder``
    is ``fast`` (TF-IDF with truncated SVD, standardised pixels, one-hot tables) or ``pretrained``. Equal arguments
    give equal bytes in every process. Raises :class:`UserError` for an unknown name or encoder, impossible caps, and
    a data set or encoder that is not on disk.
    """
    check_names([name])
    if encoder not in ENCODERS:
        raise UserError(f"unknown encoder '{encoder}'{did_you_mean(str(encoder), tuple(ENCODERS))}")
    dataset = load(name)
    rows = splits.split(dataset.labels, dataset.groups, generator(root_seed, name, "split", seed), caps)
    names, dropped = dataset.class_names, rows.dropped_classes
    kept = [label for label in range(len(names)) if label not in dropped]
    recode = np.full(len(names), -1, dtype=np.int64)
    recode[kept] = np.arange(len(kept))
    ids = (rows.train, rows.validation, rows.test)
    x, grid = _encoded(dataset, ids, encoder)
    y = [recode[dataset.labels[part]] for part in ids]
    rated = human_labels(dataset, generator(root_seed, name, "human", seed))
    human = (None, None) if rated is None else [recode[rated[part]] for part in ids[:2]]
    kept_names, dropped_names = (tuple(names[label] for label in labels) for labels in (kept, dropped))
    prepared = Prepared(name, *x, *y, len(kept), kept_names, grid, *ids, *human, dropped_names, sha256="")
    return replace(prepared, sha256=_content_hash(prepared))


def human_labels(dataset: Dataset, rng: np.random.Generator) -> np.ndarray | None:
    """One random rater's label for every row (n,); None for a set whose raters are not known one by one."""
    if dataset.votes is None:
        return None
    draws = rng.random(len(dataset))
    return np.asarray([votes[int(draw * len(votes))] for votes, draw in zip(dataset.votes, draws, strict=True)])


def _encoded(dataset: Dataset, ids: Sequence[np.ndarray], name: str) -> tuple[list[np.ndarray], tuple[int, int, int]]:
    """The three parts encoded. Text costs seconds, so its arrays are kept in the cache under their content's hash."""
    encoder = ENCODERS[name](dataset, REGISTRY[dataset.name])
    file = None
    if encoder.cache_key is not None:
        key = hashlib.sha256(json.dumps([dataset.sha256, encoder.cache_key]).encode())
        for rows in ids:
            key.update(rows.tobytes() + b"|")
        file = cache.subfolder("encoded") / f"{dataset.name}-{key.hexdigest()[:24]}.npz"
        if (arrays := cache.stored(file)) is not None:
            return [arrays["train"], arrays["val"], arrays["test"]], tuple(arrays["grid"].tolist())
    encoder.fit(ids[0])
    x = [np.ascontiguousarray(encoder.transform(rows), dtype=np.float32) for rows in ids]
    if file is not None:
        cache.store(file, train=x[0], val=x[1], test=x[2], grid=np.asarray(encoder.grid))
    return x, encoder.grid


def _content_hash(prepared: Prepared) -> str:
    digest = hashlib.sha256()
    for name, value in vars(prepared).items():
        if name == "sha256":
            continue
        digest.update(f"\x1f{name}=".encode())
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
        else:
            digest.update(json.dumps(value).encode())
    return digest.hexdigest()
