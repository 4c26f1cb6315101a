"""Version 1 of the title's study: every arm trained for one number of steps, whatever the labels.

A task is a data set, architecture, noise kind and seed. It corrupts the labels at every rate, scores the training
examples by reference models, and trains one model per (rate, method, keep fraction). The tables rest on ``d``, a paired
difference of scores on the clean test set: :func:`differences`. Version 1's verdict was read on the primary cell; what
holds of it under version 2 is in section 0's own file.
"""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import pydantic

from datalab import ledger, noise, seeds, stats
from datalab.ledger.title import TitleVerdict
from datalab.protocol import protocol
from datalab.sections import compare
from datalab.sections.parameters import Fractions, Rates, TrainingParameters
from datalab.sections.readings import RATE
from datalab.sections.trials.pruning_arms import arms, scores_by_rate, train_and_test
from datalab.sections.trials.trial import FOLDS, Trial
from datalab.sweep import Task, machine_speed

SETTING = ["architecture", "noise", "keep_fraction"]
PAIR = ["architecture", "noise", "dataset", "seed", "rate"]
# What a row of the primary cell has in its columns, and one of the title's method.
PRIMARY = {name: protocol().primary_cell[name] for name in SETTING}
TITLES = {"method": "influence"}
THRESHOLD = protocol().title_verdict["reproduced"]["crossover_interval_contains"]  # the title's 15 %, as a fraction


class VersionOneParameters(TrainingParameters):
    """What version 1's tasks take; ``None`` is the profile's value."""

    architectures: tuple[Literal["softmax", "mlp"], ...]
    noise_kinds: tuple[Literal["symmetric", "pair", "instance"], ...] = pydantic.Field(min_length=1)
    noise_rates: Rates = pydantic.Field(min_length=2)
    keep_fractions: Fractions = pydantic.Field(min_length=1)
    arm_noise_rates: Rates = pydantic.Field(min_length=1)
    cnn_keep_fractions: Fractions

    @pydantic.model_validator(mode="after")
    def _primary_cell_is_run(self) -> "VersionOneParameters":
        for name, needed in zip(("architectures", "noise_kinds", "keep_fractions"), PRIMARY.values(), strict=True):
            if needed not in getattr(self, name):
                raise ValueError(f"{name} must include {needed!r}, where the title's verdict is read")
        return self


def tasks(p: VersionOneParameters) -> list[Task]:
    """Every task of the section, data set by data set, so that prepared data is reused while it is at hand."""
    mlp, symmetric, keep = PRIMARY.values()
    # Noise kinds agree at rate 0, where nothing is flipped: only the symmetric tasks run it (see `complete`).
    flipped, arms_flipped = ([rate for rate in rates if rate > 0] for rates in (p.noise_rates, p.arm_noise_rates))
    settings: list[tuple[str, str, Sequence, Sequence]] = []
    for architecture, kind in itertools.product(p.architectures, p.noise_kinds):
        if kind == symmetric:
            settings.append((architecture, kind, p.noise_rates, p.keep_fractions))
        elif kind == "pair":
            settings.append((architecture, kind, flipped, p.keep_fractions))
        elif architecture == mlp:
            settings.append((mlp, kind, arms_flipped, [keep]))
    settings.append(("cnn", symmetric, p.arm_noise_rates, p.cnn_keep_fractions))
    settings = [setting for setting in settings if setting[2] and setting[3]]
    return [_task(p, *at, *setting) for at in itertools.product(p.datasets, range(p.seeds)) for setting in settings]


# A training step of one model beside the MLP's (64 features, 10 classes), as measured; 15 % more for testing.
_STEP = {"softmax": 0.35 * 1.15, "mlp": 1.15, "cnn": 1.7 * 1.15}


