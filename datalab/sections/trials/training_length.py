"""Training length as an axis of the study (protocol 2): every arm trained for every number of steps.

A task is a data set and seed. At every noise rate it trains the reference models for every length, ranks the training
examples by their self-influence, and trains what each arm keeps for every length, each by its own cosine. The labels
are flipped symmetrically, or those of single raters; the architecture is the primary cell's. What a careful
practitioner does, to stop by noisy validation labels, is read off the rows (:mod:`datalab.sections.readings`).
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pydantic
from numpy.typing import NDArray

from datalab import correction, data, metrics, noise, pruning
from datalab.protocol import protocol
from datalab.sections import compare
from datalab.sections.parameters import AnyDatasets, Count, Datasets, Fractions, Lengths, Rates, TrialParameters
from datalab.sections.readings import THRESHOLD, and_all, early_stopped, read_by
from datalab.sections.trials.trial import (
    HUMAN,
    Looks,
    Trial,
    fit,
    mean_of_references,
    out_of_sample,
    probabilities,
    references,
    self_influence,
)
from datalab.sweep import Task, machine_speed
from datalab.training import AnyStack, chunk_size, protocol_recipe

RULES = protocol().protocol_2
PRIMARY_KEEP = protocol().primary_cell["keep_fraction"]
RIVALS = {"per_class": ["loss"], "global": ["loss", "AUM", "cross-validated loss"], "estimated": []}
DOUBTED = "as many as doubted"  # a share dropped: that of the examples that confident learning doubts
LOOKS = 20  # at the references in training, for the area under the margin
Arm = tuple[dict[str, Any], NDArray[np.bool_]]
Row = tuple[int, dict[str, Any]]  # which of the trial's rates, and what the row says


class LengthParameters(TrialParameters):
    length_datasets: Datasets
    length_seeds: Count
    length_rates: Rates = pydantic.Field(min_length=2)
    length_keep_fractions: Fractions
    lengths: Annotated[Lengths, pydantic.Field(min_length=2)]  # one is not longer than another, nor chosen
    reference_lengths: Lengths
    human_datasets: AnyDatasets

    @pydantic.field_validator("human_datasets")
    @classmethod
    def _has_single_raters(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if data.REGISTRY[name].human_error is None:
                rated = [known for known, spec in data.REGISTRY.items() if spec.human_error is not None]
                raise ValueError(f"'{name}' has no labels of single raters; use {', '.join(rated)}")
        return names

    @pydantic.model_validator(mode="after")
    def _primary_is_run(self) -> "LengthParameters":
        if PRIMARY_KEEP not in self.length_keep_fractions:
            raise ValueError(f"length_keep_fractions must include {PRIMARY_KEEP:g}, where the title's verdict is read")
        if not self.length_rates[0] == 0 < THRESHOLD < self.length_rates[-1]:
            raise ValueError(f"length_rates must include 0, and a rate above {THRESHOLD:g}, the title's")
        if not set(self.reference_lengths) <= set(self.lengths):
            them = f"reference_lengths, {list(self.reference_lengths)}, must be among lengths, {list(self.lengths)}"
            raise ValueError(f"{them}: where one is not the profile's, give both")
        return self

    @property
    def unfit(self) -> str:
        """The title is judged on the balanced sets, and one set alone has no interval."""
        balanced = sum(data.stratum(name) == "balanced" for name in self.length_datasets)
        few = "parameter 'length_datasets': name two or more balanced data sets, on which the title is judged"
        return super().unfit or ("" if balanced > 1 else few)


def tasks(p: LengthParameters) -> list[Task]:
    """A task a data set and seed, of synthetic noise at every rate; then of each set with labels of single raters."""
    how = {"keep_fractions": list(p.length_keep_fractions), "lengths": list(p.lengths)} | p.of_trial
    how["reference_lengths"] = list(p.reference_lengths)
    kinds = {protocol().primary_cell["noise"]: (p.length_datasets, p.length_rates), HUMAN: (p.human_datasets, [None])}
    return [
        task({"dataset": name, "noise_kind": kind, "seed": seed, "rates": list(rates)} | how)
        for kind, (names, rates) in kinds.items()
        for name in names
        for seed in range(p.length_seeds)
    ]


def task(given: dict[str, Any]) -> Task:
    """The task of :func:`run_task` with these parameters, and what it costs."""
    pruned = len(given["keep_fractions"]) * 2 * (RULES["random_subsets"] + len(given["reference_lengths"]) + 3)
    return costed("run_task", given, 5 + pruned)


def costed(function: str, given: dict[str, Any], models: int) -> Task:
    """The task of this file's ``function``, which trains so many ``models`` a rate, beside the references."""
    models = len(given["rates"]) * (models + protocol().reference["models"])
    cost = 1.3 * models * sum(given["lengths"]) * machine_speed.REFERENCE
    return Task(f"{__name__}:{function}", given, cost * max(1.0, given["caps"]["train"] / 1000) ** 0.1, models)


