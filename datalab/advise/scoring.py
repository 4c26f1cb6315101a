"""Every row scored by models that did not see it: which labels look wrong, and what the advised arm drops.

Models are trained on the pilot's pool alone, ``REPEATS`` times with other folds and seeds; a row outside the pool was
seen by none of them. Rows come in blocks and only a few numbers of each are held, so that memory does not grow with
what is in a row.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from datalab import pruning, seeds
from datalab.advise import pilot
from datalab.influence import LastLayerGGN
from datalab.influence.estimator import quiet
from datalab.protocol import protocol
from datalab.training import make_stack, protocol_recipe

REPEATS = 3


class Scored(NamedTuple):
    """Of every row (n,): the probability of its given label, the most probable class and that one's probability, the
    share of repeats that count its label as wrong, and the score by which ``method`` drops, highest first.
    """

    given: NDArray[np.float32]
    suggested: NDArray[np.int64]
    probability: NDArray[np.float32]
    agreement: NDArray[np.float32]
    drop: NDArray[np.float64]


class _Repeat:
    """The models of one repeat, trained for ``steps`` on the pool x (n, d), y (n,)."""

    def __init__(self, x: NDArray, y: NDArray, n_classes: int, steps: int, method: str, own: NDArray | None, seed: int):
        self.method, self.per = method, protocol().reference["models"]
        made = pilot.references(x, y, n_classes, seeds.generator(seed), (steps,))
        self.stack, self.fold = made.stack, made.fold
        p = made.probabilities if own is None else own
        counts, sums = np.bincount(y, minlength=n_classes), np.zeros(n_classes)
        np.add.at(sums, y, p[np.arange(len(y)), y])
        self.threshold = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
        if method == "influence":
            with quiet():
                rows = torch.from_numpy(x), torch.from_numpy(y)
                self.estimator = LastLayerGGN(self.stack, l2=protocol_recipe().l2).fit(*rows)

    def __call__(self, x: NDArray, y: NDArray, place: NDArray, own: NDArray | None) -> tuple[NDArray, NDArray, NDArray]:
        """Out-of-sample probabilities (m, C), which labels count as wrong, the scores; place -1: not in the pool."""
        rows = torch.from_numpy(x)
        p = torch.softmax(self.stack(rows), -1).numpy()
        seen, folds = p[: self.per], p[self.per :]
        unseen = np.where((place < 0)[:, None], folds.mean(0), folds[self.fold[place], np.arange(len(x))])
        unseen = unseen if own is None else own
        confident = np.where(unseen >= self.threshold - 1e-6, unseen, -1.0)
        wrong = (confident.max(1) >= 0) & (confident.argmax(1) != y)
        if self.method == "influence":
            drop = self.estimator.self_influence(rows, torch.from_numpy(y))[: self.per].double().mean(0).numpy()
        elif self.method == "loss":
            drop = pruning.loss(seen, y).mean(0)
        else:
            drop = (1 + pruning.margin(unseen, y)) / 2 + wrong
        return unseen, wrong, drop


def rehearse(x: NDArray, n_classes: int) -> None:
    """The forward passes that scoring the rows x (m, d) takes, for their time."""
    with pilot.single_thread():
        models = REPEATS * (protocol().reference["models"] + pilot.FOLDS)
        make_stack(pilot.module(x.shape[1], n_classes), models)(torch.from_numpy(x))


def score(
    pool: tuple[NDArray, NDArray],
    blocks: Iterable[tuple[NDArray, NDArray]],
    labels: NDArray,
    n_classes: int,
    steps: int,
    method: str,
    own: NDArray | None,
    seed: int,
) -> Scored:
    """Score rows with ``labels`` (n,) in 0..n_classes-1, which come in ``blocks`` of row numbers and features.

    ``pool`` holds the features (k, d) and the row numbers (k,) of what is trained on; ``own`` (n, C) are the user's
    own out-of-sample probabilities, used in place of the models'.
    """
    x, rows = pool
    n, place = len(labels), np.full(len(labels), -1)
    place[rows] = np.arange(len(rows))
    made = Scored(*(np.zeros(n, kind) for kind in (np.float32, np.int64, np.float32, np.float32, np.float64)))
    with pilot.single_thread():
        drawn = [seeds.integer(seed, "advise", "final", i) for i in range(REPEATS)]
        of_pool = None if own is None else own[rows]
        repeats = [_Repeat(x, labels[rows], n_classes, steps, method, of_pool, each) for each in drawn]
        for at, features in blocks:
            y, total = labels[at], np.zeros((len(at), n_classes))
            for repeat in repeats:
                p, wrong, drop = repeat(features, y, place[at], None if own is None else own[at])
                total += p / REPEATS
                made.agreement[at] += wrong / np.float32(REPEATS)
                made.drop[at] += drop / REPEATS
            made.given[at], made.probability[at] = total[np.arange(len(at)), y], total.max(1)
            made.suggested[at] = total.argmax(1)
    return made
