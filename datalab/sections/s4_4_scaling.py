"""Section 4.4: does DATA-LAB's gain depend on the training size, and what does scoring a training set cost?

Only two data sets are large enough: the seed is the unit, and intervals speak of these two.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pydantic
from matplotlib.figure import Figure
from numpy.typing import NDArray

from datalab import correction, data, ledger, pruning
from datalab.protocol import protocol
from datalab.record import Statement
from datalab.sections import compare, parameters, plots, sentences
from datalab.sections.parameters import Count, Datasets, StoppedParameters, WithPrimary, estimated, stopped_early
from datalab.sections.trials import trial
from datalab.sections.trials.trial import DATALAB, Trial
from datalab.sweep import Task
from datalab.sweep.cost import peak_memory, timed
from datalab.training import Recipe, protocol_recipe

VALIDATION = 400  # rows whose noisy labels choose the length of what is stopped early
FEW = 5000  # examples up to which there are few
GAIN = "Relative Gain (%)"

Size = Annotated[int, pydantic.Field(ge=50, le=10_000_000, strict=True)]


class Parameters(StoppedParameters):
    scaling_datasets: Datasets
    scaling_sizes: Annotated[tuple[Size, ...], pydantic.Field(min_length=2), parameters.RISING]
    scaling_architectures: WithPrimary  # which is also stopped early
    scaling_seeds: Count
    scaling_test: Annotated[int, pydantic.Field(ge=50, strict=True)]
    encoder: Literal["fast", "pretrained"]

    @property
    def needs(self) -> tuple[str, ...]:
        """The data sets that must be on disk."""
        return self.scaling_datasets

    @property
    def unfit(self) -> str:
        """Two sizes that a data set does not reach are the same rows: only the largest may stand for all it has."""
        for name in self.scaling_datasets:
            if (rows := int(protocol().splits["train"] * data.REGISTRY[name].unique_rows)) <= self.scaling_sizes[-2]:
                few = f"'{name}' has some {rows:,} rows to train on"
                return f"parameter 'scaling_sizes': {few}; name one size above that at most, and smaller ones"
        return super().unfit


def tasks(p: Parameters) -> list[Task]:
    """One task a data set, architecture and seed, with all sizes and methods."""
    sizes = list(p.scaling_sizes)
    given = {"root_seed": p.root_seed, "sizes": sizes, "test": p.scaling_test, "validation": VALIDATION}
    given |= {"encoder": p.encoder, "device": p.chosen_device}
    trained = 15 * len(sizes)  # at each size: two references, five folds, eight models to compare
    # Seconds of a step of all methods together; scoring grows with the size.
    training, scoring = 0.005 * sum(recipe_at(size).steps for size in sizes), 1e-5 * sum(sizes)
    grid = []
    for dataset, name, seed in itertools.product(p.scaling_datasets, p.scaling_architectures, range(p.scaling_seeds)):
        of_task = {"dataset": dataset, "architecture": name, "seed": seed} | given
        cost = parameters.LONGER.get(name, 1.0) * training + scoring + 1
        grid.append(Task(f"{__name__}:run_task", of_task, cost, trained))
    return grid


def stopped_tasks(p: Parameters) -> list[Task]:
    """The same of the smallest size and the primary cell's architecture, every model stopped early."""
    sizes = p.scaling_sizes[:1]
    small = {"scaling_sizes": sizes, "scaling_architectures": (protocol().primary_cell["architecture"],)}
    return stopped_early(tasks(p.model_copy(update=small)), p, once=7 * len(sizes))


estimate = estimated(lambda p: tasks(p) + stopped_tasks(p), lambda p: 1e9 + 2000 * max(p.scaling_sizes))


def run_task(
    sizes: Sequence[int], test: int, validation: int, lengths: Sequence[int] = (), **given: Any
) -> list[dict[str, Any]]:
    """A row per size and method (and draw of a random subset): macro-F1 and accuracy on the clean test set.

    ``n`` is the size reached, which is less than ``size`` where the data set has no more. Nothing is tuned; the number
    of steps grows with the size (:func:`recipe_at`). The rows of ``influence`` have the ``seconds`` that scoring the
    training set took and, at the first seed, the most bytes that its tensors held, ``memory``. Of ``lengths``, where
    they are named, each model's validation labels choose one, which grows with the size. ``given`` is as for
    :class:`Trial`.
    """
    rows = []
    for size in sizes:
        caps = {"train": size, "validation": validation, "test": test}
        study = Trial(rates=(protocol().framework["verdict_rate"],), caps=caps, **given)
        common = {"dataset": study.dataset, "architecture": study.architecture, "seed": study.seed, "size": size}
        rows += [common | {"n": len(study.x)} | row for row in _methods(study, size, lengths)]
    return rows


