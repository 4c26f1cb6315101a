"""Section 4.3: Shapley values by their definition, deltas by scipy, shares only where they mean something."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from datalab import ledger, stats
from datalab.sections import s4_1_main_results as s4_1
from datalab.sections import s4_3_ablation as s4_3
from datalab.sections.trials.arms import COMPONENTS
from datalab.sections.trials.trial import DATALAB

RATE = 0.2


def test_shapley_values_are_the_mean_gain_over_all_orders_and_sum_to_the_total(main_rows):
    f1 = s4_3.scores(main_rows, "label-aware", RATE)
    values = s4_3.shapley_values(f1)
    wanted = pd.DataFrame(0.0, index=f1.index, columns=list(COMPONENTS))
    for order in itertools.permutations(range(3)):
        on = [False] * 3
        for i in order:
            before = tuple(on)
            on[i] = True
            wanted[COMPONENTS[i]] += (f1[tuple(on)] - f1[before]) / 6
    pd.testing.assert_frame_equal(values, wanted, check_names=False)
    np.testing.assert_allclose(values.sum(axis=1), f1[s4_3.FULL] - f1[s4_3.NONE])


def test_the_shapley_sum_in_the_notebooks_cell_is_the_tables(main_rows, shown):
    phi = shown("4_3_ablation", "shapley-by-hand", rows=main_rows, rate=RATE)["phi"]
    table = s4_3.contributions(main_rows, 7).set_index(["variant", "noise rate (%)", "component"])
    for name, title in s4_3.TITLES.items():
        row = table.loc[("paper", 20.0, title)]
        assert row["Shapley value (F1)"] == pytest.approx(phi[name].mean(), rel=1e-12)
        assert row["total gain"] == pytest.approx(phi.sum(axis=1).mean(), rel=1e-9)


def test_a_delta_of_table_4_3_is_what_scipy_makes_of_the_rows(main_rows):
    table = s4_3.ablation(main_rows, RATE)
    part = main_rows[(main_rows.part == "ablation") & (main_rows.variant == "paper") & (main_rows.rate == RATE)]
    part = part[part.projection.astype(bool) & part.weighting.astype(bool)]
    regularised = part.regularisation.astype(bool)
    full, less = (kept.groupby("dataset").macro_f1.mean() for kept in (part[regularised], part[~regularised]))
    d = less - full
    row = table[(table.variant == "paper") & (table.configuration == "w/o Regularization")].iloc[0]
    assert row["Delta vs Full"] == pytest.approx(d.mean())
    assert row["p (Wilcoxon)"] == pytest.approx(scipy_stats.wilcoxon(d, zero_method="pratt").pvalue)
    interval = scipy_stats.t.interval(0.95, 2, d.mean(), scipy_stats.sem(d))
    assert (row["Delta vs Full low"], row["Delta vs Full high"]) == pytest.approx(interval)


def test_a_share_is_given_only_where_the_gain_is_settled(main_rows):
    table = s4_3.contributions(main_rows, 7)
    settled = (table["total gain low"] > 0) | (table["total gain high"] < 0)
    assert (table["gain settled"] == settled).all()
    assert (table["share of gain (%)"].str.startswith("none") == ~settled).all()
    np.testing.assert_allclose(table.groupby(["variant", "noise rate (%)"])["P(largest)"].sum(), 1)


def test_the_full_model_of_the_ablation_is_the_one_of_the_main_table(main_rows):
    for variant, method in DATALAB.items():
        full = s4_3.scores(main_rows, variant, RATE)[s4_3.FULL]
        level = s4_1.level(main_rows, method, "macro_f1", RATE)
        np.testing.assert_array_equal(full, level[full.index])


@pytest.mark.parametrize(
    ("regularisation", "projection", "verdict"),
    [
        (0.05, 0.0, ledger.DIRECTION),  # the component and the total gain are settled
        (0.05, -0.05, ledger.INCONCLUSIVE),  # the component alone is
        (0.0, 0.10, ledger.INCONCLUSIVE),  # the total alone is
    ],
)
def test_a_component_has_a_share_of_the_gain_where_both_are_settled(regularisation, projection, verdict):
    """Before, S4.3.share_reg had the paper's direction by its component, whatever the sign of the total gain."""
    rng, made = np.random.default_rng(0), []
    for i, on in itertools.product(range(15), s4_3.SETS):
        noise = rng.normal(0, 0.001)
        apart = 0.03 * (-1) ** i  # by which data sets differ: in the total alone, or in the component
        of_both = (projection + apart, regularisation) if projection < 0 else (projection, regularisation + apart)
        gains = dict(zip(COMPONENTS, (of_both[0], 0.0, of_both[1]), strict=True))
        row = {"dataset": f"set{i}", "seed": 0, "architecture": "mlp", "part": "ablation", "variant": "paper"}
        row |= {"rate": RATE} | dict(zip(COMPONENTS, on, strict=True))
        made.append(row | {"macro_f1": 0.5 + sum(gains[name] for name in COMPONENTS if row[name]) + noise})
    rows = pd.DataFrame(made)
    rows = pd.concat([rows, rows.assign(variant="label-aware")])
    statements = {of.id: of for of in s4_3.verdicts(rows, RATE, s4_3.contributions(rows, 7))}
    assert statements["S4.3.share_reg"].verdict == verdict


def test_no_cell_in_the_papers_shape_is_empty(main_rows):
    table = s4_3.paper_shape(s4_3.ablation(main_rows, RATE), "paper")
    assert table.notna().all().all()
    assert (table.astype(str) != "").all().all()
    assert "paper" in table.iloc[0].astype(str).str.cat()


def test_every_statement_is_judged_once_and_rests_on_the_sets_it_compares(main_rows):
    statements = s4_3.verdicts(main_rows, RATE, s4_3.contributions(main_rows, 7))
    by_id = {statement.id: statement for statement in statements}
    assert len(by_id) == len(statements) == len(s4_3.ROWS) + 2 * (len(s4_3.ROWS) - 1) + 1 + len(COMPONENTS) + 3
    assert len(by_id["T3.full.f1"].raw) == 1
    assert [raw["weighting"] for raw in by_id["T3.wo_aw.f1"].raw] == [False, True]
    assert "of 4" in by_id["T3.full_is_best"].why.partition(";")[0]
    d = s4_3.scores(main_rows, "paper", RATE)
    d = d[(False, True, True)] - d[s4_3.FULL]
    assert by_id["T3.wo_fe.delta"].measured == pytest.approx(d.mean())
    assert by_id["T3.wo_fe.p"].measured == stats.wilcoxon(d).p
    # A share's figures are the component's or the gain's own, never one with the other's effect size.
    share = by_id["S4.3.share_reg"]
    assert share.low < share.measured < share.high
    assert np.sign(share.measured) == np.sign(share.effect_size)
    assert "share of the gain (%)" in share.why
