"""Is the advice right? ``python tests/benchmarks/bench_advise.py``: against clean labels, and beside cleanlab.

A *file* is the training part of a registry set with wrong labels put in. The advice sees that file alone; every arm of
the pilot is also judged by the set's clean test part, which is the truth. An advice is right when its arm's clean
macro-F1 is within the smallest effect of the best arm's. Rows are appended file by file, so that a run that was cut off
goes on; the tables have 95 % t-intervals over the data sets. With ``--least 5000 --rows 10000 --splits 20 --rates 0 0.1
0.2 0.4`` files are as large as the pilot can use, and it has the splits that it has by default.

When these large files were first asked, noisy labels alone judged every file. On skewed sets with 20 and 40 % flips
three advices then cost 9, 16 and 41 points of clean macro-F1: ``verdict.able`` was made after that, and has the factor
2 untuned. The table beside it says what it changes on the same files.

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
from scipy.stats import t
from threadpoolctl import threadpool_limits

from datalab import data, metrics, noise, seeds, stats
from datalab.advise import advise, pilot, verdict, write
from datalab.data import COUNTED
from datalab.data.preparation import human_labels
from datalab.protocol import protocol

# What is asked of every set: the noise, its rate, and whether flags are compared there.
ASKED = [("symmetric", 0.2, True), ("symmetric", 0.0, True), ("human", np.nan, True), ("pair", 0.2, False)]
ASKED += [("symmetric", rate, False) for rate in (0.4, 0.1, 0.3)]
ASKED += [("one class", 0.5, False)]  # half of one class is called another, and no label else is wrong
FILTERS = ("prune_by_noise_rate", "both", "confident_learning", "low_self_confidence")
KEEP, TITLE = (pilot.KEEP_ALL, ""), ("influence", "30%")
ROOT = 2024
ARM = ["set", "noise", "rate", "flipped", "looked_at", "split", "kind", "method", "amount", "dropped", "macro_f1",
       "accuracy", "held_out_f1", "n_train", "n_test", "steps", "surest", "all", "by_class", "calibrated",
       "counted", "clean", "classes", "smallest", "largest", "seconds"]  # fmt: skip


def labels_of(p: data.Prepared, kind: str, rate: float) -> NDArray[np.int64] | None:
    """The file's labels: as one rater gave them, or with flips of that kind; None where there is no rater.

    Of "one class", which and what it is called are drawn among the classes.
    """
    if kind == "human":
        return p.human_labels_train
    rng = seeds.generator(ROOT, "bench advise", p.name, kind, rate, 0)
    if kind == "one class":
        given, called = rng.choice(p.n_classes, 2, replace=False)
        of_class = rng.permutation(np.flatnonzero(p.y_train == given))
        y = p.y_train.copy()
        y[of_class[: round(rate * len(of_class))]] = called
        return y
    return noise.corrupt(p.y_train, kind, rate, p.n_classes, rng, p.x_train)


def pilot_rows(p: data.Prepared, y: NDArray, splits: int) -> pd.DataFrame:
    """The pilot's rows on one file; ``held_out_f1`` is what an advice may see, ``macro_f1`` the clean truth."""

    def encode(train: NDArray) -> Any:
        return lambda at: p.x_test if at is None else p.x_train[at]

    pool = pilot.Pool(y, p.n_classes, None, encode, clean=p.y_test)
    with threadpool_limits(1):
        return pd.DataFrame([row for k in range(splits) for row in pilot.one_split(pool, ROOT, k)])


