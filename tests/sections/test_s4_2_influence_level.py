"""Section 4.2: levels are what they say, and its tables are what scipy and pingouin make of the rows."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pingouin
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from datalab import ledger, stats
from datalab.protocol import protocol
from datalab.sections import s4_2_influence_level as s4_2
from datalab.sections.trials.trial import leverage

GIVEN = {"root_seed": 7, "caps": {"train": 120, "validation": 60, "test": 120}, "encoder": "fast", "device": "cpu"}
GIVEN |= {"architecture": "mlp", "draws": list(s4_2.DRAWS)}
SETS = ("digits", "wine", "breast_cancer")


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    made = [s4_2.run_task(dataset=name, seed=seed, **GIVEN) for name in SETS for seed in (0, 1)]
    return pd.concat(map(pd.DataFrame, made), ignore_index=True)


def test_scrambled_test_labels_change_the_test_scores_and_nothing_else(only_scores_change):
    only_scores_change(lambda: s4_2.run_task(dataset="digits", seed=0, **GIVEN))


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.5), st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]))
@settings(max_examples=60, deadline=None)
def test_a_tilted_draw_has_its_size_and_the_groups_their_share(seed, share, tilt):
    rng = np.random.default_rng(seed)
    ranks = s4_2.standardised_ranks(rng.random(100))
    groups = rng.random(100) < share
    mask = s4_2.tilted_draw(ranks, tilt, groups, rng)
    assert mask.sum() == 50
    assert abs(mask[groups].sum() - groups.sum() / 2) <= 0.5


def test_tilts_order_the_mean_rank_and_zero_is_uniform():
    ranks = s4_2.standardised_ranks(np.arange(400))
    none = np.zeros(400, dtype=bool)
    means, taken = [], np.zeros(400)
    for tilt in protocol().influence_levels["tilts"]:
        means.append(ranks[s4_2.tilted_draw(ranks, tilt, none, np.random.default_rng(0))].mean())
    assert means == sorted(means)
    for seed in range(300):
        taken += s4_2.tilted_draw(ranks, 0, none, np.random.default_rng(seed))
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
        counts[tuple(np.flatnonzero(s4_2.tilted_draw(ranks, tilt, np.zeros(4, dtype=bool), rng)))] += 1
    test = scipy_stats.chisquare(list(counts.values()), 4000 * np.array([exact[pair] for pair in counts]))
    assert test.pvalue > 0.001


def test_leverage_is_the_diagonal_of_the_hat_matrix():
    x = np.random.default_rng(0).standard_normal((50, 4))
    with_one = np.column_stack([x, np.ones(50)])
    hat = with_one @ np.linalg.solve(with_one.T @ with_one, with_one.T)
    np.testing.assert_allclose(leverage(x, 1e-12), 50 * np.diag(hat), rtol=1e-8)


def test_matched_levels_hold_the_noise_equal_and_unmatched_ones_do_not(rows):
    flipped = rows.groupby(["draw", "tilt", "dataset", "seed"]).flipped.first().unstack("tilt")
    assert np.ptp(flipped.loc["matched"].to_numpy(), axis=1).max() == 0
    assert (flipped.loc["unmatched"][2] > flipped.loc["unmatched"][-2]).all()


def test_no_cell_in_the_papers_shape_is_empty(rows):
    table = s4_2.paper_shape(s4_2.levels(rows), "matched", "paper")
    assert table.notna().all().all()
    assert (table.astype(str) != "").all().all()
    assert "paper" in table.iloc[0].astype(str).str.cat()


def test_a_gap_and_its_effect_size_are_what_scipy_makes_of_the_rows(rows):
    part = rows[(rows.draw == "matched") & (rows.tilt == 2)]
    f1 = part.pivot_table(index="dataset", columns="method", values="macro_f1", sort=False)
    gap = 100 * (f1.datalab_paper - f1.vanilla)
    levels = s4_2.levels(rows).set_index(["draw", "variant", "level"])
    row = levels.loc[("matched", "paper", "Extreme")]
    interval = scipy_stats.t.interval(0.95, 2, gap.mean(), scipy_stats.sem(gap))
    assert (row["Gap (pp) low"], row["Gap (pp) high"]) == pytest.approx(interval)
    assert row.d_z == pytest.approx(gap.mean() / gap.std(ddof=1))


def test_shares_of_variance_are_pingouins(rows):
    part = rows[(rows.draw == "matched") & rows.method.isin(["vanilla", "datalab_paper"])]
    part = part.assign(run=part.dataset + part.seed.astype(str) + part.method)
    row = s4_2.variance_explained(rows, 7).set_index("draw").loc["matched"]
    total = pingouin.anova(part, dv="macro_f1", between="tilt")
    assert row["total (%)"] == pytest.approx(100 * total["np2"].iloc[0], rel=1e-3)
    partial = pingouin.rm_anova(part, dv="macro_f1", within="tilt", subject="run", effsize="np2")
    assert row["partial (%)"] == pytest.approx(100 * partial["np2"].iloc[0], rel=1e-3)
    inside = 0.0
    for _, of_set in part.groupby("dataset"):
        table = pingouin.anova(of_set, dv="macro_f1", between="tilt", detailed=True)
        inside += np.array([table["SS"].iloc[0], table["SS"].sum()])
    assert row["within data set (%)"] == pytest.approx(100 * inside[0] / inside[1], rel=1e-3)


def test_the_notebooks_eta_squared_is_the_tables(rows, shown):
    table = s4_2.variance_explained(rows, 7).set_index("draw")
    for draw in s4_2.DRAWS:
        cell = shown("4_2_influence_level", "eta-squared", rows=rows, draw=draw)
        assert cell["eta_squared"] == pytest.approx(table.loc[draw, "total (%)"], rel=1e-9)


def test_run_level_correlation_and_its_clusters_are_scipys(rows):
    trends = s4_2.trends(rows).set_index(["draw", "method"])
    part = rows[(rows.draw == "unmatched") & (rows.method == "vanilla")]
    row = trends.loc[("unmatched", "vanilla")]
    assert row["r, runs"] == pytest.approx(scipy_stats.pearsonr(part.tilt, part.macro_f1).statistic)
    by_set = stats.mean_correlation(s4_2.moments(rows, "unmatched", "vanilla")).values
    assert row.r == pytest.approx(by_set.mean())
    wine = part[part.dataset == "wine"]
    wanted = scipy_stats.pearsonr(wine.tilt, wine.macro_f1).statistic
    assert by_set[SETS.index("wine")] == pytest.approx(wanted)
    slopes = [scipy_stats.linregress(of_set.tilt, of_set.macro_f1).slope for _, of_set in part.groupby("dataset")]
    assert row.slope == pytest.approx(np.mean(slopes))


def test_every_statement_is_judged_once_on_the_tables_it_names(rows):
    levels = s4_2.levels(rows)
    statements = s4_2.verdicts(rows, s4_2.variance_explained(rows, 7))
    ids = [statement.id for statement in statements]
    assert len(ids) == len(set(ids)) == 28
    assert all(ledger.find(claim_id).id == claim_id for claim_id in ids)
    measured = {statement.id: statement.measured for statement in statements}
    row = levels[(levels.draw == "matched") & (levels.variant == "paper") & (levels.level == "High")].iloc[0]
    assert measured["T2.high.ours_f1"] == pytest.approx(row["Ours F1"])
    assert measured["T2.high.cohen_d"] == pytest.approx(row.d_z)
    assert measured["T2.high.gap_pp"] == pytest.approx(row["Gap (pp)"])
    by_id = {statement.id: statement for statement in statements}
    assert (by_id["T2.high.cohen_d"].low, by_id["T2.high.cohen_d"].high) == pytest.approx(
        (row["d_z low"], row["d_z high"])
    )
    share = s4_2.variance_explained(rows, 7).set_index("draw").loc["matched"]
    explained = by_id["ABS.variance_explained"]
    wanted = (share["common (%)"], share["common (%) low"], share["common (%) high"])
    assert (explained.measured, explained.low, explained.high) == pytest.approx(wanted)
    r = by_id["S4.2.r_baseline"]
    assert -1 <= r.low < r.measured < r.high <= 1
    beside = s4_2.trends(rows).set_index(["draw", "method"]).loc[("unmatched", "vanilla")]
    assert f"where it is not, r is {beside.r:+.3f} [" in r.why
    assert f"where it is not, {100 * beside['end to end']:+.1f} [" in by_id["S4.2.baseline_drops"].why


def test_one_data_set_alone_has_every_table_without_intervals(rows):
    alone = rows[rows.dataset == "wine"]
    levels = s4_2.levels(alone)
    assert s4_2.trends(alone)["r low"].isna().all()
    assert levels["Gap (pp) low"].isna().all()
    statements = s4_2.verdicts(alone, s4_2.variance_explained(alone, 7))
    tested = [statement for statement in statements if statement.id.startswith(("T2", "S4"))]
    assert {statement.verdict for statement in tested} == {"inconclusive"}


@pytest.fixture(scope="module")
def faint() -> pd.DataFrame:
    """Rows of 20 data sets whose F1 rises alike with the level, which is half a percent of its variance."""
    rng, made = np.random.default_rng(0), []
    levels, methods = protocol().influence_levels["tilts"], list(s4_2.METHODS)
    for (i, base), draw, method, tilt in itertools.product(
        enumerate(np.linspace(0.4, 0.8, 20)), s4_2.DRAWS, methods, levels
    ):
        row = {"dataset": f"set{i}", "architecture": "mlp", "seed": 0, "draw": draw, "method": method, "tilt": tilt}
        made.append(row | {"macro_f1": base + 0.006 * tilt + rng.normal(0, 0.001), "flipped": 0.2, "mean_rank": tilt})
    return pd.DataFrame(made)


def test_a_common_share_of_variance_too_small_to_matter_is_no_direction_however_clear(faint):
    """Before, 1.88 % of the variance had the paper's direction, and no effect was too small."""
    made = {of.id: of for of in s4_2.verdicts(faint, s4_2.variance_explained(faint, 7))}["ABS.variance_explained"]
    assert 0 < made.low < made.measured < made.high < 1  # in %
    assert made.verdict != ledger.DIRECTION


