"""Sections 3.1, 3.3 and 4.1 to 4.3: test labels untouched, every arm alike, statistics recomputed by other means."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pingouin
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from datalab import data, framework, ledger, stats
from datalab.errors import UserError
from datalab.protocol import protocol
from datalab.sections import (
    ablation_tables,
    inspection_cell,
    inspection_tables,
    level_cell,
    level_tables,
    main_readings,
    main_tables,
    metric_cell,
    metric_tables,
    pruning_cell,
)
from datalab.sections import s3_3_framework as framework_components
from datalab.sections import s4_1_main_results as main_results
from datalab.sections import s4_2_influence_level as influence_level
from datalab.sections import trial as framework_cell
from datalab.sections.parameters import resolve

CAPS = {"train": 120, "validation": 60, "test": 120}
GIVEN = (7, [0.0, 0.2], CAPS, "fast", "cpu", 3)
SETS = ("digits", "wine", "breast_cancer")
PRINTED = {key: claim.value for key, claim in ledger.claims().items()}
RATE = 0.2


def collected(cells) -> pd.DataFrame:
    return pd.concat([pd.DataFrame(rows) for rows in cells], ignore_index=True)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return collected(framework_cell.run_cell(name, "mlp", seed, *GIVEN) for name in SETS for seed in (0, 1))


@pytest.fixture(scope="module")
def level_rows() -> pd.DataFrame:
    return collected(level_cell.run_cell(name, "mlp", seed, 7, CAPS, "fast", "cpu") for name in SETS for seed in (0, 1))


@pytest.fixture(scope="module")
def metric_rows() -> pd.DataFrame:
    return collected(metric_cell.run_cell(name, seed, 7, CAPS, "fast", "cpu") for name in SETS for seed in (0, 1))


# --- test labels ------------------------------------------------------------------------------------------------------


@pytest.fixture
def scrambled(monkeypatch):
    """A switch that makes every prepared data set's test labels random."""
    prepare = data.prepare

    def scrambling(*args, **named):
        p = prepare(*args, **named)
        return dataclasses.replace(p, y_test=np.random.default_rng(0).integers(0, p.n_classes, len(p.y_test)))

    return lambda: monkeypatch.setattr(data, "prepare", scrambling)


def study() -> framework_cell.Study:
    return framework_cell.Study("digits", "mlp", 0, 7, (0.0, 0.2), CAPS, "fast", "cpu")


def test_scrambled_test_labels_change_no_score_kept_set_choice_weight_or_prediction(scrambled):
    before, kept, t = framework_cell.decide(study(), 3), framework_cell.influence_kept(study()), _transitions()
    scrambled()
    assert (study().prepared.y_test != data.load("digits").labels[study().prepared.test_ids]).any()
    after = framework_cell.decide(study(), 3)
    np.testing.assert_array_equal(framework_cell.influence_kept(study()), kept)
    np.testing.assert_array_equal(_transitions(), t)
    for one, other in zip(before, after, strict=True):
        assert (one.method, one.rate, repr(one.about)) == (other.method, other.rate, repr(other.about))
        np.testing.assert_array_equal(one.test_probabilities, other.test_probabilities)


def _transitions() -> np.ndarray:
    return framework_cell.transitions(study())


SCORED = ["precision", "recall", "macro_f1", "accuracy", "ece"]


@pytest.mark.parametrize(
    "cell",
    [
        lambda: framework_cell.run_cell("digits", "mlp", 0, *GIVEN),
        lambda: level_cell.run_cell("digits", "mlp", 0, 7, CAPS, "fast", "cpu"),
        lambda: inspection_cell.run_cell("digits", 0, 7, [0.0, 1.0], [1.0], CAPS, "fast", "cpu"),
        lambda: pruning_cell.run_cell(
            "digits", "mlp", "symmetric", 0, 7, [0.0, 0.2], [0.7], CAPS, "fast", "cpu", [0.2], [40]
        ),
    ],
    ids=["4.1", "4.2", "3.3", "0"],
)
def test_scrambled_test_labels_change_the_test_scores_of_a_cell_and_nothing_else(scrambled, cell):
    before = pd.DataFrame(cell())
    scrambled()
    after = pd.DataFrame(cell())
    scored = [name for name in SCORED if name in before]
    pd.testing.assert_frame_equal(before.drop(columns=scored), after.drop(columns=scored))
    assert not before[scored].equals(after[scored])


