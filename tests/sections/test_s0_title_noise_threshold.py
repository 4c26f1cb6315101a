"""The title's tasks and tables: paired, reproducible, blind to the test labels, and what scipy says they are."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from fetched import fetched
from scipy import stats as scipy_stats
from sklearn.isotonic import isotonic_regression

from datalab import data, noise, seeds
from datalab.errors import UserError
from datalab.protocol import protocol
from datalab.record.parameters import resolve
from datalab.sections import compare, plots
from datalab.sections import s0_title_noise_threshold as s0

TASK = {
    "dataset": "wine",
    "architecture": "mlp",
    "noise_kind": "symmetric",
    "seed": 0,
    "root_seed": 7,
    "rates": [0.0, 0.2],
    "keep_fractions": [0.9, 0.7],
    "caps": {"train": 90, "validation": 30, "test": 40},
    "encoder": "fast",
    "device": "cpu",
    "arm_rates": [0.2],
    "reference_steps": [40],
}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return pd.DataFrame(s0.run_task(**TASK))


def smoke(**given) -> s0.Parameters:
    return resolve(s0.Parameters, {"profile": "smoke", **given}, "test")


def made_up(sets=6, seeds_=3, rates=(0.0, 0.1, 0.2, 0.4), effect=lambda rate: rate - 0.15) -> pd.DataFrame:
    """Rows of an imaginary study whose influence beats random by ``effect(rate)`` plus a data set's own shift."""
    rng = np.random.default_rng(1)
    shift = rng.normal(0, 0.03, sets)
    rows = []
    for s, seed, rate in itertools.product(range(sets), range(seeds_), rates):
        base = s0.PRIMARY | {"dataset": f"set{s}", "seed": seed, "rate": rate, "realised_rate": rate, "draw": 0}
        base |= {"accuracy": 0.8, "reference_steps": 0, "flipped_kept": rate / 2}
        random = 0.7 + rng.normal(0, 0.02, 3)
        rows += [base | {"method": "random", "draw": draw, "macro_f1": f1} for draw, f1 in enumerate(random)]
        rows.append(base | s0.TITLES | {"macro_f1": random.mean() + effect(rate) + shift[s]})
        rows.append(base | {"method": "full", "keep_fraction": 1.0, "macro_f1": 0.71})
    return pd.DataFrame(rows)


def test_a_task_gives_the_same_rows_twice_and_others_for_another_seed(rows):
    again = pd.DataFrame(s0.run_task(**TASK))
    pd.testing.assert_frame_equal(rows, again)
    other = pd.DataFrame(s0.run_task(**{**TASK, "seed": 1}))
    assert not rows.macro_f1.equals(other.macro_f1)


def test_a_task_has_every_method_of_the_protocol_where_it_should(rows):
    crossed, arms = protocol().methods["crossed"], protocol().methods["primary_cell_only"]
    assert set(rows.method[rows.rate == 0.0]) == set(crossed)
    assert set(rows.method[rows.rate == 0.2]) == set(crossed) | set(arms)
    sizes = rows[(rows.rate == 0.2) & rows.method.isin(["random", "influence"])].groupby("keep_fraction").n_kept
    assert (sizes.nunique() == 1).all(), "influence and random keep equally many"
    counts = rows[rows.method == "random"].groupby(["rate", "keep_fraction"]).draw.nunique()
    assert (counts == protocol().random_subsets).all()
    assert (rows.flipped_kept[rows.method == "oracle"] == 0).all()


def test_scrambled_test_labels_change_scores_on_the_test_set_alone(rows, monkeypatch):
    prepare = data.prepare

    def scrambled(*arguments):
        prepared = prepare(*arguments)
        y_test = np.random.default_rng(0).permutation(prepared.y_test)
        return dataclasses.replace(prepared, y_test=y_test)

    kept = {}
    original = s0.train_and_test

    def spy(trial, labels, masks):
        kept.setdefault("labels", []).append(labels)
        kept.setdefault("masks", []).append(masks)
        return original(trial, labels, masks)

    monkeypatch.setattr(s0, "train_and_test", spy)
    s0.run_task(**TASK)
    monkeypatch.setattr(data, "prepare", scrambled)
    changed = pd.DataFrame(s0.run_task(**TASK))
    assert np.array_equal(*kept["labels"])
    assert np.array_equal(*kept["masks"])
    assert not rows.accuracy.equals(changed.accuracy)


