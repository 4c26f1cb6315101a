"""Version 1 of the title's tasks and tables: paired, reproducible, blind to the test labels, what scipy says."""

import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fetched import fetched
from scipy import stats as scipy_stats
from sklearn.isotonic import isotonic_regression

from datalab import data, noise, seeds, stats
from datalab.errors import UserError
from datalab.protocol import protocol
from datalab.record.parameters import resolve
from datalab.sections import compare, plots
from datalab.sections import s0_title_noise_threshold as s0
from datalab.sections.trials import version_1

NOTEBOOKS = Path(__file__).parents[3] / "notebooks"
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
}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return pd.DataFrame(version_1.run_task(**TASK))


def smoke(**given) -> s0.Parameters:
    return resolve(s0.Parameters, {"profile": "smoke", **given}, "test")


def made_up(sets=6, seeds_=3, rates=(0.0, 0.1, 0.2, 0.4), effect=lambda rate: rate - 0.15) -> pd.DataFrame:
    """Rows of an imaginary study whose influence beats random by ``effect(rate)`` plus a data set's own shift."""
    rng = np.random.default_rng(1)
    shift = rng.normal(0, 0.03, sets)
    rows = []
    for s, seed, rate in itertools.product(range(sets), range(seeds_), rates):
        base = version_1.PRIMARY | {"dataset": f"set{s}", "seed": seed, "rate": rate, "realised_rate": rate, "draw": 0}
        base |= {"accuracy": 0.8, "flipped_kept": rate / 2}
        random = 0.7 + rng.normal(0, 0.02, 3)
        rows += [base | {"method": "random", "draw": draw, "macro_f1": f1} for draw, f1 in enumerate(random)]
        rows.append(base | version_1.TITLES | {"macro_f1": random.mean() + effect(rate) + shift[s]})
        rows.append(base | {"method": "full", "keep_fraction": 1.0, "macro_f1": 0.71})
    return pd.DataFrame(rows)


def test_a_task_gives_the_same_rows_twice_and_others_for_another_seed(rows):
    again = pd.DataFrame(version_1.run_task(**TASK))
    pd.testing.assert_frame_equal(rows, again)
    other = pd.DataFrame(version_1.run_task(**{**TASK, "seed": 1}))
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
    original = version_1.train_and_test

    def spy(trial, labels, masks):
        kept.setdefault("labels", []).append(labels)
        kept.setdefault("masks", []).append(masks)
        return original(trial, labels, masks)

    monkeypatch.setattr(version_1, "train_and_test", spy)
    version_1.run_task(**TASK)
    monkeypatch.setattr(data, "prepare", scrambled)
    changed = pd.DataFrame(version_1.run_task(**TASK))
    assert np.array_equal(*kept["labels"])
    assert np.array_equal(*kept["masks"])
    assert not rows.accuracy.equals(changed.accuracy)


def test_noise_kinds_share_their_rate_zero():
    p = smoke(datasets=["wine"], seeds=1, noise_rates=[0.0, 0.2], keep_fractions=[0.7], cnn_keep_fractions=[])
    ran = pd.concat([pd.DataFrame(version_1.run_task(**task.parameters)) for task in version_1.tasks(p)])
    whole = version_1.complete(ran)
    for architecture, kind in (("softmax", "pair"), ("mlp", "pair"), ("mlp", "instance")):
        part = whole[(whole.architecture == architecture) & (whole.noise == kind) & (whole.rate == 0)]
        assert set(part.method) == set(protocol().methods["crossed"])
        symmetric = whole[(whole.architecture == architecture) & (whole.noise == "symmetric") & (whole.rate == 0)]
        assert set(part.macro_f1) <= set(symmetric.macro_f1)


def test_differences_are_paired_with_the_mean_of_the_random_subsets():
    rows = made_up()
    d = version_1.differences(rows)
    f1 = rows[(rows.dataset == "set2") & (rows.seed == 1) & (rows.rate == 0.2)].groupby("method").macro_f1.mean()
    got = d[(d.dataset == "set2") & (d.seed == 1) & (d.rate == 0.2)]
    assert got.d_random.item() == pytest.approx(f1.influence - f1.random, abs=1e-12)
    assert got.d_full.item() == pytest.approx(f1.influence - f1.full, abs=1e-12)


