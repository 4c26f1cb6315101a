"""Section 5.3: do the paper's negative results hold, each beside its own control?

A task is a data set and seed: the MLP without its examples of highest self-influence, the MLP on a curriculum, and
ensembles, at every noise rate. The data set is the unit of every table; it counts by its mean over seeds and draws.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datalab import ledger, metrics, models, pruning, stats
from datalab.protocol import protocol
from datalab.record import Statement
from datalab.sections import compare, sentences
from datalab.sections.compare import SHARE, by_set, mean_with_interval, means, table, tests, with_correction
from datalab.sections.parameters import MainRates, StoppedTraining, estimated, per_set_and_seed, stopped_once
from datalab.sections.trials import trial
from datalab.sections.trials.trial import DATALAB, Train, Trial
from datalab.sweep import Task
from datalab.training import AnyStack, Recipe, fit_many

MEMBERS = ("softmax", "mlp", "cnn", "resnet")  # four different models
ORDERS = ("random", "low to high", "high to low")


class Parameters(StoppedTraining):
    main_rates: MainRates


def tasks(p: Parameters) -> list[Task]:
    """One task a data set, of the first seed, with all rates and methods; every model stopped early."""
    references = protocol().reference["models"] * len(p.main_rates)
    return stopped_once(fixed_tasks(p), p, once=references)


def fixed_tasks(p: Parameters) -> list[Task]:
    """The same of every seed, for the recipe's length."""
    rates, shares = list(p.main_rates), protocol().negative_results["dropped"]
    # References, filtering with its controls and three orders at each rate; four members twice, two of DATA-LAB.
    trained = len(rates) * (2 + 1 + len(shares) * (2 + protocol().random_subsets) + 3) + 10
    return per_set_and_seed(p, f"{__name__}:run_task", 1.0 + 0.4 * len(rates), trained, rates=rates)


estimate = estimated(lambda p: tasks(p) + fixed_tasks(p), memory=9e8)


def run_task(rates: Sequence[float], lengths: Sequence[int] = (), **given: Any) -> list[dict[str, Any]]:
    """A row per ``part``, noise ``rate`` and ``method``: macro-F1 and accuracy on the clean test set.

    ``filtering``: the MLP on everything, without the share ``dropped`` of highest self-influence, without as many at
    random (several draws), and with the highest relabelled by their clean labels in place of being dropped, a control
    that needs the truth. ``curriculum``: the MLP on batches from a pool that grows from the least to the most
    influential examples, the other way round, and in random order. ``ensemble``, at the protocol's verdict rate: four
    different models alone and averaged, four seeds of the MLP averaged, and DATA-LAB. Of ``lengths``, where they are
    named, each model's validation labels choose one; its curriculum is paced over it. ``given`` is as for
    :class:`Trial`.
    """
    study = Trial(architecture="mlp", rates=tuple(rates), **given)
    influence = trial.self_influence(study, *trial.references(study))
    rows = [
        *_filtering(study, influence, lengths),
        *_curriculum(study, influence, lengths),
        *_ensembles(study, lengths),
    ]
    return [{"dataset": study.dataset, "seed": study.seed} | row for row in rows]


def _filtering(study: Trial, influence: NDArray, lengths: Sequence[int]) -> list[dict[str, Any]]:
    arms = []  # of each the row, labels (n,) and what is kept (n,)
    for rate, observed, scores in zip(study.rates, study.observed, influence, strict=True):
        everything = np.ones(len(observed), dtype=bool)
        row = {"part": "filtering", "rate": rate, "method": "everything", "dropped": 0.0, "draw": 0}
        arms.append((row, observed, everything))
        for share in protocol().negative_results["dropped"]:
            stay = pruning.keep(scores, observed, 1 - share)
            relabelled = np.where(stay, observed, study.prepared.y_train)
            arms.append((row | {"method": "influence", "dropped": share}, observed, stay))
            arms.append((row | {"method": "relabelled", "dropped": share}, relabelled, everything))
            for draw in range(protocol().random_subsets):
                rng = study.rng("filtering", rate, share, draw)
                stay = pruning.random_subset(observed, 1 - share, rng=rng)
                arms.append((row | {"method": "random", "dropped": share, "draw": draw}, observed, stay))
    rows, labels, kept = zip(*arms, strict=True)

    return _scored(study, rows, partial(trial.fit, study, np.array(labels), np.array(kept)), lengths)


def _curriculum(study: Trial, influence: NDArray, lengths: Sequence[int]) -> list[dict[str, Any]]:
    rows, labels, ranked = [], [], []
    for rate, observed, scores in zip(study.rates, study.observed, influence, strict=True):
        rows += [{"part": "curriculum", "rate": rate, "method": method} for method in ORDERS]
        labels += [observed] * len(ORDERS)
        ranked += [None, np.argsort(scores, kind="stable"), np.argsort(-scores, kind="stable")]

    def train(recipe: Recipe) -> AnyStack:
        order = [
            paced_order(len(study.x), recipe.steps, recipe.batch_size, ranks, study.rng("curriculum", row["rate"]))
            for row, ranks in zip(rows, ranked, strict=True)
        ]
        return trial.fit(study, np.array(labels), order=np.array(order), recipe=recipe)

    return _scored(study, rows, train, lengths)