def test_noise_kinds_share_their_rate_zero():
    p = smoke(datasets=["wine"], seeds=1, noise_rates=[0.0, 0.2], keep_fractions=[0.7], cnn_keep_fractions=[])
    ran = pd.concat([pd.DataFrame(s0.run_task(**task.parameters)) for task in s0.tasks(p)])
    whole = s0.complete(ran)
    for architecture, kind in (("softmax", "pair"), ("mlp", "pair"), ("mlp", "instance")):
        part = whole[(whole.architecture == architecture) & (whole.noise == kind) & (whole.rate == 0)]
        assert set(part.method) == set(protocol().methods["crossed"])
        symmetric = whole[(whole.architecture == architecture) & (whole.noise == "symmetric") & (whole.rate == 0)]
        assert set(part.macro_f1) <= set(symmetric.macro_f1)


def test_differences_are_paired_with_the_mean_of_the_random_subsets():
    rows = made_up()
    d = s0.differences(rows)
    f1 = rows[(rows.dataset == "set2") & (rows.seed == 1) & (rows.rate == 0.2)].groupby("method").macro_f1.mean()
    expected = f1.influence - f1.random
    got = d[(d.dataset == "set2") & (d.seed == 1) & (d.rate == 0.2)].d_random.item()
    assert got == pytest.approx(expected, abs=1e-12)
    assert d.d_full.add(-d.d_random).sub(d.random_full).abs().max() < 1e-12


def test_the_primary_table_is_what_scipy_says():
    rows = made_up()
    d = s0.differences(rows)
    table = s0.primary_table(d, s0.differences(rows, "accuracy"), root_seed=0)
    means = d[d.rate == 0.2].groupby("dataset").d_random.mean()
    expected = scipy_stats.t.interval(0.95, len(means) - 1, means.mean(), scipy_stats.sem(means))
    row = table[table["noise rate (%)"] == 20].iloc[0]
    assert [row.low, row.high] == pytest.approx(expected, abs=1e-12)
    assert row["p (Wilcoxon)"] == pytest.approx(scipy_stats.wilcoxon(means).pvalue)
    assert row["paper"] == "d > 0"
    assert row["p floor"] == 2 / 2**6


def test_the_crossover_is_the_first_zero_of_sklearns_isotonic_fit():
    d = s0.differences(made_up())
    found = compare.crossovers(d, "d_random", 0, s0.SETTING).iloc[0]
    means = d.groupby("rate").d_random.mean()
    fit = isotonic_regression(means.to_numpy())
    expected = np.interp(0, fit, means.index)
    assert found.crossover == pytest.approx(expected)
    assert found.low <= found.crossover <= found.high


def test_the_notebooks_cell_computes_the_primary_tables_d_and_interval(shown):
    rows = made_up()
    longer = rows[rows.method == "influence"].assign(reference_steps=800, macro_f1=0.0)
    elsewhere = rows.assign(architecture="softmax", macro_f1=0.0)
    rows = pd.concat([rows, longer, elsewhere, rows.assign(noise="pair", macro_f1=0.0)], ignore_index=True)
    names = shown("0_title_noise_threshold", "d-by-hand", rows=rows)
    table = s0.primary_table(s0.differences(rows), s0.differences(rows, "accuracy"), root_seed=0)
    by_hand = names["by_hand"]
    np.testing.assert_allclose(by_hand, table[["d (F1)", "low", "high"]], atol=1e-12)
    assert (100 * by_hand.index).tolist() == table[s0.RATE].tolist()


@pytest.mark.parametrize(("shift", "share"), [(0.2, "P(always better)"), (-0.2, "P(never better)")])
def test_a_difference_of_one_sign_crosses_at_no_rate(shift, share):
    d = s0.differences(made_up(effect=lambda rate: shift))
    crossover = compare.readable(compare.crossovers(d, "d_random", 0, s0.SETTING)).iloc[0]
    assert crossover[share] == 1
    assert crossover.crossover == ("< 0 %" if shift > 0 else "> 40 %")


def test_crossovers_at_no_rate_are_drawn_beyond_the_rates():
    crossovers = compare.crossovers(s0.differences(made_up(effect=lambda rate: -0.2)), "d_random", 0, s0.SETTING)
    drawn = plots.crossings(crossovers)
    figure = plots.intervals(drawn, "crossover", "architecture", title="", xlabel="")
    plots.name_ends(figure.axes[0].xaxis, crossovers)
    ticks = dict(zip(figure.axes[0].get_xticks(), figure.axes[0].get_xticklabels(), strict=True))
    assert ticks[drawn.crossover.item()].get_text() == "never"
    assert next(iter(ticks.values())).get_text() == "always"