def test_the_primary_table_is_what_scipy_says():
    rows = made_up()
    d = version_1.differences(rows)
    table = version_1.primary_table(d, version_1.differences(rows, "accuracy"), root_seed=0)
    means = d[d.rate == 0.2].groupby("dataset").d_random.mean()
    expected = scipy_stats.t.interval(0.95, len(means) - 1, means.mean(), scipy_stats.sem(means))
    row = table[table["noise rate (%)"] == 20].iloc[0]
    assert [row.low, row.high] == pytest.approx(expected, abs=1e-12)
    assert row["p (Wilcoxon)"] == pytest.approx(scipy_stats.wilcoxon(means).pvalue)
    assert row["paper"] == "d > 0"
    assert row["p floor"] == 2 / 2**6


def test_the_crossover_is_the_first_zero_of_sklearns_isotonic_fit():
    d = version_1.differences(made_up())
    found = compare.crossovers(d, "d_random", 0, version_1.SETTING).iloc[0]
    means = d.groupby("rate").d_random.mean()
    fit = isotonic_regression(means.to_numpy())
    expected = np.interp(0, fit, means.index)
    assert found.crossover == pytest.approx(expected)
    assert found.low <= found.crossover <= found.high


@pytest.mark.parametrize(("shift", "share"), [(0.2, "P(always better)"), (-0.2, "P(never better)")])
def test_a_difference_of_one_sign_crosses_at_no_rate(shift, share):
    d = version_1.differences(made_up(effect=lambda rate: shift))
    crossover = compare.readable(compare.crossovers(d, "d_random", 0, version_1.SETTING)).iloc[0]
    assert crossover[share] == 1
    assert crossover.crossover == ("< 0 %" if shift > 0 else "> 40 %")


def test_crossovers_at_no_rate_are_drawn_beyond_the_rates():
    crossovers = compare.crossovers(
        version_1.differences(made_up(effect=lambda rate: -0.2)), "d_random", 0, version_1.SETTING
    )
    drawn = plots.crossings(crossovers)
    figure = plots.intervals(drawn, "crossover", "architecture", title="", xlabel="")
    plots.name_ends(figure.axes[0].xaxis, crossovers)
    ticks = dict(zip(figure.axes[0].get_xticks(), figure.axes[0].get_xticklabels(), strict=True))
    assert ticks[drawn.crossover.item()].get_text().strip() == "never"
    assert next(iter(ticks.values())).get_text().strip() == "always"


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


@pytest.fixture
def from_everything(shown):
    """What the notebook's first cell on version 1 makes of all rows of the sweep."""

    def read(everything: pd.DataFrame) -> SimpleNamespace:
        section = SimpleNamespace(table=lambda *frame, **how: None)
        return SimpleNamespace(
            **shown("0_title_noise_threshold", "cell-29", everything=everything, root=0, section=section)
        )

    return read


def test_references_of_another_length_do_not_enter_the_flipped_labels_that_a_rival_keeps(from_everything):
    """Before, arms ranked after 40 and 800 steps stood among those of 200: 3.09 % for the 2.29 that influence kept."""
    own = made_up().assign(flipped_kept=0.05, steps=np.nan)
    own = pd.concat([own, own[own.method == "influence"].assign(method="keep_hardest", flipped_kept=0.2)])
    other = [own.assign(flipped_kept=0.9, reference_steps=length, steps=200) for length in (40, 800)]
    table = version_1.rivals(from_everything(pd.concat([own, *other], ignore_index=True)).d1)
    kept = table.groupby("method")["flipped among kept (%)"].unique().map(list).to_dict()
    assert kept == {"influence": [pytest.approx(5)], "keep_hardest": [pytest.approx(20)]}


def test_a_task_of_version_1_ranks_by_references_of_the_recipes_length_alone(rows):
    """Of one rate, method, keep fraction and draw there is one model, whatever length its references might have."""
    assert not rows.duplicated(["rate", "method", "keep_fraction", "draw"]).any()
    named = {name for task in version_1.tasks(smoke()) for name in task.parameters}
    assert {name for name in named if "reference" in name or "steps" in name or "length" in name} == set()


