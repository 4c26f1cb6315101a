"""Is the advice right? ``python tests/benchmarks/bench_advise.py``: against clean labels, and beside cleanlab.

A *file* is the training part of a registry set with wrong labels put in; what is true is read off the set's clean test
part, which advise never sees. An advice is right when its arm's clean macro-F1 is within the smallest effect of the
best arm's; arms are trained anew for that, on other splits. Written are a row a file, and tables by noise rate with
95 % t-intervals over the data sets (a set counts by the mean of its seeds).

cleanlab gets the same out-of-sample probabilities for ``find_label_issues`` (what ``Datalab`` calls for label issues),
and its own cross-validation with a network of the same size for ``CleanLearning``. What each flags is then dropped, or
replaced, and the study's network is trained on the rest by the same early stopping.
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import datalab
from datalab import data, metrics, noise, seeds, stats
from datalab.advise import pilot, verdict
from datalab.protocol import protocol

SETS = ("digits", "texture", "penbased", "satimage", "spambase", "phoneme", "breast_cancer", "cells")
FILTERS = ("prune_by_noise_rate", "both", "confident_learning", "low_self_confidence")
TITLE = ("influence", "30%")
ROOT = 2024


def labels_of(prepared: data.Prepared, kind: str, rate: float, seed: int) -> NDArray[np.int64]:
    """The file's labels: as raters gave them, or with flips of that kind."""
    if kind == "human":
        return prepared.human_labels_train
    rng = seeds.generator(ROOT, "bench advise", prepared.name, kind, rate, seed)
    return noise.corrupt(prepared.y_train, kind, rate, prepared.n_classes, rng, prepared.x_train)


def true_scores(p: data.Prepared, y: NDArray, seed: int, splits: int) -> pd.Series:
    """Every arm's clean macro-F1, by (method, amount): the mean over splits that the advice did not use."""

    def encode(train: NDArray) -> Any:
        return lambda at: p.x_test if at is None else p.x_train[at]

    pool = pilot.Pool(y, p.n_classes, None, encode, clean=p.y_test)
    with pilot.single_thread():
        rows = [row for k in range(splits) for row in pilot.one_split(pool, seed, 1000 + k)]
    arms = pd.DataFrame(rows).query("kind == 'arm'")
    return arms.groupby(["method", "amount"], sort=False).macro_f1.mean()


def found_by_cleanlab(p: data.Prepared, y: NDArray, seed: int) -> dict[str, tuple[NDArray, NDArray, float]]:
    """Flags (n,), suggested labels (n,) and seconds of each way of asking cleanlab; and of the probabilities shared."""
    from cleanlab.classification import CleanLearning
    from cleanlab.filter import find_label_issues
    from sklearn.neural_network import MLPClassifier

    began = time.perf_counter()
    with pilot.single_thread():
        rng = seeds.generator(ROOT, "bench advise", p.name, "folds", seed)
        made = pilot.references(p.x_train, y, p.n_classes, rng, (200,))
    shared, found = time.perf_counter() - began, {}
    for filter_by in FILTERS:
        began = time.perf_counter()
        flags = find_label_issues(y, made.probabilities.astype(np.float64), filter_by=filter_by, n_jobs=1)
        found[f"cleanlab {filter_by}"] = flags, made.probabilities.argmax(1), shared + time.perf_counter() - began
    began = time.perf_counter()
    learner = CleanLearning(MLPClassifier((64,), max_iter=60, random_state=seed), seed=seed, cv_n_folds=5)
    issues = learner.find_label_issues(p.x_train, y)
    suggested = issues.predicted_label.to_numpy()
    found["cleanlab CleanLearning"] = issues.is_label_issue.to_numpy(), suggested, time.perf_counter() - began
    return found


def file_rows(name: str, kind: str, rate: float, seed: int, splits: int, n: int) -> list[dict[str, Any]]:
    """A row for the advice on one file, and one for each way of flagging."""
    p = data.prepare(name, seed, ROOT, {"train": n, "validation": 400, "test": 2000})
    y = labels_of(p, kind, rate, seed)
    if np.bincount(y, minlength=p.n_classes).min() < 20:
        return []
    flipped, began = y != p.y_train, time.perf_counter()
    advice = datalab.advise(p.x_train, y, splits=splits, seed=seed)
    seconds = time.perf_counter() - began
    truth = true_scores(p, y, seed, 3)
    everything, v = truth[(pilot.KEEP_ALL, "")], advice.verdict
    candidates = truth.drop(pilot.RANDOM)
    estimated = v.noise["calibrated"][0]
    choices = {"advice": v.arm, "best looking": (v.best.method, v.best.amount), "always 30 %": TITLE}
    choices["title's rule"] = TITLE if estimated > 0.15 else (pilot.KEEP_ALL, "")
    gain = {f"gain, {who}": truth[arm] - everything for who, arm in choices.items()}
    best, sesoi = candidates.max(), protocol().statistics["sesoi"]["f1"]
    true_gain = truth[(v.best.method, v.best.amount)] - everything
    common = {"set": name, "noise": kind, "rate": rate, "seed": seed, "flipped": flipped.mean(), "n": len(y)}
    row = common | {
        "kind": "advice",
        "answer": v.answer,
        "arm": verdict.name(*v.arm),
        **gain,
        "hindsight": best - everything,
    }
    row |= {"right": truth[v.arm] >= best - sesoi, "keep is right": everything >= best - sesoi}
    row |= {"covered": v.best.low <= true_gain <= v.best.high, "estimated": estimated, "seconds": seconds}
    row |= {"rate covered": v.noise["calibrated"][1] <= flipped.mean() <= v.noise["calibrated"][2]}
    return [row, *(common | {"kind": "flags"} | each for each in flag_rows(p, y, advice, seed, seconds))]


