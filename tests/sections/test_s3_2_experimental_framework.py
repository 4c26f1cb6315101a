"""Section 3.2: its tasks measure what they say, its tables follow from their rows."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from datalab import data, ledger, metrics, models, seeds
from datalab.errors import UserError
from datalab.record.parameters import resolve
from datalab.sections import s3_2_experimental_framework as s3_2
from datalab.sections.trials.trial import Trial
from datalab.training import fit_many, protocol_recipe

WHERE = {"caps": {"train": 120, "validation": 60, "test": 120}, "encoder": "fast"}
SETS = ("wine", "digits")


@pytest.fixture(scope="module")
def noisy() -> pd.DataFrame:
    kinds = {"noise_kinds": ["symmetric", "instance"], "noise_rates": [0.0, 0.2]}
    return pd.DataFrame([row for name in SETS for row in s3_2.noise_task(name, 2, 7, **kinds, **WHERE)])


@pytest.fixture(scope="module")
def trained() -> pd.DataFrame:
    names = ("softmax", "mlp")
    tasks = [s3_2.model_task(name, model, 2, 7, device="cpu", **WHERE) for name in SETS for model in names]
    return pd.DataFrame([row for rows in tasks for row in rows])


def test_a_models_figures_are_those_of_the_recipe_on_clean_labels(trained):
    trial = Trial("wine", "mlp", 1, 7, (), **WHERE, device="cpu")
    p = trial.prepared
    drawn = [seeds.integer(7, "wine", "mlp", 1, "model")]
    stack = fit_many(trial.classifier(), trial.x, p.y_train, None, drawn, protocol_recipe())
    row = trained.query("dataset == 'wine' and architecture == 'mlp' and seed == 1").iloc[0]
    predicted = stack(trial.x_test)[0].argmax(-1).numpy()
    assert row.macro_f1 == pytest.approx(metrics.macro_f1(p.y_test, predicted, p.n_classes))
    assert row.majority == pytest.approx((p.y_test == np.bincount(p.y_train).argmax()).mean())
    assert row.parameters == sum(w.numel() for w in trial.classifier().parameters())


def test_symmetric_noise_misses_no_class_and_no_rate_by_more_than_rounding(noisy):
    table = s3_2.injected_noise(noisy).set_index(["noise", "noise rate (%)"])
    assert (table.loc["symmetric", "largest miss in a class (labels)"] == 0).all()
    assert table.loc["instance", "largest miss in a class (labels)"].isna().all()
    fewest = noisy.n_train.min()
    classes = noisy.classes.max()
    assert table["largest miss of the rate (points)"].max() <= 100 * classes / 2 / fewest
    assert (table.xs(0.0, level=1)["largest miss of the rate (points)"] == 0).all()


@pytest.mark.parametrize(
    ("kinds", "more", "words"),
    [
        (["symmetric", "instance"], 0, r"^Held: a class misses .* by 0 labels .* points, which is rounding\.$"),
        (["instance"], 0, r"^Held: the whole its rate by [.\d]+ points, which is rounding\.$"),
        (["instance"], 9, r"^Failed: the whole its rate by [.\d]+ points, which is more than rounding\.$"),
    ],
)
def test_that_noise_misses_by_rounding_alone_is_said_where_it_does(noisy, kinds, more, words):
    rows = noisy[noisy.noise.isin(kinds)].assign(points=noisy.points + more)
    assert re.search(words, s3_2.noise_reading(rows, s3_2.injected_noise(rows)))


def test_where_no_set_is_of_images_none_is_spoken_of(shown):
    one = pd.DataFrame({"dataset": ["wine"], "mlp accuracy": [0.9]})
    one = one.assign(**{f"{name} accuracy": [0.8] for name in ("cnn", "resnet", "convnext")})
    less = pd.DataFrame({"architecture": ["cnn"], "less MLP": [0.1], "less MLP low": [0.0], "less MLP high": [0.2]})
    for name, words in {"wine": "No set here is of images.", "mnist5k": "on 1 sets of images .* cnn -0.100"}.items():
        names = {"architectures": less, "baselines": one.assign(dataset=name)}
        assert re.search(words, shown("3_2_experimental_framework", "fac3b6eb", **names)["on_images"])


def test_a_data_sets_row_has_its_card_and_the_sizes_it_was_used_with(noisy):
    row = s3_2.datasets(noisy).set_index("data set").loc["wine"]
    p = data.prepare("wine", 0, 7, **WHERE)
    assert (row.train, row.validation, row.test) == (len(p.y_train), len(p.y_val), len(p.y_test))
    assert row.licence == data.REGISTRY["wine"].licence


def test_less_mlp_is_paired_by_data_set_and_seed(trained):
    table = s3_2.architectures(trained).set_index("architecture")
    wide = trained.pivot_table(index=["dataset", "seed"], columns="architecture", values="accuracy")
    d = (wide.softmax - wide.mlp).groupby("dataset").mean()
    interval = scipy_stats.t.interval(0.95, len(d) - 1, d.mean(), scipy_stats.sem(d))
    assert table.loc["softmax", "less MLP"] == pytest.approx(d.mean())
    assert (table.loc["softmax", "less MLP low"], table.loc["softmax", "less MLP high"]) == pytest.approx(interval)
    assert table.loc["mlp", "less MLP"] == 0
    assert list(table.index) == ["softmax", "mlp"]


def test_times_are_told_in_those_of_the_mlp(trained):
    table = s3_2.cost(trained).set_index("architecture")
    medians = trained.groupby(["architecture", "dataset"]).seconds.median().unstack("architecture")
    assert table.loc["mlp", "times the MLP's"] == 1
    assert table.loc["softmax", "times the MLP's"] == pytest.approx((medians.softmax / medians.mlp).median())


def test_every_count_of_the_paper_is_shown_with_its_raw_rows(trained):
    p = resolve(s3_2.Parameters, {}, "notebook 3_2_experimental_framework")
    statements = {s.id: s for s in s3_2.verdicts(p, s3_2.architectures(trained))}
    assert {s.verdict for s in statements.values()} == {ledger.SHOWN}
    assert statements["S3.2.n_seeds"].measured == p.seeds
    assert statements["S3.2.n_arch"].measured == len(models.ARCHITECTURES)
    assert all(s.raw == {"kind": "model"} for s in statements.values())


def test_the_dearest_tasks_come_first_and_each_is_named_once():
    grid = s3_2.tasks(resolve(s3_2.Parameters, {"profile": "quick"}, "notebook 3_2_experimental_framework"))
    costs = [task.cost for task in grid]
    assert costs == sorted(costs, reverse=True)
    assert len({task.key for task in grid}) == len(grid)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"architecture_seeds": 0}, "'architecture_seeds'"),
        ({"noise_rates": []}, "'noise_rates'"),
        ({"noise_kinds": ["uniform"]}, "'noise_kinds"),
        ({"architecture_dataset": ["digits"]}, "did you mean 'architecture_datasets'"),
    ],
)
def test_parameters_out_of_range_are_refused(given, words):
    with pytest.raises(UserError, match=words):
        resolve(s3_2.Parameters, given, "notebook 3_2_experimental_framework")
