"""The title's tables under version 2: what scipy says they are, and sentences that follow them."""

import re
import types

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from datalab import data, ledger, stats
from datalab.sections import compare, readings
from datalab.sections import s0_title_noise_threshold as s0
from datalab.sections.trials import longer_training, once_more, training_length

SETS = {"optdigits": 0.0, "penbased": 0.01, "mnist5k": -0.01, "adult": 0.02, "splice": 0.0, "credit": -0.02}
RATES = (0.0, 0.1, 0.2, 0.4)


@pytest.fixture
def rows() -> pd.DataFrame:
    """Rows of three balanced and three skewed sets: influence beats random by rate - 0.15, and each set's own shift."""
    made = []
    for (name, shift), seed, rate in ((s, i, r) for s in SETS.items() for i in range(2) for r in RATES):
        base = {"dataset": name, "noise": "symmetric", "seed": seed, "rate": rate, "realised_rate": rate, "draw": 0}
        base["train_cap"] = 1000
        base |= {"quota": "", "keep_fraction": 1.0, "reference_steps": 0, "reference_chosen": False}
        base |= {"dropped_largest": 0.3, "dropped_rest": 0.3, "largest_predicted": 0.4, "macro_precision": 0.7}
        base |= {"validation_accuracy": 0.5, "macro_f1_tau0.5": 0.7, "balanced_accuracy": 0.6}
        for steps in (100, 1000):
            at = base | {"steps": steps, "validation_f1": 0.5 + (steps == 100) / 10, "accuracy": 0.6, "macro_f1": 0.6}
            made.append(at | {"method": "full"})
            for quota in ("per_class", "global"):
                pruned = at | {"quota": quota, "keep_fraction": 0.7}
                made += [pruned | {"method": "random", "draw": draw} for draw in range(2)]
                gain = 0.6 + rate - 0.15 + shift + (steps == 1000)  # the longer training is not chosen
                own = pruned | {"method": "influence", "macro_f1": gain, "accuracy": gain - 0.05}
                made += [own | {"reference_steps": n, "reference_chosen": n == 100} for n in (100, 1000)]
    return pd.DataFrame(made)


def test_the_primary_table_is_what_scipy_says(rows):
    d = readings.read_by(readings.early_stopped(rows))
    table = readings.primary_table(d)
    at = table[(table.stratum == "balanced") & (table.reading == "F1, quota") & (table[readings.RATE] == 20)].iloc[0]
    means = np.array([0.05, 0.06, 0.04])
    interval = scipy_stats.t.interval(0.95, 2, means.mean(), scipy_stats.sem(means))
    assert [at.d, at.low, at.high] == pytest.approx([0.05, *interval])
    assert at.p == pytest.approx(scipy_stats.ttest_1samp(means, 0).pvalue)
    assert at.sets == 3


def test_the_notebooks_cell_computes_the_primary_tables_d_and_interval(rows, shown):
    names = shown("0_title_noise_threshold", "d-by-hand", synthetic=rows)
    table = readings.primary_table(readings.read_by(readings.early_stopped(rows)))
    own = table[(table.stratum == "balanced") & (table.reading == "F1, quota")]
    np.testing.assert_allclose(names["by_hand"], own[["d", "low", "high"]], atol=1e-12)


def test_strata_are_never_pooled_in_silence(rows):
    crossover = s0.crossovers(readings.read_by(readings.early_stopped(rows)), 0)
    crossover = crossover.set_index(["stratum", "data sets", "reading"]).sort_index()
    assert crossover.crossover["balanced", "all", "F1, quota"] == pytest.approx(0.15)
    assert crossover.crossover["balanced", "all", "accuracy, no quota"] == pytest.approx(0.20)
    assert set(crossover.loc[("all", "all"), "sets"]) == {6}
    assert set(crossover.loc[("balanced", "all"), "sets"]) == {3}