# --- section 4.1 ------------------------------------------------------------------------------------------------------


def test_every_arm_gets_as_many_configurations_and_the_recipes_own_first():
    default = protocol().framework["default"]
    for n in (2, 3, 6, 163):
        one, two = framework_cell.penalties(n), framework_cell.configurations_of(n)
        assert len(one) == len(two) == n == len(set(one)) == len({tuple(row) for row in two})
        assert one[0] == two[0, 0] == default["lambda1"]
        assert two[0, 1] == default["lambda2"]
        for values, name in ((one, "lambda1"), (two[:, 0], "lambda1"), (two[:, 1], "lambda2")):
            low, high = protocol().framework[name]
            assert values.min() >= low * (1 - 1e-9)
            assert values.max() <= high * (1 + 1e-9)


def test_the_recipes_penalty_is_the_default_lambda1():
    assert protocol().framework["default"]["lambda1"] == pytest.approx(protocol().training["l2"] / 2)


def test_a_cell_has_every_method_at_every_rate_and_all_eight_sets_of_components(rows):
    main = rows[(rows.part == "main") & (rows.dataset == "wine") & (rows.seed == 0)]
    counted = main.groupby(["method", "rate"]).size().unstack()
    assert set(counted.index) == set(main_tables.ROWS)
    assert (counted.loc["random"] == protocol().random_subsets).all()
    assert (counted.drop("random") == 1).all().all()
    ablation = rows[(rows.part == "ablation") & (rows.dataset == "wine") & (rows.seed == 0)]
    sets = ablation.groupby(["variant", "rate", *ablation_tables.COMPONENTS]).size()
    assert len(sets) == 2 * 2 * 8
    assert (sets == 1).all()


def test_without_noise_the_upper_bound_is_vanilla_and_with_it_validation_chooses_by_noisy_labels(rows):
    clean = rows[(rows.rate == 0) & rows.method.isin(["vanilla", "clean"])]
    assert (clean.groupby(["dataset", "seed"]).macro_f1.nunique() == 1).all()


def test_one_cell_of_table_4_1_is_what_scipy_and_pingouin_make_of_the_rows(rows):
    table = main_tables.cells(rows, RATE, PRINTED)
    part = rows[(rows.part == "main") & (rows.rate == RATE)]
    f1 = part.pivot_table(index="dataset", columns="method", values="macro_f1")
    ours, base = f1["datalab_label_aware"], f1["vanilla"]
    row = table[(table.method == "Ours (full), label-aware") & (table.metric == "F1")].iloc[0]
    d = ours - base
    assert row.ours == pytest.approx(ours.mean())
    interval = scipy_stats.t.interval(0.95, 2, d.mean(), scipy_stats.sem(d))
    assert (row["less vanilla low"], row["less vanilla high"]) == pytest.approx(interval)
    assert row["p (Wilcoxon)"] == pytest.approx(scipy_stats.wilcoxon(d, zero_method="pratt").pvalue)
    assert row["d_z"] == pytest.approx(d.mean() / d.std(ddof=1))
    tested = table["p (Wilcoxon)"].notna()
    wanted = pingouin.multicomp(table.loc[tested, "p (Wilcoxon)"].to_numpy(), method="holm")[1]
    np.testing.assert_allclose(table.loc[tested, "p (Holm)"], wanted)


def test_one_row_of_table_4_1b_is_what_pingouin_makes_of_the_seeds(rows):
    table = main_tables.benchmarks(rows, "paper", RATE, {}, 7)
    part = rows[(rows.part == "main") & (rows.rate == RATE) & (rows.dataset == "wine")]
    ours, base = (
        part[part.method == name].set_index("seed").macro_f1.sort_index() for name in ("datalab_paper", "vanilla")
    )
    row = table[table["data set"] == "wine"].iloc[0]
    said = pingouin.ttest(ours, base, paired=True)
    assert row["p (t)"] == pytest.approx(said.filter(like="p").iloc[0, 0], nan_ok=True)
    assert row["improvement (%)"] == pytest.approx((100 * (ours / base - 1)).mean())
    np.testing.assert_allclose(table["p (Bonferroni)"], np.minimum(1, 3 * table["p (t)"]))


