"""Training lengths crossed: rows that are paired, blind to the test labels, and read as the protocol says."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax
from sklearn.metrics import balanced_accuracy_score, f1_score

from datalab import data, pruning
from datalab.errors import UserError
from datalab.protocol import protocol
from datalab.record.parameters import resolve
from datalab.sections import readings
from datalab.sections import s0_title_noise_threshold as s0
from datalab.sections.trials import once_more, training_length
from datalab.sections.trials.trial import HUMAN

TASK = {
    "dataset": "wine",
    "noise_kind": "symmetric",
    "seed": 0,
    "root_seed": 7,
    "rates": [0.0, 0.3],
    "keep_fractions": [0.7],
    "lengths": [5, 20, 40],
    "reference_lengths": [5, 20],
    "caps": {"train": 90, "validation": 30, "test": 40},
    "encoder": "fast",
    "device": "cpu",
}


OF_TRIAL = ("dataset", "noise_kind", "seed", "root_seed", "caps", "encoder", "device")


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return training_length.run_task(**TASK)


def test_a_task_gives_the_same_rows_twice_and_others_for_another_seed(rows):
    pd.testing.assert_frame_equal(rows, training_length.run_task(**TASK))
    assert not rows.macro_f1.equals(training_length.run_task(**{**TASK, "seed": 1}).macro_f1)


def test_every_arm_is_trained_for_every_length(rows):
    assert (rows.groupby([*readings.MODEL]).steps.apply(sorted).map(tuple) == (5, 20, 40)).all()
    methods = {"full", "oracle", "confident learning", "random", "influence", "loss", "AUM", "cross-validated loss"}
    assert set(rows.method) == methods | {"forward correction", "label smoothing"}
    for quota in ("per_class", "global", "estimated"):
        own = rows[(rows.quota == quota) & (rows.steps == 5) & (rows.rate == 0.3)]
        assert (own.method == "random").sum() == protocol().protocol_2["random_subsets"]
        assert own[own.method == "influence"].reference_chosen.sum() == 1
        assert quota == "estimated" or {5, 20} <= set(own[own.method == "influence"].reference_steps)
        assert own.n_kept.nunique() == 1, "influence, loss and random keep equally many"


def test_a_rival_drops_what_its_own_score_says(monkeypatch):
    """The examples that :class:`Looks` puts last on every look are those that AUM drops, and no other arm does."""
    kept, arm = {}, training_length._arm

    def spy(method, mask, *more):
        kept.setdefault(method, []).append(mask)
        return arm(method, mask, *more)

    def last_thirty(self, step, stack):
        self.margins.append(np.tile(np.arange(90.0), (len(self.labels), 1)))

    monkeypatch.setattr(training_length, "_arm", spy)
    monkeypatch.setattr(training_length.Looks, "__call__", last_thirty)
    training_length.run_task(**{**TASK, "rates": [0.3]})
    assert all((~mask).nonzero()[0].min() == 63 for mask in kept["AUM"])
    assert not any((kept["AUM"][0] == mask).all() for mask in kept["loss"] + kept["cross-validated loss"])


def test_other_shares_are_dropped_by_the_same_ranking_from_the_same_labels(rows):
    """At the primary share a task of shares gives what the title's gives; and one share follows doubt."""
    given = {key: value for key, value in TASK.items() if key != "reference_lengths"}
    shares = training_length.run_shares(**given | {"keep_fractions": [0.9, 0.7]})
    assert set(shares.share) == {"", "10 %", "30 %", training_length.DOUBTED}
    assert (shares.n_kept[shares.share == "10 %"] == 81).all()
    common = ["quota", "method", "draw", "rate"]
    chosen = rows.reference_chosen | (rows.reference_steps == 0)
    own = readings.early_stopped(rows[chosen & rows.method.isin(["full", "random", "influence"])])
    own = own[own.quota != "estimated"].set_index(common).sort_index()
    same = shares[shares.share.isin(["", "30 %"]) & shares.method.isin(own.index.unique("method"))]
    same = same.set_index(common).sort_index()
    both = [name for name in same if name in own]
    assert {"steps", "macro_f1", "accuracy_tau1", "flipped_kept"} <= set(both)
    pd.testing.assert_frame_equal(same[both], own[both])

    trial = training_length.Trial(rates=(0.0, 0.3), architecture="mlp", **{k: given[k] for k in OF_TRIAL})
    unseen = training_length.out_of_sample(trial)
    for i, rate in enumerate(trial.rates):
        likely = pruning.confident_class(unseen[i], trial.observed[i])
        doubted = int(((likely >= 0) & (likely != trial.observed[i])).sum())
        part = shares[(shares.share == training_length.DOUBTED) & (shares.rate == rate)]
        assert (part.n_kept == len(likely) - doubted).all()
    assert doubted > 9, "a share that follows the noise"


