"""How well influence predicts retraining, beside the peer libraries: ``python tests/benchmarks/bench_lds.py``.

Digits, MLP 64-128-10 by the study's recipe. LDS: Spearman's correlation, over 100 random halves, of the predicted and
the true loss of a test example (the mean over 5 seeds of the models retrained), as a mean over test examples. Scores
are averaged over 5 reference models, of seeds of their own; ``LDS of one`` is the mean over the models alone. Mislabel
AUROC: a fifth of the labels flipped, a model trained on them, and its self-influence as the score; 5 times, flips and
seed drawn anew. Every method at the damping, in whole decades, that is best for it in each column: an upper bound, for
all alike. What would take too long runs on fewer models, test examples or dampings, as the table says.
"""

import argparse
import multiprocessing
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import bench_influence as bench
import numpy as np
import pandas as pd
import peers
import torch
from bench_influence import Method, ours, theirs
from matplotlib import pyplot as plt
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from datalab import influence, models, noise, pruning
from datalab.influence import InfluenceWarning
from datalab.record import figures
from datalab.retraining import Subsets, lds, retrained_on_halves
from datalab.seeds import generator
from datalab.training import RECIPE, cosine, fit_many

GRID = tuple(10.0**k for k in range(-5, 2))
NOISE, RESAMPLES, CHECKPOINTS = 0.2, 2000, (25, 75, 125, 175)
MEMORY = 12 << 30  # bytes of address space a method may take


class Plan(NamedTuple):
    """What a method is run on: the first reference models, test examples, and the dampings; AUROC, or why not."""

    models: int = 5
    tests: int = 450
    dampings: tuple[float, ...] = GRID
    auroc: str = ""


NONE = Plan(dampings=(1.0,))  # of methods without damping
AS_OURS = "AUROC: ours, to rounding"
SLOW = "AUROC: a solve for every training example takes too long"
UPPER = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
PLANS = {
    ("datalab", "ExactGGN"): Plan(dampings=(1e-2, 1e-1, 1.0)),
    ("datalab", "CG"): Plan(models=1, tests=50, dampings=UPPER[:4], auroc=SLOW),
    ("datalab", "LiSSA"): Plan(models=1, tests=20, dampings=UPPER[2:], auroc=SLOW),
    ("datalab", "Arnoldi"): Plan(dampings=UPPER),
    ("datalab", "GradCos"): Plan(dampings=(1.0,), auroc="AUROC: its self-influence is 1"),
    ("pyDVL", "CG"): Plan(models=1, tests=100, dampings=UPPER[:4], auroc=SLOW),
    ("pyDVL", "LiSSA"): Plan(models=1, tests=20, dampings=UPPER[2:], auroc=SLOW),
    ("pyDVL", "Arnoldi"): Plan(dampings=UPPER),
    ("pyDVL", "Nystroem"): Plan(dampings=UPPER),
    ("dattri", "CG"): Plan(models=1, tests=100, dampings=UPPER[1:4], auroc=SLOW),
    ("dattri", "LiSSA"): Plan(models=1, tests=20, dampings=UPPER[3:], auroc=SLOW),
    ("dattri", "Arnoldi"): Plan(models=1, dampings=UPPER),
    ("dattri", "DataInf"): Plan(models=1, auroc=AS_OURS),
    ("captum", "Arnoldi"): Plan(models=1, dampings=UPPER),
}
UNDAMPED = {"GradDot", "GradDot, last layer", "GradCos", "TracIn", "TracInCP", "TracInCPFast", "identity"}
SKIPPED = {
    ("datalab", "ExactHessian"): "minutes a model; CG on the Hessian has the same limit",
    ("pyDVL", "direct"): "minutes a damping; CG on the Hessian has the same limit",
    ("dattri", "explicit"): "9,610 parameters do not fit in memory",
    ("captum", "naive"): "9,610 parameters do not fit in memory",
}


class Reference(NamedTuple):
    """A trained model, and the same at the middles of four quarters of its training."""

    model: nn.Sequential
    path: list[nn.Sequential]


def references(module: nn.Sequential, x: Tensor, labels: np.ndarray, seeds: list[int]) -> list[Reference]:
    """A model for each seed; labels (n,) or one row a seed."""
    paths: list[list[nn.Sequential]] = [[] for _ in seeds]

    def keep(step: int, stack) -> None:
        if step in CHECKPOINTS:
            for path, model in zip(paths, stack, strict=True):
                path.append(model)

    stack = fit_many(module, x, labels, None, seeds, on_step=keep)
    return [Reference(model.eval(), path) for model, path in zip(stack, paths, strict=True)]


