"""One cell of sections 4.1 and 4.3: a data set, architecture and seed, with all noise rates, methods and ablations.

Every arm is tuned with the same number of configurations, by macro-F1 on a validation set as noisy as the training
set. :func:`decide` does all of that and sees no test label; :func:`run_cell` scores what it decided.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import qmc
from sklearn.metrics import roc_auc_score

from datalab import correction, data, framework, metrics, models, noise, pruning, seeds
from datalab.influence import last_layer
from datalab.protocol import protocol
from datalab.training import AnyStack, Recipe, fit_many, protocol_recipe

FOLDS = 5
ECE_BINS = 15
CLEAN = "clean"
DATALAB = {"paper": "datalab_paper", "label-aware": "datalab_label_aware"}


def run_cell(
    dataset: str,
    architecture: str,
    seed: int,
    root_seed: int,
    rates: Sequence[float],
    caps: dict[str, int],
    encoder: str,
    device: str,
    configurations: int,
) -> list[dict[str, Any]]:
    """The rows of one cell: ``precision``, ``recall``, ``macro_f1``, ``accuracy`` and ``ece`` on the clean test set.

    ``part`` is "main" (a row per rate, method and draw of a random subset) or "ablation" (per rate, variant and set of
    components that are on). A row of DATA-LAB carries its weights' effective sample size as a share of n, ``ess``, and
    ``weights_auroc``, the chance that a clean example outweighs a flipped one.
    """
    study = Trial(dataset, architecture, seed, root_seed, tuple(rates), caps, encoder, device)
    y, n_classes = study.prepared.y_test, study.prepared.n_classes
    common = {"dataset": dataset, "architecture": architecture, "seed": seed}
    rows = []
    for decision in decide(study, configurations):
        p = decision.test_probabilities
        predicted = p.argmax(1)
        rows.append(
            common
            | {"rate": decision.rate, "part": decision.part, "method": decision.method}
            | decision.about
            | {
                "precision": metrics.macro_precision(y, predicted, n_classes),
                "recall": metrics.macro_recall(y, predicted, n_classes),
                "macro_f1": metrics.macro_f1(y, predicted, n_classes),
                "accuracy": metrics.accuracy(y, predicted),
                "ece": metrics.ece(y, p, ECE_BINS),
            }
        )
    return rows


@dataclass(frozen=True)
class Decision:
    """One trained model: what was chosen for it, and what it says of the test examples, (n_test, C)."""

    rate: float
    part: str
    method: str
    about: dict[str, Any]
    test_probabilities: NDArray[np.float32] = field(repr=False)


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


def penalties(configurations: int) -> NDArray[np.float64]:
    """The search of an arm that has lambda1 alone: the default, then a logarithmic grid over the protocol's range."""
    rule = protocol().framework
    return np.r_[rule["default"]["lambda1"], np.geomspace(*rule["lambda1"], configurations - 1)][:configurations]


def configurations_of(configurations: int) -> NDArray[np.float64]:
    """DATA-LAB's search, (configurations, 2) of lambda1 and lambda2: the default, then a Halton sequence of logarithms.

    Quasi-random points (Bergstra & Bengio 2012) since the paper's 163 is a prime: no grid of two axes has as many.
    """
    rule = protocol().framework
    low, high = (np.log([rule[name][at] for name in ("lambda1", "lambda2")]) for at in (0, 1))
    points = qmc.Halton(2, scramble=False).random(configurations)[1:]  # the first is the corner (0, 0)
    return np.vstack([[rule["default"]["lambda1"], rule["default"]["lambda2"]], np.exp(low + points * (high - low))])


def decide(study: Trial, configurations: int) -> list[Decision]:
    """Train and tune every arm at every rate, and ablate DATA-LAB. Reads no test label."""
    kept = influence_kept(study)
    everything = np.ones_like(kept)
    grid = penalties(configurations)
    arms = _Arms(study, grid)
    found = [
        *arms.erm("vanilla", study.observed, everything, study.observed_validation),
        *arms.erm("influence", study.observed, kept, study.observed_validation),
        *arms.random(),
        *arms.corrected(transitions(study)),
        # The upper bound knows every clean label, of the validation set too.
        *arms.erm(CLEAN, _each(study.prepared.y_train, study), everything, _each(study.prepared.y_val, study)),
    ]
    lambdas = {}
    for variant in framework.VARIANTS:
        decisions, lambdas[variant] = _tuned(study, variant, configurations_of(configurations))
        found += decisions
    return found + _ablations(study, lambdas)


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


