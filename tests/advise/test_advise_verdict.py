"""The verdict is a function of the pilot's rows: keep everything unless an arm is shown to be better, by enough."""

import numpy as np
import pandas as pd
import pytest

from datalab.advise import pilot, verdict

CL = ("confident learning", "20%")
FACTS = {"n": 900, "classes": 3, "splits": 12, "planned": 12, "stopped": "", "clean": False}
FACTS |= {"flagged": 80, "dropped": 270}
RATES = {
    "all": 0.25,
    "calibrated": 0.24,
    "counted": 0.22,
    "clean": 0.0,
    "classes": 3,
    "smallest": 0.32,
    "largest": 0.34,
}


def rows(
    gains: dict[tuple[str, str], float], splits: int = 12, spread: float = 0.002, level: float = 0.8
) -> pd.DataFrame:
    """A pilot in which every arm gains what is said (else 0), give or take ``spread``."""
    rng, made = np.random.default_rng(0), []
    for split in range(splits):
        surest = 0.2 + rng.normal(0, 0.01)
        made.append({"kind": "noise", "split": split, "surest": surest, "by_class": surest} | RATES)
        base = level + rng.normal(0, 0.02)
        for method, amount in pilot.ARMS:
            f1 = base + gains.get((method, amount), 0.0) + (method != pilot.KEEP_ALL) * rng.normal(0, spread)
            row = {"kind": "arm", "split": split, "method": method, "amount": amount, "macro_f1": f1, "dropped": 0.1}
            made.append(row | {"n_train": 600, "n_test": 250})
    return pd.DataFrame(made)


def test_everything_is_kept_where_nothing_gains() -> None:
    v = verdict.conclude(rows({}), 1)
    assert (v.answer, v.arm) == (verdict.KEEP, (pilot.KEEP_ALL, ""))
    assert v.noise["low"] < 0.2 < v.noise["high"] < 0.25
    assert v.noise["estimate"] == pytest.approx(0.2, abs=0.01)
    assert v.noise["low"] == pytest.approx((0.2 - 0.7 * 0.25) / 0.3, abs=0.07)


def test_an_arm_that_gains_more_than_the_smallest_effect_is_followed() -> None:
    v = verdict.conclude(rows({CL: 0.03}), 1)
    assert (v.answer, v.arm) == (verdict.ACT, CL)
    assert v.best.low > 0
    assert v.best["random low"] > 0


def test_a_gain_that_is_shown_but_too_small_is_not() -> None:
    v = verdict.conclude(rows({CL: 0.008}, spread=0.0005), 1)
    assert v.best.low > 0
    assert v.answer == verdict.KEEP


def test_nothing_is_called_no_better_that_may_be_by_a_point() -> None:
    v = verdict.conclude(rows({}, splits=4, spread=0.02), 1)
    assert v.gains.high.max() > 0.01
    assert v.answer == verdict.UNSURE


def test_where_no_label_differs_in_any_split_the_limit_is_that_of_so_few_rows() -> None:
    frame = rows({})
    frame.loc[frame.kind == "noise", ["surest", "by_class", "all", "n_train"]] = 0.0, 0.0, 0.0, 600
    noise = verdict.conclude(frame, 1).noise
    assert (noise["estimate"], noise["low"]) == (0, 0)
    assert noise["high"] == pytest.approx(1 - 0.025 ** (1 / 120))  # 0 of 120


def test_the_answer_says_how_good_the_model_is_and_whether_more_is_listed_than_can_be_wrong() -> None:
    good, bad = (verdict.conclude(rows({}, level=level), 1) for level in (0.8, 0.35))
    of_good, of_bad = (verdict.lines(v, FACTS | {"flagged": 500}, "") for v in (good, bad))
    assert f"With everything kept macro-F1 is {good.kept:.3f}; guessing has 0.333." in of_good[1]
    assert "trust no flag" not in of_good[1]
    assert "trust no flag" in of_bad[1]
    assert "by hand" not in of_bad[0]
    assert of_good[0].endswith("Look at the flagged labels (500) by hand.")
    assert "More are flagged (500)" in of_good[2]
    assert "More are flagged" not in verdict.lines(good, FACTS, "")[2]


def test_a_gain_that_is_large_but_not_shown_is_too_little_data() -> None:
    assert verdict.conclude(rows({CL: 0.04}, splits=4, spread=0.05), 1).answer == verdict.UNSURE


def test_relabelling_is_proposed_before_dropping_and_what_costs_nothing_before_both() -> None:
    gains = {CL: 0.035, (pilot.RELABEL, pilot.ESTIMATED): 0.03}
    assert verdict.conclude(rows(gains), 1).arm[0] == pilot.RELABEL
    assert verdict.conclude(rows(gains | {(pilot.PRIOR, ""): 0.03}), 1).arm[0] == pilot.PRIOR
    assert verdict.conclude(rows(gains | {CL: 0.06}), 1).arm == CL


def test_loss_that_ties_with_influence_is_said_and_preferred() -> None:
    gains = {("influence", "30%"): 0.032, ("loss", "30%"): 0.03}
    v = verdict.conclude(rows(gains), 1)
    assert v.arm == ("loss", "30%")
    assert v.ties == ("influence",)
    assert "As well within a point: influence." in verdict.lines(v, FACTS, "")[1]