def methods(paths: dict[nn.Module, list[nn.Sequential]]) -> list[Method]:
    """Ours, of which some have settings that speed does not depend on, and the peers'."""
    rates = [50 * cosine(RECIPE.learning_rate, step, RECIPE.steps) for step in CHECKPOINTS]
    ggn = {"curvature": "ggn"}
    mine = {m.name: m for m in bench.our_methods()}
    return [
        mine["EKFAC"],
        ours("EKFAC", "empirical Fisher", lambda m, d: influence.EKFAC(m, d, fisher="empirical")),
        mine["KFAC"],
        mine["ExactGGN"],
        mine["ExactHessian"],
        ours("CG", "Gauss-Newton matrix, to 1e-4", lambda m, d: influence.CG(m, d, tolerance=1e-4, **ggn)),
        mine["CG"],
        ours("Arnoldi", "Gauss-Newton matrix, rank 100 of 200", lambda m, d: influence.Arnoldi(m, d, rank=100, **ggn)),
        mine["Arnoldi"],
        mine["LiSSA"],
        mine["LastLayerGGN"],
        mine["DataInf"],
        mine["TRAK"],
        mine["GradDot"]._replace(setting="no curvature; self: the squared gradient norm"),
        ours("GradCos", "no curvature, gradients of length 1", lambda m, d: influence.GradCos(m)),
        ours("TracIn", "4 checkpoints", lambda m, d: influence.TracIn(paths[m], rates)),
        *(theirs(p.library, p.method, "") for p in peers.PEERS),
    ]


class Predicted(NamedTuple):
    """LDS by damping: of the averaged scores (tests,), and of each model's (models, tests)."""

    averaged: dict[float, np.ndarray]
    alone: dict[float, np.ndarray]


def predicted(
    method: Method, plan: Plan, every: list[Reference], train: tuple, test: tuple, subsets: Subsets
) -> Predicted:
    """Fit on each reference model and hold the pairs against the retrained models."""
    test = tuple(t[: plan.tests] for t in test)
    subsets = Subsets(subsets.kept, subsets.losses[:, :, : plan.tests])
    totals, alone = dict.fromkeys(plan.dampings, 0.0), {d: [] for d in plan.dampings}
    for reference in every[: plan.models]:
        for damping, fitted in damped(method, plan, reference.model, *train):
            scores = fitted.pairwise(*train, *test).double().numpy()
            totals[damping] = totals[damping] + scores
            alone[damping].append(lds(scores, subsets))
    return Predicted({d: lds(t, subsets) for d, t in totals.items()}, {d: np.array(v) for d, v in alone.items()})


def damped(method: Method, plan: Plan, model: nn.Sequential, x: Tensor, y: Tensor) -> Iterator[tuple[float, object]]:
    """The method at every damping; of one curvature where it can be damped anew."""
    fitted = None
    for damping in plan.dampings:
        again = hasattr(fitted, "redamped")
        fitted = fitted.redamped(damping) if again else method.fit(model, x, y, damping)
        yield damping, fitted


def best(values: dict[float, np.ndarray]) -> tuple[float, np.ndarray]:
    return max(values.items(), key=lambda item: np.nan_to_num(item[1].mean(), nan=-np.inf))


def over_tests(values: np.ndarray) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean over test examples; of equal draws for equally many examples."""
    draws = generator(0, "bootstrap", len(values)).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return float(low), float(high)


class Flipped(NamedTuple):
    """One model trained on labels of which some are wrong."""

    model: nn.Sequential
    y: Tensor
    wrong: np.ndarray


def flipped(
    module: nn.Sequential, x: Tensor, y: Tensor, count: int
) -> tuple[list[Flipped], dict[nn.Module, list[nn.Sequential]]]:
    clean = y.numpy()
    labels = np.array([noise.corrupt(clean, "symmetric", NOISE, 10, generator(0, "flips", i)) for i in range(count)])
    every = references(module, x, labels, [2000 + i for i in range(count)])
    found = [Flipped(r.model, torch.as_tensor(row), row != clean) for r, row in zip(every, labels, strict=True)]
    return found, {r.model: r.path for r in every}


def detected(method: Method, plan: Plan, x: Tensor, every: list[Flipped]) -> dict[float, np.ndarray]:
    """AUROC of self-influence, by damping, of each flipped set."""
    found = {damping: [] for damping in plan.dampings}
    for f in every:
        for damping, fitted in damped(method, plan, f.model, x, f.y):
            scores = fitted.self_influence(x, f.y).double().numpy()
            found[damping].append(roc_auc_score(f.wrong, scores) if np.isfinite(scores).all() else np.nan)
    return {damping: np.array(values) for damping, values in found.items()}


def auroc(values: np.ndarray) -> dict[str, float]:
    """The mean, and its 95 % t-interval, over flips and seeds."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    mean = values.mean()
    return {"AUROC": mean, "low over flips and seeds": mean - half, "high over flips and seeds": mean + half}


