"""One trial: a data set under label noise, and what every section trains on it and reads off it, said once.

A section's task makes a :class:`Trial` and calls the functions below on it: the reference models and the title's score,
cross-validated probabilities, the models of its arms, and their scores on the clean test set. Where rates are crossed,
all of them are trained as one stack: ``observed`` is (rates, n), and what comes back leads with the rates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from datalab import correction, data, framework, metrics, models, noise, pruning, seeds
from datalab.influence import LastLayerGGN, last_layer
from datalab.influence.estimator import quiet
from datalab.protocol import protocol
from datalab.training import AnyStack, Recipe, fit_many, protocol_recipe

FOLDS = 5
DATALAB = {"paper": "datalab_paper", "label-aware": "datalab_label_aware"}  # a variant's name as a method
Train = Callable[..., AnyStack]  # train(recipe=...) gives a stack
HUMAN = "human"  # the noise kind of labels that single raters gave (vader-tweets); it has one rate, its own


@dataclass(frozen=True)
class Trial:
    """A data set, architecture and seed with its labels at every noise rate, and where its random numbers come from.

    ``noise_kind`` None: the framework's sections, whose flips are of the protocol's kind and the same for all
    architectures. Else the title's, of that kind, whose random streams are named by it. A rate is None where the labels
    are as people gave them.
    """

    dataset: str
    architecture: str
    seed: int
    root_seed: int
    rates: tuple[float | None, ...]
    caps: dict[str, int]
    encoder: str
    device: str
    noise_kind: str | None = None

    @cached_property
    def prepared(self) -> data.Prepared:
        """The three parts, encoded, with their clean labels."""
        return data.prepare(self.dataset, self.seed, self.root_seed, self.caps, self.encoder)

    @cached_property
    def observed(self) -> NDArray[np.int64]:
        """The training labels (rates, n) as the study sees them."""
        p = self.prepared
        return self._corrupted(p.y_train, p.human_labels_train, p.x_train, "train")

    @cached_property
    def observed_validation(self) -> NDArray[np.int64]:
        """The validation labels (rates, n_val), as noisy as the training labels."""
        p = self.prepared
        return self._corrupted(p.y_val, p.human_labels_val, p.x_val, "validation")

    @cached_property
    def x(self) -> torch.Tensor:
        """The training features (n, d) on the device."""
        return self.tensor(self.prepared.x_train)

    @cached_property
    def x_val(self) -> torch.Tensor:
        """The validation features (n_val, d) on the device."""
        return self.tensor(self.prepared.x_val)

    @cached_property
    def x_test(self) -> torch.Tensor:
        """The test features (n_test, d) on the device."""
        return self.tensor(self.prepared.x_test)

    def tensor(self, values: NDArray) -> torch.Tensor:
        """An array on the trial's device."""
        return torch.as_tensor(values, device=self.device)

    def classifier(self) -> torch.nn.Sequential:
        """The trial's architecture, for its shapes."""
        p = self.prepared
        return models.build(self.architecture, p.grid, p.n_classes, protocol().training["hidden"])

    def datalab(self, **components: Any) -> framework.DataLab:
        """DATA-LAB around that architecture; ``components`` as for :class:`datalab.framework.DataLab`."""
        p, rule = self.prepared, protocol().framework
        sizes = {"width": rule["width"], "scorer_hidden": rule["scorer_hidden"]}
        hidden = protocol().training["hidden"]
        return framework.DataLab(p.grid, p.n_classes, self.architecture, hidden, **sizes, **components)

    def rng(self, *what: object) -> np.random.Generator:
        """The generator of one draw, named by what is drawn."""
        family = self.noise_kind or "framework"
        return seeds.generator(self.root_seed, self.dataset, self.architecture, family, self.seed, *what)

    def model_seed(self, *what: object) -> int:
        """The seed of a model's initial weights and batch order.

        Not a function of noise kind, rate or method: all arms start alike, where their shapes agree, and share a batch
        order.
        """
        family = () if self.noise_kind else ("framework",)
        return seeds.integer(self.root_seed, self.dataset, self.architecture, *family, self.seed, *what)

    def _corrupted(self, clean: NDArray, human: NDArray | None, x: NDArray, part: str) -> NDArray[np.int64]:
        if self.noise_kind == HUMAN:
            return np.stack([human] * len(self.rates))
        if self.noise_kind:
            kind, rngs = self.noise_kind, [self.rng("noise", part, rate) for rate in self.rates]
        else:  # not a function of the architecture: all of them see the same flips
            kind, of_set = protocol().framework["noise"], (self.root_seed, self.dataset, "framework", self.seed)
            rngs = [seeds.generator(*of_set, part, rate) for rate in self.rates]
        pairs, n_classes = zip(self.rates, rngs, strict=True), self.prepared.n_classes
        return np.stack([noise.corrupt(clean, kind, rate, n_classes, rng, x) for rate, rng in pairs])


