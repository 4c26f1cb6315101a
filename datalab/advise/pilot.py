"""The pilot: every arm trained on repeated splits of one data set, and judged on rows that nobody trained or tuned on.

A split has three parts. Scores and models see *train* alone; *validation* chooses each arm's training length, all arms
by the same rule; *test* judges and is never pruned, relabelled or looked at before: rows removed from it would be those
the models get wrong, and every arm would look better. Where there is no clean test file, its labels are as noisy as all
others: under noise that does not depend on the features this shrinks every gain by about one factor and ranks arms
rightly, as long as it leaves the classes' shares about what they are (:func:`datalab.advise.verdict.able`).
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from datalab import correction, metrics, models, pruning, seeds
from datalab.data import splits
from datalab.errors import UserError
from datalab.influence import LastLayerGGN
from datalab.influence.estimator import quiet
from datalab.protocol import protocol
from datalab.stack import Stack
from datalab.training import chunk_size, fit_many, protocol_recipe

LENGTHS = (100, 200, 400, 1000)  # steps; each is a run of its own, with its own cosine
FOLDS = 5
REPEATS = 3  # of the final models, with other folds and seeds
TAU = 0.5  # of the prior correction
CAPS = {"train": 4000, "validation": 1000, "test": 2000}
MOST_SPLITS, LEAST_SPLITS = 20, 4  # beyond 20 the interval narrows by less than 2 %: n_test / n_train dominates it
INFLUENCE_CLASSES = 60  # beyond, the last layer's matrix costs more than the rest of the pilot
KEEP_ALL, PRIOR, RELABEL, RANDOM = "keep all", "prior correction", "relabel", "random"
SCORES = ("influence", "loss", "confident learning")
ESTIMATED = "estimated noise"
AMOUNTS = (ESTIMATED, "10%", "20%", "30%")  # of the training rows, that an arm drops
ARMS = [(KEEP_ALL, ""), (PRIOR, ""), (RELABEL, ESTIMATED)]
ARMS += [(method, amount) for method in (RANDOM, *SCORES) for amount in AMOUNTS]

# For PyTorch too: threads in contention cost many times as much, and the order of sums would depend on them.
ONE_THREAD = threadpool_limits.wrap(1)

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Pool(NamedTuple):
    """The rows a pilot works on: labels (n,) in 0..C-1, groups (n,) or None, and how to encode a split's rows.

    ``encode(train)`` fits on these rows and returns a function of row numbers, or None for the clean test file's rows,
    to features (m, d) float32. ``clean`` are that file's labels, ``probabilities`` (n, C) the user's own; else None.
    ``twins`` (n,) has one number for rows with equal features, or is None where all differ; a group holds them whole.
    """

    labels: Labels
    n_classes: int
    groups: NDArray | None
    encode: Callable[[NDArray], Callable[[NDArray | None], Floats]]
    clean: Labels | None = None
    probabilities: Floats | None = None
    twins: NDArray | None = None

    @property
    def units(self) -> NDArray | None:
        """What is never split apart, (n,): groups, or else rows with equal features; None: every row is by itself."""
        return self.twins if self.groups is None else self.groups


class References(NamedTuple):
    """Models of n rows, after ``steps``: the protocol's references, then one a ``fold`` (n,), which did not see it."""

    steps: int
    stack: Stack
    fold: NDArray[np.int64]

    def probabilities(self, x: Floats, at: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Of rows x (m, d): the references' (models, m, C), on what they saw, and out of sample (m, C).

        ``at`` (m,) are their numbers among the n, or -1 for rows that no model saw: of those, all folds' mean.
        """
        p = torch.softmax(self.stack(torch.from_numpy(x)), -1).numpy()
        seen, folds = np.split(p, [len(p) - FOLDS])
        return seen, np.where(at[:, None] < 0, folds.mean(0), folds[self.fold[at], np.arange(len(at))])

    def self_influence(self, x: Floats, y: Labels) -> Callable[[Floats, Labels], NDArray[np.float64]]:
        """The title's score of any rows: g' (H + d I)^-1 g at the last layer, H that of the n rows x, y; their mean."""
        with quiet():
            fitted = [
                LastLayerGGN(self.stack.model(i), l2=protocol_recipe().l2).fit(torch.from_numpy(x), torch.from_numpy(y))
                for i in range(len(self.stack) - FOLDS)
            ]
        return lambda *rows: np.mean([ggn.self_influence(*map(torch.from_numpy, rows)) for ggn in fitted], 0)


class Trainer(NamedTuple):
    """Rows x (n, d) to train on, and the rows and labels of ``validation`` that choose among ``lengths`` of training.

    Without them there is one length. The network is the protocol's MLP.
    """

    x: Floats
    n_classes: int
    lengths: tuple[int, ...]
    validation: tuple[Floats, Labels] | None = None

    def network(self) -> torch.nn.Sequential:
        return models.build("mlp", (1, 1, self.x.shape[1]), self.n_classes, protocol().training["hidden"])

    def fit(self, labels: Labels, kept: Mask, drawn: list[int], steps: int) -> Stack:
        """A model for each seed ``drawn``, on labels (n,) or (models, n) and what is kept (models, n)."""
        return fit_many(self.network(), torch.from_numpy(self.x), labels, kept, drawn, protocol_recipe(steps))

    def references(self, y: Labels, rng: np.random.Generator, units: NDArray | None = None) -> References:
        """Trained for the length at which the references' macro-F1 on validation is best; folds hold whole units."""
        per, n = protocol().reference["models"], len(y)
        of_row = np.arange(n) if units is None else np.unique(units, return_inverse=True)[1]
        fold = (rng.permutation(of_row.max() + 1) % FOLDS)[of_row]
        kept = np.vstack([np.ones((per, n), dtype=bool), fold != np.arange(FOLDS)[:, None]])
        drawn = rng.integers(0, 2**62, per + FOLDS).tolist()
        stacks, best = [self.fit(y, kept, drawn, steps) for steps in self.lengths], 0
        if self.validation:
            guesses = [stack.predict(torch.from_numpy(self.validation[0])).numpy()[:per] for stack in stacks]
            best = np.argmax([metrics.macro_f1(self.validation[1], of, self.n_classes).mean() for of in guesses])
        return References(self.lengths[best], stacks[best], fold)

    def arms(self, labels: Labels, kept: Mask, prior: list[float], x_test: Floats, seed: int) -> tuple[Labels, Labels]:
        """Each arm's test predictions (arms, m) at its best length on validation, and that length; ties: the shorter.

        An arm is a row of labels (arms, n), of what is kept of them (arms, n), and of ``prior``, the share of the log
        of its classes' shares that is taken off its logits.
        """
        x_val, y_val = self.validation
        best, length = np.full(len(labels), -1.0), np.zeros(len(labels), dtype=np.int64)
        guesses = np.zeros((len(labels), len(x_test)), dtype=np.int64)
        chunk = chunk_size(self.network(), protocol_recipe(), self.x.shape[1])
        for at in np.split(np.arange(len(labels)), range(chunk, len(labels), chunk)):
            shares = [np.bincount(labels[i][kept[i]], minlength=self.n_classes) / kept[i].sum() for i in at]
            shift = np.float32(np.array(prior)[at, None] * np.log(np.maximum(shares, 1e-6)))[:, None]
            for steps in self.lengths:
                stack = self.fit(labels[at], kept[at], [seed] * len(at), steps)
                on_val, on_test = ((stack(torch.from_numpy(x)).numpy() - shift).argmax(-1) for x in (x_val, x_test))
                f1 = metrics.macro_f1(y_val, on_val, self.n_classes)
                better = f1 > best[at]
                won = at[better]
                best[won], length[won], guesses[won] = f1[better], steps, on_test[better]
        return guesses, length


def least_confident(given: NDArray, count: float) -> Mask:
    """The mask (n,) of the flagged labels: the ``count`` least probable of the given labels (n,).

    How many are wrong is better told by the confident joint, which are wrong by the label's own probability: so ordered
    flags hold more wrong labels than the joint's own at the same count (measured: tests/benchmarks/bench_advise.py).
    """
    mask = np.zeros(len(given), dtype=bool)
    mask[np.argsort(given, kind="stable")[: round(count)]] = True
    return mask


def drop_share(amount: str, estimate: float) -> float:
    """The share of rows that an amount of ``AMOUNTS`` drops, where ``estimate`` is that of wrong labels."""
    return min(estimate, 0.5) if amount == ESTIMATED else float(amount.rstrip("%")) / 100


def trained_on(
    arms: list[tuple[str, str]], scored: dict[str, NDArray], y: Labels, p: Floats, rng: np.random.Generator
) -> tuple[Labels, Mask]:
    """What each arm trains on: labels (arms, n) and the mask of what is kept (arms, n)."""
    estimate = correction.noise_rates(p, y)["surest"]
    flagged = least_confident(p[np.arange(len(y)), y], int((scored["confident learning"] > 1).sum()))
    labels, kept = np.tile(y, (len(arms), 1)), np.ones((len(arms), len(y)), dtype=bool)
    scored = scored | {RANDOM: rng.random(len(y))}  # one random order: larger subsets hold the smaller ones
    for i, (method, amount) in enumerate(arms):
        if method == RELABEL:
            labels[i] = np.where(flagged, p.argmax(1), y)
        elif method in scored:
            kept[i] = pruning.keep(scored[method], y, 1 - drop_share(amount, estimate))
    return labels, kept


def one_split(pool: Pool, seed: int, number: int) -> list[dict[str, Any]]:
    """Train and judge every arm on one split: rows of ``kind`` "arm", and one of ``kind`` "noise".

    ``macro_f1`` is judged by the clean labels where there are some; ``held_out_f1`` always by held-out, noisy ones.
    """
    rows, rng = split_rows(pool, seed, number), seeds.generator(seed, "advise", "models", number)
    encode, classes = pool.encode(rows.train), pool.n_classes
    x, x_val, x_test = (encode(part) for part in (rows.train, rows.validation, rows.test))
    y, y_val, y_test = (pool.labels[part] for part in (rows.train, rows.validation, rows.test))
    held_out = y_test
    if pool.clean is not None:
        x_test, y_test = np.concatenate([x_test, encode(None)]), pool.clean
    trainer = Trainer(x, classes, LENGTHS, (x_val, y_val))
    references = trainer.references(y, rng, None if pool.units is None else pool.units[rows.train])
    seen, p = references.probabilities(x, np.arange(len(y)))
    p = p if pool.probabilities is None else pool.probabilities[rows.train]
    scored = {"loss": pruning.loss(seen, y).mean(0), "confident learning": pruning.confident_learning(p, y)}
    if classes <= INFLUENCE_CLASSES:
        scored["influence"] = references.self_influence(x, y)(x, y)
    arms = [(method, amount) for method, amount in ARMS if method not in SCORES or method in scored]
    labels, kept = trained_on(arms, scored, y, p, rng)
    prior = [TAU if method == PRIOR else 0.0 for method, _ in arms]
    guesses, steps = trainer.arms(labels, kept, prior, x_test, int(rng.integers(2**62)))
    noisy, guesses = guesses[:, : len(held_out)], guesses[:, -len(y_test) :]
    hit = metrics.confusion(y_test, guesses, classes)
    by_class = 2 * np.diagonal(hit, 0, 1, 2) / np.maximum(hit.sum(1) + hit.sum(2), 1)
    common = {"split": number, "n_train": len(y), "n_test": len(y_test)}
    judged = pd.DataFrame(arms, columns=["method", "amount"]).assign(
        **common,
        kind="arm",
        steps=steps,
        dropped=1 - kept.mean(1),
        macro_f1=metrics.macro_f1(y_test, guesses, classes),
        held_out_f1=metrics.macro_f1(held_out, noisy, classes),
        accuracy=metrics.accuracy(y_test, guesses),
        class_f1=by_class.tolist(),
    )
    shares = np.bincount(y, minlength=classes) / len(y)
    noise = common | {"kind": "noise", "steps": references.steps} | correction.noise_rates(p, y)
    noise |= {"clean": float(pool.clean is not None), "classes": classes, "smallest": shares.min()}
    noise |= {"largest": shares.max()}
    return [noise, *judged.to_dict("records")]


def split_rows(pool: Pool, seed: int, number: int) -> splits.Split:
    """The split of that number, of units the first drawn whose training part holds every class twice.

    Groups are drawn as they come; rows with equal features, of which most have none, by the first one's class.
    """
    twins = pool.groups is None and pool.twins is not None
    first, of_row = np.unique(pool.twins, return_index=True, return_inverse=True)[1:] if twins else (slice(None), None)
    for attempt in range(50):
        rng = seeds.generator(seed, "advise", "split", number, attempt)
        try:
            rows = splits.split(pool.labels[first], pool.groups, rng, CAPS)
        except UserError:
            raise
        except ValueError:  # groups of one class each can leave a part without rows
            continue
        if twins:
            parts = (rows.train, rows.validation, rows.test)
            rows = splits.Split(*(rng.permutation(np.flatnonzero(np.isin(of_row, part))) for part in parts), ())
        least = np.bincount(pool.labels[rows.train], minlength=pool.n_classes).min()
        alone = pool.units is not None and len(np.unique(pool.units[rows.train])) < 2  # no fold could be left out
        if least >= splits.LEAST["train"] and len(rows.test) and len(rows.validation) and not alone:
            return rows
    what = "rows with equal features" if twins else "rows" if pool.groups is None else "groups"
    raise UserError(f"{what}: they are too few, or some class lies in too few, to be trained on and tested")


@ONE_THREAD
@torch.random.fork_rng(devices=[])  # the caller's stays where it is
def run(
    pool: Pool, seed: int, minutes: float, fixed: int | None, began: float, after: Callable, say: Callable
) -> tuple[pd.DataFrame, int, str]:
    """Rows of every split within the budget; how many splits were planned; and why it stopped early, or "".

    The second split measures the pace, since the first call of everything takes longer; the others are planned from it,
    and said, before they run. The budget counts from ``began``; ``after`` gives the seconds needed after the pilot,
    from a split's. Where the machine gets "slower", splits are given up so that the time said is kept, by a little more
    where the budget has it; a ``fixed`` number is always run. Ctrl-C after two splits ends the pilot ("interrupted"),
    not the answer, and says so.
    """
    stopped = ""
    rows = one_split(pool, seed, 0)
    second = time.perf_counter()
    rows += one_split(pool, seed, 1)
    pace = time.perf_counter() - second
    over, rest = second - began, after(pace)
    planned = fixed or int(np.clip(1 + (60 * minutes - over - rest) // pace, LEAST_SPLITS, MOST_SPLITS))
    seconds = over + (planned - 1) * pace + rest
    longest = max(1.05 * seconds, min(1.15 * seconds, 60 * minutes))
    say(f"about {seconds / 60:.1f} minutes: {planned} splits of {pace:.1f} s, then every row")
    try:
        for number in range(2, planned):
            spent = time.perf_counter() - second
            late = over + spent + max(spent / ((number - 1) * pace), 1) * (pace + rest) > longest
            if late and fixed is None and number >= LEAST_SPLITS:
                stopped = "slower"
                break
            rows += one_split(pool, seed, number)
    except KeyboardInterrupt:
        stopped = "interrupted"
        say("interrupted: the answer so far is worked out; Ctrl-C again gives it up")
    return pd.DataFrame(rows), planned, stopped


@ONE_THREAD
@torch.random.fork_rng(devices=[])
def score(
    trainer: Trainer,
    rows: NDArray,
    blocks: Iterable,
    labels: NDArray,
    method: str,
    own: NDArray | None,
    seed: int,
    units: NDArray | None = None,
) -> pd.DataFrame:
    """Score every row by models that saw nothing of its unit. ``blocks`` have rows' numbers, their features, and the
    place of one of the unit among the k that the ``trainer`` holds, -1 where there is none.

    ``labels`` (n,) are those of all numbers, ``rows`` (k,) the trainer's numbers, ``units`` (k,) what no fold splits
    (None: each row by itself). ``method`` is the advised one; ``own`` (n, C) are the user's out-of-sample
    probabilities, used in place of the models'. Returns, by ascending number: ``given``, the probability of the given
    label; ``suggested``, the most probable class, and its ``probability``; ``agreement``, the share of repeats that
    count the label as wrong; ``wrong``, whether it is flagged: as many as the repeats count on average, the least
    probable first; ``drop``, the score by which the method drops, highest first; ``trained``, whether some models saw
    it. Only these are held, so that memory does not grow with what is in a row.
    """
    y, repeats = labels[rows], []
    # Of all rows at once: kept block by block, they would lie between the blocks' freed memory and let it grow.
    made = {name: np.zeros(len(labels), np.float32) for name in ("given", "probability", "agreement", "drop")}
    made["suggested"] = np.zeros(len(labels), np.int32)
    for i in range(REPEATS):
        models = trainer.references(y, seeds.generator(seed, "advise", "final", i), units)
        p = models.probabilities(trainer.x, np.arange(len(rows)))[1] if own is None else own[rows]
        influence = models.self_influence(trainer.x, y) if method == "influence" else None
        repeats.append((models, pruning.class_means(p, y), influence))
    for at, x, place in blocks:
        y, total = labels[at], 0
        for models, thresholds, influence in repeats:
            seen, unseen = models.probabilities(x, place)
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
    made["trained"] = np.isin(np.arange(len(labels)), rows)
    scored = pd.DataFrame(made)[labels >= 0]
    flagged = least_confident(scored.given.to_numpy(), scored.agreement.sum())
    return scored.assign(wrong=flagged & (scored.suggested != labels[scored.index]))