def row(
    method: Method, plan: Plan, found: Predicted, reference: Predicted, detection: dict[float, np.ndarray] | None
) -> dict[str, object]:
    """One line of the table; ``reference`` is EK-FAC's, on the same models and test examples."""
    n = len(next(iter(found.averaged.values())))
    damping, values = best(found.averaged)
    if plan.models == 1:
        _, other = best({d: v[0, :n] for d, v in reference.alone.items()})
    else:
        _, other = best({d: v[:n] for d, v in reference.averaged.items()})
    difference = other - values
    has_damping = method.name not in UNDAMPED
    low, high = over_tests(values)
    over = f"{plan.dampings[0]:g} to {plan.dampings[-1]:g}" if has_damping else ""
    found_row = {
        "library": method.library, "method": method.name, "setting": method.setting, "models": plan.models, "tests": n,
        "dampings": over, "LDS": values.mean(), "low over tests": low,
        "high over tests": high, "damping": damping if has_damping else "",
        "LDS of one": best({d: v.mean(0) for d, v in found.alone.items()})[1].mean(),
        "EKFAC minus it": difference.mean(),
    }  # fmt: skip
    found_row["its low over tests"], found_row["its high over tests"] = over_tests(difference)
    if detection:
        at, aurocs = best(detection)
        found_row |= auroc(aurocs) | {"AUROC's damping": at if has_damping else ""}
    failed = {d for values in (found.averaged, detection or {}) for d, v in values.items() if np.isnan(v).any()}
    failure = f"not a number at damping {', '.join(f'{d:g}' for d in sorted(failed))}" if failed else ""
    return found_row | {"note": "; ".join(filter(None, (plan.auroc, failure)))}


def baselines(x: Tensor, every: list[Flipped]) -> list[dict[str, object]]:
    """Scores that need no influence."""
    rows = []
    for name, score in (("loss", pruning.loss), ("EL2N", pruning.el2n), ("margin", pruning.margin)):
        values = []
        for f in every:
            with torch.no_grad():
                p = torch.softmax(f.model(x), 1).numpy()
            values.append(roc_auc_score(f.wrong, score(p, f.y.numpy())))
        rows.append({"library": "datalab", "method": name, "setting": "no influence"} | auroc(np.array(values)))
    return rows


def table(train: tuple, test: tuple, hidden: int, halves: int, seeds: int, count: int) -> pd.DataFrame:
    """Every method, one after the other, in the order of the list."""
    x, y = train
    module = models.mlp((1, 1, 64), 10, hidden)
    subsets = retrained_on_halves(
        module, x, y.numpy(), test[0], test[1].numpy(), halves, range(seeds), generator(0, "halves")
    )
    every = references(module, x, y.numpy(), [1000 + i for i in range(count)])
    wrong, paths = flipped(module, x, y, count)
    paths |= {r.model: r.path for r in every}
    rows, reference = [], None

    def measured(method: Method, plan: Plan, reference: Predicted) -> dict[str, object]:
        found = predicted(method, plan, every, train, test, subsets)
        detection = None if plan.auroc else detected(method, plan, x, wrong)
        return row(method, plan, found, reference, detection)

    for method in methods(paths):
        key = (method.library, method.name)
        plan = PLANS.get(key, NONE if method.name in UNDAMPED else Plan())
        plan = plan._replace(models=min(plan.models, count), tests=min(plan.tests, len(test[0])))
        about = {"library": method.library, "method": method.name, "setting": method.setting}
        if key in SKIPPED:
            rows.append(about | {"note": SKIPPED[key]})
            continue
        start = time.perf_counter()
        if reference is None:  # the first is EK-FAC
            reference = predicted(method, plan, every, train, test, subsets)

        found_row = alone(partial(measured, method, plan, reference))
        rows.append(about | found_row | {"seconds": time.perf_counter() - start})
        print(
            f"{method.library:12} {method.name:20} {rows[-1]['seconds']:6.0f} s {rows[-1].get('note', '')}", flush=True
        )
    return pd.DataFrame(rows + baselines(x, wrong))


