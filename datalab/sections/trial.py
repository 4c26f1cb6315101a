"""A trial: a data set under its noise, for one architecture and seed, with its references, folds and trained models."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from datalab import correction, data, framework, metrics, models, noise, pruning, seeds
from datalab.influence import last_layer
from datalab.protocol import protocol
from datalab.training import AnyStack, Recipe, fit_many, protocol_recipe

FOLDS = 5
DATALAB = {"paper": "datalab_paper", "label-aware": "datalab_label_aware"}


@dataclass(frozen=True)
class Trial:
    """The data of one cell under its noise, and where its random numbers come from."""

    dataset: str
    architecture: str
    seed: int
    root_seed: int
    rates: tuple[float, ...]
    caps: dict[str, int]
    encoder: str
    device: str

    @cached_property
    def prepared(self) -> data.Prepared:
        return data.prepare(self.dataset, self.seed, self.root_seed, self.caps, self.encoder)

    @cached_property
    def observed(self) -> NDArray[np.int64]:
        """The training labels (rates, n) as the study sees them."""
        return self._corrupted(self.prepared.y_train, "train")

    @cached_property
    def observed_validation(self) -> NDArray[np.int64]:
        """The validation labels (rates, n_val), as noisy."""
        return self._corrupted(self.prepared.y_val, "validation")

    @cached_property
    def x(self) -> torch.Tensor:
        return self.tensor(self.prepared.x_train)

    @cached_property
    def x_val(self) -> torch.Tensor:
        return self.tensor(self.prepared.x_val)

    @cached_property
    def x_test(self) -> torch.Tensor:
        return self.tensor(self.prepared.x_test)

    def tensor(self, x: NDArray) -> torch.Tensor:
        return torch.as_tensor(x, device=self.device)

    def classifier(self) -> torch.nn.Sequential:
        p = self.prepared
        return models.build(self.architecture, p.grid, p.n_classes, protocol().training["hidden"])

    def datalab(self, **components: Any) -> framework.DataLab:
        p, rule = self.prepared, protocol().framework
        sizes = {"width": rule["width"], "scorer_hidden": rule["scorer_hidden"]}
        hidden = protocol().training["hidden"]
        return framework.DataLab(p.grid, p.n_classes, self.architecture, hidden, **sizes, **components)

    def rng(self, *what: object) -> np.random.Generator:
        return seeds.generator(self.root_seed, self.dataset, self.architecture, "framework", self.seed, *what)

    def model_seed(self, *what: object) -> int:
        # Not a function of rate or method: all arms start alike, where their shapes agree, and share a batch order.
        return seeds.integer(self.root_seed, self.dataset, self.architecture, "framework", self.seed, *what)

    def _corrupted(self, labels: NDArray, part: str) -> NDArray[np.int64]:
        kind, n_classes = protocol().framework["noise"], self.prepared.n_classes
        # Not a function of the architecture: all of them see the same flips.
        rngs = [seeds.generator(self.root_seed, self.dataset, "framework", self.seed, part, at) for at in self.rates]
        return np.stack([noise.corrupt(labels, kind, at, n_classes, r) for at, r in zip(self.rates, rngs, strict=True)])


def influence_kept(study: Trial) -> NDArray[np.bool_]:
    """What the title's method keeps at every rate, (rates, n): quota per class, at the primary keep fraction."""
    keep, (stack, labels) = protocol().primary_cell["keep_fraction"], references(study)
    scores = self_influence(study, stack, labels)
    return np.stack([pruning.keep(s, y, keep) for s, y in zip(scores, study.observed, strict=True)])


def references(study: Trial) -> tuple[AnyStack, NDArray[np.int64]]:
    """The protocol's reference models of every rate, (rates * models) in one stack, and the labels they saw."""
    per_rate = protocol().reference["models"]
    labels = np.repeat(study.observed, per_rate, axis=0)
    drawn = [study.model_seed("reference", i) for _ in study.rates for i in range(per_rate)]
    recipe = protocol_recipe(protocol().reference["steps"])
    return fit_many(study.classifier(), study.x, labels, None, drawn, recipe), labels


def self_influence(study: Trial, stack: AnyStack, labels: NDArray) -> NDArray[np.float64]:
    """The title's score of every training example at every rate, (rates, n): the reference models' mean."""
    features = stack.features(study.x).expand(len(stack), -1, -1)
    l2 = protocol_recipe().l2
    scored = last_layer.scores_many(features, stack(study.x), study.tensor(labels), l2=l2).self_influence
    return scored.double().cpu().numpy().reshape(len(study.rates), -1, len(study.x)).mean(1)


def transitions(study: Trial, recipe: Recipe | None = None) -> NDArray[np.float64]:
    """The transition matrix of every rate, (rates, C, C), from cross-validated probabilities; None: the protocol's."""
    n = len(study.x)
    fold = study.rng("folds").permutation(n) % FOLDS
    kept = np.tile(np.stack([fold != k for k in range(FOLDS)]), (len(study.rates), 1))
    drawn = [study.model_seed("fold", k) for _ in study.rates for k in range(FOLDS)]
    labels = np.repeat(study.observed, FOLDS, axis=0)
    stack = fit_many(study.classifier(), study.x, labels, kept, drawn, recipe or protocol_recipe())
    p = probabilities(stack, study.x).reshape(len(study.rates), FOLDS, n, -1)[:, fold, np.arange(n)]
    return np.stack([correction.transition_matrix(one, y) for one, y in zip(p, study.observed, strict=True)])


def fit_datalab(
    study: Trial, module: framework.DataLab, labels: NDArray, lambdas: NDArray, kept: NDArray | None = None
) -> AnyStack:
    """One model a row of labels (S, n) and of lambdas (S, 2), all from the study's seed, at the protocol's tau."""
    given = {"lambda1": lambdas[:, 0], "lambda2": lambdas[:, 1], "tau": protocol().framework["tau"], "kept": kept}
    drawn = [study.model_seed("model")] * len(labels)
    return framework.fit_datalab(module, study.x, labels, drawn, protocol_recipe(), **given)


def chosen(study: Trial, stack: AnyStack, validation: NDArray, configurations: int) -> list[int]:
    """The model of each rate whose macro-F1 on the validation labels (rates, n_val) is highest; the first of equals."""
    predicted = stack.predict(study.x_val).cpu().numpy().reshape(len(validation), configurations, -1)
    n_classes = study.prepared.n_classes
    scores = [metrics.macro_f1(y, one, n_classes) for y, one in zip(validation, predicted, strict=True)]
    return [rate * configurations + int(np.argmax(one)) for rate, one in enumerate(scores)]


def seen_in_weights(w: torch.Tensor, study: Trial, rate: int) -> dict[str, float]:
    """Of the weights (n,) at one of the study's rates: the effective sample size, and the AUROC for clean labels."""
    clean = study.observed[rate] == study.prepared.y_train
    return {"ess": float(framework.effective_sample_size(w)) / len(w), "weights_auroc": auroc(w, clean)}


def auroc(w: torch.Tensor, clean: NDArray[np.bool_]) -> float:
    """The chance that a clean example outweighs a flipped one; nan where no label is flipped."""
    return float("nan") if clean.all() else float(roc_auc_score(clean, w.cpu().numpy()))


def probabilities(stack: AnyStack, x: torch.Tensor, models_: list[int] | None = None) -> NDArray[np.float32]:
    """Of some models (None: all) on x (n, d), block by block."""
    chosen_ = slice(None) if models_ is None else models_
    return torch.cat([torch.softmax(stack(block)[chosen_], -1) for block in x.split(512)], 1).cpu().numpy()
