"""The pilot: every arm trained on repeated splits of one data set, and judged on rows that nobody trained or tuned on.

A split has three parts. Scores and models see *train* alone; *validation* chooses each arm's training length, all arms
by the same rule; *test* judges and is never pruned, relabelled or looked at before: rows removed from it would be those
the models get wrong, and every arm would look better. Where there is no clean test file, its labels are as noisy as all
others: under noise that does not depend on the features this shrinks every gain by one factor and ranks arms rightly.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from datalab import correction, metrics, models, pruning, seeds
from datalab.data import splits
from datalab.errors import UserError
from datalab.influence import last_layer
from datalab.protocol import protocol
from datalab.stack import Stack
from datalab.training import chunk_size, fit_many, protocol_recipe

LENGTHS = (100, 200, 400, 1000)  # steps; each is a run of its own, with its own cosine
FRACTIONS = (0.1, 0.2, 0.3)
FOLDS = 5
TAU = 0.5  # of the prior correction
SUREST = 5  # the noise rate is read off one row in so many
CAPS = {"train": 4000, "validation": 1000, "test": 2000}
MOST_SPLITS, LEAST_SPLITS = 20, 4  # beyond 20 the interval narrows by less than 2 %: n_test / n_train dominates it
INFLUENCE_CLASSES = 60  # beyond, the last layer's matrix costs more than the rest of the pilot
KEEP_ALL, PRIOR, RELABEL, RANDOM = "keep all", "prior correction", "relabel", "random"
SCORES = ("influence", "loss", "confident learning")
ESTIMATED = "estimated noise"

# For PyTorch too: threads in contention cost many times as much, and the order of sums would depend on them.
ONE_THREAD = functools.partial(threadpool_limits, 1)

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


class Pool(NamedTuple):
    """The rows a pilot works on: labels (n,) in 0..C-1, groups (n,) or None, and how to encode a split's rows.

    ``encode(train)`` fits on these rows and returns a function of row numbers, or None for the clean test file's rows,
    to features (m, d) float32. ``clean`` are that file's labels, ``probabilities`` (n, C) the user's own; else None.
    """

    labels: Labels
    n_classes: int
    groups: NDArray | None
    encode: Callable[[NDArray], Callable[[NDArray | None], Floats]]
    clean: Labels | None = None
    probabilities: Floats | None = None


class References(NamedTuple):
    """Models that score training rows: the protocol's references, then one a fold, which did not see its ``fold`` (n,).

    ``steps`` is the length they were trained for. ``loss`` (n,) is the references' mean, on rows they saw;
    ``probabilities`` (n, C) are the folds', each on the rows it did not see.
    """

    steps: int
    stack: Stack
    fold: NDArray[np.int64]
    loss: NDArray[np.float64]
    probabilities: Floats


def arms() -> list[tuple[str, str]]:
    """Every arm as (method, amount); the amount is what share of the training rows it drops."""
    amounts = [ESTIMATED, *(f"{fraction:.0%}" for fraction in FRACTIONS)]
    pruned = [(method, amount) for method in (RANDOM, *SCORES) for amount in amounts]
    return [(KEEP_ALL, ""), (PRIOR, ""), (RELABEL, ESTIMATED), *pruned]


def module(width: int, n_classes: int) -> torch.nn.Sequential:
    """The protocol's MLP for features (m, width)."""
    return models.build("mlp", (1, 1, width), n_classes, protocol().training["hidden"])


def references(
    x: Floats,
    y: Labels,
    n_classes: int,
    rng: np.random.Generator,
    lengths: tuple[int, ...],
    validation: tuple[Floats, Labels] | None = None,
) -> References:
    """References of the rows x (n, d), y (n,), of that one of ``lengths`` with the best macro-F1 on validation."""
    per, n = protocol().reference["models"], len(y)
    fold = rng.permutation(n) % FOLDS
    kept = np.vstack([np.ones((per, n), dtype=bool), np.stack([fold != k for k in range(FOLDS)])])
    drawn = [int(s) for s in rng.integers(0, 2**62, per + FOLDS)]
    rows, best = torch.from_numpy(x), None
    for steps in lengths:
        stack, f1 = fit_many(module(x.shape[1], n_classes), rows, y, kept, drawn, protocol_recipe(steps)), 0.0
        if validation is not None:
            guesses = stack.predict(torch.from_numpy(validation[0])).numpy()[:per]
            f1 = metrics.macro_f1(validation[1], guesses, n_classes).mean()
        if best is None or f1 > best[0]:
            best = (f1, steps, stack)
    _, steps, stack = best
    p = torch.softmax(stack(rows), -1).numpy()
    return References(steps, stack, fold, pruning.loss(p[:per], y).mean(0), p[per:][fold, np.arange(n)])