def test_more_training_examples_are_a_task_of_their_own_beside_the_others():
    p = resolve(s0.Parameters, {"profile": "study"}, "test")
    large = once_more.larger_tasks(p)
    assert {task.parameters["caps"]["train"] for task in large} == {p.large_train}
    assert all(0.6 * data.REGISTRY[task.parameters["dataset"]].unique_rows > p.large_train for task in large)
    assert not {task.key for task in large} & {task.key for task in training_length.tasks(p)}
    smaller = made_up({"wine": 0.1, "digits": 0.2})
    table = once_more.by_size(once_more.sized(smaller, smaller[smaller.rate < 0.2].assign(train_cap=5000)), 0)
    assert set(table["trained on"]) == {"up to 1,000", "up to 5,000"}
    assert set(table.highest_rate) == {0.1}, "read at the rates that both have"
    assert once_more.sized(smaller, pd.DataFrame()).empty


@pytest.mark.parametrize(("kind", "tasks"), [("large", once_more.larger_tasks), ("share", once_more.share_tasks)])
def test_what_is_run_once_more_is_of_sets_and_rates_of_the_titles_own(kind, tasks):
    """What the profile has beyond them is left out, all of it where too little is left; what is given is refused."""

    def ran(profile="smoke", **given):
        p = resolve(s0.Parameters, {"profile": profile, **given}, "test")
        assert resolve(s0.Parameters, p.model_dump(), "test") == p
        return [(task.parameters["dataset"], task.parameters["rates"]) for task in tasks(p)]

    assert ran(length_datasets=["wine", "optdigits"]) == ran(length_rates=[0.0, 0.3]) == []
    left = ran("study", length_datasets=["rotten-tomatoes", "zh-reviews", "wine"], length_rates=[0.0, 0.1, 0.4])
    assert left == [("rotten-tomatoes", [0.0, 0.1, 0.4]), ("zh-reviews", [0.0, 0.1, 0.4])]
    for of, values in {"datasets": ["wine", "texture"], "rates": [0.0, 0.1]}.items():
        with pytest.raises(UserError, match=f"{kind}_{of} must be among length_{of}"):
            ran(**{f"{kind}_{of}": values})
    with pytest.raises(UserError, match=f"'{kind}_rates'"):
        ran(**{f"{kind}_rates": [0.0]})


def test_sets_that_no_interval_could_be_made_of_are_refused():
    def unfit(*names: str, **others) -> str:
        return resolve(s0.Parameters, {"profile": "smoke", "length_datasets": names, **others}, "test").unfit

    assert "name two or more balanced data sets" in unfit("digits", "breast_cancer")
    assert "name two or more balanced data sets" in unfit("adult", "breast_cancer")
    assert unfit("digits", "wine") == unfit("digits", "wine", "adult") == ""
    assert "'wine' alone" in unfit("digits", "wine", datasets=["wine"])
    assert "'share_datasets': name none, or two" in unfit("digits", "wine", "adult", share_datasets=["wine", "adult"])
    assert "rate in common with noise_rates, [0.1, 0.4]" in unfit("digits", "wine", noise_rates=[0.1, 0.4])
    assert "'arm_noise_rates'" in unfit("digits", "wine", arm_noise_rates=[0.3])
    assert "'large_datasets': name none, or two" in unfit("digits", "wine", large_datasets=["wine"])
    assert unfit("digits", "wine", share_datasets=[], large_datasets=[]) == unfit("wine", "optdigits") == ""


