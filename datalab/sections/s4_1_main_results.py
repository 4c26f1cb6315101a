"""Section 4.1: does DATA-LAB beat plain training, and what else does? Its tasks serve sections 4.3 and 5.1 too.

A task is a data set, architecture and seed, with all noise rates, methods and ablations. The primary ones, every model
stopped early, are those of ``trials/untuned.py``. :func:`run_task` is the tuned one, for the recipe's length: every arm
may try the same number of configurations, chosen by macro-F1 on a validation set as noisy as the training set.
:func:`decide` does all of that and sees no test label. In the tables the data set is the unit; it counts by its mean
over architectures, seeds and draws.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pydantic
from numpy.typing import ArrayLike

from datalab import data, framework, ledger, seeds, stats
from datalab.protocol import protocol
from datalab.record import Statement
from datalab.sections import compare, parameters
from datalab.sections.compare import SHARE, by_set, difference, mean_with_interval, table, with_correction
from datalab.sections.sentences import digits, listed
from datalab.sections.trials import arms, untuned
from datalab.sections.trials.trial import DATALAB, Trial, influence_kept, probabilities, transitions
from datalab.sweep import Task
from datalab.training import protocol_recipe

METRICS = {"precision": "precision", "recall": "recall", "macro_f1": "F1", "accuracy": "accuracy", "ece": "ECE"}
ROWS = {
    "vanilla": "Baseline (vanilla)",
    "influence": "+ influence functions",
    "label_noise": "+ label noise",
    "datalab_paper": "Ours (full), paper",
    "datalab_label_aware": "Ours (full), label-aware",
    "clean": "Oracle upper bound (clean labels)",
    "random": "random subset (not in the paper)",
}
# A method's name in the ledger's ids; the paper has one DATA-LAB, and no random row.
IN_LEDGER = {"vanilla": "vanilla", "influence": "if", "label_noise": "ln", "clean": "oracle"}
IN_LEDGER |= {"datalab_paper": "full", "datalab_label_aware": "full"}
PAPER_ROWS = ("vanilla", "influence", "label_noise", "datalab_paper", "clean")  # its "ours" is read on `paper`
PAPER_METRICS = ("precision", "recall", "macro_f1", "accuracy")
RIVALS = ("vanilla", "influence", "label_noise", "random")  # what DATA-LAB is compared with: all but the upper bound


class MainParameters(parameters.StoppedTraining):
    main_rates: parameters.MainRates
    main_architectures: parameters.Architectures
    configurations: Annotated[int, pydantic.Field(ge=2, le=10_000, strict=True)]


class Parameters(MainParameters, parameters.ArchitectureParameters):
    """What sections 4.1 and 4.3 take; ``None`` is the profile's value."""


def tasks(p: MainParameters) -> list[Task]:
    """One task a data set, architecture and seed, with all rates, methods and ablations; every model stopped early."""
    return parameters.stopped_early(untuned.tasks(p), p, once=7 * len(p.main_rates))


def tuned_tasks(p: MainParameters) -> list[Task]:
    """The same for the recipe's length, its penalties tuned in place of it."""
    q, rates = p.configurations, len(p.main_rates)
    by_hand = 4 * q + protocol().random_subsets - 1 + 7  # four tuned arms; reference models and folds are seven
    mapped = q + len(framework.VARIANTS) * (q + 7)  # the loss correction; each variant, and seven of its ablations
    # Seconds of one training of 200 steps on one core, stacked.
    cost = rates * (0.009 * by_hand + 0.03 * mapped) + 0.3
    given = {"architectures": p.main_architectures, "rates": list(p.main_rates), "configurations": q}
    return parameters.per_set_and_seed(p, f"{__name__}:run_task", cost, rates * (by_hand + mapped), **given)


def architecture_tasks(p: Parameters) -> list[Task]:
    """The same of the other architectures, untuned and for the recipe's length; of one seed and the verdict rate."""
    small = {"datasets": p.framework_datasets, "main_architectures": p.other_architectures, "seeds": 1}
    small |= {"main_rates": (protocol().framework["verdict_rate"],)}
    return untuned.tasks(p.model_copy(update=small) if p.other_architectures else p)


estimate = parameters.estimated(
    lambda p: [*tasks(p), *untuned.tasks(p), *tuned_tasks(p), *architecture_tasks(p)],
    memory=lambda p: 0.8e9 + 400 * p.configurations * (p.caps["train"] + p.caps["test"]),
)