def recipe_at(size: int, recipe: Recipe | None = None) -> Recipe:
    """The recipe (None: the protocol's) with as many steps as a training set of this size takes; more from 1,000 on."""
    recipe = recipe or protocol_recipe()
    longer = max(size / 1000, 1) ** protocol().scaling["steps_exponent"]
    return recipe._replace(steps=round(recipe.steps * longer))


def _methods(study: Trial, size: int, lengths: Sequence[int]) -> list[dict[str, Any]]:
    recipe = recipe_at(size)
    observed, keep = study.observed[0], protocol().primary_cell["keep_fraction"]
    references, _ = trial.references(study, recipe=recipe)

    def scoring() -> NDArray[np.float64]:
        scores = trial.streamed(references, study.x, observed, recipe.l2)
        return trial.mean_of_references(scores.self_influence(study.x, study.tensor(observed)))[0]

    seconds, scores = timed(scoring)
    # Of one seed: memory does not vary, and the profiler takes its time.
    spent = {"seconds": seconds, "memory": peak_memory(scoring) if study.seed == 0 else np.nan}
    rows = [{"method": "vanilla"}, {"method": "influence"} | spent]
    kept = [np.ones(len(observed), dtype=bool), pruning.keep(scores, observed, keep)]
    for draw in range(protocol().random_subsets):
        rows.append({"method": "random", "draw": draw})
        kept.append(pruning.random_subset(observed, keep, rng=study.rng("random", draw)))
    fits = [partial(trial.fit, study, np.tile(observed, (len(kept), 1)), np.array(kept))]
    settings = {"transition": study.tensor(trial.transitions(study, recipe).astype(np.float32))}
    corrected = {"module": correction.ForwardCorrected(study.classifier()), "settings": settings}
    fits.append(partial(trial.fit, study, study.observed, **corrected))
    for variant in DATALAB:
        module, lambdas = study.datalab(variant=variant), trial.default_lambdas(1)
        fits.append(partial(trial.fit_datalab, study, module, study.observed, lambdas))
    rows += [{"method": method} for method in ("label_noise", *DATALAB.values())]
    scored = []
    for fit in fits:
        predicted = trial.read_off(study, lambda recipe, fit=fit: fit(recipe=recipe_at(size, recipe)), lengths)
        scored += trial.scores_on_test_set(study, predicted)
    return [row | scores for row, scores in zip(rows, scored, strict=True)]


def size_name(size: int) -> str:
    """``1K`` for 1,000."""
    return f"{size // 1000}K" if size % 1000 == 0 else f"{size:,}"


def by_seed(rows: pd.DataFrame, method: str, size: int) -> NDArray[np.float64]:
    """A method's F1 at a size, one value a seed (seeds,): means over data sets and architectures, each over draws."""
    part = compare.rows_of_kind(rows, method=method, size=size)
    of_task = part.groupby(["seed", "dataset", "architecture"]).macro_f1.mean()
    return of_task.groupby(level="seed").mean().to_numpy()