def test_what_noisy_validation_chose_for_the_references_is_what_they_score(rows, monkeypatch):
    """Where the longest references alone are made to look best, they are the ones chosen."""
    original, seen = training_length.metrics.macro_f1, []

    def best_when_longest(y, predictions, n_classes):
        value = original(y, predictions, n_classes)
        if np.ndim(value) and len(np.atleast_2d(predictions)) == protocol().reference["models"]:
            seen.append(value)
            return value * 0 + len(seen)  # grows with every call: the last length wins
        return value

    monkeypatch.setattr(training_length.metrics, "macro_f1", best_when_longest)
    chosen = training_length.run_task(**{**TASK, "rates": [0.3]})
    assert set(chosen.reference_steps[chosen.reference_chosen]) == {40}


def test_scrambled_test_labels_change_scores_on_the_test_set_alone(rows, monkeypatch):
    prepare = data.prepare

    def scrambled(*arguments):
        prepared = prepare(*arguments)
        return dataclasses.replace(prepared, y_test=np.random.default_rng(0).permutation(prepared.y_test))

    monkeypatch.setattr(data, "prepare", scrambled)
    changed = training_length.run_task(**TASK)
    of_test = ["macro_f1", "accuracy", "balanced_accuracy", "macro_precision"]
    of_test += [f"{name}_tau{tau:g}" for name in of_test[:3] for tau in protocol().protocol_2["taus"]]
    pd.testing.assert_frame_equal(rows.drop(columns=of_test), changed.drop(columns=of_test))
    assert not rows.accuracy.equals(changed.accuracy)


def test_early_stopping_takes_the_best_noisy_validation_score_and_the_shortest_of_equals():
    base = dict.fromkeys(readings.MODEL, "") | {"keep_fraction": 1.0, "rate": 0.0, "seed": 0, "draw": 0}
    rows = pd.DataFrame(
        [base | {"steps": n, "validation_f1": f1, "dataset": s} for s, n, f1 in
         [("a", 400, 0.5), ("a", 100, 0.7), ("a", 200, 0.7), ("b", 100, 0.1), ("b", 400, 0.2)]]
    )  # fmt: skip
    assert dict(readings.early_stopped(rows)[["dataset", "steps"]].to_numpy()) == {"a": 100, "b": 400}


def made_up(sets: dict[str, float], rates=(0.0, 0.1, 0.3)) -> pd.DataFrame:
    """Rows, one a model, of sets whose influence beats random by a slope times the rate."""
    rows = []
    for name, slope in sets.items():
        for rate in rates:
            base = {"dataset": name, "noise": "symmetric", "seed": 0, "rate": rate, "realised_rate": rate, "steps": 100}
            base |= {"reference_steps": 0, "reference_chosen": False, "quota": "", "keep_fraction": 1.0, "draw": 0}
            base |= {
                "train_cap": 1000,
                "validation_f1": 0.5,
                "validation_accuracy": 0.5,
                "accuracy": 0.6,
                "macro_f1_tau0.5": 0.72,
            }
            pruned = base | {"keep_fraction": 0.7, "quota": "per_class"}
            rows.append(base | {"method": "full", "macro_f1": 0.7})
            rows += [pruned | {"method": "random", "draw": i, "macro_f1": f1} for i, f1 in enumerate((0.6, 0.64))]
            own = pruned | {"method": "influence", "reference_steps": 200, "reference_chosen": True}
            rows.append(own | {"macro_f1": 0.62 + slope * rate})
            rows.append(own | {"macro_f1": 0.0, "reference_steps": 1000, "reference_chosen": False})
    return pd.DataFrame(rows)