def _scored(study: Trial, rows: Sequence[dict[str, Any]], train: Train, lengths: Sequence[int]) -> list[dict[str, Any]]:
    validation = study.observed_validation[[study.rates.index(row["rate"]) for row in rows]]
    predicted = trial.read_off(study, train, lengths, validation)
    return [row | scores for row, scores in zip(rows, trial.scores_on_test_set(study, predicted), strict=True)]


def paced_order(
    n: int, steps: int, batch: int, ranked: NDArray[np.int64] | None, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The rows (steps * batch) of a curriculum: batches from a pool of the first examples of ``ranked`` (n,).

    The pool grows linearly from the protocol's starting share to everything at its share of the steps (Bengio et al.
    2009; the linear pacing of Wu et al. 2021). ``ranked`` None: random order, from everything throughout. Within the
    pool each batch is drawn without replacement.
    """
    pacing, rows = protocol().negative_results["pacing"], []
    for step in range(steps):
        share = 1.0
        if ranked is not None:
            share = min(1.0, pacing["start"] + (1 - pacing["start"]) * step / (pacing["whole_at"] * steps))
        pool = max(round(share * n), min(batch, n))
        drawn = rng.choice(pool, batch, replace=pool < batch)
        rows.append(drawn if ranked is None else ranked[drawn])
    return np.concatenate(rows)


def _ensembles(study: Trial, lengths: Sequence[int]) -> list[dict[str, Any]]:
    rate, data = protocol().framework["verdict_rate"], study.prepared
    at = study.rates.index(rate)
    observed, noisy_validation = study.observed[at], study.observed_validation[at]

    def both(stack: AnyStack) -> NDArray:
        return np.concatenate([trial.probabilities(stack, x) for x in (study.x_test, study.x_val)], axis=1)

    def seen(train: Train) -> list[NDArray]:
        # Probabilities (S, n_test, C) on the test set, and on the validation set.
        return np.split(trial.read_off(study, train, lengths, noisy_validation, both), [len(study.x_test)], axis=1)

    p, validated = {}, {}  # probabilities (n_test, C), and F1 on the noisy validation labels
    for name in MEMBERS:
        module = models.build(name, data.grid, data.n_classes, protocol().training["hidden"])
        alone = partial(trial.fit, study, observed[None], module=module)
        (p[f"member {name}"],), (on_validation,) = seen(alone)
        validated[f"member {name}"] = metrics.macro_f1(noisy_validation, on_validation.argmax(1), data.n_classes)
    different = np.mean(list(p.values()), 0)
    p |= {"best member by validation": p[max(validated, key=validated.get)], "four different models": different}
    model_seeds = [study.model_seed("member", i) for i in range(len(MEMBERS))]
    same = partial(fit_many, study.classifier(), study.x, observed, None, model_seeds)
    p["four seeds of the MLP"] = seen(same)[0].mean(0)
    for variant, method in DATALAB.items():
        module = study.datalab(variant=variant)
        (p[method],), _ = seen(partial(trial.fit_datalab, study, module, observed[None], trial.default_lambdas(1)))
    predicted = np.stack([of_method.argmax(1) for of_method in p.values()])
    f1, accuracy = metrics.macro_f1(data.y_test, predicted, data.n_classes), metrics.accuracy(data.y_test, predicted)
    row = {"part": "ensemble", "rate": rate}
    return [row | {"method": name, "macro_f1": f1[i], "accuracy": accuracy[i]} for i, name in enumerate(p)]


def filtering(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per noise rate and share removed: removing by influence against no filter and against random removal.

    ``relative`` is 100 (filtered / everything - 1); ``relabelled`` less everything is the control that gives the same
    examples their clean labels: what they are worth when right.
    """
    rows = rows[rows.part == "filtering"].assign(**{"noise rate (%)": lambda part: 100 * part.rate})
    rows["removed (%)"] = 100 * rows.dropped
    everything = rows[rows.method == "everything"]

    def line(removed: pd.DataFrame) -> dict[str, Any]:
        base = by_set(everything, "macro_f1", rate=removed.rate.iloc[0])
        methods = ("influence", "random", "relabelled")
        filtered, random, relabelled = (by_set(removed, "macro_f1", method=name) for name in methods)
        d = filtered - base
        return (
            mean_with_interval(d, "less everything")
            | mean_with_interval(100 * (filtered / base - 1), "relative (%)")
            | mean_with_interval(filtered - random, "less random removal")
            | mean_with_interval(relabelled - base, "relabelled less everything")
            | {"p (Wilcoxon)": tests(d)["p (Wilcoxon)"], "sets worse": int((d < 0).sum()), "sets": len(d)}
        )

    return with_correction(table(rows[rows.dropped > 0], ["noise rate (%)", "removed (%)"], line))