def test_the_bootstrap_of_the_relative_gain_covers_what_it_should():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        base = rng.normal(0.7, 0.05, (20, 1)) + rng.normal(0, 0.01, (20, 5))
        ours = base + rng.normal(0.02, 0.02, (20, 1)) + rng.normal(0, 0.01, (20, 5))
        low, high = main_tables.relative_gain_interval(ours, base, rng, 400)
        inside += low < 100 * 0.02 / 0.7 < high
    assert 0.88 < inside / 200 < 0.99


def test_a_reading_names_every_metric_on_which_ours_does_worse(rows):
    table = main_tables.cells(rows, RATE, PRINTED)
    said = main_readings.worse_than_vanilla(table)
    ours = table[table.method.str.startswith("Ours")]
    for _, row in ours.iterrows():
        worse = row["less vanilla"] > 0 if row.metric == "ECE" else row["less vanilla"] < 0
        assert (f"{row.method}: {row.metric} " in said) == worse


def test_no_cell_in_the_papers_shape_is_empty(rows, level_rows):
    shapes = [main_tables.paper_shape(main_tables.cells(rows, RATE, PRINTED))]
    shapes += [ablation_tables.paper_shape(ablation_tables.ablation(rows, RATE, PRINTED), "paper")]
    shapes += [level_tables.paper_shape(level_tables.levels(level_rows, PRINTED), "matched", "paper")]
    for table in shapes:
        assert table.notna().all().all()
        assert (table.astype(str) != "").all().all()
        assert "paper" in table.iloc[0].astype(str).str.cat()


# --- section 4.3 ------------------------------------------------------------------------------------------------------


def test_shapley_values_are_the_mean_gain_over_all_orders_and_sum_to_the_total(rows):
    table = ablation_tables.scores(rows, "label-aware", RATE)
    found = ablation_tables.shapley_values(table)
    names = list(ablation_tables.COMPONENTS)
    wanted = pd.DataFrame(0.0, index=table.index, columns=names)
    for order in itertools.permutations(range(3)):
        on = [False] * 3
        for at in order:
            before = tuple(on)
            on[at] = True
            wanted[names[at]] += (table[tuple(on)] - table[before]) / 6
    pd.testing.assert_frame_equal(found, wanted, check_names=False)
    gain = table[ablation_tables.FULL] - table[ablation_tables.NONE]
    np.testing.assert_allclose(found.sum(axis=1), gain)


def test_a_delta_of_table_4_3_is_what_scipy_makes_of_the_rows(rows):
    table = ablation_tables.ablation(rows, RATE, PRINTED)
    part = rows[(rows.part == "ablation") & (rows.variant == "paper") & (rows.rate == RATE)]
    full = part[part.projection & part.weighting & part.regularisation].groupby("dataset", sort=False).macro_f1.mean()
    less = part[part.projection & part.weighting & ~part.regularisation.astype(bool)]
    d = less.groupby("dataset", sort=False).macro_f1.mean() - full
    row = table[(table.variant == "paper") & (table.configuration == "w/o Regularization")].iloc[0]
    assert row["Delta vs Full"] == pytest.approx(d.mean())
    assert row["p (Wilcoxon)"] == pytest.approx(scipy_stats.wilcoxon(d, zero_method="pratt").pvalue)
    interval = scipy_stats.t.interval(0.95, 2, d.mean(), scipy_stats.sem(d))
    assert (row["Delta vs Full low"], row["Delta vs Full high"]) == pytest.approx(interval)


def test_a_share_is_given_only_where_the_gain_is_settled(rows):
    table = ablation_tables.contributions(rows, PRINTED, 7, 500)
    settled = (table["total gain low"] > 0) | (table["total gain high"] < 0)
    assert (table["gain settled"] == settled).all()
    assert (table["share of gain (%)"].str.startswith("none") == ~settled).all()
    np.testing.assert_allclose(table.groupby(["variant", "noise rate (%)"])["P(largest)"].sum(), 1)


def test_the_full_model_of_the_ablation_is_the_one_of_the_main_table(rows):
    for variant, method in framework_cell.DATALAB.items():
        full = ablation_tables.scores(rows, variant, RATE)[ablation_tables.FULL]
        level = main_tables.level(rows, method, "macro_f1", RATE)
        np.testing.assert_array_equal(full, level[full.index])