def flag_rows(p: data.Prepared, y: NDArray, advice: Any, seed: int, seconds: float) -> list[dict[str, Any]]:
    """Precision and recall of each way of flagging, and clean macro-F1 once its flags are dropped or replaced."""
    own, suggested = np.zeros(len(y), dtype=bool), y.copy()
    at = advice.flagged.id.to_numpy()
    own[at] = True
    suggested[at] = advice.flagged["suggested label"].astype(int).to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {"advise": (own, suggested, seconds)} | found_by_cleanlab(p, y, seed)
    held = seeds.generator(ROOT, "bench advise", "held", seed).permutation(len(y)) < len(y) // 5
    arms = [("keep all", "", y, np.ones(len(y), dtype=bool))]
    for who, (flags, other, _) in found.items():
        arms.append((who, "dropped", y, ~flags))
        arms.append((who, "replaced", np.where(flags, other, y), np.ones(len(y), dtype=bool)))
    x, labels = p.x_train[~held], np.stack([arm[2][~held] for arm in arms])
    kept = np.stack([arm[3][~held] for arm in arms])
    with pilot.single_thread():
        judged = pilot.best_of_lengths(
            x, labels, kept, [0.0] * len(arms), (p.x_train[held], y[held]), p.x_test, p.n_classes, seed, pilot.LENGTHS
        )
    f1 = [metrics.macro_f1(p.y_test, guess, p.n_classes) for guess, _ in judged]
    rows, flipped = [], y != p.y_train
    for i, (who, (flags, _, took)) in enumerate(found.items()):
        hits = (flags & flipped).sum()
        row = {"by": who, "precision": hits / flags.sum() if flags.any() else np.nan, "flagged": flags.mean()}
        row |= {"recall": hits / flipped.sum() if flipped.any() else np.nan, "flag seconds": took}
        rows.append(row | {"F1 dropped": f1[1 + 2 * i] - f1[0], "F1 replaced": f1[2 + 2 * i] - f1[0]})
    return rows


def table(rows: pd.DataFrame, keys: list[str], values: list[str]) -> pd.DataFrame:
    """Means with 95 % t-intervals over the data sets, each counted by the mean of its seeds."""
    made = []
    for key, part in rows.groupby(keys, sort=False, dropna=False):
        line = dict(zip(keys, key, strict=True)) | {"sets": part.set.nunique()}
        for value in values:
            by_set = part.groupby("set")[value].mean().dropna().to_numpy(dtype=float)
            line[value] = by_set.mean() if len(by_set) else np.nan
            if len(by_set) > 1:
                interval = stats.t_interval(by_set)
                line |= {f"{value} low": interval.low, f"{value} high": interval.high}
        made.append(line)
    return pd.DataFrame(made)


def summarise(frame: pd.DataFrame, out: Path) -> None:
    """The two tables by noise rate, from the rows of all files."""
    advice, flags = frame[frame.kind == "advice"].dropna(axis=1, how="all"), frame[frame.kind == "flags"]
    advice = advice.assign(acts=advice.answer == verdict.ACT)
    values = ["right", "keep is right", "acts", *(c for c in advice if c.startswith("gain, ")), "hindsight"]
    values += ["covered", "rate covered", "estimated", "seconds"]
    by_rate = table(advice, ["noise", "rate"], values)
    by_rate.to_csv(out / "advise_truth.csv", index=False)
    by_flag = table(
        flags, ["noise", "rate", "by"], ["precision", "recall", "flagged", "F1 dropped", "F1 replaced", "flag seconds"]
    )
    by_flag.to_csv(out / "advise_flags.csv", index=False)
    print(by_rate.round(3).to_string(), by_flag.round(3).to_string(), sep="\n\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="'all' for the whole registry")
    parser.add_argument("--kinds", nargs="+", default=["symmetric"], choices=[*noise.KINDS, "human"])
    parser.add_argument("--rates", nargs="+", type=float, default=[0.0, 0.1, 0.2, 0.4])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1000, help="rows of a file at most")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    given = parser.parse_args()
    sets = list(data.REGISTRY) if given.sets == ["all"] else given.sets
    given.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for seed in range(given.seeds):
        for kind in given.kinds:
            for rate in given.rates if kind != "human" else [np.nan]:
                for name in sets if kind != "human" else ["vader-tweets"]:
                    began = time.perf_counter()
                    made = file_rows(name, kind, rate, seed, given.splits, given.rows)
                    rows += made
                    print(
                        f"{name} {kind} {rate:g} {seed}: {len(made)} rows, {time.perf_counter() - began:.0f} s",
                        flush=True,
                    )
                    pd.DataFrame(rows).to_csv(given.out / "advise_files.csv", index=False)
    summarise(pd.DataFrame(rows), given.out)


if __name__ == "__main__":
    main()
