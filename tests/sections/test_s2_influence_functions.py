"""Section 2.2: its tasks are what they say and repeat to the byte, its tables and its answer follow from their rows."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score

from datalab import data, models, noise, pruning, retraining, seeds, stats
from datalab.errors import UserError
from datalab.influence import EKFAC, DataInf
from datalab.influence.estimator import quiet
from datalab.protocol import protocol
from datalab.record.parameters import resolve
from datalab.retraining import relative_damping
from datalab.sections import s2_influence_functions as s2
from datalab.sections.trials import flipped_labels, trial
from datalab.sections.trials.trial import Trial
from datalab.training import Recipe, fit_many, protocol_recipe

CAPS = {"train": 120, "validation": 60, "test": 120}
HERE = {"root_seed": 7, "caps": CAPS, "encoder": "fast", "device": "cpu"}
RATES = [0.1, 0.3]


def mislabel_rows(seed: int = 0) -> pd.DataFrame:
    return pd.DataFrame(flipped_labels.mislabel_task(RATES, 0.3, dataset="wine", seed=seed, **HERE))


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    parts = []
    for name in ("breast_cancer", "wine"):  # whose exact curvature is small
        parts += s2.removal_task(6, 2, dataset=name, **HERE)
        parts += s2.halves_task(12, 2, 30, dataset=name, **HERE)
        parts += flipped_labels.mislabel_task(RATES, 0.3, dataset=name, seed=0, **HERE)
    return pd.DataFrame(parts)


def test_the_cell_on_ten_examples_is_the_exact_estimator(shown):
    p = resolve(s2.Parameters, {"profile": "smoke"}, "notebook 2_influence_functions")
    values = shown("2_influence_functions", "ten-by-hand", p=p)
    assert len(values["by_hand"]) == 10
    torch.testing.assert_close(values["by_hand"], values["by_package"], rtol=1e-9, atol=0)


def test_a_picture_has_its_pixels_and_the_path_its_own_damping():
    rows = pd.DataFrame(s2.picture_task(0.2, dataset="digits", **HERE))
    examples, path = s2.of_kind(rows, "example"), s2.of_kind(rows, "damping")
    assert (examples.observed != examples.clean).mean() == pytest.approx(0.2, abs=0.04)  # rounded in each class
    ends = examples.iloc[trial.ends(examples.score)]
    highest, lowest = ends[: len(ends) // 2], ends[len(ends) // 2 :]
    assert highest.score.min() >= examples.score.quantile(0.9) >= lowest.score.max()
    assert all(len(image) == 64 for image in [*highest.pixels, *lowest.pixels])
    assert path.damping.is_monotonic_increasing
    assert path.loc[path.own.astype(bool), "spearman"].item() == pytest.approx(1)


def test_equal_tasks_give_equal_rows_but_for_their_time():
    first, second = (mislabel_rows()[lambda r: r.kind != "cost"] for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    assert not first.equals(mislabel_rows(1)[lambda r: r.kind != "cost"])


def test_a_scores_auroc_is_scikit_learns_on_the_flips_that_were_made():
    p = data.prepare("wine", 0, 7, CAPS, "fast")
    rng = seeds.generator(7, "wine", 0, "mislabelled", 0.1)
    observed = noise.corrupt(p.y_train, "symmetric", 0.1, p.n_classes, rng)
    x = torch.as_tensor(p.x_train)
    drawn = [seeds.integer(7, "wine", 0, "mislabelled", i) for i in range(2)]
    stack = fit_many(
        models.build("mlp", p.grid, p.n_classes, protocol().training["hidden"]),
        x,
        observed,
        None,
        drawn,
        protocol_recipe(),
    )
    loss = pruning.loss(torch.softmax(stack(x), -1).numpy(), np.tile(observed, (2, 1))).mean(0)
    row = mislabel_rows()[lambda r: (r.kind == "auroc") & (r.estimator == "loss") & (r.rate == 0.1)]
    assert row.auroc.item() == pytest.approx(roc_auc_score(observed != p.y_train, loss), abs=1e-6)


def test_halves_are_halves_and_their_losses_those_of_models_trained_on_them():
    p = data.prepare("wine", 0, 7, CAPS, "fast")
    x, x_test = torch.as_tensor(p.x_train), torch.as_tensor(p.x_test)
    module, recipe = models.build("mlp", p.grid, p.n_classes, 8), Recipe(20)
    found = retraining.retrained_on_halves(
        module, x, p.y_train, x_test, p.y_test, 5, [3, 4], np.random.default_rng(0), recipe
    )
    assert (found.kept.sum(1) == len(x) // 2).all()
    alone = fit_many(module, x, p.y_train, found.kept[2:3], [4], recipe)
    wanted = torch.nn.functional.cross_entropy(alone(x_test)[0], torch.as_tensor(p.y_test), reduction="none")
    np.testing.assert_allclose(found.losses[2, 1], wanted, rtol=1e-4)


def test_what_a_removal_changes_is_the_difference_of_two_trainings_that_share_all_else():
    p = data.prepare("wine", 0, 7, CAPS, "fast")
    x, x_val = torch.as_tensor(p.x_train), torch.as_tensor(p.x_val)
    module, recipe = models.build("mlp", p.grid, p.n_classes, 8), Recipe(20)
    changes = retraining.retrained_without(module, x, p.y_train, x_val, p.y_val, [5, 9], [1, 2], recipe)
    kept = np.ones((2, len(x)), dtype=bool)
    kept[1, 9] = False
    pair = fit_many(module, x, p.y_train, kept, [2, 2], recipe)
    losses = [torch.nn.functional.cross_entropy(z, torch.as_tensor(p.y_val)) for z in pair(x_val)]
    assert changes[1, 1] == pytest.approx(float(losses[1] - losses[0]), abs=1e-6)


def test_the_tables_are_means_and_intervals_over_data_sets(rows):
    lds = s2.lds(rows)
    part = rows[(rows.kind == "lds") & (rows.estimator == "EKFAC") & (rows.relative_damping == 0.1)]
    row = lds[(lds.estimator == "EKFAC") & (lds["damping / mean diagonal"] == 0.1)].iloc[0]
    interval = stats.t_interval(part.lds, bounds=(-1, 1))  # two sets: Student's ends above 1
    assert (row["LDS low"], row["LDS high"]) == pytest.approx((interval.low, interval.high))
    assert -1 < row["LDS low"] < row["LDS high"] < 1
    ahead = flipped_labels.against_loss(rows)
    auroc = rows[(rows.kind == "auroc") & (rows.rate == 0.3)].pivot(
        index="dataset", columns="estimator", values="auroc"
    )
    d = auroc.EKFAC - auroc.loss
    row = ahead[(ahead.score == "EKFAC") & (ahead["flipped labels (%)"] == 30)].iloc[0]
    assert row["AUROC difference"] == pytest.approx(d.mean())
    assert row["p (t)"] == pytest.approx(scipy_stats.ttest_rel(auroc.EKFAC, auroc.loss).pvalue)
    refits = s2.refit_agreement(rows).set_index("estimator")
    one = rows[(rows.kind == "refit") & (rows.estimator == "EKFAC")]
    by_set = [np.corrcoef(g.predicted, g.actual)[0, 1] for _, g in one.groupby("dataset")]
    assert refits.loc["EKFAC", "Pearson"] == pytest.approx(np.mean(by_set))


def test_a_damping_is_chosen_on_the_other_data_sets():
    rows = pd.DataFrame(
        [
            {"kind": "lds", "dataset": name, "estimator": estimator, "relative_damping": at, "automatic": at == 0.001,
             "lds": value, "each": value}
            for estimator, shift in (("EKFAC", 0.0), ("KFAC", -0.1))
            for name, values in (("a", (0.1, 0.9)), ("b", (0.5, 0.4)), ("c", (0.6, 0.5)))
            for at, value in zip((0.001, 1.0), np.array(values) + shift, strict=True)
        ]
    )  # fmt: skip
    table = s2.tuned_lds(rows).set_index("estimator")
    # a: b and c prefer 0.001, so 0.1; b: a and c prefer 1, so 0.4; c: likewise 0.5
    assert table.loc["EKFAC", "tuned elsewhere"] == pytest.approx(np.mean([0.1, 0.4, 0.5]))
    assert table.loc["EKFAC", "default"] == pytest.approx(np.mean([0.1, 0.5, 0.6]))
    assert table.loc["KFAC", "EKFAC ahead"] == pytest.approx(0.1)
    assert np.isnan(table.loc["EKFAC", "EKFAC ahead"])


def test_one_data_set_or_one_rate_or_none_small_enough_is_no_error(rows):
    alone = rows[(rows.dataset == "wine") & (rows.kind != "refit") & ((rows.rate == 0.3) | rows.rate.isna())]
    assert s2.refit_agreement(alone).empty
    table, ahead = flipped_labels.auroc(alone), flipped_labels.against_loss(alone)
    flipped_labels.auroc_figure(table, ahead)
    assert "is open" in flipped_labels.answer(ahead)
    tuned = s2.tuned_lds(alone)
    assert tuned["default"].notna().all()
    assert tuned["tuned elsewhere"].isna().all()  # there is no other data set to tune on


def test_agreement_is_symmetric_with_ones_on_its_diagonal(rows):
    square = flipped_labels.agreement(rows).set_index("score")
    np.testing.assert_allclose(square, square.T)
    np.testing.assert_allclose(np.diag(square), 1)


@pytest.mark.parametrize(
    ("mean", "half_width", "p", "words"),
    [
        (0.02, 0.01, 0.001, "Some influence score finds flipped labels that the loss does not"),
        (0.02, 0.01, 0.02, "is open on these data sets"),
        (-0.02, 0.01, 0.001, "No influence score finds flipped labels better than the loss by 0.01 AUROC or more"),
        (0.0, 0.05, 0.9, "is open on these data sets"),
    ],
)
def test_the_answer_says_which_way_the_comparison_fell(mean, half_width, p, words):
    table = pd.DataFrame({"score": ["EKFAC", "EL2N"], "flipped labels (%)": [20.0, 20.0], "sets": [15, 15]})
    table["AUROC difference"] = [mean, 0.5]
    table["AUROC difference low"], table["AUROC difference high"] = [mean - half_width, 0.4], [mean + half_width, 0.6]
    table["p (t)"] = table["p (Holm)"] = [p, 1e-9]
    assert words in flipped_labels.answer(table)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"refits": 1}, "'refits'"),
        ({"mislabel_rates": [0.0]}, "greater than 0"),
        ({"mislabel_rates": []}, "'mislabel_rates'"),
        ({"picture_dataset": "adult"}, "'picture_dataset'"),
        ({"retrain_seeds": 1}, "'retrain_seeds'"),
        ({"halfs": 10}, "did you mean 'halves'"),
    ],
)
def test_parameters_out_of_range_are_refused(given, words):
    with pytest.raises(UserError, match=words):
        resolve(s2.Parameters, given, "notebook 2_influence_functions")


def test_an_examples_prediction_is_that_of_the_estimator_named(rows):
    p = data.prepare("wine", 0, 7, CAPS, "fast")
    x, x_val = torch.as_tensor(p.x_train).double(), torch.as_tensor(p.x_val).double()
    y, y_val = torch.as_tensor(p.y_train), torch.as_tensor(p.y_val)
    l2 = s2.REFIT_L2
    model = retraining.fit_softmax(x, y, p.n_classes, l2)
    wanted = EKFAC(model, l2, l2=l2).fit(x, y).leave_one_out(x, y, x_val, y_val)
    one = rows[(rows.kind == "refit") & (rows.dataset == "wine") & (rows.estimator == "EKFAC")]
    np.testing.assert_allclose(one.predicted, wanted[one.example.astype(int).tolist()], rtol=1e-6)


def test_a_relative_damping_of_the_default_is_the_default_itself():
    trial = Trial("wine", "mlp", 0, rates=(), **HERE)
    x, y, l2 = trial.x, trial.tensor(trial.prepared.y_train), protocol_recipe().l2
    stack = fit_many(trial.classifier(), x, trial.prepared.y_train, None, [1], Recipe(20))
    for kind, default in ((EKFAC, 1e-3), (DataInf, 0.1)):
        with quiet():
            estimator = kind(stack, l2=l2).fit(x, y)
        assert relative_damping(estimator, default, l2) == pytest.approx(float(estimator.damping_.mean()), rel=1e-6)


def test_the_title_s_estimator_stands_beside_ek_fac_and_no_mean_hides_the_set_on_which_it_fails():
    rng, rows = np.random.default_rng(0), []
    for name, r in (("good", 0.99), ("splice", -0.9)):
        actual = rng.normal(size=30)
        for estimator in ("EKFAC", s2.HEAVIER, s2.TITLES):
            predicted = r * actual + np.sqrt(1 - r * r) * rng.normal(size=30)
            row = {"kind": "retrained", "dataset": name, "estimator": estimator}
            halves = {"half_a": actual + 0.1, "half_b": actual + 0.01 * rng.normal(size=30)}
            rows.append(pd.DataFrame(row | {"predicted": predicted, "actual": actual} | halves))
    table = s2.retrained(pd.concat(rows, ignore_index=True))
    assert table["LastLayerGGN (the title's)"].between(-1, 1).all()
    assert table.loc[1, "EKFAC"] < -0.7
    text = s2.worst_retrained(table)
    assert "**splice, r = -0.9" in text or "**splice, r = -0.8" in text
    assert "on 1 of 2 data sets" in text


def test_no_two_lines_of_the_datamodeling_score_have_one_label(shown):
    """Before, DataInf's curve and its line at its own damping were both named DataInf."""
    dampings = dict.fromkeys(("EKFAC", "DataInf"), (0.1, 1.0)) | {"GradDot": (), "TRAK": ()}
    rows = [
        {"kind": "lds", "dataset": dataset, "estimator": name, "relative_damping": damping, "lds": 0.5 + shift}
        | {"automatic": bool(np.isnan(damping)), "each": 0.0, "n": 10}
        for dataset, shift in (("a", 0.0), ("b", 0.1))
        for name, of_name in dampings.items()
        for damping in (*of_name, *([np.nan] if name != "EKFAC" else []))
    ]
    section = SimpleNamespace(figure=lambda *figure, **how: None)
    names = shown("2_influence_functions", "c77fb7b0", rows=pd.DataFrame(rows), section=section)
    written = [text.get_text() for text in names["figure"].findobj(Text)]
    labels = [text for text in written if re.match("EKFAC|DataInf|GradDot|TRAK", text)]
    assert len(labels) == len(set(labels)) == 5


