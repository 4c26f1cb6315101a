"""One cell of section 5.3: filtering, curriculum and ensembles, each beside its own control, a data set and seed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datalab import framework, metrics, models, pruning
from datalab.protocol import protocol
from datalab.sections.trial import DATALAB, Trial, fit_datalab, probabilities, references, self_influence
from datalab.training import AnyStack, fit_many, protocol_recipe

MEMBERS = ("softmax", "mlp", "cnn", "resnet")  # four different models
ORDERS = ("random", "low to high", "high to low")


def run_cell(
    dataset: str,
    seed: int,
    root_seed: int,
    rates: Sequence[float],
    caps: dict[str, int],
    encoder: str,
    device: str,
) -> list[dict[str, Any]]:
    """A row per ``part``, noise ``rate`` and ``method``: macro-F1 and accuracy on the clean test set.

    ``filtering``: the MLP on everything, without the share ``dropped`` of highest self-influence, without as many at
    random (several draws), and with the highest relabelled by their clean labels in place of being dropped, a control
    that needs the truth. ``curriculum``: the MLP on batches from a pool that grows from the least to the most
    influential examples, the other way round, and in random order. ``ensemble``, at the protocol's verdict rate: four
    different models alone and averaged, four seeds of the MLP averaged, and DATA-LAB.
    """
    study = Trial(dataset, "mlp", seed, root_seed, tuple(rates), caps, encoder, device)
    scores = self_influence(study, *references(study))
    rows = _filtering(study, scores) + _curriculum(study, scores) + _ensembles(study)
    return [{"dataset": dataset, "seed": seed} | row for row in rows]


def _filtering(study: Trial, scores: NDArray) -> list[dict[str, Any]]:
    clean, shares = study.prepared.y_train, protocol().negative_results["dropped"]
    about, labels, kept = [], [], []

    def arm(rate: float, method: str, observed: NDArray, mask: NDArray, share: float = 0.0, draw: int = 0) -> None:
        about.append({"part": "filtering", "rate": rate, "method": method, "dropped": share, "draw": draw})
        labels.append(observed)
        kept.append(mask)

    for rate, observed, score in zip(study.rates, study.observed, scores, strict=True):
        everything = np.ones(len(observed), dtype=bool)
        arm(rate, "everything", observed, everything)
        for share in shares:
            stay = pruning.keep(score, observed, 1 - share)
            arm(rate, "influence", observed, stay, share)
            arm(rate, "relabelled", np.where(stay, observed, clean), everything, share)
            for draw in range(protocol().random_subsets):
                rng = study.rng("filtering", rate, share, draw)
                arm(rate, "random", observed, pruning.random_subset(observed, 1 - share, rng=rng), share, draw)
    stack = _fit(study, np.array(labels), np.array(kept))
    return _scored(study, about, stack.predict(study.x_test).cpu().numpy())


def _curriculum(study: Trial, scores: NDArray) -> list[dict[str, Any]]:
    recipe, model_seed = protocol_recipe(), study.model_seed("model")
    about, labels, orders = [], [], []
    for rate, observed, score in zip(study.rates, study.observed, scores, strict=True):
        for method in ORDERS:
            ranked = (
                None if method == "random" else np.argsort(score if method == "low to high" else -score, kind="stable")
            )
            rng = study.rng("curriculum", rate)
            orders.append(paced_order(len(observed), recipe.steps, recipe.batch_size, ranked, rng))
            labels.append(observed)
            about.append({"part": "curriculum", "rate": rate, "method": method})
    drawn = [model_seed] * len(orders)
    stack = fit_many(study.classifier(), study.x, np.array(labels), None, drawn, recipe, order=np.array(orders))
    return _scored(study, about, stack.predict(study.x_test).cpu().numpy())


def paced_order(
    n: int, steps: int, batch: int, ranked: NDArray[np.int64] | None, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The rows (steps * batch) of a curriculum: batches from a pool of the first examples of ``ranked`` (n,).

    The pool grows linearly from the protocol's starting share to everything at its share of the steps (Bengio et al.
    2009; the linear pacing of Wu et al. 2021). ``ranked`` None: random order, from everything throughout. Within the
    pool each batch is drawn without replacement.
    """
    rule = protocol().negative_results["pacing"]
    found = []
    for step in range(steps):
        share = 1.0
        if ranked is not None:
            share = min(1.0, rule["start"] + (1 - rule["start"]) * step / (rule["whole_at"] * steps))
        pool = max(round(share * n), min(batch, n))
        taken = rng.choice(pool, batch, replace=pool < batch)
        found.append(taken if ranked is None else ranked[taken])
    return np.concatenate(found)


def _ensembles(study: Trial) -> list[dict[str, Any]]:
    rate = protocol().framework["verdict_rate"]
    at = list(study.rates).index(rate)
    observed, noisy_val = study.observed[at], study.observed_validation[at]
    n_classes = study.prepared.n_classes
    test, validation = {}, {}
    for name in MEMBERS:
        p = study.prepared
        module = models.build(name, p.grid, p.n_classes, protocol().training["hidden"])
        stack = fit_many(module, study.x, observed, None, [study.model_seed("model")], protocol_recipe())
        test[name], validation[name] = (probabilities(stack, x)[0] for x in (study.x_test, study.x_val))
    drawn = [study.model_seed("member", i) for i in range(len(MEMBERS))]
    same = fit_many(study.classifier(), study.x, observed, None, drawn, protocol_recipe())
    found = {f"member {name}": p for name, p in test.items()}
    best = max(MEMBERS, key=lambda name: metrics.macro_f1(noisy_val, validation[name].argmax(1), n_classes))
    found |= {"best member by validation": test[best], "four different models": np.mean(list(test.values()), 0)}
    found["four seeds of the MLP"] = probabilities(same, study.x_test).mean(0)
    default = protocol().framework["default"]
    for variant in framework.VARIANTS:
        lambdas = np.array([[default["lambda1"], default["lambda2"]]])
        stack = fit_datalab(study, study.datalab(variant=variant), observed[None], lambdas)
        found[DATALAB[variant]] = probabilities(stack, study.x_test)[0]
    about = [{"part": "ensemble", "rate": rate, "method": name} for name in found]
    return _scored(study, about, np.stack([p.argmax(1) for p in found.values()]))


def _fit(study: Trial, labels: NDArray, kept: NDArray[np.bool_]) -> AnyStack:
    drawn = [study.model_seed("model")] * len(labels)
    return fit_many(study.classifier(), study.x, labels, kept, drawn, protocol_recipe())


def _scored(study: Trial, about: list[dict[str, Any]], predicted: NDArray) -> list[dict[str, Any]]:
    y = study.prepared.y_test
    f1, accuracy = metrics.macro_f1(y, predicted, study.prepared.n_classes), metrics.accuracy(y, predicted)
    return [row | {"macro_f1": f1[i], "accuracy": accuracy[i]} for i, row in enumerate(about)]