def test_the_levels_are_exchanged_as_often_as_the_protocol_says(faint):
    assert protocol().statistics["resamples"] == 10_000
    p = s4_2.variance_explained(faint, 7).set_index("draw").p
    assert p[protocol().influence_levels["verdict_draw"]] == pytest.approx(1 / 10_001)  # the least that it can be


def test_how_much_weaker_ours_goes_with_the_level_is_the_baselines_absolute_r_less_ours(rows):
    """Before, r of ours was shown, with the effect size of a difference."""
    made = {of.id: of for of in s4_2.verdicts(rows, s4_2.variance_explained(rows, 7))}["S4.2.r_ours"]
    part = rows[rows.draw == protocol().influence_levels["verdict_draw"]]
    r = {
        method: [scipy_stats.pearsonr(own.tilt, own.macro_f1).statistic for _, own in of.groupby("dataset")]
        for method, of in part.groupby("method")
    }
    weaker = np.abs(r["vanilla"]) - np.abs(r["datalab_paper"])
    assert made.measured == pytest.approx(weaker.mean())
    assert made.effect_size == pytest.approx(weaker.mean() / weaker.std(ddof=1))
    assert -1 <= made.low <= made.measured <= made.high <= 1


@pytest.mark.parametrize(("sets", "words"), [(2, "needs three data sets"), (3, "**Open**")])
def test_a_common_share_of_two_sets_is_open_for_it_needs_three(rows, shown, sets, words):
    named = rows.dataset.unique()[:sets]
    p, section = SimpleNamespace(root_seed=7, datasets=named), SimpleNamespace(table=lambda *frame, **how: None)
    names = {"rows": rows[rows.dataset.isin(named)], "p": p, "section": section, "seeds_run": 1}
    assert words in shown("4_2_influence_level", "c15", **names)["few"]