@pytest.mark.parametrize("profile", ["quick", "study"])
def test_a_crossover_of_version_1_is_read_at_all_of_the_profiles_rates_in_f1_and_accuracy(
    profile, from_everything, shown, monkeypatch
):
    """Before, a table of sensitivity had the crossover in accuracy at five of nine rates."""
    rates, read = list(protocol().profiles[profile]["noise_rates"]), []
    p = resolve(s0.Parameters, {"profile": profile}, "test")
    crossed = [t.parameters for t in version_1.tasks(p) if t.parameters["architecture"] != "cnn"]
    for given in crossed:
        if given["noise_kind"] != "instance":  # beside the CNN the one that runs at the arms' rates alone
            flipped = [rate for rate in rates if rate > 0]
            assert given["rates"] == (rates if given["noise_kind"] == "symmetric" else flipped)

    bootstrap = stats.crossover_bootstrap
    monkeypatch.setattr(stats, "crossover_bootstrap", lambda y, at, rng: read.append(list(at)) or bootstrap(y, at, rng))
    first = from_everything(made_up(sets=3, seeds_=1, rates=rates).assign(steps=np.nan))
    section = SimpleNamespace(table=lambda *frame, **how: None)
    names = {"d1": first.d1, "table": first.table, "root": 0, "section": section}
    for cell in ("cell-30", "cell-31"):
        shown("0_title_noise_threshold", cell, **names)
    assert read == [rates, rates]
    assert list(first.table["noise rate (%)"]) == [100 * rate for rate in rates]
    assert first.table["d (accuracy)"].notna().all()
    assert list(first.d1_accuracy.rate.unique()) == rates


def test_a_rivals_flipped_labels_are_those_it_keeps_in_the_primary_cell():
    """Before, they were the mean over all settings."""
    own = made_up().assign(flipped_kept=0.05)
    rival = own[own.method == "influence"].assign(method="keep_hardest", flipped_kept=0.2)
    elsewhere = pd.concat([own, rival]).assign(flipped_kept=0.9, noise="pair")
    longer = rival.assign(flipped_kept=0.9, keep_fraction=0.5)
    random = own[own.method == "random"].assign(keep_fraction=0.5)
    table = version_1.rivals(version_1.differences(pd.concat([own, rival, elsewhere, longer, random])))
    kept = table.groupby("method")["flipped among kept (%)"].unique().map(list).to_dict()
    assert kept == {"influence": [pytest.approx(5)], "keep_hardest": [pytest.approx(20)]}


@pytest.mark.parametrize(
    ("sets", "rows_", "floor"), [(15, 236, 236 * 2 / 2**15), (6, 40, 1.0), (20, 10, 10 * 2 / 2**20)]
)
def test_a_table_of_many_tests_says_the_smallest_adjusted_p_it_can_print(sets, rows_, floor):
    """Before, "beats random in 0 of 236" stood without it: with 15 sets no adjusted p could be below .0144."""
    frame = pd.DataFrame({"sets": np.full(rows_, sets)})
    assert version_1.holm_floor(frame) == pytest.approx(floor)


def test_no_adjusted_p_of_every_cell_is_below_its_floor():
    d = version_1.differences(made_up(effect=lambda rate: rate + 0.2))  # as clear as can be
    table = version_1.every_cell(d, root_seed=0)
    assert table["p (Holm)"].min() == pytest.approx(version_1.holm_floor(table))


def test_copies_of_the_rate_0_are_no_trained_models():
    """Before, 83,080 "trained models" were 78,730 and copies of rows at 0 % under the other kinds of noise."""
    ran = made_up()
    pair = ran[ran.rate > 0].assign(noise="pair")
    whole = version_1.complete(pd.concat([ran, pair]))
    assert len(whole) == len(ran) + len(pair) + (ran.rate == 0).sum()
    notebook = json.loads((NOTEBOOKS / "0_title_noise_threshold.ipynb").read_text(encoding="utf-8"))
    sources = ("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    (counted,) = (source for source in sources if "trained models on" in source)
    count = next(line for line in counted.splitlines() if "trained models on" in line)
    assert "len(everything)" in count  # what the sweep gave
    assert "complete(" not in counted
