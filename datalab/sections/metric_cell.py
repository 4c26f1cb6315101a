"""One cell of section 3.1: what several systems get right in each stratum of the test set, a data set and seed."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from datalab import pruning
from datalab.influence import LastLayerGGN
from datalab.influence.estimator import quiet
from datalab.protocol import protocol
from datalab.sections.level_cell import leverage
from datalab.sections.trial import Trial, references, self_influence
from datalab.training import AnyStack, fit_many, protocol_recipe

ARCHITECTURES = ("softmax", "mlp", "cnn")
METHODS = ("full", "influence", "random")
STRATA = ("influence", "leverage")
RESAMPLES = 300


def run_cell(
    dataset: str, seed: int, root_seed: int, caps: dict[str, int], encoder: str, device: str
) -> list[dict[str, Any]]:
    """Rows of ``part`` "stratum", one a kind of strata, stratum and system: the test examples and the share right.

    And of ``part`` "variance", one a kind of strata, target's tilt and system: the variance of the metric over
    bootstrap samples of the test set, its strata cut anew in each.

    A system is an architecture trained on everything, on what influence pruning keeps, or on a random subset of that
    size, at the protocol's verdict rate. Strata are equal shares of the test set by the self-influence of the test
    example with its true label, under an MLP's reference models (``influence``), or by its leverage (``leverage``,
    which needs no label).
    """
    rates = (protocol().framework["verdict_rate"],)
    studies = {name: Trial(dataset, name, seed, root_seed, rates, caps, encoder, device) for name in ARCHITECTURES}
    y = studies["mlp"].prepared.y_test
    trained = {name: references(study) for name, study in studies.items()}
    scores = _scores(studies["mlp"], *trained["mlp"])
    right = {
        (name, how): each
        for name, study in studies.items()
        for how, each in _right(study, self_influence(study, *trained[name])[0], y).items()
    }
    rows = []
    for kind, values in scores.items():
        of = quantiles(values)
        rng = studies["mlp"].rng("resampled", kind)
        variances = resampled_variances(np.stack(list(right.values())), values, rng)
        for i, ((architecture, method), each) in enumerate(right.items()):
            common = {"dataset": dataset, "seed": seed, "architecture": architecture, "method": method, "strata": kind}
            for k in range(protocol().stratified_metric["strata"]):
                found = {"part": "stratum", "stratum": k, "n": int((of == k).sum()), "right": each[of == k].mean()}
                rows.append(common | found)
            for tilt, variance in variances.items():
                rows.append(common | {"part": "variance", "tilt": tilt, "variance": variance[i]})
    return rows


def target_weights(sizes: NDArray, tilt: float) -> NDArray[np.float64]:
    """w_k ~ n_k exp(tilt * (k - middle)) of sum 1, for strata of sizes (..., K); at tilt 0 their own shares."""
    k = np.arange(sizes.shape[-1])
    w = sizes * np.exp(tilt * (k - k.mean()))
    return w / w.sum(-1, keepdims=True)


def resampled_variances(right: NDArray[np.bool_], scores: NDArray, rng: np.random.Generator) -> dict[float, NDArray]:
    """The variance of M_strat of every system (systems,), by tilt, over bootstrap samples of the n test examples.

    right is (systems, n), scores (n,). In each sample the strata are equal shares by score once more.
    """
    rule, n = protocol().stratified_metric, len(scores)
    ranked = right[:, np.argsort(scores, kind="stable")]
    ends = np.linspace(0, n, rule["strata"] + 1).round().astype(int)
    sizes = np.diff(ends)
    means = np.empty((RESAMPLES, len(right), rule["strata"]))
    for i in range(RESAMPLES):
        sample = ranked[:, np.sort(rng.integers(0, n, n))]  # in the order of the scores: strata are runs
        means[i] = np.add.reduceat(sample, ends[:-1], axis=1, dtype=np.int64) / sizes
    return {float(tilt): (means @ target_weights(sizes, tilt)).var(0, ddof=1) for tilt in rule["tilts"]}


def quantiles(scores: NDArray) -> NDArray[np.int64]:
    """The stratum (n,) of each score, 0 the lowest: equal shares by rank, up to one; equal scores keep their order."""
    return ((rankdata(scores, method="ordinal") - 1) * protocol().stratified_metric["strata"] // len(scores)).astype(
        int
    )


def _scores(study: Trial, stack: AnyStack, labels: NDArray) -> dict[str, NDArray]:
    """What the test examples are stratified by. The true test labels enter here: a metric may know them."""
    x, x_test, y_test = study.x, study.x_test, study.tensor(study.prepared.y_test)
    with quiet():
        estimator = LastLayerGGN(stack, l2=protocol_recipe().l2).fit(x, torch.as_tensor(labels))
    both = np.vstack([study.prepared.x_train, study.prepared.x_test])
    far = leverage(both)[len(study.prepared.x_train) :]
    return {"influence": estimator.self_influence(x_test, y_test).mean(0).cpu().numpy(), "leverage": far}


def _right(study: Trial, scores: NDArray, y: NDArray) -> dict[str, NDArray[np.bool_]]:
    """Which test examples each method's model gets right, (n_test,); ``scores`` (n,) are what influence prunes by."""
    keep, observed = protocol().primary_cell["keep_fraction"], study.observed[0]
    pruned = pruning.keep(scores, observed, keep)
    subset = pruning.random_subset(observed, keep, rng=study.rng("random", "metric"))
    kept = np.stack([np.ones_like(pruned), pruned, subset])
    drawn = [study.model_seed("model")] * len(kept)
    stack = fit_many(study.classifier(), study.x, np.tile(observed, (len(kept), 1)), kept, drawn, protocol_recipe())
    return dict(zip(METHODS, stack.predict(study.x_test).cpu().numpy() == y, strict=True))