def run_task(
    rates: Sequence[float | None],
    keep_fractions: Sequence[float],
    lengths: Sequence[int],
    reference_lengths: Sequence[int],
    **of: Any,
) -> pd.DataFrame:
    """A row per rate, arm and training length, scored on the clean test set and on noisy labels.

    ``of`` names the :class:`~datalab.sections.trials.trial.Trial`; a rate is None where labels are as people gave them.
    ``reference_lengths`` are the lengths of references whose ranking is followed, beside the one that noisy validation
    chooses at each rate. ``memorised`` is the share of the flipped training labels that the model predicts as flipped.
    """
    trial = Trial(rates=tuple(rates), architecture=protocol().primary_cell["architecture"], **of)
    labels, kept, rows, unseen = [], [], [], out_of_sample(trial)
    for i, arms in enumerate(_arms(trial, unseen, keep_fractions, lengths, reference_lengths)):
        observed, clean = trial.observed[i], trial.prepared.y_train
        realised = noise.realised_rate(clean, observed)
        row = {"dataset": trial.dataset, "noise": trial.noise_kind, "seed": trial.seed}
        row |= {"train_cap": trial.caps["train"], "rate": realised if rates[i] is None else rates[i]}
        row["realised_rate"] = realised
        right, largest = observed == clean, clean == np.bincount(clean).argmax()
        dropped = {"largest": right & largest, "rest": right & ~largest}
        for arm, mask in arms:
            made = {f"dropped_{name}": float(np.mean(~mask[part])) for name, part in dropped.items()}
            made |= {"n_kept": int(mask.sum()), "flipped_kept": float(np.mean(~right[mask]))}
            rows.append((i, row | arm | made))
            labels.append(observed)
            kept.append(mask)
    frame = pd.DataFrame(_trained(trial, unseen, lengths, rows, np.array(labels), np.array(kept)))
    scores = frame.columns[frame.columns.get_loc("steps") + 1 :]
    return frame.astype(dict.fromkeys(scores, np.float32))  # seven digits; half the bytes


def run_shares(
    rates: Sequence[float], keep_fractions: Sequence[float], lengths: Sequence[int], **of: Any
) -> pd.DataFrame:
    """Influence and random pruning of other shares, and what keeps everything: a row per rate and arm.

    Each is trained for every length, and its row is of the one that its own noisy validation labels choose. ``share``
    says what is dropped: what one of ``keep_fractions`` leaves (``10 %``), or as many examples as confident learning
    doubts (:data:`DOUBTED`). Labels, references and random streams are those of :func:`run_task`.
    """
    trial = Trial(rates=tuple(rates), architecture=protocol().primary_cell["architecture"], **of)
    unseen = out_of_sample(trial)
    by_method, chosen = _rankings(trial, lengths)
    rows, kept = [], []
    for i, (rate, observed, steps) in enumerate(zip(rates, trial.observed, chosen, strict=True)):
        row = {"dataset": trial.dataset, "noise": trial.noise_kind, "seed": trial.seed}
        row |= {"train_cap": trial.caps["train"], "rate": rate}
        row["realised_rate"] = noise.realised_rate(trial.prepared.y_train, observed)
        doubted = pruning.confident_learning(unseen[i], observed) > 1
        keeps = {f"{100 * (1 - keep):g} %": keep for keep in keep_fractions} | {DOUBTED: 1 - float(doubted.mean())}
        arms = [(_arm("full", np.ones_like(doubted)), "")]
        for (share, keep), quota in itertools.product(keeps.items(), pruning.QUOTAS):
            for draw in range(RULES["random_subsets"]):
                rng = trial.rng("random", rate, DOUBTED if share == DOUBTED else keep, draw)
                mask = pruning.random_subset(observed, keep, quota, rng=rng)
                arms.append((_arm("random", mask, quota, keep, draw), share))
            mask = pruning.keep(by_method[steps]["influence"][i], observed, keep, quota)
            arms.append((_arm("influence", mask, quota, keep, 0, steps, True), share))
        for (arm, mask), share in arms:
            flipped = float(np.mean(observed[mask] != trial.prepared.y_train[mask]))
            rows.append((i, row | arm | {"share": share, "n_kept": int(mask.sum()), "flipped_kept": flipped}))
            kept.append(mask)
    labels = trial.observed[[i for i, _ in rows]]
    frame = early_stopped(pd.DataFrame(_trained(trial, unseen, lengths, rows, labels, np.array(kept))), "share")
    scores = frame.columns[frame.columns.get_loc("steps") + 1 :]
    return frame.astype(dict.fromkeys(scores, np.float32))