def test_a_crossover_that_hangs_on_one_set_names_it(rows):
    d = readings.read_by(readings.early_stopped(rows))
    d.loc[d.dataset == "mnist5k", "d"] -= 0.3  # this one alone pays late
    table = compare.without_one(d, ["stratum", "reading"])
    own = table[(table.stratum == "balanced") & (table.reading == "F1, quota")].iloc[0]
    assert own["left out"] == "a data set"
    assert own.least == pytest.approx(0.145)  # of the other two, the mean of .15 and .14
    assert own["least, without"] == "mnist5k"
    assert own["most, without"] != "mnist5k"
    assert own.sets == 3
    said = readings.without_one_reading(table)
    assert "On balanced sets without a data set, whichever it is, the crossover lies between 14.5 % and" in said
    assert set(compare.without_one(d[d.dataset != "mnist5k"], ["stratum", "reading"]).stratum) == {"skewed"}
    assert set(table["left out"]) == {"a data set"}  # without its two pictures a stratum here has one set
    pooled = compare.without_one(d.assign(stratum="all"), ["stratum", "reading"]).set_index(["left out", "reading"])
    own, late = pooled.loc[("all sets of a domain", "F1, quota")], ["optdigits", "mnist5k"]
    assert own["least, without"] == "image"
    assert own.least == pytest.approx(compare.crossovers(d[~d.dataset.isin(late)], "d", 0, ["reading"]).crossover[0])
    assert "- On all sets without all sets of a domain, whichever it is," in readings.without_one_reading(
        pooled.reset_index()
    )
    assert readings.without_one_reading(compare.without_one(d[:0], ["stratum"])) == "Too few sets to leave one out."


def test_the_readings_are_compared_on_the_same_data_sets_and_no_limit_leaves_the_rates(rows):
    apart = s0.readings_apart(readings.read_by(readings.early_stopped(rows)))
    own = apart[
        (apart.stratum == "balanced") & (apart["of"] == "F1, quota") & (apart["from"] == "accuracy, quota")
    ].iloc[0]
    assert own.difference == pytest.approx(-5)
    assert -40 <= own["low (all)"] <= own.low < -5 < own.high <= own["high (all)"] <= 40
    assert own.sets == 3


def test_every_length_of_training_and_of_references_has_its_crossover(rows):
    table = (
        longer_training.by_length(rows, 0)
        .set_index(["stratum", "reading", "reference", "trained"])
        .crossover.sort_index()
    )
    at = table["balanced", "F1, quota"]
    assert set(at.index) == {(r, t) for r in ("stopped early", "100 steps", "1000 steps")
                             for t in ("stopped early", "100", "1000")}  # fmt: skip
    assert at["stopped early", "stopped early"] == pytest.approx(0.15)
    assert at["stopped early", "1000"] == -np.inf


def test_power_is_that_of_a_one_sample_t_test(rows):
    rng = np.random.default_rng(0)
    d = readings.read_by(readings.early_stopped(rows))
    d["d"] += rng.normal(0, 0.02, len(d))
    row = s0.power(d).iloc[0]
    effect, n = 0.01 / row["SD between sets"], int(row["sets needed at .05"])

    def power_of(n: int) -> float:
        critical = scipy_stats.t.ppf(0.975, n - 1)
        return 1 - scipy_stats.nct.cdf(critical, n - 1, effect * np.sqrt(n))

    assert power_of(n) >= 0.8 > power_of(n - 1)