def run_task(rates: Sequence[float], configurations: int, **given: Any) -> list[dict[str, Any]]:
    """The rows of one tuned task, with :func:`~datalab.sections.trials.arms.scores` on the clean test set.

    ``part`` is "main" (a row per rate, method and draw of a random subset) or "ablation" (per rate, variant and set of
    components that are on). A row of DATA-LAB carries its weights' effective sample size as a share of n, ``ess``, and
    ``weights_auroc``, the chance that a clean example outweighs a flipped one. ``given`` is as for :class:`Trial`.
    """
    trial = Trial(rates=tuple(rates), **given)
    of_task = {"dataset": trial.dataset, "architecture": trial.architecture, "seed": trial.seed}
    return [of_task | row | arms.scores(trial, p) for row, p in decide(trial, configurations)]


def decide(trial: Trial, configurations: int) -> list[arms.Decision]:
    """Train and tune every arm at every rate, and ablate DATA-LAB. Reads no test label."""
    grid, kept = arms.penalties(configurations), influence_kept(trial)
    everything = np.ones_like(kept)
    labels, validation = trial.observed, trial.observed_validation
    # The upper bound knows every clean label, of the validation set too.
    clean = [np.tile(y, (len(trial.rates), 1)) for y in (trial.prepared.y_train, trial.prepared.y_val)]
    decisions = [
        *arms.penalised(trial, "vanilla", grid, labels, validation, everything),
        *arms.penalised(trial, "influence", grid, labels, validation, kept),
        *arms.random_subsets(trial, grid),
        *arms.penalised(trial, "label_noise", grid, labels, validation, transition=transitions(trial)),
        *arms.penalised(trial, "clean", grid, *clean, everything),
    ]
    lambdas = {}
    for variant in framework.VARIANTS:
        tuned, lambdas[variant] = arms.tuned_datalab(trial, variant, arms.lambda_pairs(configurations))
        decisions += tuned
    for rows, train in arms.ablations(trial, lambdas):
        of_models = zip(rows, probabilities(train(recipe=protocol_recipe()), trial.x_test), strict=True)
        decisions += [arms.Decision({"part": "ablation"} | row, p) for row, p in of_models]
    return decisions


def main(rows: pd.DataFrame, rate: float | None = None) -> pd.DataFrame:
    """The rows without the ablations; at one noise rate, or at all."""
    rows = rows[rows.part == "main"]
    return rows if rate is None else rows[rows.rate == rate]


def level(rows: pd.DataFrame, method: str, metric: str, rate: float) -> pd.Series:
    """A method's score at one rate, a value a data set, in the rows' order."""
    return by_set(main(rows, rate), metric, method=method)


def claim_id(method: str, metric: str) -> str:
    """The ledger's id of one cell of table 4.1; it has none for what the paper does not print."""
    return f"T1.{IN_LEDGER.get(method)}.{METRICS[metric].lower()}"


def beside_vanilla(rows: pd.DataFrame, method: str, metric: str, rate: float, name: str) -> dict[str, float]:
    """A method's level with its interval, and its paired difference to vanilla's with interval and tests."""
    values, base = level(rows, method, metric, rate), level(rows, "vanilla", metric, rate)
    row = mean_with_interval(values, name, bounds=SHARE)
    if method != "vanilla":
        row |= difference(values - base, "less vanilla") | {"sets better": int((values > base).sum())}
    return row | {"sets": len(values)}


def cells(rows: pd.DataFrame, rate: float) -> pd.DataFrame:
    """A row per cell of table 4.1 at one rate: the paper's figure, ours, its difference to vanilla; Holm over all."""
    printed, lines = ledger.printed(), []
    for method, metric in itertools.product(ROWS, METRICS):
        paper = (0.01 if metric == "accuracy" else 1.0) * printed.get(claim_id(method, metric), np.nan)
        notes = ["the paper prints none"] if np.isnan(paper) else []
        notes += ["the base row: no difference"] if method == "vanilla" else []
        line = {"method": ROWS[method], "metric": METRICS[metric], "paper": paper}
        lines.append(line | beside_vanilla(rows, method, metric, rate, "ours") | {"note": "; ".join(notes)})
    return with_correction(pd.DataFrame(lines).drop(columns="sets better"))


def by_noise(rows: pd.DataFrame) -> pd.DataFrame:
    """Every method's F1 at every rate, and its difference to vanilla's; Holm's correction over the whole table."""
    lines = [
        {"noise rate (%)": 100 * rate, "method": name} | beside_vanilla(rows, method, "macro_f1", rate, "F1")
        for rate, (method, name) in itertools.product(sorted(rows.rate.unique()), ROWS.items())
    ]
    return with_correction(pd.DataFrame(lines))