class _Arms:
    """The arms whose one hyperparameter is the penalty."""

    def __init__(self, study: Trial, grid: NDArray):
        self.study, self.grid, self.seed = study, grid, study.model_seed("model")

    def erm(self, method: str, labels: NDArray, kept: NDArray, validation: NDArray) -> list[Decision]:
        """Empirical risk minimisation on what is kept, (rates, n) each; validation labels (rates, n_val)."""
        study, q = self.study, len(self.grid)
        stack = self._fit(
            study.classifier(), np.repeat(labels, q, 0), np.repeat(kept, q, 0), np.tile(self.grid, len(kept))
        )
        best = chosen(study, stack, validation, q)
        p = probabilities(stack, study.x_test, best)
        about = [{"lambda1": self.grid[i % q], "n_kept": int(kept[i // q].sum())} for i in best]
        return [
            Decision(rate, "main", method, each, one) for rate, each, one in zip(study.rates, about, p, strict=True)
        ]

    def random(self) -> list[Decision]:
        """Random subsets of the same size and quota as ``influence``; the first draw's choice serves the others."""
        study, keep = self.study, protocol().primary_cell["keep_fraction"]

        def drawn(draw: int) -> NDArray[np.bool_]:
            each = zip(study.rates, study.observed, strict=True)
            return np.stack([pruning.random_subset(y, keep, rng=study.rng("random", rate, draw)) for rate, y in each])

        found = self.erm("random", study.observed, drawn(0), study.observed_validation)
        at = np.array([decision.about["lambda1"] for decision in found])
        others = range(1, protocol().random_subsets)
        labels, kept = np.tile(study.observed, (len(others), 1)), np.concatenate([drawn(i) for i in others])
        stack = self._fit(study.classifier(), labels, kept, np.tile(at, len(others)))
        p = iter(probabilities(stack, study.x_test))
        for draw in others:
            found += [
                Decision(one.rate, "main", "random", one.about | {"draw": draw}, next(p))
                for one in found[: len(study.rates)]
            ]
        return found

    def corrected(self, transition: NDArray) -> list[Decision]:
        """Forward loss correction with the matrices (rates, C, C)."""
        study, q = self.study, len(self.grid)
        settings = {"transition": study.tensor(np.repeat(transition, q, 0).astype(np.float32))}
        module = correction.ForwardCorrected(study.classifier())
        stack = self._fit(module, np.repeat(study.observed, q, 0), None, np.tile(self.grid, len(transition)), settings)
        best = chosen(study, stack, study.observed_validation, q)
        p = probabilities(stack, study.x_test, best)
        stay = [float(np.diag(t).mean()) for t in transition]
        about = [{"lambda1": self.grid[i % q], "estimated_noise": 1 - each} for i, each in zip(best, stay, strict=True)]
        return [
            Decision(rate, "main", "label_noise", a, one) for rate, a, one in zip(study.rates, about, p, strict=True)
        ]

    def _fit(self, module, labels, kept, lambda1, settings=None) -> AnyStack:
        drawn, recipe = [self.seed] * len(labels), protocol_recipe()
        return fit_many(module, self.study.x, labels, kept, drawn, recipe, l2=2 * lambda1, settings=settings)


def _tuned(study: Trial, variant: str, grid: NDArray) -> tuple[list[Decision], NDArray[np.float64]]:
    """One variant at every rate, and the lambdas (rates, 2) chosen for it."""
    r, q = len(study.rates), len(grid)
    labels = np.repeat(study.observed, q, 0)
    stack = fit_datalab(study, study.datalab(variant=variant), labels, np.tile(grid, (r, 1)))
    best = chosen(study, stack, study.observed_validation, q)
    stack = stack.take(best)  # of the many only the chosen are looked at further
    w = framework.weights(stack, study.x, study.observed)
    at, found = grid[np.array(best) % q], []
    for i, p in enumerate(probabilities(stack, study.x_test)):
        about = {"variant": variant, "lambda1": at[i, 0], "lambda2": at[i, 1], **seen_in_weights(w[i], study, i)}
        found.append(Decision(study.rates[i], "main", DATALAB[variant], about, p))
        found.append(Decision(study.rates[i], "ablation", DATALAB[variant], about | _on(True, True, True), p))
    return found, at


def _ablations(study: Trial, lambdas: dict[str, NDArray]) -> list[Decision]:
    """Every set of components but the whole, at the lambdas (rates, 2) chosen for each variant's whole."""
    r, found = len(study.rates), []
    for projection in (True, False):
        # Without weights the variants are one model, at each one's lambda1.
        for weighting, variants in ((True, ("paper",)), (True, ("label-aware",)), (False, framework.VARIANTS)):
            module = study.datalab(variant=variants[0], projection=projection, weighting=weighting)
            shares = [0.0] if projection and weighting else [1.0, 0.0]  # of the lambdas: 0 leaves component 3 out
            arms = [(variant, share, i) for variant in variants for share in shares for i in range(r)]
            at = np.array([share * lambdas[variant][i] for variant, share, i in arms])
            stack = fit_datalab(study, module, study.observed[[i for *_, i in arms]], at)
            for (variant, share, i), (lambda1, lambda2), p in zip(
                arms, at, probabilities(stack, study.x_test), strict=True
            ):
                about = {"variant": variant, "lambda1": lambda1, "lambda2": lambda2}
                about |= _on(projection, weighting, share > 0)
                found.append(Decision(study.rates[i], "ablation", DATALAB[variant], about, p))
    return found


def fit_datalab(
    study: Trial, module: framework.DataLab, labels: NDArray, lambdas: NDArray, kept: NDArray | None = None
) -> AnyStack:
    """One model a row of labels (S, n) and of lambdas (S, 2), all from the study's seed, at the protocol's tau."""
    given = {"lambda1": lambdas[:, 0], "lambda2": lambdas[:, 1], "tau": protocol().framework["tau"], "kept": kept}
    drawn = [study.model_seed("model")] * len(labels)
    return framework.fit_datalab(module, study.x, labels, drawn, protocol_recipe(), **given)


def _on(projection: bool, weighting: bool, regularisation: bool) -> dict[str, bool]:
    return {"projection": projection, "weighting": weighting, "regularisation": regularisation}


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


def _each(labels: NDArray, study: Trial) -> NDArray:
    return np.tile(labels, (len(study.rates), 1))
