"""Encoders: what turns rows of a data set into the vectors a model sees. One interface, fitted on train rows only.

``encoder.fit(train_ids)``, ``encoder.transform(ids) -> (n, d) float32``, ``encoder.grid`` (channels, height, width)
with product d, and ``encoder.cache_key``: None where encoding is so cheap that keeping its result would not pay.
``fast(dataset, spec)`` and ``pretrained(dataset, spec)`` choose the encoder for a data set.
"""

import inspect
from typing import Protocol, Self

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from datalab.data.pretrained import Embedding, embed_images, embed_texts, encoder_of, grey_values
from datalab.data.registry import DatasetSpec
from datalab.data.tables import Dataset

TEXT_COMPONENTS = 64
WIDE_FROM = 250  # a table of more columns is projected on as many directions as a text
RARE_SHARE = 0.01  # a level seen in fewer train rows than this joins the level "rare"
CLIP = 10.0  # standard deviations: what lies beyond counts as this far
POOL_FROM = 16  # images of at least this many rows lose their margin and are pooled 2 x 2 by the fast encoder
MARGIN = 7  # the margin is a seventh of the side: MNIST draws its digits inside the middle 20 of 28 pixels


class Encoder(Protocol):
    """What every encoder offers."""

    grid: tuple[int, int, int]
    cache_key: str | None = None

    def fit(self, ids: np.ndarray) -> Self:
        """Take means, vocabularies and levels from the rows ``ids`` (n,)."""
        ...

    def transform(self, ids: np.ndarray) -> np.ndarray:
        """The rows ``ids`` (n,) as (n, d) float32."""
        ...


