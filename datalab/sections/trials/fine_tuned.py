"""The title's question where the features themselves are trained: a pretrained encoder, fine-tuned end to end.

Every other model of the study is a small one on fixed features. Here EfficientNet-Lite0 (images) or MiniLM (texts)
starts from its shipped weights under a new linear head, and all of it is trained, by one recipe (protocol 2's
``fine_tuned``) on what each arm keeps. A task is a data set, noise rate and seed. The examples are ranked by the
title's score on the features of the model trained on all labels, at the length that its noisy validation chose.
"""

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import pydantic
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from datalab import data, metrics, noise, pruning
from datalab.data import pretrained
from datalab.influence import last_layer
from datalab.protocol import protocol
from datalab.sections import compare, sentences
from datalab.sections.compare import STOPPED
from datalab.sections.parameters import AnyDatasets, Count, TrialParameters
from datalab.sections.readings import RATE
from datalab.sections.trials.trial import Trial
from datalab.sweep import Task
from datalab.training import batch_order, cosine, protocol_recipe

RULE = protocol().protocol_2["fine_tuned"]
SECONDS = {"efficientnet-lite0": 0.3, "minilm": 0.95}  # a step with its share of the looks, on one core
WARM_UP = 0.5  # of the steps
OTHERS = {"random": "random pruning", "full": "keeping everything"}  # the arms that every arm is held against
FIXED = ("running_mean", "running_var", "num_batches_tracked")  # a batch norm's statistics