# --- section 4.2 ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.5), st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]))
@settings(max_examples=60, deadline=None)
def test_a_tilted_draw_has_its_size_and_the_groups_their_share(seed, share, tilt):
    rng = np.random.default_rng(seed)
    ranks = level_cell.standardised_ranks(rng.random(100))
    groups = rng.random(100) < share
    mask = level_cell.tilted_draw(ranks, tilt, groups, rng)
    assert mask.sum() == 50
    assert abs(mask[groups].sum() - groups.sum() / 2) <= 0.5


def test_tilts_order_the_mean_rank_and_zero_is_uniform():
    ranks = level_cell.standardised_ranks(np.arange(400))
    none = np.zeros(400, dtype=bool)
    means, taken = [], np.zeros(400)
    for tilt in protocol().influence_levels["tilts"]:
        means.append(ranks[level_cell.tilted_draw(ranks, tilt, none, np.random.default_rng(0))].mean())
    assert means == sorted(means)
    for seed in range(300):
        taken += level_cell.tilted_draw(ranks, 0, none, np.random.default_rng(seed))
    assert abs(np.corrcoef(taken, ranks)[0, 1]) < 0.15
    assert taken.mean() == 150


def test_a_tilted_draw_follows_sequential_sampling_with_these_weights():
    """Of 4 examples 2 are drawn: the exact probability of each pair, one after another, against many draws."""
    ranks, tilt = np.array([-1.0, 0.0, 0.5, 1.0]), 1.0
    w = np.exp(tilt * ranks)
    exact = {}
    for a, b in itertools.permutations(range(4), 2):
        pair = tuple(sorted((a, b)))
        exact[pair] = exact.get(pair, 0) + w[a] / w.sum() * w[b] / (w.sum() - w[a])
    rng, counts = np.random.default_rng(0), dict.fromkeys(exact, 0)
    for _ in range(4000):
        counts[tuple(np.flatnonzero(level_cell.tilted_draw(ranks, tilt, np.zeros(4, dtype=bool), rng)))] += 1
    said = scipy_stats.chisquare(list(counts.values()), 4000 * np.array([exact[pair] for pair in counts]))
    assert said.pvalue > 0.001


def test_leverage_is_the_diagonal_of_the_hat_matrix():
    x = np.random.default_rng(0).standard_normal((50, 4))
    with_one = np.column_stack([x, np.ones(50)])
    hat = with_one @ np.linalg.solve(with_one.T @ with_one, with_one.T)
    np.testing.assert_allclose(level_cell.leverage(x, 1e-12), 50 * np.diag(hat), rtol=1e-8)


def test_matched_levels_hold_the_noise_equal_and_unmatched_ones_do_not(level_rows):
    flipped = level_rows.groupby(["draw", "tilt", "dataset", "seed"]).flipped.first().unstack("tilt")
    assert np.ptp(flipped.loc["matched"].to_numpy(), axis=1).max() == 0
    assert (flipped.loc["unmatched"][2] > flipped.loc["unmatched"][-2]).all()


def test_shares_of_variance_are_pingouins(level_rows):
    one = level_rows[(level_rows.draw == "matched") & level_rows.method.isin(["vanilla", "datalab_paper"])]
    one = one.assign(run=one.dataset + one.seed.astype(str) + one.method)
    row = level_tables.variance_explained(level_rows, 7, 20).set_index("draw").loc["matched"]
    total = pingouin.anova(one, dv="macro_f1", between="tilt")
    assert row["total (%)"] == pytest.approx(100 * total["np2"].iloc[0], rel=1e-3)
    partial = pingouin.rm_anova(one, dv="macro_f1", within="tilt", subject="run", effsize="np2")
    assert row["partial (%)"] == pytest.approx(100 * partial["np2"].iloc[0], rel=1e-3)
    inside = 0.0
    for _, part in one.groupby("dataset"):
        said = pingouin.anova(part, dv="macro_f1", between="tilt", detailed=True)
        inside += np.array([said["SS"].iloc[0], said["SS"].sum()])
    assert row["within data set (%)"] == pytest.approx(100 * inside[0] / inside[1], rel=1e-3)