def scaling(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per variant and size: baseline, ours and the relative gain, with 95 % t-intervals over seeds."""
    printed = ledger.printed()

    def row(variant: str, size: int) -> dict[str, Any]:
        base, ours = (by_seed(rows, method, size) for method in ("vanilla", DATALAB[variant]))
        key, reached = f"T4.{size_name(size)}", rows[rows["size"] == size].groupby("dataset", sort=False).n.first()
        note = ", ".join(f"{name} {n:,}" for name, n in reached.items() if n < size)
        return (
            {"variant": variant, "Training Size": size_name(size)}
            | compare.and_papers(base, "Baseline F1", printed.get(f"{key}.baseline_f1"), compare.SHARE)
            | compare.and_papers(ours, "Ours F1", printed.get(f"{key}.ours_f1"), compare.SHARE)
            | compare.and_papers(100 * (ours / base - 1), GAIN, printed.get(f"{key}.rel_gain"))
            | {"seeds": len(base), "note": f"no more rows: {note}" if note else ""}
        )

    return pd.DataFrame([row(variant, size) for variant in DATALAB for size in sorted(rows["size"].unique())])


def paper_shape(table: pd.DataFrame, variant: str) -> pd.DataFrame:
    """Table 4.4 with the paper's rows and columns, for one variant: ours [95 % interval]; paper's."""
    part, columns = table[table.variant == variant], ("Baseline F1", "Ours F1", GAIN)
    shaped = compare.beside_paper(part, "Training Size", {name: name for name in columns}, decimals={GAIN: 1})
    return shaped.assign(**{"n (seeds)": part.seeds.to_numpy(), "note": part.note.replace("", "-").to_numpy()})


def methods(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per data set, architecture, size and method: F1, and less vanilla's, 95 % t-intervals over seeds."""
    learner = ["dataset", "architecture", "size", "n"]
    vanilla = rows[rows.method == "vanilla"].groupby([*learner, "seed"]).macro_f1.mean().rename("vanilla")
    rows = rows.join(vanilla, on=vanilla.index.names)

    def line(part: pd.DataFrame) -> dict[str, Any]:
        f1, base = part.groupby("seed")[["macro_f1", "vanilla"]].mean(), part.method.iloc[0] == "vanilla"
        row = compare.mean_with_interval(f1.macro_f1, "F1", bounds=compare.SHARE)
        if not base:
            row |= compare.mean_with_interval(f1.macro_f1 - f1.vanilla, "less vanilla")
        return row | {"seeds": len(f1), "note": "the base row" if base else ""}

    return compare.table(rows, [*learner, "method"], line).rename(columns={"dataset": "data set"})


def cost(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per data set, architecture and size: seconds and memory of scoring the training set, medians over seeds."""

    def medians(part: pd.DataFrame) -> dict[str, float]:
        n, seconds, memory = part[["n", "seconds", "memory"]].median()
        return {"n": n, "seconds": seconds, "microseconds an example": 1e6 * seconds / n, "memory (MB)": memory / 1e6}

    return compare.table(rows[rows.method == "influence"], ["dataset", "architecture", "size"], medians)


def growth(rows: pd.DataFrame) -> pd.DataFrame:
    """The exponent b of seconds ~ n^b, a row per data set and architecture, with a 95 % t-interval over seeds.

    A seed's exponent is the slope of log seconds on log n over its three largest sizes: below them the cost of calling
    torch at all hides how scoring grows.
    """

    def exponent(part: pd.DataFrame) -> dict[str, float]:
        slopes = []
        for _, seed in part.groupby("seed", sort=False):
            largest = seed.sort_values("n").drop_duplicates("n").tail(3)
            slopes.append(np.polyfit(np.log(largest.n.astype(float)), np.log(largest.seconds), 1)[0])
        ends = {"from n": int(largest.n.min()), "to n": int(largest.n.max()), "seeds": len(slopes)}
        return compare.mean_with_interval(slopes, "exponent") | ends

    table = compare.table(rows[rows.method == "influence"], ["dataset", "architecture"], exponent)
    return table.rename(columns={"dataset": "data set"})


def cost_figure(cost: pd.DataFrame) -> Figure:
    """Seconds and memory of scoring by training size; dotted: seconds in proportion to n."""
    names = {"seconds": "Time to score them (s)", "memory (MB)": "Memory of its tensors, beyond the data (MB)"}
    lines = cost.assign(line=cost.dataset + ", " + cost.architecture, low=np.nan, high=np.nan).rename(columns=names)
    long = plots.long_form(lines, list(names.values()), ["line", "n"], "measure")
    words = {"title": "What does scoring a training set cost?", "xlabel": "training examples", "ylabel": ""}
    how = {"by": "line", "panel": "measure", "sharey": False, "logx": True, "horizontal": {}}
    figure = plots.curves(long, "n", "value", **how, **words)
    seconds, memory = figure.axes
    memory.set_ylim(bottom=0)
    seconds.set_yscale("log")
    ends = np.array([cost.n.min(), cost.n.max()])
    seconds.plot(ends, cost.seconds.max() * ends / ends[1], **plots.REFERENCE[True])
    return figure


def verdicts(rows: pd.DataFrame, stopped: pd.DataFrame | None = None) -> list[Statement]:
    """The section's statements, on the variant ``paper``; of sizes that the paper does not have, none.

    A gain is read on the mean over learners, as its table is; beside it each learner alone, which a mean may hide, and
    those that ``stopped`` has of the size, trained as long as their validation says.
    """
    stopped = rows[:0] if stopped is None else stopped
    ours, both, printed = DATALAB["paper"], ("vanilla", DATALAB["paper"]), ledger.printed()
    sizes, of_rows = [int(size) for size in sorted(rows["size"].unique())], compare.raw_of(rows)
    names = {size: size_name(size) for size in sizes if f"T4.{size_name(size)}.size" in printed}
    small, large = [size for size in sizes if size <= FEW], [size for size in sizes if size > FEW]

    def f1(method: str, *sizes: int, of: pd.DataFrame = rows) -> NDArray[np.float64]:
        return sum(by_seed(of, method, size) for size in sizes) / len(sizes)

    def gain(*sizes: int, of: pd.DataFrame = rows) -> NDArray[np.float64]:
        return f1(ours, *sizes, of=of) / f1("vanilla", *sizes, of=of) - 1

    def alone(size: int) -> str:
        parts = list(rows.groupby("architecture", sort=False))
        early = compare.rows_of_kind(stopped, size=size).groupby("architecture", sort=False)
        parts += [(f"{name} stopped early", part) for name, part in early]
        gains = {name: compare.mean_with_interval(100 * gain(size, of=part), "d") for name, part in parts}
        shown = (f"{name} {sentences.with_limits(of, 'd', 1)}" for name, of in gains.items())
        return f"{sentences.listed(shown)} alone{' (4_4_stopped_early)' if len(early) else ''}"

    of_seeds = f"n counts seeds, each a mean over {sentences.listed(rows.dataset.unique())}"

    def at(row: str, sizes: Iterable[int], *methods: str) -> dict[str, Any]:
        raw = of_rows | {"method": list(methods), "size": list(sizes)}
        return {"side": "greater", "table": "scaling", "row": row, "raw": raw, "beside": of_seeds}

    statements = []
    for size, name in names.items():
        reached = int(rows[rows["size"] == size].n.max())
        where = {"table": "scaling", "row": name, "raw": of_rows | {"size": size}}
        trained = ledger.read(f"T4.{name}.size", reached, n=rows.seed.nunique(), **where)
        statements.append(replace(trained, why=f"trained on as many, where there are; {of_seeds}"))
        where["beside"] = of_seeds
        for column, method in zip(("baseline_f1", "ours_f1"), both, strict=True) if 1000 in names else ():
            level = by_seed(rows, method, size)
            levels = level, level - by_seed(rows, method, 1000)
            where["raw"] = of_rows | {"method": method, "size": sorted({size, 1000})}
            statements.append(ledger.judge_level(f"T4.{name}.{column}", *levels, **where))
        how = compare.relative_to(f1("vanilla", size)) | at(name, [size], *both)
        how["beside"] = f"{of_seeds}; {alone(size)}"
        statements.append(ledger.judge(f"T4.{name}.rel_gain", gain(size), **how))
    if min(names, default=0) == 1000 and small and large:
        top = {f"{size_name(size)} less the larger": gain(size) - gain(*large) for size in small}
        later = f1("vanilla", *large) - f1("vanilla", *small)
        ahead = {name: f1(ours, size) - f1("vanilla", size) for size, name in names.items()}
        ends, of_few = [min(names), max(names)], at("1K, and 5K, less the larger", sizes, *both)
        of_few |= compare.relative_to(f1("vanilla", *sizes))
        more = f1("vanilla", ends[1]) - f1("vanilla", ends[0])
        statements += [
            ledger.judge_all("S4.4.low_data", top, **of_few),
            ledger.judge("S4.4.baseline_vulnerable", later, **at("the others less 1K and 5K", sizes, "vanilla")),
            ledger.judge_all("S4.4.ours_always_better", ahead, **at("every size", names, *both)),
            ledger.judge("S4.4.more_data_helps", more, **at("largest less smallest", ends, "vanilla")),
        ]
    count = ledger.read("S3.2.train_sizes", len(sizes), table="scaling", row="all", raw=of_rows)
    measured = ", ".join(f"{size:,}" for size in sizes)
    reached = rows[rows["size"] == sizes[-1]].groupby("dataset", sort=False).n.max()
    fewer = [f"{name} has {n:,}" for name, n in reached.items() if n < sizes[-1]]
    why = "; ".join(["the sizes of this run", *fewer])
    return [*statements, replace(count, measured=measured, why=why)]