def _trained(
    trial: Trial, unseen: NDArray, lengths: Sequence[int], rows: list[Row], labels: NDArray, kept: NDArray
) -> Iterator[dict[str, Any]]:
    """Every row at every length, with the scores of the model trained so long on its labels and what is kept."""
    for steps in lengths:
        recipe = protocol_recipe(steps)
        chunk = chunk_size(trial.classifier(), recipe, trial.x.shape[1], trial.device)
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            stack = fit(trial, labels[part], kept[part], recipe=recipe)
            scores = _scores(trial, stack, rows[part], labels[part], kept[part])
            for (_, row), scored in zip(rows[part], scores, strict=True):
                yield row | {"steps": steps} | scored
        full = [(i, row) for i, row in rows if row["method"] == "full"]
        everything = np.ones_like(trial.observed, dtype=bool)
        for method, how in _losses(trial, unseen).items():
            stack = fit(trial, trial.observed, recipe=recipe, **how)
            scores = _scores(trial, stack, full, trial.observed, everything)
            for (_, row), scored in zip(full, scores, strict=True):
                yield row | {"method": method, "steps": steps} | scored


def _losses(trial: Trial, unseen: NDArray) -> dict[str, dict[str, Any]]:
    """What trains on everything by another loss than the cross-entropy, each as ``trial.fit`` takes it."""
    pairs = zip(unseen, trial.observed, strict=True)
    transition = np.stack([correction.transition_matrix(*pair) for pair in pairs]).astype(np.float32)
    forward = {"module": correction.ForwardCorrected(trial.classifier())}
    forward["settings"] = {"transition": trial.tensor(transition)}
    return {"forward correction": forward, "label smoothing": {"module": correction.LabelSmoothed(trial.classifier())}}


def _scores(trial: Trial, stack: AnyStack, rows: list[Row], labels: NDArray, kept: NDArray) -> list[dict[str, float]]:
    prepared, (train, validation) = trial.prepared, (stack.predict(x).cpu().numpy() for x in (trial.x, trial.x_val))
    p, y, clean = probabilities(stack, trial.x_test), prepared.y_test, prepared.y_train
    largest = np.bincount(clean).argmax()
    scored = [{"largest_predicted": float(np.mean(each.argmax(-1) == largest))} for each in p]
    for tau in (0.0, *RULES["taus"]):
        guesses = corrected(p, labels, kept, tau).argmax(-1)
        columns = {"macro_f1": metrics.macro_f1(y, guesses, prepared.n_classes)}
        columns["accuracy"] = metrics.accuracy(y, guesses)
        columns["balanced_accuracy"] = metrics.macro_recall(y, guesses, prepared.n_classes)
        if not tau:
            columns["macro_precision"] = metrics.macro_precision(y, guesses, prepared.n_classes)
        for name, values in columns.items():
            for row, value in zip(scored, values, strict=True):
                row[f"{name}_tau{tau:g}" if tau else name] = float(value)
    for s, (row, (rate, _)) in enumerate(zip(scored, rows, strict=True)):
        noisy, flipped = trial.observed_validation[rate], labels[s] != clean
        row["validation_f1"] = metrics.macro_f1(noisy, validation[s], prepared.n_classes)
        row["validation_accuracy"] = metrics.accuracy(noisy, validation[s])
        row["train_accuracy"] = metrics.accuracy(labels[s], train[s])
        row["memorised"] = float(np.mean((train[s] == labels[s])[flipped])) if flipped.any() else np.nan
    return scored


def corrected(p: NDArray, labels: NDArray, kept: NDArray, tau: float) -> NDArray:
    """Log-probabilities (S, n, C) less ``tau`` times the log of the class shares each model was trained on.

    ``labels`` and ``kept`` are (S, n_train); a class of which nothing is left counts as one example (Menon et al. 2021,
    "Long-tail learning via logit adjustment", eq. 9).
    """
    counts = np.stack([np.bincount(y[mask], minlength=p.shape[-1]) for y, mask in zip(labels, kept, strict=True)])
    shares = np.maximum(counts, 1) / kept.sum(1, keepdims=True)
    return np.log(np.maximum(p, 1e-30)) - tau * np.log(shares)[:, None]