def test_the_sentences_follow_the_tables(rows):
    stopped = readings.early_stopped(rows)
    d = readings.read_by(stopped)
    crossover, full = s0.crossovers(d, 0), readings.full_by_reading(d)
    by_size = once_more.by_size(once_more.sized(stopped, rows.assign(train_cap=5000)), 0)
    beside = readings.full_crossover(d, 0)
    named = s0.answer(crossover, pd.DataFrame(), by_size, full, beside)
    lines = list(named.values())
    assert [name for name in s0.BRIEF if name in named] == ["balanced", "balanced, against all"]
    assert "On 3 balanced data sets" in lines[0]
    assert "from 15.0 % to 20.0 % wrong labels on" in lines[0]
    assert "On 3 skewed data sets" in lines[1]
    assert lines[2].startswith("On 3 balanced data sets the same crossover: from 15.0 % to 20.0 % with up to 1,000")
    one = s0.answer(crossover, pd.DataFrame(), by_size.drop_duplicates(["stratum", "trained on"]), full, beside)
    assert re.match(r"On 3 balanced .* crossover: from [\d.]+ % with up to 1,000", one["balanced, size"])
    assert lines[4] == named["balanced, against all"]
    assert lines[4].startswith("Against keeping everything ")
    assert "on 3 balanced sets, ahead at 20 %, 40 % (F1, quota); " in lines[4]  # each score by its name
    assert "behind at 0 %, 10 % (F1, quota); 0 %, 10 % (accuracy, quota)" in lines[4]
    assert "best mean is 25.0 [22.5, 27.5] points, F1, quota, at 40 %" in lines[4]
    assert re.search(
        r"ahead of keeping everything from \d.* limits of the 4 scores: .*, asked for after the results", lines[4]
    )
    assert len(s0.answer(crossover, pd.DataFrame(), pd.DataFrame(), full, beside)) == len(lines) - 2
    title = s0.crossover_title(crossover)
    assert title.endswith("balanced sets 15.0 % to 20.0 %; skewed sets 15.0 % to 20.0 %")


def test_the_first_table_says_in_points_what_dropping_is_worth(rows):
    stopped = readings.early_stopped(rows)
    primary, full = readings.primary_table(readings.read_by(stopped)), readings.against_full_table(stopped)
    caption, table = readings.in_points(primary, full, "balanced")
    assert caption.startswith("On 3 balanced data sets, all models stopped early: what dropping 30 % ")
    at = full[(full.stratum == "balanced") & (full.arm == "random, quota")].set_index(readings.RATE).loc[40]
    wanted = f"{100 * at.d:+.1f} [{100 * at.low:.1f}, {100 * at.high:.1f}]"
    assert table.set_index("wrong labels").loc["40 %", "random less everything"] == wanted
    known = primary[(primary.stratum == "balanced") & (primary.reading == "F1, quota")]
    assert [float(text.split()[0]) for text in table["influence less random"]] == [*(100 * known.d).round(1)]
    caption, none = readings.in_points(primary, full, "no such stratum")
    assert none.empty
    assert caption.startswith("On 0 ")


@pytest.mark.parametrize(
    ("shift", "words", "last"),
    [
        (0.0, "at random from 15.0 % to 20.0 % wrong labels on, depending on which of four scores", "22.5 %)."),
        (-0.22, "at random from 37.0 % to above 40 % wrong labels on, depending on", "Above 40 %: at no rate studied."),
        (1.0, "at random from below 0 % wrong labels on, whichever of four scores", "with clean labels already."),
        (-1.0, "at random at no rate studied, whichever of four scores", "above 40 %)."),
    ],
)
def test_no_win_is_claimed_at_rates_that_were_not_run(rows, shift, words, last):
    rows["macro_f1"] += shift * (rows.method == "influence")
    rows["accuracy"] += shift * (rows.method == "influence")
    stopped = readings.early_stopped(rows)
    d = readings.read_by(stopped)
    crossover, parts = s0.crossovers(d, 0), s0.parts(d, readings.clean_f1(stopped), 0)
    by_size = once_more.by_size(once_more.sized(stopped, rows.assign(train_cap=5000)), 0)
    named = s0.answer(crossover, parts, by_size, readings.full_by_reading(d), readings.full_crossover(d, 0))
    assert words in named["balanced"]
    assert named["balanced"].endswith(last)
    if shift < -0.5:
        assert "same crossover: at no rate studied with up to 1,000 training examples" in named["balanced, size"]
        assert "at no rate studied (limits " in named["kinds"]
        assert s0.crossover_title(crossover).endswith(
            "balanced sets at no rate studied; skewed sets at no rate studied"
        )


