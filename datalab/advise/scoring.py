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
from datalab.training import protocol_recipe

REPEATS = 3


class Scored(NamedTuple):
    """Of every row (n,): the probability of its given label, the most probable class and that one's probability, the
    share of repeats that count its label as wrong, and the score by which the advised method drops, highest first.
    """

    given: NDArray[np.float32]
    suggested: NDArray[np.int32]
    probability: NDArray[np.float32]
    agreement: NDArray[np.float32]
    drop: NDArray[np.float32]

    def wrong(self, labels: NDArray) -> NDArray[np.bool_]:
        """The mask (n,) of the labels flagged: as many as the repeats count on average, the least probable first."""
        return pilot.least_confident(self.given, self.agreement.sum()) & (self.suggested != labels)


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

    ``pool`` holds the features (k, d) and the row numbers (k,) of what is trained on, for ``steps``; ``method`` is the
    advised one; ``own`` (n, C) are the user's out-of-sample probabilities, used in place of the models'.
    """
    x, rows = pool
    y, n, per = labels[rows], len(labels), protocol().reference["models"]
    place = np.full(n, -1)
    place[rows] = np.arange(len(rows))
    made = Scored(*(np.zeros(n, kind) for kind in (np.float32, np.int32, np.float32, np.float32, np.float32)))
    with pilot.ONE_THREAD():
        repeats = []
        for i in range(REPEATS):
            models = pilot.references(x, y, n_classes, seeds.generator(seed, "advise", "final", i), (steps,))
            p = models.probabilities if own is None else own[rows]
            threshold = np.bincount(y, weights=p[np.arange(len(y)), y]) / np.bincount(y)
            estimator = LastLayerGGN(models.stack, l2=protocol_recipe().l2) if method == "influence" else None
            if estimator is not None:
                with quiet():
                    estimator.fit(torch.from_numpy(x), torch.from_numpy(y))
            repeats.append((models, threshold, estimator))
        for at, features in blocks:
            y, at_pool, total = labels[at], place[at], np.zeros((len(at), n_classes))
            for models, threshold, estimator in repeats:
                block = torch.from_numpy(features)
                p = torch.softmax(models.stack(block), -1).numpy()
                seen, folds = p[:per], p[per:]
                unseen = np.where(at_pool[:, None] < 0, folds.mean(0), folds[models.fold[at_pool], np.arange(len(at))])
                unseen = unseen if own is None else own[at]
                confident = np.where(unseen >= threshold - 1e-6, unseen, -1.0)
                wrong = (confident.max(1) >= 0) & (confident.argmax(1) != y)
                if estimator is not None:
                    drop = estimator.self_influence(block, torch.from_numpy(y))[:per].double().mean(0).numpy()
                else:
                    drop = pruning.loss(seen, y).mean(0) if method == "loss" else pruning.margin(unseen, y) / 2 + wrong
                total += unseen / REPEATS
                made.agreement[at] += wrong / np.float32(REPEATS)
                made.drop[at] += drop / REPEATS
            made.given[at], made.probability[at] = total[np.arange(len(at)), y], total.max(1)
            made.suggested[at] = total.argmax(1)
    return made