def benchmarks(rows: pd.DataFrame, variant: str, rate: float, root_seed: int) -> pd.DataFrame:
    """Table 4.1b, a row per benchmark (per data set where none is one): F1 of vanilla and of one variant, and the gain.

    The seed is the unit here: an interval speaks of this data set under other splits and noise. ``p floor`` is the
    least p that the sign-flip test can print with so many seeds. The corrections are over the benchmarks.
    """
    part = main(rows, rate)
    labels = {name: data.REGISTRY[name].benchmark for name in part.dataset.unique()}
    named = [name for name in labels if labels[name]] or list(labels)

    def measure(of_set: pd.DataFrame) -> dict[str, Any]:
        name = of_set.dataset.iloc[0]
        f1 = of_set.pivot_table("macro_f1", "seed", "method")
        ours, base = f1[DATALAB[variant]], f1["vanilla"]
        d = (ours - base).to_numpy()
        row = {"benchmark": labels[name] or "not a benchmark", "data set": name, "paper": _printed(labels[name])}
        row |= {"Baseline F1": base.mean(), "Ours F1": ours.mean()} | mean_with_interval(d, "d")
        row |= mean_with_interval(100 * (ours / base - 1), "improvement (%)")
        row |= dict.fromkeys(("d_z", "p (t)", "p (sign flip)", "p floor"), np.nan)
        if len(d) > 1:
            flips = stats.sign_flip_test(d, seeds.generator(root_seed, "4.1", variant, name))
            row |= {"d_z": stats.cohens_dz(d).estimate, "p (t)": stats.t_test(d).p}
            row |= {"p (sign flip)": flips.p, "p floor": flips.floor}
        return row | {"seeds": len(d)}

    frame = table(part[part.dataset.isin(named)], "dataset", measure).drop(columns="dataset")
    frame = with_correction(frame, "p (t)", "p (Bonferroni)", stats.bonferroni)
    return with_correction(frame, "p (t)", "p (Holm)")


def _printed(benchmark: str | None) -> str:
    printed, key = ledger.printed(), f"T1b.{(benchmark or '').removeprefix('Bench-')}"
    if f"{key}.baseline_f1" not in printed:
        return "prints A to F only"
    base, ours, gain = (printed[f"{key}.{name}"] for name in ("baseline_f1", "ours_f1", "improvement"))
    return f"{base:.2f} to {ours:.2f}, {gain:.2f} %"


def relative_gain(ours: ArrayLike, base: ArrayLike) -> stats.Measurement:
    """The headline, mean ours / mean base - 1: of the means of F1 (sets,), no mean of gains; its units are the sets."""
    return stats.jackknifed(lambda some, others: some.mean() / others.mean() - 1, ours, base)


def headline(rows: pd.DataFrame, rate: float) -> pd.DataFrame:
    """A row per variant and comparator: mean F1, the relative gain, and the difference that is judged, with its tests.

    Both intervals are over the data sets, each its mean over seeds.
    """
    lines = []
    for (variant, method), rival in itertools.product(DATALAB.items(), RIVALS):
        ours, base = (level(rows, name, "macro_f1", rate).to_numpy() for name in (method, rival))
        row = {"variant": variant, "against": rival, "Ours F1": ours.mean(), "Baseline F1": base.mean()}
        row |= compare.measured(relative_gain(ours, base), "gain (%)", scale=100) | difference(ours - base)
        sets = {"sets better": int((ours > base).sum()), "sets": len(ours)}
        lines.append(row | {"p floor": stats.p_floor(len(ours))} | sets)
    return pd.DataFrame(lines)


def weights(rows: pd.DataFrame) -> pd.DataFrame:
    """What the tuned weights look like, at 200 steps: effective sample size, AUROC for clean labels, lambdas chosen."""
    rows, by = main(rows).assign(**{"noise rate (%)": 100 * rows.rate}), ["variant", "noise rate (%)"]
    seen = compare.means(rows, by, {"ess": ("ESS / n", SHARE), "weights_auroc": ("AUROC", SHARE)})
    chosen = rows.groupby(by)[["lambda1", "lambda2"]].median().add_prefix("median ")
    return seen.drop(columns="sets").join(chosen, on=by)


def by_architecture(rows: pd.DataFrame, rate: float) -> pd.DataFrame:
    """DATA-LAB less vanilla in F1 at one rate, a row per architecture and variant."""
    lines = []
    for (name, part), variant in itertools.product(main(rows).groupby("architecture", sort=False), DATALAB):
        d = level(part, DATALAB[variant], "macro_f1", rate) - level(part, "vanilla", "macro_f1", rate)
        lines.append({"architecture": name, "variant": variant} | mean_with_interval(d, "d (F1)") | {"sets": len(d)})
    return pd.DataFrame(lines)


def worse_than_vanilla(table_4_1: pd.DataFrame) -> str:
    """Every metric on which a variant does worse than vanilla: what no headline may leave out."""
    ours = table_4_1[table_4_1.method.str.startswith("Ours")]
    # A calibration error is better when it is lower.
    worse = ours[ours["less vanilla"].where(ours.metric == "ECE", -ours["less vanilla"]) > 0]
    settled = (worse["less vanilla low"] > 0) | (worse["less vanilla high"] < 0)
    ends = np.where(settled, "", " (not settled)")
    names = worse.method + ": " + worse.metric + " " + worse["less vanilla"].map(digits) + ends
    return f"**Worse than vanilla on average**: {listed(names, none='in no metric')}."