def _task(
    p: VersionOneParameters, dataset: str, seed: int, architecture: str, kind: str, rates: Sequence, keep: Sequence
) -> Task:
    rule, at_primary = protocol(), (architecture, kind) == (PRIMARY["architecture"], PRIMARY["noise"])
    arms = [rate for rate in p.arm_noise_rates if at_primary and rate in p.noise_rates]
    given = {"dataset": dataset, "architecture": architecture, "noise_kind": kind, "seed": seed} | p.of_trial
    given |= {"rates": list(rates), "keep_fractions": list(keep), "arm_rates": arms}

    references, steps = rule.reference["models"], rule.training["steps"]
    crossed = len(rates) * (2 + len(keep) * (1 + rule.random_subsets) + references)
    rivals = len(arms) * (len(rule.methods["primary_cell_only"]) + rule.random_subsets - 1 + FOLDS)
    models = crossed + rivals
    cost = steps * models * _STEP[architecture] * machine_speed.REFERENCE * max(1.0, p.caps["train"] / 1000) ** 0.1
    return Task(f"{__name__}:run_task", given, cost, models)


def run_task(
    rates: Sequence[float], keep_fractions: Sequence[float], arm_rates: Sequence[float], **of: Any
) -> list[dict[str, Any]]:
    """A row per rate, method, keep fraction and draw of a random subset: ``macro_f1`` and ``accuracy`` on the test set.

    ``of`` names the :class:`~datalab.sections.trials.trial.Trial`. Rates and keep fractions are crossed; at
    ``arm_rates`` and the primary keep fraction the protocol's rival scores are added. ``flipped_kept`` is the share of
    flipped labels among the ``n_kept``.
    """
    trial = Trial(rates=tuple(rates), **of)
    clean, by_rate = trial.prepared.y_train, scores_by_rate(trial, arm_rates)
    rows, labels, kept = [], [], []
    for rate, observed, scores in zip(rates, trial.observed, by_rate, strict=True):
        realised = noise.realised_rate(clean, observed)
        row = {"dataset": trial.dataset, "architecture": trial.architecture, "noise": trial.noise_kind}
        row |= {"seed": trial.seed, "rate": rate, "realised_rate": realised}
        for arm, mask in arms(trial, rate, observed, scores, keep_fractions):
            flipped = float(np.mean(observed[mask] != clean[mask]))
            rows.append(row | arm | {"n_kept": int(mask.sum()), "flipped_kept": flipped})
            labels.append(observed)
            kept.append(mask)
    return [row | scored for row, scored in zip(rows, train_and_test(trial, labels, kept), strict=True)]


def complete(rows: pd.DataFrame) -> pd.DataFrame:
    """Add to every noise kind its rate 0, which only the symmetric tasks ran: there the kinds do not differ."""
    zero = compare.rows_of_kind(rows, noise=PRIMARY["noise"], rate=0)
    parts = [rows]
    for kind, own in rows[rows.noise != PRIMARY["noise"]].groupby("noise", sort=False):
        # `oracle` at rate 0 keeps everything, at a fraction of 1, like `full`; the others at the kind's own fractions.
        fractions = [*own.keep_fraction[own.method == "random"].unique(), 1.0]
        fits = zero.architecture.isin(own.architecture) & zero.method.isin(own.method)
        parts.append(zero[fits & zero.keep_fraction.isin(fractions)].assign(noise=kind))
    return pd.concat(parts, ignore_index=True)


def differences(rows: pd.DataFrame, metric: str = "macro_f1") -> pd.DataFrame:
    """The row of every pruned model with its paired differences, in the metric's unit.

    ``d_random`` is its score less the mean of the random subsets of the same size and quota, ``d_full`` less the score
    of the model trained on everything.
    """
    drawn = rows[rows.method.isin(["random", "random_global"])]
    random = drawn.groupby([*PAIR, "keep_fraction", "method"])[metric].mean().rename("random")
    full = rows[rows.method == "full"].set_index(PAIR)[metric].rename("full")
    d = rows[~rows.method.isin(["full", "oracle", "random", "random_global"])]
    d = d.assign(comparator=np.where(d.method == "influence_global", "random_global", "random"))
    d = d.join(random, on=[*PAIR, "keep_fraction", "comparator"]).join(full, on=PAIR)
    d = d.assign(d_random=d[metric] - d.random, d_full=d[metric] - d.full, **{RATE: 100 * d.rate})
    return compare.together(d, SETTING)