def references(
    trial: Trial,
    observed: NDArray | None = None,
    recipe: Recipe | None = None,
    on_step: Callable[[int, AnyStack], None] | None = None,
) -> tuple[AnyStack, NDArray[np.int64]]:
    """The reference models of every rate, (rates * models) in one stack, and the labels (rates * models, n) they saw.

    ``observed`` (rates, n): None for the trial's own; ``recipe``: None for the protocol's reference.
    """
    observed = trial.observed if observed is None else observed
    recipe = recipe or protocol_recipe(protocol().reference["steps"])
    per_rate = protocol().reference["models"]
    labels = np.repeat(observed, per_rate, axis=0)
    model_seeds = [trial.model_seed("reference", i) for _ in observed for i in range(per_rate)]
    return fit_many(trial.classifier(), trial.x, labels, None, model_seeds, recipe, on_step=on_step), labels


class Looks:
    """Looks at the references in training, every so many steps: the ``on_step`` of :func:`references`.

    Of all looks (looks, rates * models, n): ``margins`` (:func:`datalab.pruning.logit_margin`), and whether a model is
    ``right`` about the labels ``observed`` (rates, n).
    """

    def __init__(self, trial: Trial, observed: NDArray, every: int):
        self.x, self.every = trial.x, every
        self.labels = np.repeat(observed, protocol().reference["models"], axis=0)
        self.margins: list[NDArray[np.float32]] = []
        self.right: list[NDArray[np.bool_]] = []

    def __call__(self, step: int, stack: AnyStack) -> None:
        if step % self.every == 0:
            logits = stack(self.x).cpu().numpy()
            self.margins.append(pruning.logit_margin(logits, self.labels))
            self.right.append(logits.argmax(-1) == self.labels)


def features(stack: AnyStack, x: torch.Tensor) -> torch.Tensor:
    """What reaches the last layer of every model, (S, n, h)."""
    return stack.features(x).expand(len(stack), -1, -1)


def self_influence(trial: Trial, stack: AnyStack, labels: NDArray) -> NDArray[np.float64]:
    """The title's score of every training example, (rates, n), of :func:`references`' stack and labels.

    g' (H + d I)^-1 g at the last layer, the mean of a rate's reference models.
    """
    logits, l2 = stack(trial.x), protocol_recipe().l2
    scores = last_layer.scores_many(features(stack, trial.x), logits, trial.tensor(labels), l2=l2)
    return mean_of_references(scores.self_influence)


def streamed(stack: AnyStack, x: torch.Tensor, y: NDArray, l2: float) -> LastLayerGGN:
    """The title's estimator, fitted on x (n, d) with labels y (n,) or (S, n) in passes whose memory n does not bound.

    It scores any examples, where :func:`self_influence` scores all training examples at once.
    """
    with quiet():  # the reference models are scored as they are, converged or not
        return LastLayerGGN(stack, l2=l2).fit(x, torch.as_tensor(y, device=x.device))


def leverage(x: NDArray, relative_damping: float = 1e-3, of: NDArray | None = None) -> NDArray[np.float64]:
    """x_i' (X'X/n + d I)^-1 x_i of features (n, d) with a column of ones: how far out an example lies, (n,).

    ``of`` (m, d): how far out of the examples ``x`` others lie, (m,); None: these themselves.
    """
    x, of = (np.column_stack([z, np.ones(len(z))]).astype(np.float64) for z in (x, x if of is None else of))
    gram = x.T @ x / len(x)
    gram[np.diag_indices_from(gram)] += relative_damping * np.diag(gram).mean()
    return np.einsum("ij,ji->i", of, np.linalg.solve(gram, of.T))


def mean_of_references(values: torch.Tensor | NDArray) -> NDArray[np.float64]:
    """The mean of each rate's reference models: (rates * models, n) -> (rates, n)."""
    values = torch.as_tensor(values).double().cpu().numpy()
    return values.reshape(-1, protocol().reference["models"], values.shape[-1]).mean(1)