def test_random_is_never_advised() -> None:
    v = verdict.conclude(rows({(pilot.RANDOM, "30%"): 0.05}), 1)
    assert v.answer == verdict.KEEP
    assert v.best.method != pilot.RANDOM


def test_what_random_subsets_gain_too_is_not_the_methods_gain() -> None:
    gains = {CL: 0.03, (pilot.RANDOM, "20%"): 0.03}
    v = verdict.conclude(rows(gains), 1)
    assert v.best.low > 0
    assert v.answer == verdict.UNSURE
    assert "is not shown to beat as many rows dropped at random" in verdict.lines(v, FACTS, "")[0]


def test_the_same_rows_give_the_same_verdict_and_five_lines() -> None:
    frame = rows({CL: 0.03})
    first, second = verdict.conclude(frame, 1), verdict.conclude(frame, 1)
    pd.testing.assert_frame_equal(first.gains, second.gains)
    facts = FACTS | {"splits": 5, "stopped": "interrupted", "dropped": 180}
    lines = verdict.lines(first, facts, "who")
    assert len(lines) == 5
    assert lines[0] == "Drop 20% by confident learning: 180 rows."
    assert lines[4].startswith("Answer so far (interrupted): 5 of 12 splits.")


def test_surest_rows_that_are_the_wronger_ones_say_nothing_from_below() -> None:
    """Limits of two quantities: "wrong labels: 100 to 77 %"."""
    frame = rows({})
    frame.loc[frame.kind == "noise", ["surest", "by_class", "all"]] = [0.6, 0.6, 0.2]
    noise = verdict.conclude(frame, 1).noise
    assert (noise["low"], noise["estimate"]) == (0, pytest.approx(0.6))
    assert noise["high"] >= 0.6


def test_more_clean_test_rows_than_could_be_held_out_widen_no_interval() -> None:
    frame = rows({CL: 0.03})
    few, many = (verdict.conclude(frame.assign(n_test=n), 1).best for n in (300, 6000))
    assert few.high - few.low == pytest.approx(many.high - many.low, rel=0.02)


def test_a_correction_for_the_classes_shares_is_told_as_what_to_do_and_too_little_data_by_the_arm() -> None:
    prior = verdict.conclude(rows({(pilot.PRIOR, ""): 0.03}), 1)
    assert "take half the log of each class's share off" in verdict.lines(prior, FACTS, "")[0]
    unsure = verdict.conclude(rows({}, splits=4, spread=0.02), 1)
    most = unsure.gains[unsure.gains.method != pilot.RANDOM].high.max()
    assert f"a gain of {most:.3f} is not ruled out" in verdict.lines(unsure, FACTS, "")[0]


def test_an_arm_that_is_better_by_less_than_a_point_is_said_to_be() -> None:
    v = verdict.conclude(rows({CL: 0.009}, spread=0.0008), 1)
    assert v.best.low > 0
    assert v.best.high > 0.01
    assert verdict.lines(v, FACTS, "")[0].startswith(
        f"Keep everything: {v.best.arm} beats it, but by less than a point."
    )


def test_no_gain_is_larger_than_what_is_missing() -> None:
    full, wide = (verdict.conclude(rows({}, splits=4, spread=0.02, level=level), 1) for level in (0.999, 0.96))
    assert full.answer == verdict.KEEP
    assert f"a gain of {1 - wide.kept:.3f} is not ruled out" in verdict.lines(wide, FACTS, "")[0]


def test_a_best_arm_without_a_gain_is_none() -> None:
    v = verdict.conclude(rows(dict.fromkeys(pilot.ARMS[1:], -0.02)), 1)
    assert verdict.lines(v, FACTS, "")[1].startswith("No arm tried gained; the best of them, ")


@pytest.mark.parametrize(
    ("smallest", "largest", "classes", "rate", "can"),
    [
        (0.5, 0.5, 2, 0.45, True),
        (0.07, 0.93, 2, 0.0, True),
        (0.07, 0.93, 2, 0.02, True),
        (0.41, 0.59, 2, 0.4, False),  # seven in a hundred, after 40 % of all labels were flipped
        (0.03, 0.05, 26, 0.4, True),
        (0.005, 0.6, 8, 0.1, False),
        (0.5, 0.5, 2, 0.6, False),
    ],
)
def test_labels_that_may_have_moved_a_classs_share_twofold_judge_nothing(
    smallest: float, largest: float, classes: int, rate: float, can: bool
) -> None:
    """Of skewed classes with 40 % flipped labels an arm was followed that costs 41 points of clean macro-F1."""
    frame = rows({CL: 0.03}).assign(smallest=smallest, largest=largest, classes=classes)
    assert verdict.able(frame, rate) == can
    assert verdict.able(frame.assign(clean=1.0), rate)
    v = verdict.conclude(frame.assign(by_class=rate + 1e-9 * frame.split, surest=rate), 1)
    assert (v.answer == verdict.ACT) == can
    if not can:
        assert v.arm == (pilot.KEEP_ALL, "")
        assert "rows with clean labels (--test) can" in verdict.lines(v, FACTS, "")[0]
