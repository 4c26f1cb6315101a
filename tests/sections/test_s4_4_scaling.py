"""Section 4.4: all methods at all sizes, gains and growth over seeds, memory that the training size does not bound."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from datalab import ledger
from datalab.errors import UserError
from datalab.influence import last_layer
from datalab.protocol import protocol
from datalab.record.parameters import resolve
from datalab.sections import s4_4_scaling as s4_4

METHODS = ["vanilla", "influence", "random", "label_noise", "datalab_paper", "datalab_label_aware"]


def task(architecture: str, seed: int, sizes: list[int]) -> pd.DataFrame:
    given = {"dataset": "digits", "root_seed": 7, "test": 150, "validation": 60, "encoder": "fast", "device": "cpu"}
    return pd.DataFrame(s4_4.run_task(architecture=architecture, seed=seed, sizes=sizes, **given))


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    made = [task(name, seed, [100, 200]) for name in ("softmax", "mlp") for seed in (0, 1)]
    return pd.concat(made, ignore_index=True)


def test_the_architecture_that_is_also_stopped_early_must_be_among_them():
    with pytest.raises(UserError, match="'scaling_architectures': must include 'mlp'"):
        resolve(s4_4.Parameters, {"profile": "smoke", "scaling_architectures": ["softmax"]}, "test")


def test_every_method_is_trained_at_every_size(rows):
    assert list(rows.method.unique()) == METHODS
    assert (rows.groupby("size").n.unique().map(len) == 1).all()
    scored = rows[rows.method == "influence"]
    assert (scored.seconds > 0).all()
    assert rows[rows.method != "influence"].seconds.isna().all()


def test_steps_grow_as_the_protocol_says_and_never_fall_below_the_recipes():
    exponent, steps = protocol().scaling["steps_exponent"], protocol().training["steps"]
    assert s4_4.recipe_at(100).steps == s4_4.recipe_at(1000).steps == steps
    assert s4_4.recipe_at(100_000).steps == round(steps * 100**exponent)


def test_the_gain_of_a_size_is_over_seeds_whose_values_are_means_over_the_rest(rows):
    table = s4_4.scaling(rows)
    row = table[(table.variant == "paper") & (table["Training Size"] == "200")].iloc[0]
    part = rows[rows["size"] == 200].groupby(["seed", "method", "architecture"]).macro_f1.mean()
    gains = []
    for seed in (0, 1):
        ours, base = (part[seed, name].mean() for name in ("datalab_paper", "vanilla"))
        gains.append(100 * (ours / base - 1))
    assert row["Relative Gain (%)"] == pytest.approx(np.mean(gains))


def test_a_method_is_set_against_vanilla_seed_by_seed(rows):
    table = s4_4.methods(rows).set_index(["architecture", "size", "method"])
    part = rows[(rows.architecture == "mlp") & (rows["size"] == 100)]
    f1 = part.groupby(["method", "seed"]).macro_f1.mean()
    row = table.loc[("mlp", 100, "random")]
    assert row["less vanilla"] == pytest.approx((f1["random"] - f1["vanilla"]).mean())
    assert list(table.xs("mlp").xs(100).index) == METHODS
    assert np.isnan(table.loc[("mlp", 100, "vanilla"), "less vanilla"])


def test_the_growth_exponent_is_that_of_the_times_and_its_interval_is_over_seeds():
    n, parts = np.array([1000, 10_000, 50_000, 100_000]), []
    for seed, power in enumerate((0.8, 0.9, 1.0)):
        times = {"dataset": "a", "architecture": "mlp", "method": "influence", "seed": seed, "n": n}
        parts.append(pd.DataFrame(times | {"seconds": 1e-6 * n**power}))
    row = s4_4.growth(pd.concat(parts)).iloc[0]
    assert row.exponent == pytest.approx(0.9)
    interval = scipy_stats.t.interval(0.95, 2, 0.9, scipy_stats.sem([0.8, 0.9, 1.0]))
    assert (row["exponent low"], row["exponent high"]) == pytest.approx(interval)
    assert row["from n"] == 10_000


def test_beyond_what_may_be_held_between_passes_scoring_holds_no_more_for_more_examples(rows, monkeypatch):
    held = rows[(rows.method == "influence") & (rows.seed == 0)].memory
    assert held.notna().all()
    monkeypatch.setattr(last_layer, "_HELD", 0)
    more = task("mlp", 0, [550, 1050])
    small, large = more[more.method == "influence"].set_index("size").memory[[550, 1050]]
    assert large < 1.1 * small  # both are more than one batch of 512


def test_sizes_that_the_paper_has_are_judged_and_others_are_not(rows):
    assert [statement.id for statement in s4_4.verdicts(rows)] == ["S3.2.train_sizes"]
    papers = rows.assign(size=rows["size"].map({100: 1000, 200: 10_000}))
    statements = {statement.id: statement for statement in s4_4.verdicts(papers)}
    assert len(statements) == 2 * 4 + 4 + 1
    gain = s4_4.by_seed(papers, "datalab_paper", 1000) / s4_4.by_seed(papers, "vanilla", 1000)
    gain -= s4_4.by_seed(papers, "datalab_paper", 10_000) / s4_4.by_seed(papers, "vanilla", 10_000)
    assert statements["S4.4.low_data"].measured == pytest.approx(100 * gain.mean())
    judged = [statement.why for name, statement in statements.items() if name != "S3.2.train_sizes"]
    assert all("n counts seeds, each a mean over " in why for why in judged)


def test_a_gain_is_told_beside_that_of_the_models_that_stop_early_where_there_are_some(rows):
    papers = rows.assign(size=rows["size"].map({100: 1000, 200: 10_000}))
    early = papers[(papers["size"] == 1000) & (papers.architecture == "mlp")]
    half = early.macro_f1.where(early.method == "vanilla", early.macro_f1 / 2)
    early = early.assign(macro_f1=half)
    gain = s4_4.by_seed(early, "datalab_paper", 1000) / s4_4.by_seed(early, "vanilla", 1000) - 1
    said = {statement.id: statement.why for statement in s4_4.verdicts(papers, early)}
    assert f"mlp stopped early {100 * gain.mean():+.1f}" in said["T4.1K.rel_gain"]
    assert "stopped early" not in said["T4.10K.rel_gain"]


def test_a_set_with_fewer_examples_than_the_largest_size_is_named(rows):
    short = rows.assign(n=rows.n.where(rows["size"] < 200, 150))
    name = short.dataset.iloc[0]
    assert s4_4.verdicts(short)[-1].why == f"the sizes of this run; {name} has 150"


def test_a_relative_gain_that_is_worth_less_than_the_smallest_effect_in_f1_is_no_direction():
    """A gain of 1.5 % of an F1 of 0.5 is 0.0075 F1: below 0.01, though above 0.01 if it were read as F1."""
    rows = [
        {"dataset": "adult", "architecture": "mlp", "seed": seed, "size": size, "n": size, "method": method}
        | {"macro_f1": (0.5 + 0.0001 * seed) * (1.015 + 1e-6 * seed if method == "datalab_paper" else 1.0)}
        for seed, size, method in itertools.product(range(5), (1000, 10_000), ("vanilla", *s4_4.DATALAB.values()))
    ]
    statements = {statement.id: statement for statement in s4_4.verdicts(pd.DataFrame(rows))}
    assert statements["T4.1K.rel_gain"].measured == pytest.approx(1.5, abs=1e-3)
    assert statements["T4.1K.rel_gain"].verdict == ledger.NULL


def test_one_seed_has_no_interval_and_says_none(rows):
    one = rows[rows.seed == 0].assign(size=rows["size"].map({100: 1000, 200: 10_000}))
    statements = {statement.id: statement for statement in s4_4.verdicts(one)}
    assert "mlp " in statements["T4.1K.rel_gain"].why
    assert not [statement.id for statement in statements.values() if "nan" in statement.why]


def test_small_sizes_are_set_against_large_ones_and_none_against_itself(rows, shown):
    for sizes, halves in {
        (100, 200, 300): ([100], [300]),
        (1000, 5000, 10_000): ([1000, 5000], [10_000]),
        (10_000, 50_000): ([10_000], [50_000]),
    }.items():
        names = shown("4_4_scaling", "c09-b", table=s4_4.scaling(rows), p=SimpleNamespace(scaling_sizes=sizes))
        assert (list(names["few"]), list(names["many"])) == halves