def _arms(
    trial: Trial,
    unseen: NDArray,
    keep_fractions: Sequence[float],
    lengths: Sequence[int],
    reference_lengths: Sequence[int],
) -> Iterator[list[Arm]]:
    """The arms of every rate: what a row says of them, and the mask (n,) of the examples they keep."""
    by_method, chosen = _rankings(trial, lengths)
    for i, rate in enumerate(trial.rates):
        observed, truth = trial.observed[i], pruning.oracle(trial.observed[i], trial.prepared.y_train)
        likely = pruning.confident_class(unseen[i], observed)
        believed = (likely < 0) | (likely == observed)
        made = [_arm("full", np.ones_like(truth)), _arm("oracle", truth), _arm("confident learning", believed)]
        scores = {steps: {method: of[i] for method, of in every.items()} for steps, every in by_method.items()}
        scores[chosen[i]]["cross-validated loss"] = pruning.loss(unseen[i], observed)
        clean_shares = correction.clean_shares(unseen[i], observed)
        for keep, (quota, (kind, shares)) in itertools.product(keep_fractions, _quotas(clean_shares).items()):
            if shares is not None and keep != PRIMARY_KEEP:
                continue
            for draw in range(RULES["random_subsets"]):
                rng = trial.rng("random", rate, keep, draw)
                mask = pruning.random_subset(observed, keep, kind, shares, rng=rng)
                made.append(_arm("random", mask, quota, keep, draw))
            for steps in sorted({*(reference_lengths if shares is None else ()), chosen[i]}):
                mask = pruning.keep(scores[steps]["influence"], observed, keep, kind, shares)
                made.append(_arm("influence", mask, quota, keep, 0, steps, steps == chosen[i]))
            for method in RIVALS[quota] if keep == PRIMARY_KEEP else ():
                mask = pruning.keep(scores[chosen[i]][method], observed, keep, kind)
                made.append(_arm(method, mask, quota, keep, 0, chosen[i], True))
        yield made


def _quotas(clean_shares: NDArray) -> dict[str, tuple[str, NDArray | None]]:
    """How a row names a quota, and what :func:`pruning.keep` takes for it: the kind, and shares if not the observed."""
    return {quota: (quota, None) for quota in pruning.QUOTAS} | {"estimated": ("per_class", clean_shares)}


def _arm(
    method: str,
    mask: NDArray[np.bool_],
    quota: str = "",
    keep: float = 1.0,
    draw: int = 0,
    steps: int = 0,
    chosen: bool = False,
) -> Arm:
    named = {"method": method, "quota": quota, "keep_fraction": keep, "draw": draw}
    return named | {"reference_steps": steps, "reference_chosen": chosen}, mask


def _rankings(trial: Trial, lengths: Sequence[int]) -> tuple[dict[int, dict[str, NDArray]], list[int]]:
    """By the references' length every score's ranking (rates, n), by method; and the length chosen at every rate.

    Chosen is the length whose references' macro-F1 on the noisy validation labels is highest on the mean, the shortest
    of equals.
    """
    by_method, validation = {}, []
    for steps in lengths:
        looks = Looks(trial, trial.observed, max(steps // LOOKS, 1))
        stack, labels = references(trial, recipe=protocol_recipe(steps), on_step=looks)
        loss = mean_of_references(pruning.loss(probabilities(stack, trial.x), labels))
        own = {"influence": self_influence(trial, stack, labels), "loss": loss}
        by_method[steps] = own | {"AUM": mean_of_references(np.mean(looks.margins, axis=0))}
        guesses = stack.predict(trial.x_val).cpu().numpy().reshape(len(trial.rates), -1, len(trial.x_val))
        pairs = zip(trial.observed_validation, guesses, strict=True)
        validation.append([np.mean(metrics.macro_f1(y, g, trial.prepared.n_classes)) for y, g in pairs])
    return by_method, [lengths[i] for i in np.argmax(validation, axis=0)]


def human_noise(rows: pd.DataFrame) -> pd.DataFrame:
    """Labels of single raters: influence against random and against keeping everything, by set and over the sets."""
    rows = rows[rows.noise == HUMAN]
    if rows.empty:
        return pd.DataFrame()
    d, by = read_by(early_stopped(rows)), ["reading", "on"]
    d = and_all(d.assign(on=d.dataset), "on")
    table = compare.means(d, by, {"d": ("d against random", None), "d_full": ("d against full", None)})
    rate = d.groupby([*by, "dataset"], sort=False).realised_rate.mean().groupby(level=by, sort=False).mean()
    table.insert(2, "noise (%)", 100 * rate.to_numpy())
    return table