def test_differences_are_from_the_mean_of_the_random_subsets_and_from_keeping_everything():
    d = readings.differences(made_up({"wine": 0.1}), ("macro_f1", "per_class"))
    own = d[d.reference_chosen].set_index("rate")
    assert own.d.to_dict() == pytest.approx({0.0: 0.0, 0.1: 0.01, 0.3: 0.03})
    assert own.d_full.to_dict() == pytest.approx({0.0: -0.08, 0.1: -0.07, 0.3: -0.05})
    against = readings.against_full(made_up({"wine": 0.1})).groupby("arm").d.mean()
    assert against["keep all, prior corrected"] == pytest.approx(0.02)
    assert against["influence, quota"] == pytest.approx(own.d_full.mean())


def test_prior_correction_subtracts_the_log_shares_that_a_model_was_trained_on():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 5, 3))
    p = np.exp(log_softmax(logits, -1))
    labels = np.array([[0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 1, 1]])
    kept = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]], dtype=bool)
    ours = training_length.corrected(p, labels, kept, 0.5)
    shares = np.array([[3 / 5, 2 / 5, 1 / 5], [1 / 4, 3 / 4, 1 / 4]])  # a class of which nothing is left counts as one
    np.testing.assert_allclose(ours, log_softmax(logits, -1) - 0.5 * np.log(shares)[:, None], atol=1e-12)


def test_the_scores_are_scikit_learns(monkeypatch):
    seen, original = [], training_length._scores

    def spy(trial, stack, rows, labels, kept):
        scored = original(trial, stack, rows, labels, kept)
        seen.append((trial.prepared.y_test, stack.predict(trial.x_test).cpu().numpy(), scored))
        return scored

    monkeypatch.setattr(training_length, "_scores", spy)
    training_length.run_task(**{**TASK, "rates": [0.3], "lengths": [20], "reference_lengths": [20]})
    y, predicted, scored = seen[0]
    for guesses, row in zip(predicted, scored, strict=True):
        assert row["macro_f1"] == pytest.approx(f1_score(y, guesses, average="macro", zero_division=0))
        assert row["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, guesses))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"length_keep_fractions": [0.5]}, "0.7"),
        ({"length_datasets": ["wnie"]}, "did you mean 'wine'"),
        ({"reference_lengths": [7]}, "among lengths"),
        ({"length_rates": [0.1]}, "length_rates"),
        ({"length_rates": [0.1, 0.3]}, "length_rates must include 0"),
        ({"length_rates": [0.0, 0.1]}, "a rate above 0.15"),
        ({"lengths": [20], "reference_lengths": [20]}, "'lengths'.* at least 2"),
        ({"human_datasets": ["digits"]}, "'digits' has no labels of single raters; use .*vader-tweets"),
        ({"share_keep_fractions": [0.7]}, "share_keep_fractions must include one below 1 beside 0.7"),
        ({"share_rates": [0.2, 0.4]}, "share_rates must include 0"),
    ],
)
def test_parameters_that_leave_the_primary_training_out_or_make_no_sense_are_refused(given, named):
    with pytest.raises(UserError, match=named):
        resolve(s0.Parameters, {"profile": "smoke", **given}, "test")


def test_the_study_has_as_many_sets_of_each_stratum_as_the_protocol_asks_for():
    p = resolve(s0.Parameters, {"profile": "study"}, "test")
    balanced = [name for name in p.length_datasets if data.stratum(name) == "balanced"]
    untouched = [name for name in balanced if not data.REGISTRY[name].looked_at]
    assert len(p.length_datasets) >= 40
    assert len(balanced) >= 24
    assert len(untouched) >= 12
    assert len(p.human_datasets) >= 5
    assert len({data.REGISTRY[name].same_rows_as or name for name in p.length_datasets}) == len(p.length_datasets)
    kinds = [task.parameters["noise_kind"] for task in training_length.tasks(p)]
    assert kinds.count(HUMAN) == p.length_seeds * len(p.human_datasets)
    quick = resolve(s0.Parameters, {"profile": "quick"}, "test")
    assert sum(data.stratum(name) == "balanced" for name in quick.length_datasets) >= 20
    assert {task.parameters["dataset"] for task in s0.tasks(quick)} == set(quick.needs)