def self_influence(stack: Stack, x: Floats, y: Labels) -> NDArray[np.float64]:
    """The title's score (n,) of the rows x (n, d), y (n,): g' (H + d I)^-1 g at the last layer, mean of references."""
    per, rows = protocol().reference["models"], torch.from_numpy(x)
    inputs = stack.features(rows).expand(len(stack), -1, -1)[:per]
    scores = last_layer.scores_many(inputs, stack(rows)[:per], torch.from_numpy(y), l2=protocol_recipe().l2)
    return scores.self_influence.double().mean(0).numpy()


def noise_rates(p: Floats, y: Labels) -> dict[str, float]:
    """What out-of-sample probabilities p (n, C) say of the share of wrong labels y (n,); none of it is that share.

    ``calibrated``: off the diagonal of the confident joint whose margin is the observed labels' (Northcutt et al.
    2021); ``counted``: the share of examples that this joint counts off its diagonal. Both take hard rows for wrong
    ones. ``surest``: the share of labels that differ from the prediction among the fifth of the rows that the models
    are surest of, where few are hard; ``all``: the same among all rows.
    """
    differs, order = p.argmax(1) != y, np.argsort(-p.max(1), kind="stable")
    transition = correction.transition_matrix(p, y)
    observed = np.bincount(y, minlength=p.shape[1]) / len(y)
    true = np.clip(np.linalg.lstsq(transition.T, observed, rcond=None)[0], 0, None)
    calibrated = 1 - float((true / true.sum()) @ np.diag(transition))
    counted = float((pruning.confident_learning(p, y) > 1).mean())
    surest = float(differs[order[: -(-len(y) // SUREST)]].mean())
    return {"calibrated": calibrated, "counted": counted, "surest": surest, "all": float(differs.mean())}


def least_confident(given: NDArray, count: float) -> NDArray[np.bool_]:
    """The mask (n,) of the flagged labels: the ``count`` least probable of the given labels (n,).

    How many are wrong is better told by the confident joint, which are wrong by the label's own probability: so ordered
    flags hold more wrong labels than the joint's own at the same count (measured: tests/benchmarks/bench_advise.py).
    """
    mask = np.zeros(len(given), dtype=bool)
    mask[np.argsort(given, kind="stable")[: round(count)]] = True
    return mask


def trained(arm: list[tuple[str, str]], scored: dict[str, NDArray], y: Labels, p: Floats, rng: np.random.Generator):
    """What each arm trains on: labels (arms, n) and the mask of what is kept (arms, n)."""
    estimate = min(noise_rates(p, y)["surest"], 0.5)
    flagged = least_confident(p[np.arange(len(y)), y], int((scored["confident learning"] > 1).sum()))
    labels, kept = np.tile(y, (len(arm), 1)), np.ones((len(arm), len(y)), dtype=bool)
    order = rng.random(len(y))  # one random order: larger subsets hold the smaller ones
    for i, (method, amount) in enumerate(arm):
        if method == RELABEL:
            labels[i] = np.where(flagged, p.argmax(1), y)
        elif method in (RANDOM, *scored):
            drop = estimate if amount == ESTIMATED else float(amount.rstrip("%")) / 100
            kept[i] = pruning.keep(scored.get(method, order), y, 1 - drop)
    return labels, kept


def one_split(pool: Pool, seed: int, number: int, lengths: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """Train and judge every arm on one split: rows of ``kind`` "arm", and one of ``kind`` "noise".

    ``macro_f1`` is judged by the clean labels where there are some; ``held_out_f1`` always by held-out, noisy ones.
    """
    rows = split_rows(pool, seed, number)
    encode, lengths = pool.encode(rows.train), lengths or LENGTHS
    x_train, x_val, x_test = (encode(part) for part in (rows.train, rows.validation, rows.test))
    held_out = y_test = pool.labels[rows.test]
    if pool.clean is not None:
        x_test, y_test = np.concatenate([x_test, encode(None)]), pool.clean
    y, y_val = pool.labels[rows.train], pool.labels[rows.validation]
    rng = seeds.generator(seed, "advise", "models", number)
    made = references(x_train, y, pool.n_classes, rng, lengths, (x_val, y_val))
    p = made.probabilities if pool.probabilities is None else pool.probabilities[rows.train]
    scored = {"loss": made.loss, "confident learning": pruning.confident_learning(p, y)}
    if pool.n_classes <= INFLUENCE_CLASSES:
        scored["influence"] = self_influence(made.stack, x_train, y)
    arm = [(method, amount) for method, amount in arms() if method not in SCORES or method in scored]
    labels, kept = trained(arm, scored, y, p, rng)
    prior = [TAU if method == PRIOR else 0.0 for method, _ in arm]
    drawn = int(rng.integers(2**62))
    guesses = best_of_lengths(x_train, labels, kept, prior, (x_val, y_val), x_test, pool.n_classes, drawn, lengths)
    common = {"split": number, "n_train": len(y), "n_test": len(y_test)}
    result = [common | {"kind": "noise", "steps": made.steps} | noise_rates(p, y)]
    for i, (method, amount) in enumerate(arm):
        guess, steps = guesses[i]
        noisy, guess = guess[: len(held_out)], guess[-len(y_test) :]
        row = {"kind": "arm", "method": method, "amount": amount, "steps": steps, "dropped": float(1 - kept[i].mean())}
        row |= {"macro_f1": float(metrics.macro_f1(y_test, guess, pool.n_classes))}
        row |= {"held_out_f1": float(metrics.macro_f1(held_out, noisy, pool.n_classes))}
        hit = metrics.confusion(y_test, guess, pool.n_classes)
        by_class = 2 * np.diag(hit) / np.maximum(hit.sum(0) + hit.sum(1), 1)
        row |= {"accuracy": float(metrics.accuracy(y_test, guess)), "class_f1": by_class.tolist()}
        result.append(common | row)
    return result


def best_of_lengths(
    x: Floats,
    labels: Labels,
    kept: NDArray[np.bool_],
    prior: list[float],
    validation: tuple[Floats, Labels],
    x_test: Floats,
    n_classes: int,
    seed: int,
    lengths: tuple[int, ...],
) -> list[tuple[NDArray, int]]:
    """Of each arm the test predictions of its best length by macro-F1 on validation, and that length; ties: shorter."""
    x_val, y_val = validation
    size = len(labels)
    best, network = [(-1.0, None, 0)] * size, module(x.shape[1], n_classes)
    for steps in lengths:
        recipe = protocol_recipe(steps)
        chunk = chunk_size(network, recipe, x.shape[1])
        for start in range(0, size, chunk):
            at = range(start, min(start + chunk, size))
            part = slice(start, start + chunk)
            stack = fit_many(network, torch.from_numpy(x), labels[part], kept[part], [seed] * len(at), recipe)
            logits = [stack(torch.from_numpy(each)).numpy() for each in (x_val, x_test)]
            for i in at:
                share = np.bincount(labels[i][kept[i]], minlength=n_classes) / kept[i].sum()
                shift = prior[i] * np.log(np.maximum(share, 1e-6)).astype(np.float32)
                on_val, on_test = ((each[i - start] - shift).argmax(-1) for each in logits)
                f1 = metrics.macro_f1(y_val, on_val, n_classes)
                if f1 > best[i][0]:
                    best[i] = (f1, on_test, steps)
    return [(guess, steps) for _, guess, steps in best]


def split_rows(pool: Pool, seed: int, number: int) -> splits.Split:
    """The split of that number; of grouped ones the first drawn whose training part holds every class twice."""
    for attempt in range(50):
        rng = seeds.generator(seed, "advise", "split", number, attempt)
        try:
            rows = splits.split(pool.labels, pool.groups, rng, CAPS)
        except UserError:
            raise
        except ValueError:  # groups of one class each can leave a part without rows
            continue
        if not rows.dropped_classes and len(rows.test) and len(rows.validation):
            return rows
    raise UserError("groups: some class lies in too few of them to be trained on and tested; leave --group out")


class Plan(NamedTuple):
    """How many splits, seconds a split as measured, and seconds in all, with what is over."""

    splits: int
    pace: float
    seconds: float


def run(
    pool: Pool,
    seed: int,
    minutes: float,
    fixed: int | None,
    over: float,
    after: Callable[[float], float],
    announce: Callable[[Plan], None],
) -> tuple[list[dict[str, Any]], Plan, str]:
    """Rows of every split within the budget; the plan; and why it stopped early: "", "interrupted" or "slower".

    The first split measures the pace and counts; the others are planned from it and announced before they run. ``over``
    are the seconds already spent, ``after`` gives those needed after the pilot, from a split's. Where the machine gets
    slower, splits are given up so that the announced time is kept; a ``fixed`` number of splits is always run.
    Ctrl-C after two splits ends the pilot, not the answer.
    """
    start, rows = time.perf_counter(), []
    with ONE_THREAD():
        one_split(pool, seed, 0, (10,))  # the first call of everything takes longer
        began = time.perf_counter()
        rows += one_split(pool, seed, 0)
        pace = time.perf_counter() - began
        over, rest = over + began - start, after(pace)
        wanted = fixed or int(np.clip((60 * minutes - over - rest) // pace, LEAST_SPLITS, MOST_SPLITS))
        plan = Plan(wanted, pace, over + wanted * pace + rest)
        announce(plan)
        try:
            for number in range(1, wanted):
                spent = time.perf_counter() - began
                slower = max(spent / (number * pace), 1)
                late = over + spent + slower * (pace + rest) > 1.05 * plan.seconds
                if fixed is None and late and number >= LEAST_SPLITS:
                    return rows, plan, "slower"
                rows += one_split(pool, seed, number)
        except KeyboardInterrupt:
            if rows[-1]["split"] < 1:
                raise
            return rows, plan, "interrupted"
    return rows, plan, ""