def at_primary(d: pd.DataFrame) -> pd.DataFrame:
    """The part of :func:`differences` by the title's method in the primary cell."""
    return compare.rows_of_kind(d, **PRIMARY, **TITLES)


def primary_table(d: pd.DataFrame, accuracy: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """The primary cell by noise rate: d in macro-F1, its mean and t-interval over the data sets' means, and its tests;
    beside it d in accuracy. ``d`` and ``accuracy`` are :func:`differences` in the two metrics.
    """
    accuracy = at_primary(accuracy)

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        rate, means = part.rate.iloc[0], compare.by_set(part, "d_random")
        rng = seeds.generator(root_seed, "title", "d_random", rate)
        f1 = stats.paired_summary(means, rng, protocol().title_verdict["confidence"])
        other = stats.t_interval(compare.by_set(accuracy, "d_random", rate=rate))
        row = {"paper": "d > 0" if rate > THRESHOLD else "d ≤ 0", "d (F1)": f1["mean"]}
        row |= {"low": f1["t_low"], "high": f1["t_high"]}
        row |= {"bootstrap low": f1["bootstrap_low"], "bootstrap high": f1["bootstrap_high"], "d_z": f1["d_z"]}
        row |= {"p (Wilcoxon)": f1["p_wilcoxon"], "p (sign flip)": f1["p_sign_flip"]}
        row |= {"p (Holm)": np.nan, "p floor": f1["p_floor"]}  # Holm's over all rows: below
        row |= {"sets better": int((means > 0).sum()), "sets": f1["n"]}
        return row | {"d (accuracy)": other.estimate, "accuracy low": other.low, "accuracy high": other.high}

    return compare.with_correction(compare.table(at_primary(d), RATE, measure), "p (sign flip)")


def over_sets(part: pd.DataFrame, column: str = "d_random", **more: object) -> dict[str, Any]:
    """The mean of a difference over the data sets' means, with its t-interval; then ``more``, and how many sets."""
    i = stats.t_interval(compare.by_set(part, column))
    return {"d (F1)": i.estimate, "low": i.low, "high": i.high} | more | {"sets": i.n}


def every_cell(d: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """All settings and rates of the title's method, with the sign-flip test's p, by Holm over the whole table."""

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        rng = seeds.generator(root_seed, "every cell", *part[SETTING].iloc[0])
        p = stats.sign_flip_test(compare.by_set(part, "d_random"), rng).p
        full = compare.by_set(part, "d_full").mean()
        return over_sets(part, **{"p": p, "p (Holm)": np.nan, "d against full": full})

    return compare.with_correction(compare.table(compare.rows_of_kind(d, **TITLES), [*SETTING, RATE], measure), "p")


def rivals(d: pd.DataFrame) -> pd.DataFrame:
    """Every score at the primary cell, a row a (method, rate): d against random, and the flipped labels it keeps."""
    cell = compare.rows_of_kind(d, **PRIMARY)
    flipped = cell.groupby(["method", RATE]).flipped_kept.mean()
    cell = cell[cell.rate.isin(cell.rate[cell.method == "keep_hardest"])]  # the arms' rates

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        kept = 100 * flipped[part.method.iloc[0], part[RATE].iloc[0]]
        return over_sets(part, **{"flipped among kept (%)": kept})

    return compare.table(compare.together(cell, "method"), ["method", RATE], measure)


def title_verdict(primary: pd.DataFrame, crossover: pd.Series) -> TitleVerdict:
    """The verdict on the title by the protocol's rule, read on :func:`primary_table` and its crossover."""
    rates, limits = primary[RATE] / 100, (crossover.low, crossover.high)
    return ledger.title_verdict(rates, primary.low, primary.high, limits, n_datasets=int(crossover.sets))


def holm_floor(frame: pd.DataFrame) -> float:
    """The smallest adjusted p that :func:`every_cell`'s table can have: the sign-flip test's floor times its rows."""
    return min(1.0, len(frame) * stats.p_floor(int(frame.sets.max())))