def test_the_last_sentence_has_both_verdicts_on_the_title(rows):
    d = readings.read_by(readings.early_stopped(rows))
    crossover = s0.crossovers(d, 0)
    rule, statements = s0.title_verdict(d, crossover), s0.verdicts(d, crossover)
    text = s0.both_verdicts(rule, rule, statements)
    low = compare.by_set(d[(d.stratum == "balanced") & (d.reading == "F1, quota") & (d.rate < 0.16)], "d")
    ends = scipy_stats.t.interval(0.95, 2, low.mean(), scipy_stats.sem(low))
    assert text.startswith(f"The title is {rule.verdict} by version 2's rule")
    assert f"is {statements[1].verdict}: up to there" in text
    assert "{:.2f} [{:.2f}, {:.2f}] points".format(*(100 * x for x in (low.mean(), *ends))) in text


def test_the_verdict_on_only_says_what_it_is_read_on_and_what_15_percent_itself_says(rows):
    rows["rate"] = rows.rate.replace(0.1, 0.15)
    d = readings.read_by(readings.early_stopped(rows))
    threshold, only = s0.verdicts(d, s0.crossovers(d, 0))
    at = compare.by_set(d[(d.stratum == "balanced") & (d.reading == "F1, quota") & (d.rate == 0.15)], "d")
    low, high = scipy_stats.t.interval(0.95, 2, at.mean(), scipy_stats.sem(at))
    assert f"at 15 % itself {at.mean():+.4f} [{low:.4f}, {high:.4f}]" in only.why
    assert "moved out where differences are skewed" in only.why
    assert "mean of D" in ledger.find(only.id).run
    assert threshold.excluded in ("yes", "no")  # an open interval is one


TWO_CLASSES, MORE = (
    {"wells": 0.0, "grants": 0.03, "hedges": 0.01},
    {"leaves": -0.2, "languages": -0.17, "texture": -0.25},
)
CLEAN = pd.Series({"wells": 0.9, "grants": 0.6, "hedges": 0.7, "leaves": 0.95, "languages": 0.5, "texture": 0.99})


@pytest.fixture
def by_classes(rows) -> pd.DataFrame:
    """Differences on three balanced sets of two classes and three of more, each shifted by its own amount."""
    own = readings.read_by(readings.early_stopped(rows[rows.dataset == "optdigits"]))
    parts = [own.assign(dataset=name, d=own.d + shift) for name, shift in (TWO_CLASSES | MORE).items()]
    return readings.with_strata(pd.concat(parts))


def test_the_balanced_sets_are_told_apart_by_their_classes_and_the_late_ones_left_out(by_classes):
    parts = s0.parts(by_classes, CLEAN, 0).set_index(["part", "reading"])
    low, reading = "d at 0 %", "F1, quota"
    means = parts[low].xs(reading, level="reading")
    a, b = (np.array(list(shifts.values())) - 0.15 for shifts in (TWO_CLASSES, MORE))
    assert means[s0.TWO] == pytest.approx(a.mean())
    assert means[s0.MORE] == pytest.approx(b.mean())
    assert means[s0.EASY] == pytest.approx(np.mean([0.0, -0.2, -0.25]) - 0.15)  # wells, leaves and texture
    assert means[s0.HARD] == pytest.approx(np.mean([0.03, 0.01, -0.17]) - 0.15)
    assert means[s0.BOTH] == pytest.approx(np.mean([-0.2, -0.25]) - 0.15)  # leaves and texture
    assert means[s0.OTHERS] == pytest.approx(np.mean([0.0, 0.03, 0.01, -0.17]) - 0.15)
    welch = scipy_stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    split = parts.loc[s0.SPLIT, reading]
    assert [split[low], split[f"{low} low"], split[f"{low} high"]] == pytest.approx([a.mean() - b.mean(), *welch])
    assert np.isnan(split.crossover)
    assert parts.crossover[s0.TWO, reading] < 0.15 < parts.crossover[s0.MORE, reading]
    assert parts.sets["untouched", reading] == 5  # texture was looked at
    assert parts.sets["untouched, less late", reading] == 4  # languages was added late
    own = by_classes[by_classes.dataset.isin(MORE)]
    wide = {name: part.pivot_table("d", "dataset", "rate") for name, part in own.groupby("reading", sort=False)}
    rule = ledger.title_verdict_2(RATES, wide, dict.fromkeys(wide, (0.1, 0.2)))
    printed = {c.text.partition(":")[0]: c.p for c in rule.conditions if c.role == "refutes"}
    assert parts.loc[s0.MORE, "p (Holm)"].to_dict() == printed


