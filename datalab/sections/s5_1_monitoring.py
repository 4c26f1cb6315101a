"""Section 5.1 and the abstract: can failures of influence pruning be foreseen without clean labels, and shifts be seen?

The failure predictor (``failure_predictor.py``) reads section 4.1's rows. Two kinds of task are the section's own: a
monitor on a stream that shifts, and DATA-LAB's weights on top of published pruning.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from datalab import ledger, models, pruning, seeds, stats
from datalab.data.streams import shift_of, shifting_stream
from datalab.protocol import protocol
from datalab.record import Statement
from datalab.sections import compare, failure_predictor, plots
from datalab.sections import s3_1_problem_formulation as s3_1
from datalab.sections import s4_1_main_results as s4_1
from datalab.sections.compare import SHARE, by_set, mean_with_interval
from datalab.sections.failure_predictor import LOGISTIC, THRESHOLD
from datalab.sections.parameters import Datasets, estimated, per_set_and_seed, stopped_once
from datalab.sections.trials import trial
from datalab.sections.trials.trial import DATALAB, Trial
from datalab.sweep import Task
from datalab.training import AnyStack, fit_many, protocol_recipe

STATISTICS = ("influence", "leverage", "low confidence")
PRUNED_BY = ("el2n", "loss")
KEYS = {"dataset": "data set", "kind": "shift"}  # of a stream, as its tables name them


class Parameters(s4_1.MainParameters):
    """What section 5.1 takes; ``None`` is the profile's value. It reads the tasks of sections 4.1 and 3.1 as well."""

    monitor_datasets: Datasets

    @pydantic.field_validator("monitor_datasets")
    @classmethod
    def _has_a_stream(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if shift_of(name) is None:
                raise ValueError(f"{name!r} has no stream; use flights-origin, smartwatch or images")
        return names


def stream_tasks(p: Parameters) -> list[Task]:
    """A task a stream and seed."""
    shared = {"root_seed": p.root_seed, "device": p.chosen_device}
    return [
        Task(f"{__name__}:stream_task", {"dataset": dataset, "seed": seed} | shared, cost=1.5, models=1)
        for dataset in p.monitor_datasets
        for seed in range(p.seeds)
    ]


def weights_tasks(p: Parameters) -> list[Task]:
    """A task a data set, of the first seed: DATA-LAB's weights on top of published pruning; all stopped early."""
    return stopped_once(fixed_weights_tasks(p), p, once=protocol().reference["models"])


def fixed_weights_tasks(p: Parameters) -> list[Task]:
    """The same of every seed, for the recipe's length."""
    return per_set_and_seed(p, f"{__name__}:weights_task", cost=0.7, models=8)


def tasks(p: Parameters) -> list[Task]:
    """The section's own tasks; those of sections 3.1 and 4.1, which it reads too, are reused where they have run."""
    return stream_tasks(p) + weights_tasks(p) + fixed_weights_tasks(p)


estimate = estimated(tasks, memory=9e8, start=12)


def stream_task(dataset: str, seed: int, root_seed: int, device: str) -> list[dict[str, Any]]:
    """A row per window of a stream: its accuracy, and what can be seen of it without labels.

    An MLP is trained on clean labels. The stream is quiet at first (held-out examples like the training set's), then
    shifts. Of each window: ``accuracy``, ``confidence`` (mean largest probability) and, for every statistic, its mean
    and whether that exceeds the quantile of windows resampled from held-out quiet examples that the protocol's rate of
    false alarms gives. :func:`watcher` says what the statistics are.
    """
    rng, rule = seeds.generator(root_seed, dataset, "stream", seed), protocol().monitoring
    stream, size = shifting_stream(dataset, rng), rule["window"]
    module = models.build("mlp", stream.grid, stream.n_classes, protocol().training["hidden"])
    x, y = torch.as_tensor(stream.x["train"], device=device), stream.y["train"]
    model_seed = seeds.integer(root_seed, dataset, "stream", seed, "model")
    see = watcher(fit_many(module, x, y, None, [model_seed], protocol_recipe()), x, y)
    reference = see(stream.x["reference"])
    resampled = rng.integers(0, len(reference["predicted"]), (2000, size))
    limit = {name: np.quantile(reference[name][resampled].mean(1), 1 - rule["false_alarms"]) for name in STATISTICS}
    common = {"dataset": dataset, "seed": seed, "kind": shift_of(dataset)}
    common["reference_accuracy"] = float(np.mean(reference["predicted"] == stream.y["reference"]))
    common["reference_confidence"] = float(reference["confidence"].mean())
    rows = []
    for part in ("quiet", "shifted"):
        seen, labels = see(stream.x[part]), stream.y[part]
        right = seen["predicted"] == labels
        for window in range(min(len(labels) // size, rule["windows"] // 2)):
            at = slice(window * size, (window + 1) * size)
            row = common | {"window": window, "part": part, "accuracy": float(right[at].mean())}
            row["confidence"] = float(seen["confidence"][at].mean())
            for name in STATISTICS:
                row[name] = float(seen[name][at].mean())
                row[f"{name} alarm"] = row[name] > float(limit[name])
            rows.append(row)
    return rows


def watcher(stack: AnyStack, x: torch.Tensor, y: NDArray) -> Callable[[NDArray], dict[str, NDArray]]:
    """What a monitor of a model trained on x (n, d) and y (n,) sees of examples (m, d) without their labels, (m,) each.

    ``influence`` is the self-influence that the model expects of an example, over its own predicted label
    distribution; ``leverage`` that of the last layer's features; ``low confidence`` one less the largest probability.
    """
    estimator, features = trial.streamed(stack, x, y, protocol_recipe().l2), stack.features(x)[0].cpu().numpy()

    def see(examples: NDArray) -> dict[str, NDArray]:
        examples = torch.as_tensor(examples, device=x.device)
        p = torch.softmax(stack(examples)[0], -1)
        expected = torch.zeros(len(p), dtype=torch.float64, device=x.device)
        for label in range(p.shape[1]):
            labels = torch.full((len(p),), label, device=x.device)
            expected += p[:, label].double() * estimator.self_influence(examples, labels)[0].double()
        confidence = p.max(1).values.cpu().numpy()
        seen = {"influence": expected.cpu().numpy(), "low confidence": 1 - confidence, "confidence": confidence}
        seen["leverage"] = trial.leverage(features, of=stack.features(examples)[0].cpu().numpy())
        return seen | {"predicted": p.argmax(1).cpu().numpy()}

    return see


def weights_task(lengths: Sequence[int] = (), **given: Any) -> list[dict[str, Any]]:
    """A row per published method, with and without DATA-LAB's weights (no projection): macro-F1 on the test set.

    ``method`` is pruning by EL2N (Paul et al. 2021) or by the loss, at the primary keep fraction; ``weights`` is none,
    or a variant of DATA-LAB trained on what was kept, without its projection: what is added is weights alone. Of
    ``lengths``, where they are named, each model's validation labels choose one. ``given`` is as for :class:`Trial`.
    """
    keep = protocol().primary_cell["keep_fraction"]
    study = Trial(architecture="mlp", rates=(protocol().framework["verdict_rate"],), **given)
    stack, _ = trial.references(study, recipe=protocol_recipe())
    p = trial.probabilities(stack, study.x).astype(np.float64).mean(0)
    observed, rows = study.observed, []
    for method in PRUNED_BY:
        kept = pruning.keep(getattr(pruning, method)(p, observed[0]), observed[0], keep)[None]
        trained = {"none": partial(trial.fit, study, observed, kept)}
        for variant, name in DATALAB.items():
            module, lambdas = study.datalab(variant=variant, projection=False), trial.default_lambdas(1)
            trained[name] = partial(trial.fit_datalab, study, module, observed, lambdas, kept)
        for weights, train in trained.items():
            row = {"dataset": study.dataset, "seed": study.seed, "method": method, "weights": weights}
            scores = trial.scores_on_test_set(study, trial.read_off(study, train, lengths))
            rows.append(row | {"macro_f1": scores[0]["macro_f1"]})
    return rows


def monitors(streams: pd.DataFrame) -> pd.DataFrame:
    """A row per stream and statistic, means over seeds.

    ``false alarms`` is the share of quiet windows with an alarm (the threshold aims at the protocol's rate). ``alarm``
    and ``failure`` are the first of two shifted windows in a row with an alarm (the stream's length where there is
    none), and with an accuracy below the reference by more than the protocol's drop; ``fails`` is the share of seeds
    with a failure, and ``delay`` alarm less failure over these: below 0 the monitor warns first. ``AUROC`` is the
    chance that a window of low accuracy has the larger statistic.
    """
    rows = streams.rename(columns=KEYS).merge(pd.DataFrame({"statistic": STATISTICS}), how="cross")

    def line(part: pd.DataFrame) -> dict[str, float]:
        by_seed = [watched(windows, part.statistic.iloc[0]) for _, windows in part.groupby("seed", sort=False)]
        return pd.DataFrame(by_seed).mean().to_dict() | {"seeds": len(by_seed)}

    return compare.table(rows, [*KEYS.values(), "statistic"], line)


def watched(windows: pd.DataFrame, statistic: str) -> dict[str, float]:
    """The figures of :func:`monitors` for the windows of one seed."""
    low = windows.accuracy < windows.reference_accuracy - protocol().monitoring["accuracy_drop"]
    alarm, quiet = windows[f"{statistic} alarm"].astype(bool), windows.part == "quiet"
    order = windows[~quiet].window.sort_values().index
    alarmed, failed = (first_of_two(flags[order].to_numpy()) for flags in (alarm, low))
    fails = failed < len(order)
    shown = {"false alarms": alarm[quiet].mean(), "fails": float(fails), "alarm": alarmed}
    shown |= {"failure": failed, "delay": alarmed - failed} if fails else {"failure": np.nan, "delay": np.nan}
    return shown | {"AUROC": roc_auc_score(low, windows[statistic]) if low.nunique() > 1 else np.nan}


def first_of_two(flags: NDArray[np.bool_]) -> int:
    """The place of the first of two flags in a row that are set; their number where there are none."""
    both = flags[:-1] & flags[1:]
    return int(np.argmax(both)) if both.any() else len(flags)


def late(streams: pd.DataFrame) -> pd.DataFrame:
    """The windows of each stream's last quarter, where the shift is furthest."""
    shifted = streams[streams.part == "shifted"]
    return shifted[shifted.window >= 0.75 * (shifted.groupby("dataset").window.transform("max") + 1)]


def silence(streams: pd.DataFrame) -> pd.DataFrame:
    """A row per stream: how far accuracy and mean confidence fall over the last quarter of the shift, over seeds.

    A degradation is silent where accuracy falls, and confidence by less than half as much ("half less it" above zero).
    """

    def line(part: pd.DataFrame) -> dict[str, float]:
        mean = part.groupby("seed")[["accuracy", "reference_accuracy", "confidence", "reference_confidence"]].mean()
        fall, sure = mean.reference_accuracy - mean.accuracy, mean.reference_confidence - mean.confidence
        row = mean_with_interval(fall, "accuracy falls by") | mean_with_interval(sure, "confidence falls by")
        return row | mean_with_interval(fall / 2 - sure, "half less it") | {"seeds": len(mean)}

    return compare.table(late(streams).rename(columns=KEYS), [*KEYS.values()], line)


def existing(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per published method and variant: F1 with DATA-LAB's weights less F1 without, t-intervals over sets."""

    def line(part: pd.DataFrame) -> dict[str, Any]:
        method, weights = part[["method", "weights"]].iloc[0]
        row, base = mean_with_interval(by_set(part, "macro_f1"), "F1", bounds=SHARE), weights == "none"
        if not base:
            row |= mean_with_interval(weights_gain(rows, method, weights), "less without")
        return row | {"note": "the base row" if base else "", "sets": part.dataset.nunique()}

    return compare.table(rows, ["method", "weights"], line)


def weights_gain(rows: pd.DataFrame, method: str, weights: str) -> pd.Series:
    """F1 of a published method with the weights less F1 without, a value a data set."""
    with_them, without = (by_set(rows, "macro_f1", method=method, weights=kind) for kind in (weights, "none"))
    return with_them - without


def tilted_less_natural(rows: pd.DataFrame) -> pd.Series:
    """How much larger pruning's effect on the MLP is on a test set tilted to high strata than on a natural one.

    |accuracy(influence) - accuracy(full)| on the test set whose high-leverage strata weigh more, less the same on the
    test set as it is, a value a data set. Strata by leverage: by self-influence they would hold the errors by
    construction.
    """
    rows, tilt = rows[rows.architecture == "mlp"], max(protocol().stratified_metric["tilts"])
    accuracy = (s3_1.over_seeds(s3_1.metric(rows, "leverage", at)) for at in (tilt, 0.0))
    tilted, natural = ((a.loc["mlp, influence"] - a.loc["mlp, full"]).abs() for a in accuracy)
    return (tilted - natural).rename("tilted less natural effect")


def streams_figure(streams: pd.DataFrame) -> Figure:
    """A column a stream: accuracy and confidence by window above, the share of seeds with each alarm below."""
    alarms = [f"{name} alarm" for name in STATISTICS]
    quiet = streams.window.where(streams.part == "quiet").groupby(streams.dataset).transform("max") + 1
    rows = streams.assign(at=streams.window - quiet * (streams.part == "quiet"))
    rows = rows.astype(dict.fromkeys(alarms, float))
    means = rows.groupby(["dataset", "at"])[["accuracy", "confidence", *alarms]].mean()
    streams_of = rows.dataset.unique()
    shape = {"sharex": "col", "sharey": "row", "height_ratios": (3, 2), "squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(2, len(streams_of), figsize=(1.8 + 2.6 * len(streams_of), 4.6), **shape)
    for name, (above, below) in zip(streams_of, axes.T, strict=True):
        part = means.loc[name]
        for i, column in enumerate(("accuracy", "confidence")):
            above.plot(part[column], label=column, markersize=3, linewidth=1, **plots.look(i))
        shares = below.pcolormesh(part.index, STATISTICS, part[alarms].T, cmap="Blues", vmin=0, vmax=1)
        for panel in (above, below):
            panel.axvline(-0.5, color="black", linewidth=0.9)
        above.set(title=name, ylim=(0, 1))
        below.grid(False)
    axes[1, 0].invert_yaxis()
    axes[0, 0].set_ylabel("mean over seeds")
    figure.supxlabel("window, from the first that shifts", fontsize=10)
    figure.colorbar(shares, ax=axes, shrink=0.4, anchor=(0, 0), label="share of seeds")
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1.04, 1.05))
    return plots.titled(figure, "Does a label-free monitor see the shift before accuracy falls?")


def verdicts(
    rows: pd.DataFrame, metric_rows: pd.DataFrame, streams: pd.DataFrame, weighted: pd.DataFrame,
    failures: pd.DataFrame, monitors: pd.DataFrame, silence: pd.DataFrame,
) -> list[Statement]:  # fmt: skip
    """The section's statements: of the rows of sections 4.1 and 3.1, of its own two kinds, and of its tables."""
    systems = {"architecture": "mlp", "method": ["full", "influence"], "strata": "leverage", "part": "stratum"}
    systems |= compare.raw_of(metric_rows)
    strata = {"table": "strata", "row": "all", "metric": "accuracy", "raw": systems}
    gains = {method: weights_gain(weighted, method, "datalab_paper") for method in PRUNED_BY}
    raw = compare.raw_of(weighted) | {"weights": ["none", "datalab_paper"]}
    pruned = {"table": "existing", "row": "datalab_paper", "raw": raw}

    windows = late(streams).groupby("dataset", sort=False).window.unique()
    shifted = [{"part": "shifted", "dataset": name, "window": seen} for name, seen in windows.items()]
    falls = silence["accuracy falls by"].to_numpy()
    silent = {"accuracy falls": falls, "confidence by less than half": silence["half less it"].to_numpy()}
    of_silence = {"table": "silence", "row": "all streams", "metric": "accuracy", "raw": shifted}

    auroc = monitors[monitors.statistic == "influence"].AUROC.dropna().to_numpy()
    better = stats.Measurement(auroc, bounds=SHARE, against=0.5)
    of_monitors = {"table": "monitors", "row": "influence", "metric": None, "raw": {"part": ["quiet", "shifted"]}}

    stress, raw, rates = {}, [], [rows.rate.min(), rows.rate.max()]
    if rates[0] == 0 < rates[1]:
        clean, noisy = (by_set(rows, "macro_f1", part="main", method="vanilla", rate=rate) for rate in rates)
        stress[f"{100 * rates[1]:g} % flipped labels"] = clean - noisy
        raw += [compare.raw_of(rows) | {"part": "main", "method": "vanilla", "rate": rates}]
    if len(silence) > 1 or not stress:
        stress["shifted streams"] = falls
        raw += shifted
    of_stress = {"table": "silence", "row": "noise and shifts", "raw": raw}
    tilted = ledger.judge("S5.1.benchmarks_underestimate", tilted_less_natural(metric_rows), side="greater", **strata)
    another = "not what the statement is of: shown is pruning's effect, not an influence level's; of that, "
    return [
        *predictor_verdicts(failures, compare.raw_of(rows)),
        replace(tilted, verdict=ledger.INCONCLUSIVE, why=f"{another}{tilted.why}"),
        ledger.judge_all("S5.1.existing_improved", gains, side="greater", **pruned),
        ledger.judge_all("S5.1.fail_silently", silent, side="greater", **of_silence),
        ledger.judge("S5.1.monitoring", better, side="greater", beside="against 0.5", **of_monitors),
        ledger.judge_all("S1.stress_degradation", stress, side="greater", **of_stress),
    ]


def predictor_verdicts(frame: pd.DataFrame, raw: dict[str, Any]) -> list[Statement]:
    """The abstract's F1 and its interval: the logistic regression's, judged by its lead over the trivial rule."""
    measured = failure_predictor.measurements(frame, failure_predictor.predictions(frame))
    f1, lead = measured[LOGISTIC]
    where = {"table": "predictor", "row": LOGISTIC, "side": "greater"}
    where["raw"] = raw | {"part": "main", "method": ["influence", "random", "label_noise"]}
    of_what = f"which is of its lead in F1 over always expecting a failure, {lead.estimate:+.4f}"
    of_what += f"; by the noise alone ({THRESHOLD}) F1 is {measured[THRESHOLD][0].estimate:.3f}"
    made = []
    for claim in ("ABS.framework_f1", "ABS.framework_f1_ci"):
        level, of_lead = ledger.judge_level(claim, f1, lead, **where), ledger.judge(claim, lead, **where)
        made.append(replace(level, why=f"{of_lead.why}, {of_what}"))
    if f1.n < (fewest := protocol().title_verdict["min_datasets"]):
        few = f"{f1.n} data sets are fewer than the {fewest} that a verdict needs"
        made = [replace(one, verdict=ledger.INCONCLUSIVE, why=few, excluded="") for one in made]
    return made