def alone(measured: Callable[[], dict[str, object]]) -> dict[str, object]:
    """What a method's measurement returns, or a note of why it failed, from a process of its own with bounded memory.

    A peer that takes or leaks too much then fails by itself, and not the run with it.
    """
    receiving, sending = multiprocessing.Pipe(duplex=False)

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        try:
            sending.send(measured())
        except Exception as error:  # whatever a peer raises
            sending.send({"note": f"{type(error).__name__}: {error}".split("\n")[0][:100]})

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    sending.close()
    try:
        return receiving.recv()
    except EOFError:
        return {"note": f"killed: it needs more than {MEMORY >> 30} GB"}
    finally:
        process.join()


def figure(found: pd.DataFrame) -> plt.Figure:
    """LDS and AUROC with their intervals, best first; ours filled, the peers' hollow."""
    figures.style()
    panels = (
        ("LDS", "over tests", "LDS, 95 % interval over test examples", "Predicting retraining"),
        ("AUROC", "over flips and seeds", "AUROC, 95 % interval over flips and seeds", "Finding wrong labels"),
    )
    parts = [found.dropna(subset=column).sort_values(column, ascending=False) for column, *_ in panels]
    height = 0.22 * sum(len(p) for p in parts) + 2
    drawn, every = plt.subplots(
        2, figsize=(7.5, height), height_ratios=[len(p) + 2 for p in parts], layout="constrained"
    )
    for axes, part, (column, over, label, title) in zip(every, parts, panels, strict=True):
        for place, line in enumerate(part.to_dict("records")):
            mine = line["library"] == "datalab"
            colour = figures.COLOURS[0] if mine else figures.COLOURS[6]
            axes.plot([line[f"low {over}"], line[f"high {over}"]], [place, place], "-", color=colour, lw=1)
            axes.plot(line[column], place, "o", color=colour, mfc=colour if mine else "white", ms=6)
            axes.annotate(
                f"{line[column]:.3f}", (line[f"high {over}"], place), (6, 0), textcoords="offset points", va="center",
                fontsize=8,
            )  # fmt: skip
        few = part["models"].eq(1).map({True: " (one model)", False: ""}) if column == "LDS" else ""
        empirical = part["setting"].eq("empirical Fisher").map({True: ", empirical", False: ""})
        hessian = part["setting"].str.startswith("Hessian").map({True: ", Hessian", False: ""})
        names = part["library"] + " " + part["method"] + empirical + hessian + few
        axes.set_yticks(range(len(part)), names, fontsize=8)
        for tick, library in zip(axes.get_yticklabels(), part["library"], strict=True):
            tick.set_fontweight("bold" if library == "datalab" else "normal")
        axes.set(ylim=(len(part) - 0.4, -0.6), xlabel=label, title=title)
        axes.grid(axis="y", visible=False)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--quick", action="store_true", help="few of everything: for development")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", InfluenceWarning)
    x, y, x_test, y_test = bench.digits()
    few, every = (200, 40, 32, 20, 1, 2), (len(x), len(x_test), 128, 100, 5, 5)
    n, n_test, hidden, halves, seeds, count = few if options.quick else every
    print(f"{bench.versions()}; {n} training and {n_test} test examples, {halves} halves x {seeds} seeds")
    start = time.perf_counter()
    found = table((x[:n], y[:n]), (x_test[:n_test], y_test[:n_test]), hidden, halves, seeds, count)
    shown = found.replace("", np.nan).dropna(axis=1, how="all")
    three = {c: lambda v: f"{v:.3f}" for c in shown.select_dtypes("number")}
    whole = dict.fromkeys(("models", "tests", "damping", "AUROC's damping", "seconds"), bench.short)
    print(shown.to_string(index=False, na_rep="", max_colwidth=50, formatters=three | whole))
    print(f"{time.perf_counter() - start:,.0f} s in all")
    bench.save(found, figure(found), "influence_lds", options.out)


if __name__ == "__main__":
    main()