def test_what_is_said_of_the_parts_follows_them(by_classes):
    text = s0.parts_reading(s0.parts(by_classes, CLEAN, 0))
    assert "on the 3 with two classes from" in text
    assert f"on the 3 with {s0.EASY} from" in text
    assert f"on the 4 with {s0.OTHERS} from" in text
    assert "alike: **failed**" in text
    assert f"{s0.TWO} (3 sets) inconclusive" in text  # fewer than the rule asks for
    same = by_classes.assign(
        d=by_classes.rate - 0.15 + by_classes.dataset.map({"wells": 0.01, "leaves": 0.01}).fillna(0)
    )
    assert "alike: **open**" in s0.parts_reading(s0.parts(same, CLEAN, 0))
    assert "Too few" in s0.parts_reading(s0.parts(by_classes[by_classes.dataset.isin(MORE)], CLEAN, 0))


def test_the_late_sets_are_counted_ones_that_no_run_had_touched():
    assert set(data.COUNTED) >= readings.LATE
    assert not any(data.REGISTRY[name].looked_at for name in readings.LATE)
    assert [data.stratum(name) for name in readings.LATE].count("balanced") == 6
    assert len(readings.LATE) == 11


def test_a_longer_training_is_compared_with_the_shortest_data_set_by_data_set(rows):
    shift = rows.dataset.map({name: i / 100 for i, name in enumerate(SETS)})
    long = (rows.method == "influence") & (rows.steps == 1000)
    rows["macro_f1"] += np.where(long, shift - 1.0, 0.0)  # 1000 steps: the fixture's whole point is taken off again
    table = longer_training.by_length(rows, 0).set_index(["stratum", "reading", "reference", "trained"])
    at = table.sort_index().loc["balanced", "F1, quota", "100 steps"]
    expected = np.array([0.0, 0.01, 0.02])
    interval = scipy_stats.t.interval(0.95, 2, expected.mean(), scipy_stats.sem(expected))
    names = [longer_training.LONGER, f"{longer_training.LONGER} low", f"{longer_training.LONGER} high"]
    assert at.loc["1000", names].tolist() == pytest.approx([0.01, *interval])
    assert at.loc["100", names].isna().all()
    assert at.loc["100", "d at 0 %"] == pytest.approx(-0.15)
    text = longer_training.length_reading(table.reset_index())
    assert "On balanced sets longer training makes pruning pay: **open**" in text
    assert "On skewed sets longer training makes pruning pay: **held**" in text  # 3, 4 and 5 points
    assert "no label is flipped: **open** (d at 0 %, 1000 steps, -14.0, interval above 0 in 0" in text
    table["d at 0 % low"] += 0.2
    assert "no label is flipped: **failed**" in longer_training.length_reading(table.reset_index())


def test_the_crossover_by_the_length_of_the_models_that_rank_is_in_the_title_and_the_sentence(rows):
    table = longer_training.by_length(rows, 0)
    stopped = table[(table.trained == "stopped early") & (table.stratum == "balanced")]
    least = {name: 100 * part.crossover.min() for name, part in stopped.groupby("reference")}
    assert set(least) == {"100 steps", "1000 steps", "stopped early"}
    title = longer_training.length_title(table)
    assert title.startswith("Crossover on balanced sets, trained models stopped early: ")
    assert f"{least['100 steps']:.1f} %" in title.split(", ")[1]
    assert "if ranked by models of 100 steps" in title
    assert title.endswith("if ranked by models stopped early")
    text = longer_training.length_reading(table)
    for name, at in least.items():
        assert re.search(rf"{name}, {at:.1f} %[^;]* \(limits ", text)