class FineTunedParameters(TrialParameters):
    fine_tuned_datasets: AnyDatasets
    fine_tuned_seeds: Annotated[Count, pydantic.Field(ge=2)]  # one training has no interval
    fine_tuned_steps: Annotated[int, pydantic.Field(ge=1, le=10_000, strict=True)]

    @pydantic.field_validator("fine_tuned_datasets")
    @classmethod
    def _has_an_encoder(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not pretrained.encoder_of(data.REGISTRY[name]):
                raise ValueError(f"'{name}' holds neither texts nor grey images, which an encoder takes")
        return names

    @property
    def needs(self) -> tuple[str, ...]:
        """The data sets that must be on disk, and the encoders that are fine-tuned."""
        encoders = [pretrained.encoder_of(data.REGISTRY[name]) for name in self.fine_tuned_datasets]
        return tuple(dict.fromkeys([*super().needs, *encoders]))


def tasks(p: FineTunedParameters) -> list[Task]:
    """A task a data set, noise rate and seed."""
    caps = p.of_trial["caps"] | {"test": min(p.caps["test"], RULE["test_cap"])}
    how = p.of_trial | {"caps": caps, "encoder": "fast", "steps": p.fine_tuned_steps}
    made = []
    for name, seed, rate in itertools.product(p.fine_tuned_datasets, range(p.fine_tuned_seeds), RULE["rates"]):
        models, step = 4 if rate else 3, SECONDS[pretrained.encoder_of(data.REGISTRY[name])]
        given = {"dataset": name, "seed": seed, "rate": rate} | how
        made.append(Task(f"{__name__}:run_task", given, models * p.fine_tuned_steps * step, models))
    return made


class Network(nn.Module):
    """An encoder as a module: inputs (m, ...) to features (m, h), by ``forward`` from the weights it is given.

    All weights are trained but a batch norm's statistics: those are the pretraining's. Of batches of 32 they would be
    noise, a prediction would depend on its company, and what an arm drops would move them.
    """

    def __init__(self, forward: Callable[[Mapping[str, Tensor], Tensor], Tensor], weights: Mapping[str, Tensor]):
        super().__init__()
        self.names = [name for name in weights if not name.endswith(FIXED) and not name.startswith("_fc.")]
        self.values = nn.ParameterList(weights[name].clone() for name in self.names)
        self.fixed = {name: values for name, values in weights.items() if name.endswith(FIXED)}
        self.from_weights = forward

    def forward(self, inputs: Tensor) -> Tensor:
        """The features (m, h)."""
        fixed = {name: values.to(inputs.device) for name, values in self.fixed.items()}
        return self.from_weights(dict(zip(self.names, self.values, strict=True)) | fixed, inputs)


def shipped(name: str, ids: NDArray) -> tuple[nn.Module, Tensor]:
    """The encoder of a data set with its shipped weights, and the rows ``ids`` (n,) as it takes them, (n, ...)."""
    sizes = {"side": RULE["image_side"], "length": RULE["tokens"]}
    forward, weights, inputs = pretrained.to_fine_tune(data.load(name), data.REGISTRY[name], ids, **sizes)
    return Network(forward, weights), inputs


def rate_at(step: int, steps: int, rate: float) -> float:
    """The learning rate of a step, 1 the first: up to ``rate`` over ``WARM_UP`` of the steps, and a cosine to 0 on all.

    Without a warm-up some runs on images never left their first large steps, whatever they were trained on.
    """
    return min(1.0, step / (WARM_UP * steps)) * cosine(rate, step - 1, steps)


class Tuned(NamedTuple):
    """A model after so many steps: its macro-F1 on the noisy validation labels, its test predictions (n_test,)."""

    steps: int
    validation_f1: float
    predicted: NDArray[np.int64]


Encoder = Callable[[str, NDArray], tuple[nn.Module, Tensor]]


def run_task(rate: float, steps: int, encoder_of: Encoder = shipped, **of: Any) -> list[dict[str, Any]]:
    """A row per arm and ``trained``, ``STOPPED`` or the whole of ``steps``: scores on the clean test set, in [0, 1].

    ``of`` names the :class:`~datalab.sections.trials.trial.Trial`, whose flips are the primary cell's; ``encoder_of``
    gives a module and its inputs by a data set's name and rows.
    """
    cell = protocol().primary_cell
    trial = Trial(rates=(rate,), architecture=cell["architecture"], noise_kind=RULE["noise"], **of)
    p, observed = trial.prepared, trial.observed[0]
    network, inputs = encoder_of(trial.dataset, np.concatenate([p.train_ids, p.val_ids, p.test_ids]))
    parts = inputs.to(trial.device).split([len(p.train_ids), len(p.val_ids), len(p.test_ids)])
    tuner = _Tuner(trial, network.to(trial.device), parts, steps)
    everything = np.ones(len(observed), dtype=bool)
    keep, quota, rng = RULE["keep_fraction"], RULE["quota"], trial.rng("random", rate, RULE["keep_fraction"], 0)
    kept = {"full": everything, "random": pruning.random_subset(observed, keep, quota, rng=rng)}
    full, model = tuner.train(everything)
    kept["influence"] = pruning.keep(tuner.self_influence(model), observed, keep, quota)
    if rate:
        kept["oracle"] = pruning.oracle(observed, p.y_train)
    del model  # its memory, before the next is trained
    row = {"dataset": trial.dataset, "seed": trial.seed, "rate": rate}
    row |= {"realised_rate": noise.realised_rate(p.y_train, observed)}
    rows = []
    for arm, mask in kept.items():
        made = {"arm": arm, "n_kept": int(mask.sum()), "flipped_kept": float(np.mean((observed != p.y_train)[mask]))}
        for trained, own in (full if arm == "full" else tuner.train(mask)[0]).items():
            scores = {"macro_f1": metrics.macro_f1(p.y_test, own.predicted, p.n_classes)}
            scores |= {"accuracy": metrics.accuracy(p.y_test, own.predicted), "validation_f1": own.validation_f1}
            rows.append(row | made | {"trained": trained, "steps": own.steps} | scores)
    return rows


class _Tuner:
    """Trains the network on all that a mask keeps, from the same start, in the same batch order."""

    def __init__(self, trial: Trial, network: nn.Module, parts: tuple[Tensor, ...], steps: int):
        self.trial, self.network, self.steps = trial, network, steps
        self.x, self.x_val, self.x_test = parts
        self.y = trial.tensor(trial.observed[0])
        self.seed = trial.model_seed("fine-tuned")

    def train(self, kept: NDArray[np.bool_]) -> tuple[dict[str, Tuned], nn.Sequential]:
        """The run at its whole length, and at the look where noisy validation was best, the first of equals.

        And the model at the latter.
        """
        model, trial = self._start(), self.trial
        order = batch_order(kept[None], [self.seed], self.steps * RULE["batch_size"])[0].reshape(self.steps, -1)
        rate = RULE["learning_rate"][data.REGISTRY[trial.dataset].modality]
        optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=RULE["weight_decay"], fused=True)
        best, best_state = None, None
        for step, rows in enumerate(torch.as_tensor(order, device=trial.device), start=1):
            optimiser.param_groups[0]["lr"] = rate_at(step, self.steps, rate)
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(self.x[rows]), self.y[rows]).backward()
            optimiser.step()
            if step % RULE["look_every"] == 0 or step == self.steps:
                guesses = _outputs(model, self.x_val).argmax(-1).cpu().numpy()
                seen = metrics.macro_f1(trial.observed_validation[0], guesses, trial.prepared.n_classes)
                if best is None or seen > best[1]:
                    best, best_state = (step, seen), copy.deepcopy(model.state_dict())
        whole = Tuned(self.steps, seen, self._predicted(model))
        model.load_state_dict(best_state)
        predicted = whole.predicted if best[0] == self.steps else self._predicted(model)
        return {STOPPED: Tuned(*best, predicted), f"{self.steps} steps": whole}, model

    def self_influence(self, model: nn.Sequential) -> NDArray[np.float64]:
        """The title's score (n,) of all training examples, at the last layer of a trained model."""
        features = _outputs(model[0], self.x)
        with torch.inference_mode():
            logits = model[1](features)
        found = last_layer.scores_many(features[None], logits[None], self.y[None], l2=protocol_recipe().l2)
        return found.self_influence[0].double().cpu().numpy()

    def _start(self) -> nn.Sequential:
        """The encoder as it was shipped under a new linear head, the same for every arm."""
        network = copy.deepcopy(self.network)
        width = _outputs(network, self.x[:1]).shape[1]
        head = nn.Linear(width, self.trial.prepared.n_classes)
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for values in head.parameters():
                values.uniform_(-(width**-0.5), width**-0.5, generator=generator)
        return nn.Sequential(network, head.to(self.x.device)).eval()

    def _predicted(self, model: nn.Module) -> NDArray[np.int64]:
        return _outputs(model, self.x_test).argmax(-1).cpu().numpy()