def fast(dataset: Dataset, spec: DatasetSpec) -> Encoder:
    """TF-IDF with truncated SVD for text, standardised pooled pixels for images, dummies and z-scores for tables."""
    if spec.modality == "text":
        return TfidfSvd(dataset, characters=spec.tokens == "characters")
    if spec.modality == "image":
        large = spec.grid[1] >= POOL_FROM
        return Pixels(dataset, spec.grid, pool=2 if large else 1, margin=spec.grid[1] // MARGIN if large else 0)
    return WideTable(dataset) if spec.features > WIDE_FROM else DummyTable(dataset)


def pretrained(dataset: Dataset, spec: DatasetSpec) -> Encoder:
    """MiniLM for text, EfficientNet-Lite0 for images of 8 x 8 pixels and more; what has neither, as ``fast`` unpooled.

    Raises :class:`UserError` when the weights are not on disk.
    """
    name = encoder_of(spec)
    if name == "minilm":
        return Embedding(dataset, name, embed_texts, dataset.features["text"])
    if name:
        return Embedding(dataset, name, embed_images, grey_values(dataset, spec))
    return Pixels(dataset, spec.grid) if spec.modality == "image" else fast(dataset, spec)


class Pixels(Encoder):
    """Pixels without a ``margin``, pooled by means of ``pool`` x ``pool`` blocks, each standardised.

    The divisor is sqrt(variance of the pixel + a tenth of the mean variance), so that a pixel lit in one train image
    does not come out hundreds of standard deviations high in a test image, and a flat pixel stays near zero.
    """

    def __init__(self, dataset: Dataset, grid: tuple[int, int, int], pool: int = 1, margin: int = 0):
        channels, height, width = grid
        self.dataset, self.source, self.pool, self.margin = dataset, grid, pool, margin
        self.grid = (channels, (height - 2 * margin) // pool, (width - 2 * margin) // pool)

    def _pooled(self, ids: np.ndarray) -> np.ndarray:
        pixels = self.dataset.features.iloc[ids].to_numpy(dtype=np.float64).reshape(len(ids), *self.source)
        channels, height, width = self.grid
        inner = [slice(self.margin, self.margin + side * self.pool) for side in (height, width)]
        blocks = pixels[:, :, *inner].reshape(len(ids), channels, height, self.pool, width, self.pool)
        return blocks.mean(axis=(3, 5)).reshape(len(ids), -1)

    def fit(self, ids: np.ndarray) -> Self:
        pixels = self._pooled(ids)
        variance = pixels.var(axis=0)
        self.mean_ = pixels.mean(axis=0)
        self.scale_ = np.sqrt(variance + 0.1 * variance.mean() + 1e-12)
        return self

    def transform(self, ids: np.ndarray) -> np.ndarray:
        return ((self._pooled(ids) - self.mean_) / self.scale_).astype(np.float32)


class DummyTable(Encoder):
    """Numbers as z-scores cut at ten, missing ones as the train median with a column that says so; category dummies.

    A category's most frequent level is its reference and has no column. Levels seen in under 1 % of the train rows
    share one column, when together they reach 1 %; a constant column is 0.
    """

    def __init__(self, dataset: Dataset):
        self.features = dataset.features
        self.numeric = [name for name in self.features if pd.api.types.is_numeric_dtype(self.features[name].dtype)]
        self.categorical = [name for name in self.features if name not in self.numeric]

    def fit(self, ids: np.ndarray) -> Self:
        values = self.features[self.numeric].iloc[ids].to_numpy(dtype=np.float64)
        absent = np.isnan(values)
        self.flagged_ = np.flatnonzero(absent.mean(axis=0) >= RARE_SHARE)
        present = [column[~gone] for column, gone in zip(values.T, absent.T, strict=True)]
        self.median_ = np.asarray([np.median(column) if len(column) else 0.0 for column in present])
        values = np.where(absent, self.median_, values)
        deviation = values.std(axis=0)
        self.mean_ = values.mean(axis=0)
        flat = deviation <= 1e-9 * np.maximum(1.0, np.abs(self.mean_))
        self.scale_ = np.where(flat, np.inf, deviation)
        self.levels_, self.dummies_, self.rare_ = {}, {}, {}
        for name in self.categorical:
            column = self.features[name].iloc[ids].cat
            share = np.bincount(column.codes + 1, minlength=len(column.categories) + 1) / len(ids)
            self.levels_[name] = np.flatnonzero(share >= RARE_SHARE)  # 0 stands for a missing value
            self.dummies_[name] = self.levels_[name][self.levels_[name] != share.argmax()]
            self.rare_[name] = share[share < RARE_SHARE].sum() >= RARE_SHARE
        return self

    @property
    def grid(self) -> tuple[int, int, int]:
        """(1, 1, d): the columns of a table have no layout. Known once fitted."""
        levels = sum(len(self.dummies_[name]) + self.rare_[name] for name in self.categorical)
        return (1, 1, len(self.numeric) + len(self.flagged_) + int(levels))

    def transform(self, ids: np.ndarray) -> np.ndarray:
        values = self.features[self.numeric].iloc[ids].to_numpy(dtype=np.float64)
        absent = np.isnan(values)
        scores = (np.where(absent, self.median_, values) - self.mean_) / self.scale_
        columns = [np.clip(scores, -CLIP, CLIP), absent[:, self.flagged_]]
        for name in self.categorical:
            codes = self.features[name].iloc[ids].cat.codes.to_numpy() + 1
            columns.append(codes[:, None] == self.dummies_[name])
            if self.rare_[name]:
                columns.append(~np.isin(codes, self.levels_[name])[:, None])
        return np.concatenate([column.astype(np.float32) for column in columns], axis=1)


class WideTable(Encoder):
    """A :class:`DummyTable` on its first 64 principal components, brought to mean variance 1 by one factor."""

    def __init__(self, dataset: Dataset, components: int = TEXT_COMPONENTS):
        self.table, self.components = DummyTable(dataset), components

    @property
    def cache_key(self) -> str:
        """Changes with the code and with scikit-learn and numpy."""
        import sklearn

        code = inspect.getsource(WideTable) + inspect.getsource(DummyTable)
        return f"{sklearn.__version__} {np.__version__} {self.components}\n{code}"

    @threadpool_limits.wrap(1)  # the order of a sum must not depend on the number of threads
    def fit(self, ids: np.ndarray) -> Self:
        from sklearn.decomposition import PCA

        x = self.table.fit(ids).transform(ids).astype(np.float64)
        self.directions_ = PCA(min(self.components, *x.shape), svd_solver="full").fit(x)
        self.scale_ = np.sqrt(self.directions_.explained_variance_.mean())
        self.grid = (1, 1, self.directions_.n_components_)
        return self

    @threadpool_limits.wrap(1)
    def transform(self, ids: np.ndarray) -> np.ndarray:
        projected = self.directions_.transform(self.table.transform(ids).astype(np.float64))
        return (projected / self.scale_).astype(np.float32)


class TfidfSvd(Encoder):
    """Words weighted by TF-IDF (1 + log tf, words of two train texts at least), then 64 singular directions.

    With ``characters`` single characters and pairs of them take the words' place, for languages written without
    spaces. The directions keep their relative sizes; one factor brings the mean variance to 1 (Deerwester et al. 1990).
    """

    def __init__(self, dataset: Dataset, components: int = TEXT_COMPONENTS, characters: bool = False):
        self.texts, self.components = dataset.features["text"], components
        self.cut = {"analyzer": "char", "ngram_range": (1, 2)} if characters else {"token_pattern": r"(?u)\b\w+\b"}

    @property
    def cache_key(self) -> str:
        """Changes with the code and with scikit-learn, numpy and scipy."""
        import scipy
        import sklearn

        versions = f"{sklearn.__version__} {np.__version__} {scipy.__version__} {self.components} {self.cut}"
        return f"{versions}\n{inspect.getsource(TfidfSvd)}"

    @threadpool_limits.wrap(1)  # the order of a sum must not depend on the number of threads
    def fit(self, ids: np.ndarray) -> Self:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        texts = self.texts.iloc[ids].tolist()
        for least in (2, 1):
            self.words_ = TfidfVectorizer(sublinear_tf=True, min_df=least, **self.cut)
            try:
                weighted = self.words_.fit_transform(texts)
                break
            except ValueError:  # no word occurs in two texts
                continue
        self.svd_ = TruncatedSVD(min(self.components, weighted.shape[1], len(ids)), random_state=0)
        projected = self.svd_.fit_transform(weighted)
        self.mean_, self.scale_ = projected.mean(axis=0), np.sqrt(projected.var(axis=0).mean())
        self.grid = (1, 1, projected.shape[1])
        return self

    @threadpool_limits.wrap(1)
    def transform(self, ids: np.ndarray) -> np.ndarray:
        projected = self.svd_.transform(self.words_.transform(self.texts.iloc[ids].tolist()))
        return ((projected - self.mean_) / self.scale_).astype(np.float32)