def influence_kept(trial: Trial) -> NDArray[np.bool_]:
    """What the title's method keeps at every rate, (rates, n): quota per class, at the primary keep fraction."""
    keep = protocol().primary_cell["keep_fraction"]
    scores = self_influence(trial, *references(trial))
    return np.stack([pruning.keep(s, y, keep) for s, y in zip(scores, trial.observed, strict=True)])


def out_of_sample(trial: Trial, observed: NDArray | None = None, recipe: Recipe | None = None) -> NDArray[np.float32]:
    """Probabilities (rates, n, C) from models that did not see the example, by cross-validation in ``FOLDS`` folds.

    ``observed`` (rates, n): None for the trial's own; ``recipe``: None for the protocol's.
    """
    observed = trial.observed if observed is None else observed
    n, rates = len(trial.x), len(observed)
    fold = trial.rng("folds").permutation(n) % FOLDS
    kept = np.tile(np.stack([fold != k for k in range(FOLDS)]), (rates, 1))
    model_seeds = [trial.model_seed("fold", k) for _ in observed for k in range(FOLDS)]
    labels = np.repeat(observed, FOLDS, axis=0)
    stack = fit_many(trial.classifier(), trial.x, labels, kept, model_seeds, recipe or protocol_recipe())
    return probabilities(stack, trial.x).reshape(rates, FOLDS, n, -1)[:, fold, np.arange(n)]


def transitions(trial: Trial, recipe: Recipe | None = None) -> NDArray[np.float64]:
    """The estimated transition matrix of every rate, (rates, C, C); ``recipe`` trains the folds' models."""
    p = out_of_sample(trial, recipe=recipe)
    return np.stack([correction.transition_matrix(*each) for each in zip(p, trial.observed, strict=True)])


def fit(
    trial: Trial,
    labels: NDArray,
    kept: NDArray[np.bool_] | None = None,
    *,
    module: torch.nn.Module | None = None,
    recipe: Recipe | None = None,
    **how: Any,
) -> AnyStack:
    """One model a row of labels (S, n), each on what is kept of them (S, n), all from the trial's one model seed.

    ``module``: None for the trial's classifier; ``recipe``: None for the protocol's; ``how`` as for
    :func:`datalab.training.fit_many`.
    """
    module, recipe = module or trial.classifier(), recipe or protocol_recipe()
    model_seeds = [trial.model_seed("model")] * len(labels)
    return fit_many(module, trial.x, labels, kept, model_seeds, recipe, **how)


def fit_datalab(
    trial: Trial,
    module: framework.DataLab,
    labels: NDArray,
    lambdas: NDArray,
    kept: NDArray | None = None,
    recipe: Recipe | None = None,
    tau: Sequence[float] | None = None,
) -> AnyStack:
    """One DATA-LAB a row of labels (S, n) and of lambdas (S, 2), all from the trial's seed.

    ``recipe`` and ``tau``, one a model: None for the protocol's.
    """
    tau = protocol().framework["tau"] if tau is None else tau
    given = {"lambda1": lambdas[:, 0], "lambda2": lambdas[:, 1], "tau": tau, "kept": kept}
    model_seeds = [trial.model_seed("model")] * len(labels)
    return framework.fit_datalab(module, trial.x, labels, model_seeds, recipe or protocol_recipe(), **given)


def read_off(
    trial: Trial,
    train: Train,
    lengths: Sequence[int] = (),
    validation: NDArray | None = None,
    what: Callable[[AnyStack], NDArray] | None = None,
) -> NDArray:
    """What is read off models that ``train(recipe=...)`` makes, a row a model: ``what`` of the stack, (S, ...).

    The recipe is the protocol's. Where ``lengths`` are named it is the protocol's with as many steps, and each model is
    read at the length at which its macro-F1 on the validation labels is best, the shortest of equals. ``validation``
    (S, n_val), or (n_val,) for all: None for the noisy labels of the trial's first rate. ``what``: None for the classes
    predicted on the test set, (S, n_test).
    """
    what = what or (lambda stack: stack.predict(trial.x_test).cpu().numpy())
    if not lengths:
        return what(train(recipe=protocol_recipe()))
    validation = trial.observed_validation[0] if validation is None else validation
    best, read = -np.inf, None
    for steps in sorted(lengths):
        stack = train(recipe=protocol_recipe(steps))
        seen = validation_f1(trial, stack, np.broadcast_to(validation, (len(stack), len(trial.x_val))))
        better, values = seen > best, what(stack)
        read = values if read is None else np.where(better.reshape(-1, *[1] * (values.ndim - 1)), values, read)
        best = np.maximum(best, seen)
    return read


