"""One cell of section 4.2: training sets of equal size and rising influence, a data set, architecture and seed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from datalab import framework, metrics
from datalab.protocol import protocol
from datalab.sections.trial import DATALAB, Trial, fit_datalab, references, self_influence
from datalab.training import AnyStack, fit_many, protocol_recipe

DRAWS = ("matched", "unmatched", "leverage")


def run_cell(
    dataset: str, architecture: str, seed: int, root_seed: int, caps: dict[str, int], encoder: str, device: str
) -> list[dict[str, Any]]:
    """A row per draw, level and method: macro-F1 and accuracy on the clean test set.

    ``draw`` says how a level is made: by self-influence with the share of flipped labels held equal (``matched``) or
    not (``unmatched``), or by the leverage of the features, which knows no label. ``tilt`` is the level; ``flipped``
    the share of flipped labels in the set; ``mean_rank`` the mean standardised rank of its examples.
    """
    rule = protocol().framework
    study = Trial(dataset, architecture, seed, root_seed, (rule["verdict_rate"],), caps, encoder, device)
    clean, observed = study.prepared.y_train, study.observed[0]
    flipped = observed != clean
    by_influence = standardised_ranks(self_influence(study, *references(study))[0])
    by_leverage = standardised_ranks(leverage(study.prepared.x_train))
    about, kept = [], []
    for draw in DRAWS:
        ranks = by_leverage if draw == "leverage" else by_influence
        groups = flipped if draw == "matched" else np.zeros_like(flipped)
        for tilt in protocol().influence_levels["tilts"]:
            # One generator a draw: the levels differ by their tilt, not by luck.
            taken = tilted_draw(ranks, tilt, groups, study.rng("level", draw))
            kept.append(taken)
            about.append(
                {"draw": draw, "tilt": tilt, "flipped": flipped[taken].mean(), "mean_rank": ranks[taken].mean()}
            )
    labels = np.tile(observed, (len(kept), 1))
    common = {"dataset": dataset, "architecture": architecture, "seed": seed, "realised_rate": flipped.mean()}
    return [
        common | each | {"method": method} | _scores(study, predicted)
        for method, stack in _trained(study, labels, np.array(kept)).items()
        for each, predicted in zip(about, stack.predict(study.x_test).cpu().numpy(), strict=True)
    ]


def _trained(study: Trial, labels: NDArray, kept: NDArray[np.bool_]) -> dict[str, AnyStack]:
    """Every method on every set, at the default lambdas: nothing is tuned, so levels differ by their data alone."""
    drawn, recipe = [study.model_seed("model")] * len(kept), protocol_recipe()
    default = protocol().framework["default"]
    lambdas = np.tile([default["lambda1"], default["lambda2"]], (len(kept), 1))
    trained = {"vanilla": fit_many(study.classifier(), study.x, labels, kept, drawn, recipe)}
    for variant in framework.VARIANTS:
        trained[DATALAB[variant]] = fit_datalab(study, study.datalab(variant=variant), labels, lambdas, kept)
    return trained


def _scores(study: Trial, predicted: NDArray) -> dict[str, float]:
    y = study.prepared.y_test
    return {
        "macro_f1": metrics.macro_f1(y, predicted, study.prepared.n_classes),
        "accuracy": metrics.accuracy(y, predicted),
    }


def standardised_ranks(scores: NDArray) -> NDArray[np.float64]:
    """Ranks (n,), equal scores sharing theirs, of mean 0 and standard deviation 1."""
    ranks = rankdata(scores)
    return (ranks - ranks.mean()) / max(ranks.std(), 1e-12)


def leverage(x: NDArray, relative_damping: float = 1e-3) -> NDArray[np.float64]:
    """x_i' (X'X/n + d I)^-1 x_i of features (n, d) with a column of ones: how far out an example lies, (n,)."""
    x = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    gram = x.T @ x / len(x)
    gram[np.diag_indices_from(gram)] += relative_damping * np.diag(gram).mean()
    return np.einsum("ij,ji->i", x, np.linalg.solve(gram, x.T))


def tilted_draw(ranks: NDArray, tilt: float, groups: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A set drawn without replacement, one example after another with probability ~ exp(tilt * rank), as a mask (n,).

    It is ``influence_levels.share`` of the examples, and the same share of each group, up to rounding. By exponential
    keys (Efraimidis & Spirakis 2006).
    """
    share = protocol().influence_levels["share"]
    keys = rng.exponential(size=len(ranks)) / np.exp(tilt * ranks)
    size, mask = round(share * len(ranks)), np.zeros(len(ranks), dtype=bool)
    of_second = round(size * groups.mean())
    for members, count in ((np.flatnonzero(groups), of_second), (np.flatnonzero(~groups), size - of_second)):
        mask[members[np.argsort(keys[members], kind="stable")[:count]]] = True
    return mask