def test_without_an_effect_the_permutation_holds_its_level_though_methods_share_their_sets():
    rng, sets, runs = np.random.default_rng(0), np.repeat(np.arange(5), 6), np.repeat(np.arange(15), 2)
    p = []
    for _ in range(120):
        shared = np.repeat(rng.standard_normal((15, 5)), 2, axis=0)  # two methods, trained on the same sets
        y = shared + 0.3 * rng.standard_normal((30, 5))
        p.append(level_tables.eta_squared(y, sets, runs, rng, 60)["p"])
    assert 0.4 < np.mean(p) < 0.6
    assert np.mean(np.array(p) <= 0.1) < 0.2


def test_an_effect_of_the_level_is_found_and_its_excess_excludes_0():
    rng, sets, runs = np.random.default_rng(0), np.repeat(np.arange(5), 6), np.repeat(np.arange(15), 2)
    y = rng.standard_normal((30, 5)) + np.arange(5)
    found = level_tables.eta_squared(y, sets, runs, rng, 99)
    assert found["p"] == 0.01
    assert 0 < found["excess low"] < found["excess (%)"] < found["excess high"]


def test_run_level_correlation_and_its_clusters_are_scipys(level_rows):
    trends = level_tables.trends(level_rows, 7).set_index(["draw", "method"])
    one = level_rows[(level_rows.draw == "unmatched") & (level_rows.method == "vanilla")]
    wanted = scipy_stats.pearsonr(one.tilt, one.macro_f1).statistic
    row = trends.loc[("unmatched", "vanilla")]
    assert row["r, runs"] == pytest.approx(wanted)
    by_set = level_tables.correlation_by_set(level_rows, "unmatched", "vanilla")
    alone = one[one.dataset == "wine"]
    assert by_set[list(one.dataset.unique()).index("wine")] == pytest.approx(
        scipy_stats.pearsonr(alone.tilt, alone.macro_f1).statistic
    )
    slopes = [scipy_stats.linregress(part.tilt, part.macro_f1).slope for _, part in one.groupby("dataset", sort=False)]
    assert row.slope == pytest.approx(np.mean(slopes))


# --- section 3.1 ------------------------------------------------------------------------------------------------------


def test_at_the_test_sets_own_weights_the_metric_is_plain_accuracy(metric_rows):
    part = metric_rows[(metric_rows.strata == "influence") & (metric_rows.part == "stratum")]
    part = part.assign(system=metric_tables.system(part), hits=part.right * part.n)
    sums = part.groupby(["system", "dataset", "seed"], sort=False)[["hits", "n"]].sum()
    plain = (sums.hits / sums.n).unstack(["dataset", "seed"])
    for kind in metric_cell.STRATA:
        found = metric_tables.metric(metric_rows, kind, 0.0)
        pd.testing.assert_frame_equal(found, plain.loc[found.index, found.columns], check_names=False)


def test_the_metric_lies_within_the_hull_of_its_strata(metric_rows):
    part = metric_rows[(metric_rows.strata == "influence") & (metric_rows.part == "stratum")]
    part = part.assign(system=metric_tables.system(part))
    hull = part.groupby(["system", "dataset", "seed"], sort=False).right.agg(["min", "max"])
    for tilt in (-1.0, 0.5, 1.0):
        value = metric_tables.metric(metric_rows, "influence", tilt).stack(["dataset", "seed"], future_stack=True)
        value = value.loc[hull.index]
        assert ((value >= hull["min"] - 1e-12) & (value <= hull["max"] + 1e-12)).all()


def test_the_variance_is_that_of_new_test_sets_whose_strata_are_cut_anew():
    rng, n, tilt = np.random.default_rng(0), 400, 1.0

    def test_set() -> tuple[np.ndarray, np.ndarray]:
        score = rng.random(n)
        return rng.random((1, n)) < 1 - 0.7 * score, score

    def metric(right: np.ndarray, score: np.ndarray) -> float:
        of = metric_cell.quantiles(score)
        means = np.array([right[0, of == k].mean() for k in range(5)])
        return float(means @ metric_cell.target_weights(np.full(5, n / 5), tilt))

    true = np.var([metric(*test_set()) for _ in range(2000)])
    found = [metric_cell.resampled_variances(*test_set(), rng)[tilt][0] for _ in range(30)]
    assert np.mean(found) == pytest.approx(true, rel=0.15)


def test_at_tilt_0_the_variance_is_plain_accuracys():
    rng = np.random.default_rng(0)
    right, score = rng.random((2, 500)) < 0.8, rng.random(500)
    found = metric_cell.resampled_variances(right, score, rng)[0.0]
    p = right.mean(1)
    np.testing.assert_allclose(found, p * (1 - p) / 500, rtol=0.3)