def verdicts(rows: pd.DataFrame, rate: float, gains: pd.DataFrame, table_4_1b: pd.DataFrame) -> list[Statement]:
    """The section's statements, "ours" read on the variant ``paper``; of several effects the weakest counts.

    ``gains`` is the table of :func:`headline`, ``table_4_1b`` that of :func:`benchmarks` for ``paper``.
    """
    scores = {pair: level(rows, *pair, rate).to_numpy() for pair in itertools.product(ROWS, METRICS)}
    less = {(method, metric): of - scores["vanilla", metric] for (method, metric), of in scores.items()}
    f1 = {method: scores[method, "macro_f1"] for method in ROWS}
    ours, base, both = f1["datalab_paper"], f1["vanilla"], ("datalab_paper", "vanilla")
    architectures = list(rows.architecture.unique())

    def where(table: str, row: str, *methods: str, **more: Any) -> dict[str, Any]:
        raw = {"part": "main", "rate": rate, "method": list(dict.fromkeys(methods)), "architecture": architectures}
        return {"table": table, "row": row, "raw": compare.raw_of(rows) | raw | more}

    levels = []
    for method, metric in itertools.product(PAPER_ROWS, PAPER_METRICS):
        how = {"metric": "accuracy", "scale": 100} if metric == "accuracy" else {}
        how |= where("cells", f"{ROWS[method]}, {METRICS[metric]}", method, "vanilla")
        levels.append(ledger.judge_level(claim_id(method, metric), scores[method, metric], less[method, metric], **how))

    ladder = PAPER_ROWS[:-1]  # all but the upper bound
    steps = {f"{b} over {a}": f1[b] - f1[a] for a, b in itertools.pairwise(ladder)}
    below_bound = {method: f1["clean"] - f1[method] for method in ROWS if method != "clean"}
    ahead = {metric: less["datalab_paper", metric] for metric in PAPER_METRICS}
    pruned = {metric: less["influence", metric] for metric in ("macro_f1", "accuracy")}

    p = gains[gains.variant == "paper"].set_index("against").loc["vanilla", "p (Wilcoxon)"]
    against_vanilla = where("headline", "paper, against vanilla", *both)
    against_each = where("headline", "paper, against each", "datalab_paper", *RIVALS)
    over_rivals = {rival: relative_gain(ours, f1[rival]) for rival in RIVALS}
    relative = {"side": "greater"} | compare.relative_to(base)

    sets, improvement = list(table_4_1b["data set"]), table_4_1b["improvement (%)"]
    by_seed = main(rows, rate).pivot_table("macro_f1", ["dataset", "seed"], "method", sort=False)
    on_each = {name: (by_seed.loc[name].datalab_paper - by_seed.loc[name].vanilla).to_numpy() for name in sets}
    gain_on_each = {name: (by_seed.loc[name].datalab_paper / by_seed.loc[name].vanilla - 1).to_numpy() for name in sets}
    better = {"beside": f"better on {(table_4_1b.d > 0).sum()} of {len(sets)}"}
    spread = {"beside": f"improvement {improvement.min():.1f} to {improvement.max():.1f} %"}
    all_sets, ends = (where("benchmarks", row, *both, dataset=sets) for row in ("all", "smallest and largest"))

    full, n = ROWS["datalab_paper"], len(ours)
    all_greater = partial(ledger.judge_all, side="greater")
    return [
        *levels,
        all_greater("T1.full_vs_vanilla", ahead, **where("cells", full, *both)),
        all_greater("T1.f1_monotone_rows", steps, **where("cells", full, *ladder)),
        all_greater("T1.if_vs_vanilla", pruned, **where("cells", ROWS["influence"], "influence", "vanilla")),
        ledger.judge_all("T1.oracle_bound", below_bound, side="not_less", **where("cells", ROWS["clean"], *ROWS)),
        ledger.judge("S4.1.headline_rel", over_rivals["vanilla"], **relative, **against_vanilla),
        ledger.judge_all("S1.improvement", over_rivals, **relative, **against_each),
        ledger.read("S4.1.headline_f1", ours.mean(), n=n, **where("headline", "paper", "datalab_paper")),
        ledger.read("S4.1.baseline_f1", base.mean(), n=n, **where("headline", "paper", "vanilla")),
        ledger.judge_all("S4.1.consistent_all", on_each, side="greater", unit="F1", **better, **all_sets),
        ledger.judge_all("S4.1.range", gain_on_each, **relative, unit="%", **spread, **ends),
        ledger.judge_p("S4.1.wilcoxon", p, ours - base, **against_vanilla),
    ]
