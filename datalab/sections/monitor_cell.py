"""Cells of section 5.1: a monitor on a production stream that shifts, and DATA-LAB's weights on top of pruning."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datalab import data, encoders, framework, metrics, models, pruning, seeds
from datalab.influence import LastLayerGGN
from datalab.influence.estimator import quiet
from datalab.protocol import protocol
from datalab.sections.trial import DATALAB, Trial, fit_datalab
from datalab.training import AnyStack, fit_many, protocol_recipe

STATISTICS = ("influence", "leverage", "low confidence")
STREAMS = {"flights-origin": "time", "smartwatch": "subject"}  # any set of images: corruption
CORRUPTION = 2.0  # standard deviations of noise at the stream's end
TRAIN, REFERENCE = 1000, 1000
PRUNED_BY = ("el2n", "loss")


def kind_of(dataset: str) -> str | None:
    """How a data set's stream shifts: by ``time``, ``subject`` or ``corruption``; None if it has no stream."""
    image = data.REGISTRY[dataset].modality == "image"
    return STREAMS.get(dataset, "corruption" if image else None)


def stream_cell(dataset: str, seed: int, root_seed: int, device: str) -> list[dict[str, Any]]:
    """A row per window of a stream: its accuracy, and what can be seen of it without labels.

    An MLP is trained on clean labels. The stream is quiet at first (held-out examples like the training set's), then
    shifts: later months, other people, or images with growing noise. Of each window: ``accuracy``, ``confidence`` (mean
    largest probability) and, for every statistic, its mean and whether it exceeds its ``threshold``, the quantile of
    windows resampled from held-out quiet examples that the protocol's rate of false alarms gives.

    ``influence`` is the self-influence that the model expects of an example, over its own predicted label
    distribution; ``leverage`` that of the last layer's features; ``low confidence`` one less the largest probability.
    """
    rng = seeds.generator(root_seed, dataset, "stream", seed)
    parts = _parts(dataset, rng)
    module = models.build("mlp", parts.grid, parts.n_classes, protocol().training["hidden"])
    x, y = torch.as_tensor(parts.x["train"], device=device), parts.y["train"]
    drawn = [seeds.integer(root_seed, dataset, "stream", seed, "model")]
    stack = fit_many(module, x, y, None, drawn, protocol_recipe())
    watch = _Watch(stack, x, torch.as_tensor(y, device=device))
    size, rule = protocol().monitoring["window"], protocol().monitoring
    reference = watch(parts.x["reference"])
    resampled = rng.integers(0, len(parts.x["reference"]), (2000, size))
    threshold = {
        name: float(np.quantile(reference[name][resampled].mean(1), 1 - rule["false_alarms"])) for name in STATISTICS
    }
    base = float(np.mean(reference["predicted"] == parts.y["reference"]))
    rows = []
    for shifted in ("quiet", "shifted"):
        seen, labels = watch(parts.x[shifted]), parts.y[shifted]
        for window in range(min(len(labels) // size, rule["windows"] // 2)):
            at = slice(window * size, (window + 1) * size)
            row = {"dataset": dataset, "seed": seed, "kind": kind_of(dataset), "window": window, "part": shifted}
            row |= {"accuracy": float(np.mean(seen["predicted"][at] == labels[at])), "reference_accuracy": base}
            row |= {"confidence": float(seen["confidence"][at].mean())}
            row |= {"reference_confidence": float(reference["confidence"].mean())}
            for name in STATISTICS:
                value = float(seen[name][at].mean())
                row |= {name: value, f"{name} alarm": value > threshold[name]}
            rows.append(row)
    return rows


class _Parts:
    """The encoded examples ``x`` and labels ``y`` of train, reference, quiet and shifted."""

    def __init__(self, dataset: str, rows: dict[str, NDArray], noise: NDArray | None, rng: np.random.Generator):
        loaded = data.load(dataset)
        encoder = encoders.fast(loaded, data.REGISTRY[dataset]).fit(rows["train"])
        self.x = {name: encoder.transform(ids) for name, ids in rows.items()}
        self.y = {name: loaded.labels[ids].astype(np.int64) for name, ids in rows.items()}
        self.grid, self.n_classes = encoder.grid, len(loaded.class_names)
        if noise is not None:
            drawn = rng.standard_normal(self.x["shifted"].shape)
            self.x["shifted"] = (self.x["shifted"] + noise[:, None] * drawn).astype(np.float32)


def _parts(dataset: str, rng: np.random.Generator) -> _Parts:
    loaded, kind = data.load(dataset), kind_of(dataset)
    most = protocol().monitoring["window"] * protocol().monitoring["windows"] // 2
    order = rng.permutation(len(loaded.labels))
    later, noise = np.zeros(len(order), dtype=bool), None
    if kind == "time":
        later = loaded.features["month"].to_numpy() > 6
    elif kind == "subject":
        people = rng.permutation(np.unique(loaded.groups))
        later = np.isin(loaded.groups, people[: max(1, round(0.3 * len(people)))])
    before, after = order[~later[order]], order[later[order]]
    held = min(REFERENCE, (len(before) - min(TRAIN, len(before) // 2)) // 2)
    train = min(TRAIN, len(before) // 2)
    rows = {"train": before[:train], "reference": before[train : train + held]}
    rows["quiet"] = before[train + held :][:most]
    if kind == "corruption":  # the quiet examples once more, and noisier and noisier
        rows["shifted"] = rows["quiet"]
        noise = np.linspace(0, CORRUPTION, len(rows["quiet"]))
    else:
        after = after[:most]
        when = loaded.features["month"].to_numpy() * 100 + loaded.features["day"] if kind == "time" else loaded.groups
        rows["shifted"] = after[np.argsort(np.asarray(when)[after], kind="stable")]
    return _Parts(dataset, rows, noise, rng)


class _Watch:
    """What a monitor sees of examples x (n, d), without their labels."""

    def __init__(self, stack: AnyStack, x: torch.Tensor, y: torch.Tensor):
        self.stack, self.device = stack, x.device
        with quiet():
            self.estimator = LastLayerGGN(stack, l2=protocol_recipe().l2).fit(x, y)
        features = self._features(x)
        gram = features.T @ features / len(features)
        gram[np.diag_indices_from(gram)] += 1e-3 * np.diag(gram).mean()
        self.gram = gram

    def __call__(self, x: NDArray) -> dict[str, NDArray]:
        x = torch.as_tensor(x, device=self.device)
        p = torch.softmax(self.stack(x)[0], -1)
        expected = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for c in range(p.shape[1]):
            labels = torch.full((len(x),), c, device=x.device)
            expected += p[:, c].double() * self.estimator.self_influence(x, labels)[0].double()
        features = self._features(x)
        confidence = p.max(1).values.cpu().numpy()
        return {
            "influence": expected.cpu().numpy(),
            "leverage": np.einsum("ij,ji->i", features, np.linalg.solve(self.gram, features.T)),
            "low confidence": 1 - confidence,
            "confidence": confidence,
            "predicted": p.argmax(1).cpu().numpy(),
        }

    def _features(self, x: torch.Tensor) -> NDArray[np.float64]:
        features = self.stack.features(x)[0].double().cpu().numpy()
        return np.column_stack([features, np.ones(len(features))])


def existing_cell(
    dataset: str, seed: int, root_seed: int, caps: dict[str, int], encoder: str, device: str
) -> list[dict[str, Any]]:
    """A row per published method, with and without DATA-LAB's weights (no projection): macro-F1 on the test set.

    ``method`` is pruning by EL2N (Paul et al. 2021) or by the loss, at the primary keep fraction; ``weights`` is none,
    or a variant of DATA-LAB trained on what was kept.
    """
    rates = (protocol().framework["verdict_rate"],)
    study = Trial(dataset, "mlp", seed, root_seed, rates, caps, encoder, device)
    observed, default = study.observed[0], protocol().framework["default"]
    lambdas = np.array([[default["lambda1"], default["lambda2"]]])
    drawn = [study.model_seed("reference", i) for i in range(protocol().reference["models"])]
    stack = fit_many(study.classifier(), study.x, observed, None, drawn, protocol_recipe())
    p = torch.softmax(stack(study.x), -1).double().mean(0).cpu().numpy()
    rows = []

    def row(method: str, weights: str, fitted: AnyStack) -> None:
        predicted = fitted.predict(study.x_test)[0].cpu().numpy()
        f1 = metrics.macro_f1(study.prepared.y_test, predicted, study.prepared.n_classes)
        rows.append({"dataset": dataset, "seed": seed, "method": method, "weights": weights, "macro_f1": f1})

    for name in PRUNED_BY:
        score: Callable[..., NDArray] = getattr(pruning, name)
        kept = pruning.keep(score(p, observed), observed, protocol().primary_cell["keep_fraction"])[None]
        seed_ = [study.model_seed("model")]
        row(name, "none", fit_many(study.classifier(), study.x, observed[None], kept, seed_, protocol_recipe()))
        for variant in framework.VARIANTS:
            # Without the projection: what is added to the published method is weights alone.
            module = study.datalab(variant=variant, projection=False)
            row(name, DATALAB[variant], fit_datalab(study, module, observed[None], lambdas, kept))
    return rows