def test_against_full_is_each_pruned_model_less_the_one_that_keeps_everything():
    rows = made_up()
    f1 = rows.groupby(["dataset", "rate", "method"]).macro_f1.mean().unstack().groupby("rate").mean()
    table = s0.against_full(s0.differences(rows)).pivot(index=s0.RATE, columns="pruned by", values="d (F1)")
    np.testing.assert_allclose(table.influence, f1.influence - f1.full)
    np.testing.assert_allclose(table.random, f1.random - f1.full)


def test_the_titles_statements_stand_on_the_limits_hardest_on_them():
    d = s0.differences(made_up(sets=15))
    primary = s0.primary_table(d, d, 0)
    crossover = compare.crossovers(s0.at_primary(d), "d_random", 0, s0.SETTING).iloc[0]
    threshold, only = s0.verdicts(primary, crossover)
    assert (threshold.measured, threshold.n) == (100 * crossover.crossover, 15)
    assert threshold.verdict == s0.title_verdict(primary, crossover).measured().verdict
    early = primary[primary[s0.RATE] <= 10]
    assert (only.measured, only.low, only.high) == (early["d (F1)"].max(), early.low.max(), early.high.max())
    assert all(rows["rate"] == [0.0, 0.1] for rows in only.raw)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"noise_kinds": ["pair"]}, "symmetric"),
        ({"architectures": ["softmax"]}, "mlp"),
        ({"keep_fractions": [0.5]}, "0.7"),
        ({"datasets": ["wnie"]}, "did you mean 'wine'"),
        ({"noise_rates": [0.1]}, "noise_rates"),
    ],
)
def test_parameters_that_leave_the_primary_cell_out_or_make_no_sense_are_refused(given, named):
    with pytest.raises(UserError, match=named):
        smoke(**given)


def test_the_quick_grid_is_the_promised_one():
    p = resolve(s0.Parameters, {"profile": "quick"}, "test")
    domains = {data.REGISTRY[name].domain for name in p.datasets}
    assert len(p.datasets) >= 15
    assert len(domains) == 5
    assert (p.seeds, len(p.noise_rates), len(p.keep_fractions)) == (5, 9, 6)
    grid = [task.parameters for task in s0.tasks(p)]
    for architecture in ("softmax", "mlp"):
        for kind in ("symmetric", "pair"):
            crossed = [c for c in grid if (c["architecture"], c["noise_kind"]) == (architecture, kind)]
            assert len(crossed) == len(p.datasets) * p.seeds
            assert all(len(c["rates"]) >= 8 and len(c["keep_fractions"]) == 6 for c in crossed)
    cnn = [c for c in grid if c["architecture"] == "cnn"]
    assert {tuple(c["rates"]) for c in cnn} == {(0.0, 0.1, 0.15, 0.2, 0.3)}
    assert {tuple(c["keep_fractions"]) for c in cnn} == {(0.3, 0.5, 0.7)}


def test_the_data_of_human_noise_is_fetched_with_the_others():
    p = resolve(s0.Parameters, {"profile": "quick"}, "test")
    assert {task.parameters["dataset"] for task in s0.tasks(p)} == set(p.needs)


NAMES = [pytest.param(n, marks=() if n in data.EMBEDDED else pytest.mark.network) for n in data.REGISTRY]


@pytest.mark.parametrize("name", NAMES)
def test_the_realised_noise_is_exact_on_every_data_set_at_every_rate(name):
    fetched(name)
    caps = protocol().profiles["quick"]["caps"]
    p = data.prepare(name, 0, 2024, caps, "fast")
    for rate in protocol().noise["rates"]:
        for kind in noise.KINDS:
            rng = seeds.generator(0, name, kind, rate)
            observed = noise.corrupt(p.y_train, kind, rate, p.n_classes, rng, p.x_train)
            if kind == "instance":
                assert abs(noise.realised_rate(p.y_train, observed) - rate) <= 0.005
                continue
            for c in range(p.n_classes):
                mine = p.y_train == c
                assert (observed[mine] != c).sum() == round(rate * mine.sum()), (kind, rate, c)