def test_more_examples_are_compared_with_fewer_data_set_by_data_set(rows):
    own = rows.method == "influence"
    shift = rows.dataset.map({"optdigits": -0.05, "penbased": -0.04, "mnist5k": -0.03}).fillna(0.0)
    more = rows.assign(train_cap=5000, macro_f1=rows.macro_f1 + np.where(own & (rows.rate == 0.1), shift, 0.0))
    table = once_more.larger_less_smaller(once_more.sized(readings.early_stopped(rows), more))
    at = table[(table.stratum == "balanced") & (table.reading == "F1, quota")].set_index(readings.RATE)
    interval = scipy_stats.t.interval(0.95, 2, -0.04, scipy_stats.sem([-0.05, -0.04, -0.03]))
    columns = ["difference", "difference low", "difference high"]
    assert at.loc[10, columns].tolist() == pytest.approx([-0.04, *interval])
    assert at.loc[20, columns].tolist() == pytest.approx([0, 0, 0], abs=1e-9)
    text = once_more.size_reading(table[table.stratum == "balanced"])
    assert "more examples change little: **failed**, 2 of 16 intervals exclude 0" in text
    assert once_more.size_reading(pd.DataFrame()).startswith("No set")


@pytest.mark.parametrize(("more", "n"), [(0, "0 data sets"), (5000, None)])
def test_an_empty_table_by_size_counts_no_data_sets(rows, more, n, shown, monkeypatch):
    saved, parameters = [], types.SimpleNamespace(length_seeds=2)
    section = types.SimpleNamespace(
        parameters=parameters,
        sweep=lambda tasks: rows.assign(train_cap=more) if more else pd.DataFrame(),
        table=lambda frame, *named, **stamp: saved.append((frame, stamp)),
    )
    monkeypatch.setattr(once_more, "larger_tasks", lambda p: [])
    shown("0_title_noise_threshold", "by-size", section=section, stopped=readings.early_stopped(rows), root=0)
    ((frame, stamp),) = saved
    assert (frame.empty, stamp) == (not more, {"n": n, "seeds": 2})


def test_shares_dropped_are_each_compared_with_random_of_their_own_size(rows):
    some, stopped = rows[(rows.steps == 100) & (rows.seed == 0) & (rows.rate < 0.4)], readings.early_stopped(rows)
    assert once_more.by_share(stopped, pd.DataFrame()).empty
    loss = {"50 %": -0.1, "10 %": 0.05, training_length.DOUBTED: 0.0}  # of influence
    made = [some[some.method == "full"].assign(share="")]
    for share, gain in loss.items():
        part = some[some.quota != ""].assign(share=share, keep_fraction=0.9)
        moved = np.where(part.method == "influence", gain, 0.02)
        made.append(part.assign(macro_f1=part.macro_f1 + moved, accuracy=part.accuracy + moved))
    d = once_more.by_share(stopped, pd.concat(made))
    assert list(d.dropped.unique()) == ["10 %", "30 %", "50 %", training_length.DOUBTED]
    own = readings.read_by(stopped[(stopped.seed == 0) & (stopped.rate < 0.4)])  # the title's, at what the others have
    pd.testing.assert_frame_equal(d[d.dropped == "30 %"][own.columns].reset_index(drop=True), own)

    at = compare.rows_of_kind(once_more.share_crossovers(d, 0), stratum="balanced", reading="F1, quota")
    # Of the mean rate - 0.15 + gain - 0.02 of random: at 0.12, 0.15, beyond the rates, and at 0.17.
    assert at.crossover.tolist() == pytest.approx([0.12, 0.15, np.inf, 0.17])
    assert at["d at 0 %"].tolist() == pytest.approx([-0.12, -0.15, -0.27, -0.17])
    apart = once_more.share_apart(d).set_index(["stratum", "reading"]).loc["balanced", "F1, quota"]
    assert (apart["of"], apart["from"]) == ("50 %", "10 %")
    assert apart[once_more.LATER] == pytest.approx(0.2 - 0.12), "beyond the rates counts as the last of them"
    clean = [apart[f"{once_more.CLEAN}{end}"] for end in ("", " low", " high")]
    assert clean == pytest.approx([-0.15] * 3), "paired by data set, whose own shifts cancel"

    full = once_more.share_against_full(d)
    assert not (full.stratum == "all").any()
    groups = d[d.stratum == "balanced"].groupby(["dropped", "reading", "rate"])
    gains = pd.DataFrame([part.groupby("dataset").d_full.mean() for _, part in groups])
    p = stats.holm(scipy_stats.ttest_1samp(gains, 0, axis=1).pvalue)  # over the shares, readings and rates of a stratum
    lowest = full[full.stratum == "balanced"][readings.LEAST].min()
    assert lowest == pytest.approx(p[gains.mean(axis=1) > 0].min(), rel=1e-6)
    text = once_more.share_reading(once_more.share_apart(d), full)
    assert "On balanced sets dropping 50 % pays later than dropping 10 %: **" in text
    assert "loses more where no label is wrong: **held**" in text
    none = once_more.share_reading(once_more.share_apart(d), full.assign(**{readings.LEAST: np.nan}))
    assert "after adjusting: **held** (no mean is a gain; best mean" in none
    assert once_more.share_reading(pd.DataFrame(), pd.DataFrame()).startswith("No other share")


