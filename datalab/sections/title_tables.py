"""From the title's rows to its tables. Frames in, frames out; nothing here trains, prints or draws.

``d`` is a paired difference at one (architecture, noise, keep fraction, data set, seed, rate): score(method) minus the
comparator's. The comparator ``random`` is the mean of the random subsets; ``full`` is the model trained on everything.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from datalab import seeds, stats
from datalab.protocol import protocol
from datalab.sections.pruning_cell import HUMAN

SETTING = ["architecture", "noise", "keep_fraction"]
PAIR = ["architecture", "noise", "dataset", "seed", "rate"]


def differences(rows: pd.DataFrame, metric: str = "macro_f1") -> pd.DataFrame:
    """Every pruned model against its comparators, a row each.

    Columns: ``PAIR``, method, keep_fraction, reference_steps, ``score``, ``d_random`` (against random subsets of the
    same size and quota), ``d_full`` (against no pruning) and ``random_full`` (random minus no pruning).
    """
    full = rows[rows.method == "full"].set_index(PAIR)[metric].rename("full")
    random = {
        name: rows[rows.method == name].groupby([*PAIR, "keep_fraction"])[metric].mean().rename("random")
        for name in ("random", "random_global")
    }
    pruned = rows[~rows.method.isin(["full", "oracle", "random", "random_global"])]
    parts = []
    for name, part in (
        ("random", pruned.method != "influence_global"),
        ("random_global", pruned.method == "influence_global"),
    ):
        parts.append(pruned[part].join(random[name], on=[*PAIR, "keep_fraction"]))
    d = pd.concat(parts).join(full, on=PAIR).rename(columns={metric: "score"})
    d["d_random"], d["d_full"], d["random_full"] = d.score - d.random, d.score - d.full, d.random - d.full
    kept = [*PAIR, "method", "keep_fraction", "reference_steps", "score", "d_random", "d_full", "random_full"]
    return d[kept].reset_index(drop=True)


def at_primary(d: pd.DataFrame, method: str | None = "influence", steps: int | None = None) -> pd.DataFrame:
    """The part of ``differences`` in the primary cell's architecture, noise and keep fraction."""
    cell, rule = protocol().primary_cell, protocol().reference
    part = d[(d.architecture == cell["architecture"]) & (d.noise == cell["noise"])]
    part = part[part.keep_fraction == cell["keep_fraction"]]
    if method is None:
        return part
    part = part[part.method == method]
    return part[part.reference_steps == (rule["steps"] if steps is None else steps)]


def primary_rows() -> list[dict[str, object]]:
    """Which raw rows the primary cell rests on: the title's method, and random pruning beside it."""
    cell, steps = protocol().primary_cell, protocol().reference["steps"]
    common = {name: cell[name] for name in ("architecture", "noise", "keep_fraction")}
    return [common | {"method": "influence", "reference_steps": steps}, common | {"method": "random"}]


def settings(d: pd.DataFrame) -> pd.DataFrame:
    """The part of ``differences`` by the title's method under synthetic noise, in every setting."""
    return d[(d.method == "influence") & (d.reference_steps == protocol().reference["steps"]) & (d.noise != HUMAN)]