def default_lambdas(models_: int) -> NDArray[np.float64]:
    """The protocol's lambda1 and lambda2 for as many models, (S, 2): where nothing is tuned."""
    default = protocol().framework["default"]
    return np.tile([default["lambda1"], default["lambda2"]], (models_, 1))


def chosen(trial: Trial, stack: AnyStack, validation: NDArray, configurations: int) -> list[int]:
    """The model of each rate whose macro-F1 on the validation labels (rates, n_val) is highest; the first of equals."""
    f1 = validation_f1(trial, stack, np.repeat(validation, configurations, 0)).reshape(-1, configurations)
    return [rate * configurations + int(best) for rate, best in enumerate(f1.argmax(1))]


def validation_f1(trial: Trial, stack: AnyStack, labels: NDArray) -> NDArray[np.float64]:
    """The macro-F1 (S,) of every model on its own validation labels (S, n_val)."""
    pairs = zip(labels, stack.predict(trial.x_val).cpu().numpy(), strict=True)
    return np.array([metrics.macro_f1(y, guesses, trial.prepared.n_classes) for y, guesses in pairs])


def scores_on_test_set(trial: Trial, predicted: AnyStack | NDArray) -> list[dict[str, float]]:
    """``macro_f1`` and ``accuracy`` on the clean test set of every model, or of the classes (S, n_test) predicted."""
    y = trial.prepared.y_test
    if not isinstance(predicted, np.ndarray):
        predicted = predicted.predict(trial.x_test).cpu().numpy()
    f1, accuracy = metrics.macro_f1(y, predicted, trial.prepared.n_classes), metrics.accuracy(y, predicted)
    return [{"macro_f1": a, "accuracy": b} for a, b in zip(f1, accuracy, strict=True)]


def probabilities(stack: AnyStack, x: torch.Tensor, which: Sequence[int] | None = None) -> NDArray[np.float32]:
    """Of some models (None: all) on x (n, d): (models, n, C), computed block by block."""
    which = slice(None) if which is None else which
    return torch.cat([torch.softmax(stack(block)[which], -1) for block in x.split(512)], 1).cpu().numpy()


def seen_in_weights(w: torch.Tensor, trial: Trial, rate: int) -> dict[str, float]:
    """Of the weights (n,) at one of the trial's rates: the effective sample size, and the AUROC for clean labels."""
    clean = trial.observed[rate] == trial.prepared.y_train
    return {"ess": float(framework.effective_sample_size(w)) / len(w), "weights_auroc": auroc(w, clean)}


def auroc(w: torch.Tensor, clean: NDArray[np.bool_]) -> float:
    """The chance that a clean example outweighs a flipped one; nan where no label is flipped."""
    return float("nan") if clean.all() else float(roc_auc_score(clean, w.cpu().numpy()))


def ends(scores: ArrayLike, shown: int = 10) -> NDArray[np.int64]:
    """The places of the highest scores (n,), highest first, then those of as many lowest, lowest first."""
    order = np.argsort(np.asarray(scores), kind="stable")
    return np.concatenate([order[::-1][:shown], order[:shown]])


def labelled_examples(
    prepared: data.Prepared, observed: NDArray, values: Mapping[str, NDArray]
) -> list[dict[str, Any]]:
    """A row a training example: both labels by name, ``values`` (n,) by name, and the pixels at the ends of the first.

    ``observed`` (n,) are the labels as a model saw them. ``pixels`` lie flat, row by row of ``width``; None inside.
    """
    shown = ends(next(iter(values.values())))
    pixels = data.load(prepared.name).features.iloc[prepared.train_ids[shown]].to_numpy(dtype=np.float64)
    width = data.REGISTRY[prepared.name].grid[2]
    pictures = {int(i): {"pixels": image.tolist(), "width": width} for i, image in zip(shown, pixels, strict=True)}
    names = np.asarray(prepared.class_names)
    return [
        {"example": i, "observed": str(names[observed[i]]), "clean": str(names[prepared.y_train[i]])}
        | {name: float(value[i]) for name, value in values.items()}
        | pictures.get(i, {"pixels": None, "width": None})
        for i in range(len(observed))
    ]