def test_a_damping_that_was_best_at_the_end_of_its_grid_says_so():
    rows = [
        {"kind": "lds", "dataset": name, "estimator": estimator, "relative_damping": damping, "each": 0.0}
        | {"automatic": damping == 0.1, "lds": 0.5 + (0.1 * np.log10(damping) if estimator == "ExactGGN" else 0.0)}
        | {"n": 10}
        for name in ("a", "b", "c")
        for estimator in ("EKFAC", "ExactGGN")
        for damping in (0.1, 1.0, 10.0)
    ]
    for row in rows:
        row["lds"] += 0.2 * (row["estimator"] == "EKFAC" and row["relative_damping"] == 1.0)
    table = s2.tuned_lds(pd.DataFrame(rows)).set_index("estimator")
    assert table["at the grid's edge"].to_dict() == {"ExactGGN": "yes", "EKFAC": ""}


def test_an_estimator_of_one_data_set_is_tuned_nowhere_else_and_has_no_edge():
    settings = {"kind": "lds", "estimator": "EKFAC", "dataset": "a", "each": 0.0}
    rows = [settings | {"relative_damping": d, "automatic": d == 0.1, "lds": 0.5} for d in (0.1, 1.0)]
    (row,) = s2.tuned_lds(pd.DataFrame(rows)).to_dict("records")
    assert (row["default"], row["at the grid's edge"], row["sets"]) == (0.5, "", 1)
    assert np.isnan([row["tuned elsewhere"], row[s2.DAMPING]]).all()