def test_all_architectures_see_the_same_flips():
    labels = [
        framework_cell.Study("digits", name, 0, 7, (0.2,), CAPS, "fast", "cpu").observed for name in ("mlp", "softmax")
    ]
    np.testing.assert_array_equal(*labels)


def test_quantiles_are_equal_shares_in_order():
    scores = np.random.default_rng(0).random(103)
    found = metric_cell.quantiles(scores)
    assert np.ptp(np.bincount(found)) <= 1
    assert all(scores[found == k].max() < scores[found == k + 1].min() for k in range(4))


def test_a_reversed_pair_is_one_that_the_metrics_order_differently():
    rng = np.random.default_rng(0)
    plain = pd.DataFrame(0.7 + rng.normal(0, 0.001, (3, 12)), index=list("abc")) + np.array([[0.1], [0.0], [-0.1]])
    other = plain.copy()
    other.loc[["a", "b"]] = plain.loc[["b", "a"]].to_numpy()
    pairs = metric_tables.reversed_pairs(plain, other).set_index(["a", "b"])
    assert list(pairs.index[pairs["reversed"]]) == [("a", "b")]
    assert pairs.loc[("a", "b"), "both significant"]


# --- section 3.3 ------------------------------------------------------------------------------------------------------


def test_the_identity_table_shows_equality_and_nothing_below():
    losses = np.random.default_rng(0).exponential(size=200)
    table = inspection_tables.identity(losses, (0.0, 0.1, 1.0, 100.0), np.random.default_rng(1), 200)
    np.testing.assert_allclose(table["at the optimal weights"], table.minimum, atol=1e-10)
    assert (table["best of random"] > table.minimum).all()
    assert table["ESS / n of the optimum"].is_monotonic_increasing


def test_a_gap_is_never_below_zero():
    table = pd.DataFrame(inspection_cell.run_cell("wine", 0, 7, [0.0, 1.0], [0.1, 10.0], CAPS, "fast", "cpu"))
    assert (table.gap > -1e-9).all()
    assert set(table.variant) == set(framework.VARIANTS)


# --- parameters and repetition ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "given_", "words"),
    [
        (main_results, {"main_rates": [0.0, 0.4]}, "must include 0.2"),
        (main_results, {"configurations": 1}, "'configurations'"),
        (main_results, {"main_architectures": ["rnn"]}, "'main_architectures"),
        (influence_level, {"seeds": 0}, "'seeds'"),
        (framework_components, {"tau_sweep": [0.0]}, "'tau_sweep"),
        (framework_components, {"lambda2_sweep": [1.0]}, "'lambda2_sweep'"),
        (framework_components, {"framework_datasets": ["adultt"]}, "did you mean 'adult'"),
    ],
)
def test_parameters_out_of_range_are_refused(model, given_, words):
    with pytest.raises(UserError, match=words):
        resolve(model.Parameters, given_, "notebook x")


def test_equal_cells_give_equal_rows_and_another_seed_others(rows):
    again = pd.DataFrame(framework_cell.run_cell("wine", "mlp", 1, *GIVEN))
    first = rows[(rows.dataset == "wine") & (rows.seed == 1)].reset_index(drop=True)
    pd.testing.assert_frame_equal(again[list(first)], first)
    other = rows[(rows.dataset == "wine") & (rows.seed == 0)]
    assert not np.array_equal(first.macro_f1, other.macro_f1)


def test_weights_columns_are_those_of_the_weights(rows):
    main = rows[(rows.part == "main") & rows.variant.notna()]
    assert main.ess.between(0, 1 + 1e-6).all()
    assert main[main.rate == 0].weights_auroc.isna().all()
    assert main[main.rate > 0].weights_auroc.between(0, 1).all()
    table = main_tables.weights(rows)
    one = main[(main.method == "datalab_paper") & (main.rate == RATE)].groupby("dataset").ess.mean()
    row = table[(table.variant == "paper") & (table["noise rate (%)"] == 20)].iloc[0]
    assert row["ESS / n"] == pytest.approx(one.mean())
    assert row["ESS / n low"] == pytest.approx(stats.t_interval(one.to_numpy()).low)
