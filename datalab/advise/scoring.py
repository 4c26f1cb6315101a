"""Every row scored by models that did not see it: which labels look wrong, and what the advised arm drops.

Models are trained on the pilot's pool alone, ``REPEATS`` times with other folds and seeds; a row outside the pool was
seen by none of them. Rows come in blocks and only a few numbers of each are held, so that memory does not grow with
what is in a row.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datalab import pruning, seeds
from datalab.advise.pilot import ONE_THREAD, Trainer, least_confident

REPEATS = 3


@ONE_THREAD
def score(
    trainer: Trainer, rows: NDArray, blocks: Iterable, labels: NDArray, method: str, own: NDArray | None, seed: int
) -> pd.DataFrame:
    """Score the rows that come in ``blocks`` of numbers and features; ``labels`` (n,) are those of all numbers.

    ``rows`` (k,) are the numbers of what the ``trainer`` holds; ``method`` is the advised one; ``own`` (n, C) are the
    user's out-of-sample probabilities, used in place of the models'. Returns, by ascending number: ``given``, the
    probability of the given label; ``suggested``, the most probable class, and its ``probability``; ``agreement``, the
    share of repeats that count the label as wrong; ``wrong``, whether it is flagged: as many as the repeats count on
    average, the least probable first; ``drop``, the score by which the method drops, highest first.
    """
    y, place, repeats = labels[rows], np.full(len(labels), -1), []
    # Of all rows at once: kept block by block, they would lie between the blocks' freed memory and let it grow.
    made = {name: np.zeros(len(labels), np.float32) for name in ("given", "probability", "agreement", "drop")}
    made["suggested"] = np.zeros(len(labels), np.int32)
    place[rows] = np.arange(len(rows))
    for i in range(REPEATS):
        models = trainer.references(y, seeds.generator(seed, "advise", "final", i))
        p = models.probabilities(trainer.x, place[rows])[1] if own is None else own[rows]
        influence = models.self_influence(trainer.x, y) if method == "influence" else None
        repeats.append((models, pruning.class_means(p, y), influence))
    for at, x in blocks:
        y, total = labels[at], 0
        for models, thresholds, influence in repeats:
            seen, unseen = models.probabilities(x, place[at])
            unseen = unseen if own is None else own[at]
            likely = pruning.confident_at(unseen, thresholds)  # by the pool's means, in whichever block a row comes
            wrong = (likely >= 0) & (likely != y)
            if method == "confident learning":
                drop = pruning.margin(unseen, y) / 2 + wrong
            else:
                drop = influence(x, y) if influence else pruning.loss(seen, y).mean(0)
            total += unseen / REPEATS
            made["agreement"][at] += wrong / np.float32(REPEATS)
            made["drop"][at] += drop / REPEATS
        made["given"][at], made["probability"][at] = total[np.arange(len(at)), y], total.max(1)
        made["suggested"][at] = total.argmax(1)
    scored = pd.DataFrame(made)[labels >= 0]
    flagged = least_confident(scored.given.to_numpy(), scored.agreement.sum())
    return scored.assign(wrong=flagged & (scored.suggested != labels[scored.index]))