def test_a_quotas_effect_is_read_against_random_pruning_with_the_same_quota(rows):
    skewed = {"adult": 0.01, "splice": 0.02, "credit": 0.03}
    own = rows.method == "influence"
    rows["macro_precision"] += np.where(own, rows.dataset.map(skewed).fillna(0) * np.where(rows.rate > 0, 1, -1), 0.0)
    table = readings.mechanism(readings.early_stopped(rows))
    at = table[table.pruned == "quota"].set_index(readings.RATE)
    interval = scipy_stats.t.interval(0.95, 2, 2, scipy_stats.sem([1, 2, 3]))
    assert at.loc[20, ["precision", "precision low", "precision high"]].tolist() == pytest.approx([2, *interval])
    assert at.loc[0, "precision"] == pytest.approx(-2)
    assert "precision falls: **open**" in readings.mechanism_reading(table)
    up = table.assign(**{"precision low": 0.1})
    assert "precision falls: **failed**" in readings.mechanism_reading(up)
    down = table.assign(**{"precision high": -0.1})
    assert "precision falls: **held**" in readings.mechanism_reading(down)
    balanced = rows[rows.dataset.map(data.stratum) == "balanced"]
    assert readings.mechanism_reading(readings.mechanism(readings.early_stopped(balanced))) == "No set is skewed here."


def test_gains_on_keeping_everything_are_adjusted_over_the_readings_and_rates_of_a_stratum(rows):
    d = readings.read_by(readings.early_stopped(rows))
    d["d_full"] += np.random.default_rng(0).normal(0, 0.02, len(d))
    table = readings.full_by_reading(d).set_index(["stratum", "reading"])
    own = d[d.stratum == "skewed"]
    means = own.groupby(["reading", "rate", "dataset"], sort=False).d_full.mean().unstack()
    p = scipy_stats.ttest_1samp(means, 0, axis=1).pvalue
    adjusted = pd.Series(stats.holm(p), means.index)[means.mean(axis=1) > 0]
    least = adjusted.groupby("reading").min()
    for reading in least.index:
        assert table[readings.LEAST]["skewed", reading] == pytest.approx(least[reading])
    assert set(table.index.get_level_values("stratum")) == {"balanced", "skewed", "all"}
    above = own[own.rate > 0.15].groupby(["reading", "dataset"], sort=False).d_full.mean().unstack()
    p = pd.Series(stats.holm(scipy_stats.ttest_1samp(above, 0, axis=1).pvalue), above.index)
    for reading in p.index:
        assert table[readings.ABOVE]["skewed", reading] == pytest.approx(above.loc[reading].mean())
        assert table[readings.ABOVE_P]["skewed", reading] == pytest.approx(p[reading])
    assert readings.full_by_reading(d[d.rate < 0.15])[readings.ABOVE].isna().all()  # of no such rate there is none