def flag_rows(p: data.Prepared, y: NDArray, steps: int) -> list[dict[str, Any]]:
    """Precision and recall of each way of flagging, and clean macro-F1 once its flags are dropped or replaced."""
    began, rows = time.process_time(), np.arange(len(y))
    trainer = pilot.Trainer(p.x_train, p.n_classes, (steps,))
    scored = pilot.score(trainer, rows, [(rows, p.x_train)], y, "", None, ROOT)
    found = {"advise": (scored.wrong.to_numpy(), scored.suggested.to_numpy(), time.process_time() - began)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found |= found_by_cleanlab(p, y)
    held = seeds.generator(ROOT, "bench advise", "held").permutation(len(y)) < len(y) // 5
    arms = [(y, np.ones(len(y), dtype=bool))]
    for flags, other, _ in found.values():
        arms += [(y, ~flags), (np.where(flags, other, y), np.ones(len(y), dtype=bool))]
    labels, kept = (np.stack([arm[i][~held] for arm in arms]) for i in (0, 1))
    trainer = pilot.Trainer(p.x_train[~held], p.n_classes, pilot.LENGTHS, (p.x_train[held], y[held]))
    with threadpool_limits(1):
        guesses, _ = trainer.arms(labels, kept, [0.0] * len(arms), p.x_test, ROOT)
    f1 = metrics.macro_f1(p.y_test, guesses, p.n_classes)
    made, flipped = [], y != p.y_train
    for i, (who, (flags, _, took)) in enumerate(found.items()):
        hits = (flags & flipped).sum()
        row = {"by": who, "precision": hits / flags.sum() if flags.any() else np.nan, "flagged": flags.mean()}
        row |= {"recall": hits / flipped.sum() if flipped.any() else np.nan, "flag_seconds": took}
        made.append(row | {"f1_dropped": f1[1 + 2 * i] - f1[0], "f1_replaced": f1[2 + 2 * i] - f1[0]})
    return made


def found_by_cleanlab(p: data.Prepared, y: NDArray) -> dict[str, tuple[NDArray, NDArray, float]]:
    """Flags (n,), suggested labels (n,) and seconds of each way of asking cleanlab; that of the probabilities too."""
    from cleanlab.classification import CleanLearning
    from cleanlab.filter import find_label_issues
    from sklearn.neural_network import MLPClassifier

    began = time.process_time()
    with threadpool_limits(1):
        trainer = pilot.Trainer(p.x_train, p.n_classes, (200,))
        made = trainer.references(y, seeds.generator(ROOT, "bench advise", "folds"))
        probabilities = made.probabilities(p.x_train, np.arange(len(y)))[1]
    shared, found = time.process_time() - began, {}
    for filter_by in FILTERS:
        began = time.process_time()
        flags = find_label_issues(y, probabilities.astype(np.float64), filter_by=filter_by, n_jobs=1)
        found[f"cleanlab {filter_by}"] = flags, probabilities.argmax(1), shared + time.process_time() - began
    began = time.process_time()
    learner = CleanLearning(MLPClassifier((64,), max_iter=60, random_state=0), seed=0, cv_n_folds=5)
    issues = learner.find_label_issues(p.x_train, y)
    suggested = issues.predicted_label.to_numpy()
    found["cleanlab CleanLearning"] = issues.is_label_issue.to_numpy(), suggested, time.process_time() - began
    return found


def judged(rows: pd.DataFrame) -> dict[str, Any]:
    """One file's advice, from its pilot's rows, beside other rules, judged by the clean labels."""
    clean = rows[rows.kind == "arm"].fillna({"amount": ""}).groupby(["method", "amount"], sort=False)
    f1, accuracy = clean.macro_f1.mean(), clean.accuracy.mean()
    # What an advice without a clean file sees: as many test rows as are held out of the file.
    held_out = rows.n_train * protocol().splits["test"] / protocol().splits["train"]
    seen = rows.fillna({"amount": ""}).assign(macro_f1=rows.held_out_f1, n_test=held_out, clean=False)
    v = verdict.conclude(seen, ROOT)
    best, sesoi = f1.drop(pilot.RANDOM).max(), protocol().statistics["sesoi"]["f1"]
    looks = (v.best.method, v.best.amount) if v.best.gain > sesoi else KEEP
    rules = {"advice": v.arm, "best looking": looks, "prune 30 %": TITLE}
    rules["title"] = TITLE if v.noise["estimate"] > 0.15 else KEEP
    rules["title, joint"] = TITLE if v.noise["calibrated"] > 0.15 else KEEP
    rules["advice, 20 splits"] = at_20_splits(v.gains, seen, sesoi)
    rules["advice by any labels"] = verdict.conclude(seen.assign(clean=True), ROOT).arm
    row = {"answer": v.answer, "arm": verdict.name(*v.arm), "acts": v.answer == verdict.ACT, "able": v.able}
    row |= {"drops": v.arm[0] in pilot.SCORES, "keep right": f1[KEEP] >= best - sesoi, "hindsight": best - f1[KEEP]}
    for who, arm in rules.items():
        row |= {f"{who} right": f1[arm] >= best - sesoi, f"{who} F1": f1[arm] - f1[KEEP]}
        row |= {f"{who} accuracy": accuracy[arm] - accuracy[KEEP]}
    for who in ("prune 30 %", "title"):
        row |= {f"advice less {who}, {m}": row[f"advice {m}"] - row[f"{who} {m}"] for m in ("F1", "accuracy")}
    gain, true = f1[(v.best.method, v.best.amount)] - f1[KEEP], rows.flipped.iloc[0]
    row |= {
        "gain covered": v.best.low <= gain <= v.best.high,
        "rate covered": v.noise["low"] <= true <= v.noise["high"],
    }
    row |= {"rate width": v.noise["high"] - v.noise["low"], "rate off": v.noise["estimate"] - true}
    return row | {"joint off": v.noise["calibrated"] - true, "seconds": rows.seconds.iloc[0]}


def at_20_splits(gains: pd.DataFrame, rows: pd.DataFrame, sesoi: float) -> tuple[str, str]:
    """The arm that 20 splits with these means and spreads would advise: an extrapolation, by the intervals' widths."""
    splits, arms = rows.split.nunique(), rows[rows.kind == "arm"]
    ratio = (arms.n_test / arms.n_train).mean()
    width = [t.isf(0.025 / 15, j - 1) * np.sqrt(1 / j + ratio) for j in (splits, 20)]
    shorter = width[1] / width[0]
    low = gains.gain - shorter * (gains.gain - gains.low)
    random = gains["over random"] - shorter * (gains["over random"] - gains["random low"])
    shown = gains[(gains.method != pilot.RANDOM) & (gains.gain > sesoi) & (low > 0) & ~(random <= 0)]
    if shown.empty:
        return KEEP
    best = shown.loc[shown.gain.idxmax()]
    return best.method, best.amount


def table(rows: pd.DataFrame, keys: list[str], values: list[str]) -> pd.DataFrame:
    """Means with 95 % t-intervals over the data sets; a share has Wilson's."""
    made = []
    for key, part in rows.groupby(keys, sort=False, dropna=False):
        line = dict(zip(keys, key, strict=True)) | {"sets": part.set.nunique(), "files": len(part)}
        if "acts" in values:
            line["acts in files"] = int(part.acts.sum())
        for value in values:
            of = part.groupby("set")[value].mean().dropna().to_numpy(dtype=float)
            line[value] = of.mean() if len(of) else np.nan
            if rows[value].dtype == bool:
                line |= dict(zip((f"{value} low", f"{value} high"), wilson(of.mean(), len(of)), strict=True))
            elif len(of) > 1:
                interval = stats.t_interval(of)
                line |= {f"{value} low": interval.low, f"{value} high": interval.high}
        made.append(line)
    return pd.DataFrame(made)


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share of n sets (Wilson 1927)."""
    middle, half = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def summarise(out: Path, to: Path, splits: int) -> None:
    """The tables by noise and rate, from the rows of all files."""
    keys, arms = ["noise", "rate"], pd.read_csv(out / "arms.csv").query("split < @splits")
    files = arms.groupby(["set", *keys], sort=False, dropna=False)
    rows = pd.DataFrame([dict(zip(["set", *keys], key, strict=True)) | judged(part) for key, part in files])
    values = [column for column in rows if column not in ("set", "answer", "arm", *keys)]
    everything = rows[rows.noise != "one class"].assign(noise="all files", rate=np.nan)  # a case of its own
    judged_by = np.where(everything.able, "of these, labels that can judge", "of these, labels that cannot")
    parts = [rows.sort_values(keys), everything, everything.assign(noise=judged_by).sort_values("noise")]
    by_rate = table(pd.concat(parts), keys, values)
    tables = {"truth": by_rate}
    if (out / "flags.csv").exists():
        tables |= flagged(pd.read_csv(out / "flags.csv"), keys)
    to.mkdir(parents=True, exist_ok=True)
    for name, frame in tables.items():
        frame.round(4).to_csv(to / f"{name}.csv", index=False)
        print(frame.round(3).T.to_string() if name == "truth" else frame.round(3).to_string(), end="\n\n")


def flagged(flags: pd.DataFrame, keys: list[str]) -> dict[str, pd.DataFrame]:
    """What each way of flagging finds, and its precision less advise's on the same file, by noise and rate."""
    measures = ["precision", "recall", "flagged", "f1_dropped", "f1_replaced", "flag_seconds"]
    # Each way's precision less advise's on the same file: what is paired is compared paired.
    wide = flags.assign(rate=flags.rate.fillna("")).pivot_table("precision", ["set", *keys], "by")
    less = wide.sub(wide["advise"], axis=0).drop(columns="advise").stack().dropna().rename("precision less advise's")
    by = [*keys, "by"]
    flags = flags.sort_values(keys)
    return {"flags": table(flags, by, measures), "precision": table(less.reset_index(), by, [less.name])}


def example(folder: Path) -> None:
    """The README's file: 1,500 tweets with one rater's label each, the advice on it, and how much of it is true."""
    tweets = data.load("vader-tweets-3")
    names = np.array(tweets.class_names)
    rating = human_labels(tweets, seeds.generator(ROOT, "bench advise", "tweets"))[:1500]
    folder.mkdir(parents=True, exist_ok=True)
    file, true = folder / "tweets.csv", tweets.labels[:1500]
    tweets.features[:1500].assign(rating=names[rating]).to_csv(file, index=False)
    began = time.perf_counter()
    advice = advise(file, label="rating", say=print)
    write(advice, folder / "tweets-advice")
    at, wrong = advice.flagged.id.to_numpy(), rating != true
    right = advice.flagged["suggested label"].to_numpy() == names[true[at]]
    print(
        f"{advice}\n{time.perf_counter() - began:.0f} s; {wrong.sum()} labels ({wrong.mean():.0%}) are not most raters'"
    )
    first = wrong[at[:50]].mean()
    print(f"{len(at)} flagged, {wrong[at].mean():.0%} wrong, of the first 50 {first:.0%}; {right.mean():.0%} set right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=list(COUNTED))
    parser.add_argument("--splits", type=int, default=6, help="with --tables: of the splits done, so many are read")
    parser.add_argument("--rows", type=int, default=600, help="rows of a file at most")
    parser.add_argument("--least", type=int, default=0, help="leave out sets with fewer rows")
    parser.add_argument("--rates", type=float, nargs="+", help="of symmetric noise: these and one class, and no flags")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/advise"), help="rows, appended")
    parser.add_argument("--tables", type=Path, help="where the tables go; then nothing is run")
    parser.add_argument("--example", type=Path, help="a folder for the README's tweets; then nothing else is run")
    given = parser.parse_args()
    if given.example:
        return example(given.example)
    if given.tables:
        return summarise(given.out, given.tables, given.splits)
    given.out.mkdir(parents=True, exist_ok=True)
    log = given.out / "done.txt"
    done = set(log.read_text().splitlines()) if log.exists() else set()
    sets = [name for name in given.sets if data.REGISTRY[name].rows >= given.least]
    order = seeds.generator(ROOT, "bench advise", "order").permutation(sets)  # cut off, what is done is a sample
    asked = [*(("symmetric", rate, False) for rate in given.rates), ASKED[-1]] if given.rates else ASKED
    for name in order:
        p = None
        for kind, rate, flagging in asked:
            if (key := f"{name} {kind} {rate:g}") in done:
                continue
            began = time.process_time()
            p = p or data.prepare(name, 0, ROOT, {"train": given.rows, "validation": 400, "test": 2000})
            y = labels_of(p, kind, rate)
            few = y is None or np.bincount(y, minlength=p.n_classes).min() < 20
            if not few:
                rows = pilot_rows(p, y, given.splits)
                common = {"set": name, "noise": kind, "rate": rate, "flipped": (y != p.y_train).mean()}
                common |= {"looked_at": data.REGISTRY[name].looked_at, "seconds": time.process_time() - began}
                if flagging:
                    steps = int(rows[rows.kind == "noise"].steps.mode()[0])
                    flags = [common | row for row in flag_rows(p, y, steps)]
                    path = given.out / "flags.csv"
                    pd.DataFrame(flags).to_csv(path, mode="a", header=not path.exists(), index=False)
                path = given.out / "arms.csv"
                rows = rows.assign(**common).reindex(columns=ARM)
                rows.to_csv(path, mode="a", header=not path.exists(), index=False)
            with open(log, "a") as stream:
                stream.write(f"{key}\n")
            said = "left out: no rater, or under 20 examples in a class" if few else ""
            print(f"{key}: {time.process_time() - began:.1f} s of processor {said}", flush=True)


if __name__ == "__main__":
    main()