def curriculum(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per noise rate and order: F1, and less random order, with its 90 % interval for the equivalence test."""
    rows = rows[rows.part == "curriculum"].rename(columns={"method": "order"})
    rows = rows.assign(**{"noise rate (%)": 100 * rows.rate})

    def line(part: pd.DataFrame) -> dict[str, Any]:
        f1 = by_set(part, "macro_f1")
        row, sets = mean_with_interval(f1, "F1", bounds=SHARE), {"sets": len(f1)}
        if part.order.iloc[0] == ORDERS[0]:
            return row | {"p (Wilcoxon)": np.nan, "note": "the base row"} | sets
        d = f1 - by_set(rows, "macro_f1", rate=part.rate.iloc[0], order=ORDERS[0])
        narrow = stats.Measurement(d.to_numpy()).interval(0.90)
        row |= mean_with_interval(d, "less random order") | {"90 % low": narrow.low, "90 % high": narrow.high}
        return row | {"p (Wilcoxon)": tests(d)["p (Wilcoxon)"], "note": ""} | sets

    return with_correction(table(rows, ["noise rate (%)", "order"], line))


def ensembles(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per ensemble, member and variant of DATA-LAB: F1, less the single MLP's, and the relative gain."""
    rows = rows[rows.part == "ensemble"]
    base = rows.dataset.map(by_set(rows, "macro_f1", method="member mlp"))
    rows = rows.assign(less=rows.macro_f1 - base, gain=100 * (rows.macro_f1 / base - 1))
    columns = {"macro_f1": ("F1", SHARE), "less": ("less the MLP", None), "gain": ("gain over the MLP (%)", None)}
    return means(rows, "method", columns)


def verdicts(rows: pd.DataFrame) -> list[Statement]:
    """The section's statements, read at the protocol's noise rate and share removed; on noise, at both ends."""
    rate, share = protocol().framework["verdict_rate"], protocol().negative_results["verdict_dropped"]

    def f1(part: str, method: str, at: float = rate, **where: float) -> pd.Series:
        return by_set(rows, "macro_f1", part=part, method=method, rate=at, **where)

    def at(part: str, row: str, *methods: str, table: str = "", **where: object) -> dict[str, Any]:
        raw = compare.raw_of(rows) | {"part": part, "rate": rate, "method": list(methods), **where}
        return {"table": table or part, "row": row, "raw": raw}

    order = f1("curriculum", "low to high") - f1("curriculum", "random")
    of_order = at("curriculum", f"low to high, {rate:.0%}", "low to high", "random")

    methods = ("best member by validation", "datalab_paper", "four different models")
    member, ours, ensemble = (f1("ensemble", method) for method in methods)
    gains = [100 * (of / member - 1).mean() for of in (ensemble, ours)]
    of_gain = at("ensemble", "four different models", *methods, table="ensembles")
    of_gain["beside"] = "over its best member {:+.1f} %, DATA-LAB {:+.1f} %".format(*gains)

    removed, pair = f"{rate:.0%} flipped, {share:.0%} removed", ("everything", "influence")
    without, whole = partial(f1, "filtering", "influence", dropped=share), partial(f1, "filtering", "everything")
    filtered, everything = without(), whole()

    def chance_less(at: float) -> pd.Series:
        return f1("filtering", "random", at, dropped=share) - without(at)

    lowest, highest = rows.rate.min(), rows.rate.max()
    clean = sentences.with_limits(mean_with_interval(chance_less(lowest), "d"), "d")
    of_lost = at("filtering", removed, *pair, dropped=[0, share]) | compare.relative_to(everything)
    of_chance = at("filtering", removed, "influence", "random", dropped=share)
    of_chance["beside"] = f"at {lowest:.0%} flipped {clean}: the paper names no rate"
    made = [
        ledger.judge("S5.3.curriculum", order, side="none", **of_order),
        ledger.judge("S5.3.ensemble", ours - ensemble, side="greater", unit="F1", **of_gain),
        ledger.judge("S5.3.filtering", 1 - filtered / everything, side="greater", **of_lost),
        ledger.judge("S5.3.valuable_signal", chance_less(rate), side="greater", **of_chance),
    ]
    if lowest < highest:
        ends = {"hurts at the lowest rate": whole(lowest) - without(lowest)}
        ends["helps at the highest"] = without(highest) - whole(highest)
        of_ends = at("filtering", "both ends", *pair, rate=[lowest, highest], dropped=[0, share])
        made.append(ledger.judge_all("S5.3.filtering_vs_title", ends, side="greater", **of_ends))
    return made