def test_where_pruning_catches_up_with_keeping_everything_is_read_set_by_set(rows):
    d = readings.read_by(readings.early_stopped(rows))
    d["d_full"] = d.rate - 0.1 + d.dataset.map({name: i / 1000 for i, name in enumerate(d.dataset.unique())})
    table = readings.full_crossover(d, 0).set_index(["stratum", "reading"])
    assert set(table.index.get_level_values("stratum")) == {"balanced", "skewed", "all"}
    for stratum in ("balanced", "skewed"):
        own = d[(d.stratum == stratum) & (d.reading == "F1, quota")]
        at = table.loc[stratum, "F1, quota"]
        by_set = own.groupby("dataset").apply(lambda p: p.d_full[p.rate <= 0.15].mean(), include_groups=False)
        above = own.groupby("dataset").apply(lambda p: p.d_full[p.rate > 0.15].mean(), include_groups=False)
        interval = scipy_stats.t.interval(0.95, len(by_set) - 1, by_set.mean(), scipy_stats.sem(by_set))
        names = [readings.UP_TO, f"{readings.UP_TO} low", f"{readings.UP_TO} high"]
        assert at[names].tolist() == pytest.approx([by_set.mean(), *interval])
        assert at[readings.RISE] == pytest.approx((above - by_set).mean())
        assert at.crossover == pytest.approx(0.1 - (own.d_full - own.rate + 0.1).mean(), abs=1e-6)
    assert readings.full_crossover(d[d.rate < 0.15], 0)[readings.RISE].isna().all()


def test_no_one_of_two_sets_is_said_to_move_their_mean_most():
    frame = pd.DataFrame({"dataset": ["a", "b", "c", "d", "e"], "reading": "F1, quota", "d at 0 %": [0.1, 0, 0, 1, 0]})
    frame["stratum"] = ["balanced"] * 3 + ["skewed"] * 2
    assert s0.goes_reading(pd.DataFrame(), frame).count("moves the mean most") == 1
    assert s0.goes_reading(pd.DataFrame(), frame[3:]).startswith("Too few sets")


def test_what_goes_with_the_crossover_is_spearmans_rho():
    names = list(data.COUNTED)[:8]
    frame = pd.DataFrame({"dataset": names, "reading": "F1, quota", "crossover": np.arange(8.0) / 10})
    frame["stratum"] = ["balanced"] * 6 + ["skewed"] * 2
    frame["balance"], frame["classes"], frame["clean F1"] = np.arange(8), [2, 1, 4, 3, 6, 5, 8, 7], -np.arange(8)
    frame["d at 0 %"] = np.random.default_rng(0).normal(size=8)
    whole = s0.goes_with(frame).set_index(["stratum", "of", "with"])
    table = whole.loc["all"]
    assert set(whole.loc["balanced"].index.get_level_values("with")) == {"classes", "clean F1"}
    part = scipy_stats.spearmanr(frame.classes[:6], frame["d at 0 %"][:6])
    assert whole.rho["balanced", "d at 0 %", "classes"] == pytest.approx(part.statistic)
    assert "skewed" not in whole.index  # two sets
    text = s0.goes_reading(whole.reset_index(), frame)
    assert text.count("moves the mean most") == 1  # of the two skewed none does
    assert table.rho["crossover", "balance"] == pytest.approx(1)
    assert table.rho["crossover", "clean F1"] == pytest.approx(-1)
    expected = scipy_stats.spearmanr(frame.classes, frame["d at 0 %"])
    assert table.rho["d at 0 %", "classes"] == pytest.approx(expected.statistic)