def _outputs(module: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([module(block) for block in x.split(128)])


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Every arm by data set, rate and how training ended: means over the seeds; empty where nothing was trained.

    Its macro-F1 less that of ``random`` and of ``full``, paired by seed, has 95 % t-limits over the seeds. What varies
    is the training, and with it the split, the flips and the test examples; no other data set.
    """
    if rows.empty:
        return rows
    unit = ["dataset", "seed", "rate", "trained"]
    shown = rows.merge(rows.pivot(index=unit, columns="arm", values="macro_f1").reset_index(), on=unit)
    shown = shown.assign(**{RATE: 100 * shown.rate} | {f"less {arm}": shown.macro_f1 - shown[arm] for arm in OTHERS})

    def measure(part: pd.DataFrame) -> dict[str, float]:
        line = {"steps": part.steps.mean(), "flipped among kept (%)": 100 * part.flipped_kept.mean()}
        line |= {"F1": part.macro_f1.mean(), "accuracy": part.accuracy.mean()}
        for arm in OTHERS:
            line |= compare.mean_with_interval(part[f"less {arm}"] if part.arm.iloc[0] != arm else [], f"less {arm}")
        return line | {"trainings": len(part)}

    return compare.table(shown, ["dataset", RATE, "trained", "arm"], measure)


def reading(shown: pd.DataFrame) -> str:
    """What :func:`table` says of the title's method, in words: these data sets, stopped early."""
    if shown.empty:
        return "No encoder was fine-tuned in this profile: `fine_tuned_datasets` is empty."
    own = shown[(shown.arm == "influence") & (shown.trained == STOPPED)]
    own = own.assign(at=own.dataset + own[RATE].map(" at {:g} %".format))
    lines = [f"Less {words}: {sentences.standing(own, f'less {arm}', 'at')}" for arm, words in OTHERS.items()]
    clean, noisy = own[own[RATE] == 0], own[own[RATE] > 0]
    gains = "failed" if (noisy["less full low"] > 0).any() else "open"
    lines.append(
        f"It loses to random pruning with clean labels: **{sentences.judged(clean, 'less random', below=True)}**; it "
        f"beats random pruning with flipped ones: **{sentences.judged(noisy, 'less random')}**; it hardly gains on "
        f"keeping everything: **{gains}**."
    )
    lines.append(f"The limits are Student's, over {own.trainings.max()} trainings, each on its own split of the data.")
    return "\n\n".join(lines)