def grid(d: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """One setting's differences as an array (sets, seeds, rates), with the rates and the data sets' names."""
    table = d.pivot(index=["dataset", "seed"], columns="rate", values=column)
    names = list(dict.fromkeys(d.dataset))
    return np.stack([table.loc[name].to_numpy() for name in names]), table.columns.to_numpy(), names


def by_rate(d: pd.DataFrame, column: str, root_seed: int) -> pd.DataFrame:
    """One setting, a row a rate: the mean over data sets, its t and bootstrap intervals, tests and effect size."""
    values, rates, _ = grid(d, column)
    means, confidence = values.mean(1), protocol().title_verdict["confidence"]
    found = []
    for at, rate in enumerate(rates):
        one = stats.paired_summary(means[:, at], seeds.generator(root_seed, "title", column, rate), confidence)
        found.append({"noise rate": rate, "sets better": int((means[:, at] > 0).sum())} | one)
    frame = pd.DataFrame(found)
    frame["holm p"] = stats.holm(frame.p_sign_flip.to_numpy())
    return frame


def primary_table(d: pd.DataFrame, accuracy: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """The primary cell per noise rate: d in macro-F1 with its intervals and tests, and d in accuracy beside it."""
    frame = by_rate(at_primary(d), "d_random", root_seed)
    other = by_rate(at_primary(accuracy), "d_random", root_seed)
    threshold = protocol().title_verdict["reproduced"]["crossover_interval_contains"]
    claimed = np.where(frame["noise rate"] > threshold, "d > 0", "d ≤ 0")
    return pd.DataFrame(
        {
            "noise rate (%)": 100 * frame["noise rate"],
            "paper": claimed,
            "d (F1)": frame["mean"],
            "low": frame.t_low,
            "high": frame.t_high,
            "bootstrap low": frame.bootstrap_low,
            "bootstrap high": frame.bootstrap_high,
            "d_z": frame.d_z,
            "p (Wilcoxon)": frame.p_wilcoxon,
            "p (sign flip)": frame.p_sign_flip,
            "p (Holm)": frame["holm p"],
            "p floor": frame.p_floor,
            "sets better": frame["sets better"],
            "sets": frame.n,
            "d (accuracy)": other["mean"],
            "accuracy low": other.t_low,
            "accuracy high": other.t_high,
        }
    )


def by_dataset_and_rate(d: pd.DataFrame) -> pd.DataFrame:
    """One setting's d of every data set at every rate, its mean over seeds."""
    mean = d.groupby(["dataset", "rate"], sort=False).d_random.mean().reset_index()
    return pd.DataFrame({"dataset": mean.dataset, "noise rate (%)": 100 * mean.rate, "d (F1)": mean.d_random})


def worst_for_only(primary: pd.DataFrame) -> tuple[float, float, float]:
    """For "not at or below the threshold": the limits of d that are hardest on the claim, as (d, low, high).

    The largest d and the largest upper limit at all rates up to the threshold, and the largest lower limit at the rates
    where the title's rule lets influence refute it.
    """
    rule, rate = protocol().title_verdict, primary["noise rate (%)"] / 100
    early = primary[rate <= rule["refuted"]["lower_limit_above_0_at_rate_at_most"] + 1e-9]
    claimed = primary[rate <= rule["reproduced"]["crossover_interval_contains"] + 1e-9]
    return float(claimed["d (F1)"].max()), float(early.low.max()), float(claimed.high.max())


def crossovers(d: pd.DataFrame, column: str, root_seed: int, by: Sequence[str] = SETTING) -> pd.DataFrame:
    """A crossover with its bootstrap interval for each setting in ``by``; fractions, -inf for always, inf for never."""
    found = []
    for key, part in d.groupby(list(by), sort=False):
        values, rates, names = grid(part, column)
        if len(names) < 2 or len(rates) < 2:
            continue
        b = stats.crossover_bootstrap(values, rates, seeds.generator(root_seed, "crossover", column, *key))
        found.append(
            dict(zip(by, key, strict=True))
            | {"crossover": b.estimate, "low": b.low, "high": b.high, "p_always": b.p_always, "p_never": b.p_never}
            | {"sets": b.sets, "lowest_rate": rates.min(), "highest_rate": rates.max()}
        )
    return pd.DataFrame(found)


def readable(crossovers: pd.DataFrame) -> pd.DataFrame:
    """A crossover table for people: percentages, ``< 0 %`` for always better and ``> 40 %`` for never."""
    frame = crossovers.copy()
    for name in ("crossover", "low", "high"):
        limits = zip(frame[name], frame.lowest_rate, frame.highest_rate, strict=True)
        frame[name] = [stats.crossover_label(value, [low, high]) for value, low, high in limits]
    if "keep_fraction" in frame:
        pruned = (100 * (1 - frame.keep_fraction)).round(6)
        frame.insert(list(frame).index("keep_fraction"), "pruned (%)", pruned)
    names = {"p_always": "P(always better)", "p_never": "P(never better)", "low": "95 % low", "high": "95 % high"}
    return frame.drop(columns=["lowest_rate", "highest_rate", "keep_fraction"], errors="ignore").rename(columns=names)


def by_dataset(d: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """The primary cell's crossover of each data set alone; its interval resamples that set's seeds only."""
    part, pilot = at_primary(d), set(protocol().pilot["datasets"])
    found = []
    for name, one in part.groupby("dataset", sort=False):
        values, rates, _ = grid(one, "d_random")
        # Seeds take the units' place: what varies is the seed, and the interval speaks of this data set alone.
        rng = seeds.generator(root_seed, "crossover of", name)
        limits = {"low": np.nan, "high": np.nan}
        if values.shape[1] > 1:
            b = stats.crossover_bootstrap(values.transpose(1, 0, 2), rates, rng)
            limits = {"low": b.low, "high": b.high}
        found.append(
            {
                "dataset": name,
                "seen in the pilot": name in pilot,
                "crossover": stats.crossover(rates, values[0].mean(0)),
            }
            | limits
            | {f"d at {100 * rates[i]:g} %": values[0].mean(0)[i] for i in _few(rates)}
            | {"lowest_rate": rates.min(), "highest_rate": rates.max()}
        )
    return pd.DataFrame(found).sort_values("crossover", kind="stable", ignore_index=True)


def _few(rates: np.ndarray) -> list[int]:
    """The first, the last and the rate nearest the claimed threshold."""
    threshold = protocol().title_verdict["reproduced"]["crossover_interval_contains"]
    return sorted({0, int(np.abs(rates - threshold).argmin()), len(rates) - 1})


def every_cell(d: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """All settings and rates of the title's method: mean d, 95 % t-interval, sign-flip p, Holm over the whole table."""
    found = []
    for key, setting in settings(d).groupby(SETTING, sort=False):
        values, rates, names = grid(setting, "d_random")
        if len(names) < 2:
            continue
        means = values.mean(1).T  # (rates, sets)
        interval = stats.t_interval(means)
        p = stats.sign_flip_test(means, seeds.generator(root_seed, "every cell", *key)).p
        full = grid(setting, "d_full")[0].mean((0, 1))
        for at, rate in enumerate(rates):
            row = {"d (F1)": interval.estimate[at], "low": interval.low[at], "high": interval.high[at], "p": p[at]}
            found.append(
                dict(zip(SETTING, key, strict=True))
                | {"noise rate (%)": 100 * rate}
                | row
                | {"d against full": full[at], "sets": len(names)}
            )
    frame = pd.DataFrame(found)
    frame.insert(list(frame).index("p") + 1, "p (Holm)", stats.holm(frame.p.to_numpy()))
    return frame


def against_full(d: pd.DataFrame) -> pd.DataFrame:
    """The primary cell per rate against no pruning: influence minus full and random minus full, 95 % t-intervals."""
    part = at_primary(d)
    frames = []
    for name, column in (("influence", "d_full"), ("random", "random_full")):
        values, rates, _ = grid(part, column)
        i = stats.t_interval(values.mean(1).T)
        frames.append(
            pd.DataFrame(
                {"noise rate (%)": 100 * rates, "pruned by": name, "d (F1)": i.estimate, "low": i.low, "high": i.high}
            ).assign(sets=i.n)
        )
    return pd.concat(frames, ignore_index=True)


def rivals(rows: pd.DataFrame, d: pd.DataFrame) -> pd.DataFrame:
    """Every score at the primary cell, a row a (method, rate): d against random, t-interval, flipped labels kept."""
    part = at_primary(d, method=None)
    part = part[part.reference_steps.isin([0, protocol().reference["steps"]])]
    keys = ["method", "rate"]
    cell = rows[rows.keep_fraction == protocol().primary_cell["keep_fraction"]]
    cell = cell[(cell.architecture == protocol().primary_cell["architecture"])]
    cell = cell[cell.noise == protocol().primary_cell["noise"]]
    flipped = cell.groupby(keys).flipped_kept.mean()
    found = []
    arms = part.rate[part.method == "keep_hardest"].unique()
    for name, one in part[part.rate.isin(arms)].groupby("method", sort=False):
        values, rates, _ = grid(one, "d_random")
        i = stats.t_interval(values.mean(1).T)
        kept = [100 * flipped.loc[name, rate] for rate in rates]
        found.append(
            pd.DataFrame(
                {"method": name, "noise rate (%)": 100 * rates, "d (F1)": i.estimate, "low": i.low, "high": i.high}
            ).assign(**{"flipped among kept (%)": kept, "sets": i.n})
        )
    return pd.concat(found, ignore_index=True)


def sensitivity(d: pd.DataFrame, accuracy: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """The primary cell's crossover, at the arms' rates, as the reference's length, the quota or the metric changes."""
    rule, found = protocol().reference, []
    arms = d.rate[d.method == "influence_global"].unique()
    d, accuracy = d[d.rate.isin(arms)], accuracy[accuracy.rate.isin(arms)]
    for steps in sorted({rule["steps"], *rule["sensitivity_steps"]}):
        found.append(at_primary(d, steps=steps).assign(arm=f"reference of {steps} steps"))
    found.append(at_primary(d, "influence_global").assign(arm="no quota per class"))
    found.append(at_primary(accuracy).assign(arm="accuracy instead of macro-F1"))
    found.append(at_primary(accuracy, "influence_global").assign(arm="no quota, and accuracy"))
    return crossovers(pd.concat(found), "d_random", root_seed, by=["arm"])


def confirmation(d: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """The primary cell's crossover on the sets a pilot had looked at, on those it never saw, and on all."""
    part, pilot = at_primary(d), set(protocol().pilot["datasets"])
    seen = part.dataset.isin(pilot)
    groups = [part[seen].assign(sets_of="pilot"), part[~seen].assign(sets_of="never seen"), part.assign(sets_of="all")]
    frame = crossovers(pd.concat(groups), "d_random", root_seed, by=["sets_of"])
    return frame.rename(columns={"sets_of": "data sets"})


def human(rows: pd.DataFrame, d: pd.DataFrame) -> pd.DataFrame:
    """Real noise, each label one rater's word: per keep fraction, d against random and against full, over the seeds."""
    part = d[(d.noise == HUMAN) & (d.method == "influence")]
    found = []
    for keep, one in part.groupby("keep_fraction", sort=True):
        row = {"pruned (%)": round(100 * (1 - keep), 6), "seeds": len(one)}
        for name, column in (("d against random", "d_random"), ("d against full", "d_full")):
            if len(one) > 1:
                i = stats.t_interval(one[column].to_numpy())
                row |= {name: i.estimate, f"{name} low": i.low, f"{name} high": i.high}
            else:
                row |= {name: one[column].mean(), f"{name} low": np.nan, f"{name} high": np.nan}
        found.append(row)
    frame = pd.DataFrame(found)
    realised = rows[rows.noise == HUMAN].realised_rate.mean()
    return frame.assign(**{"realised noise (%)": 100 * realised})
