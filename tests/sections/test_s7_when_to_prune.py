"""When pruning pays: predictors that never saw the set they speak of, and rules read against keeping everything."""

import types

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp, ttest_ind
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from datalab import data, stats
from datalab.sections import compare, foretelling, readings
from datalab.sections import s7_when_to_prune as s7

LOOKED_AT = [name for name in data.COUNTED if data.REGISTRY[name].looked_at][:6]
UNTOUCHED = [name for name in data.COUNTED if not data.REGISTRY[name].looked_at][:4]


@pytest.fixture
def cases() -> pd.DataFrame:
    """Cases of ten sets in which pruning pays where the gap is above 0.2, with some noise."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame([{"dataset": name, "seed": i} for name in (*LOOKED_AT, *UNTOUCHED) for i in range(12)])
    frame["gap"], frame["noisy error"] = rng.uniform(0, 0.4, len(frame)), rng.uniform(0, 0.5, len(frame))
    frame["d"] = frame.gap - 0.2 + rng.normal(0, 0.03, len(frame))
    frame["d_full"], frame["validation_d"] = frame.d - 0.05, rng.normal(0, 0.02, len(frame))
    frame["rate"], frame["balance"] = rng.choice([0.0, 0.1, 0.2, 0.3], len(frame)), rng.uniform(size=len(frame))
    for name in ("classes", "features", "rows"):
        frame[f"log {name}"] = rng.normal(size=len(frame))
    seen = frame.dataset.isin(LOOKED_AT).map({True: readings.LOOKED_AT, False: readings.UNTOUCHED})
    strata = {"data sets": seen, "stratum": frame.dataset.map(data.stratum)}
    return frame.assign(**strata, pays=frame.d > 0, trained=compare.STOPPED)


def test_a_set_is_foretold_by_the_others_that_were_looked_at_alone(cases):
    p = foretelling.foretold(cases)
    other = cases.assign(pays=cases.pays.where(cases.dataset != LOOKED_AT[0], ~cases.pays))
    changed = foretelling.foretold(other)
    own, untouched = p.dataset == LOOKED_AT[0], p.dataset.isin(UNTOUCHED)
    pd.testing.assert_series_equal(p.gap[own], changed.gap[own])  # what is held out does not foretell itself
    assert not p.gap[untouched].equals(changed.gap[untouched])
    flipped = foretelling.foretold(cases.assign(pays=cases.pays.where(~cases.dataset.isin(UNTOUCHED), ~cases.pays)))
    fitted = list(foretelling.PREDICTORS)
    pd.testing.assert_frame_equal(p[fitted], flipped[fitted])  # the untouched fit nothing


def test_the_figures_of_a_predictor_are_scikit_learns(cases):
    p = foretelling.foretold(cases)
    every = foretelling.predictors(p).set_index(["stratum", "data sets", "predictor"]).sort_index()
    skewed = p[(p["data sets"] == readings.LOOKED_AT) & (p.stratum == "skewed")]
    right = 100 * ((skewed.rate > 0.15) == skewed.pays).mean()
    assert every.loc[("skewed", readings.LOOKED_AT, foretelling.TITLE_RULE), "right (%)"] == pytest.approx(right)
    table, part = every.loc[foretelling.ALL], p[p["data sets"] == readings.UNTOUCHED]
    row, title = (table.loc[(readings.UNTOUCHED, name)] for name in ("gap", foretelling.TITLE_RULE))
    accuracy = balanced_accuracy_score(part.pays, part.gap > 0.5)
    assert row["balanced accuracy"] == pytest.approx(accuracy)
    assert row["balanced accuracy low"] < row["balanced accuracy"] <= row["balanced accuracy high"] <= 1
    assert row["AUC"] == pytest.approx(roc_auc_score(part.pays, part.gap))
    assert title["AUC"] == pytest.approx(roc_auc_score(part.pays, part.rate))
    lead = accuracy - balanced_accuracy_score(part.pays, part.rate > 0.15)
    assert row[f"balanced accuracy {foretelling.AHEAD}"] == pytest.approx(lead)
    assert np.isnan(title[f"AUC {foretelling.AHEAD}"])
    assert row["right (%)"] == pytest.approx(100 * ((part.gap > 0.5) == part.pays).mean())
    assert table.loc[(readings.UNTOUCHED, foretelling.ALWAYS), "right (%)"] == pytest.approx(100 * part.pays.mean())
    assert row["balanced accuracy"] > table.loc[(readings.UNTOUCHED, "pilot"), "balanced accuracy"] + 0.2


def test_what_was_expected_of_the_gap_held_failed_or_is_open_by_the_limits_of_its_lead():
    leads = {"trained": compare.STOPPED, "data sets": "x", "stratum": foretelling.ALL, "predictor": "gap"}
    for word, (low, high) in {"balanced accuracy": (0.01, 0.2), "AUC": (-0.2, -0.01)}.items():
        leads |= {
            f"{word} {foretelling.AHEAD}{end}": value for end, value in (("", 0.1), (" low", low), (" high", high))
        }
    assert "[1.0, 20.0], held" in foretelling.expectation(pd.DataFrame([leads]))
    assert "[-20.0, -1.0], failed" in foretelling.expectation(pd.DataFrame([leads]))
    leads[f"AUC {foretelling.AHEAD} high"] = 0.01
    assert "[-20.0, 1.0], open" in foretelling.expectation(pd.DataFrame([leads]))


@pytest.mark.parametrize("pays", ["every case", "the cases of all sets but one", "no case"])
def test_where_pruning_pays_always_or_never_nothing_is_said_to_be_foretold(cases, pays, shown):
    cases["pays"] = pays != "no case"
    cases.loc[cases.dataset == UNTOUCHED[0], "pays"] &= pays == "every case"
    table = foretelling.predictors(foretelling.foretold(cases))
    assert foretelling.expectation(table) == foretelling.NOTHING
    for which, part in table.groupby("data sets"):
        assert foretelling.foretells(part) == f"Data sets {which}: {foretelling.NOTHING}"
    section = types.SimpleNamespace(figure=lambda figure, *a, **k: titles.append(figure.texts[0].get_text()))
    titles = []
    shown("7_when_to_prune", "cell-13", predictors=table, section=section)
    assert titles == [foretelling.NOTHING]


def compared(**given):
    row = {"trained": compare.STOPPED, "stratum": "balanced", "arm": "loss, quota", readings.RATE: 20.0, "d": 0.02}
    return row | {"low": 0.012, "high": 0.03, "p": 0.01} | given


def test_only_a_gain_shown_after_holm_with_a_limit_above_a_point_changes_the_advice():
    none = pd.DataFrame([compared(low=-0.01, p=0.9)])
    kept, compared_were = s7.recommended(pd.DataFrame([compared(low=0.008), compared(p=0.2)]), none)
    assert "but prune" not in kept
    assert (
        "dropping is better in 2. Corrected for so many looks (Holm's method), it is better in 1 and worse in 0" in kept
    )
    assert kept.endswith("of the better, 0 by influence, 0 by a point or more for certain.")
    assert "shown: loss, quota, F1" in compared_were
    alone = pd.DataFrame([compared(p=0.02)])  # corrected over what is counted here, and over nothing else
    assert "method), it is better in 1 " in s7.recommended(alone, none)[0]
    assert "method), it is better in 0 " in s7.recommended(pd.concat([alone, none]), none)[0]
    lost = pd.DataFrame([compared(d=-0.02, low=-0.03, high=-0.01, p=0.001)])
    assert "method), it is better in 0 " in s7.recommended(lost, none)[0]
    assert "and worse in 1;" in s7.recommended(lost, none)[0]
    assert "but prune where" in s7.recommended(pd.DataFrame([compared()]), none)[0]
    for given in ({"arm": "oracle"}, {"trained": "3000 steps"}):  # neither is a way of dropping, stopped early
        assert "compared with keeping all in 1 settings" in s7.recommended(pd.DataFrame([compared(**given)]), none)[0]


def test_the_gain_by_gap_is_a_mean_over_sets(cases):
    table = foretelling.by_gap(cases).set_index("gap")
    part = cases[cases.gap > 0.30]
    assert table["d against random"]["above .30"] == pytest.approx(part.groupby("dataset").d.mean().mean())
    assert table.cases.sum() == len(cases)


@pytest.fixture
def stopped() -> pd.DataFrame:
    """Three sets, stopped early, in which pruning by loss with a quota is ahead on noisy validation, and gains."""
    rows = []
    for name, ahead, gain in ((LOOKED_AT[0], 0.05, 0.03), (LOOKED_AT[1], 0.005, 0.02), (LOOKED_AT[2], 0.02, -0.04)):
        base = {"dataset": name, "noise": "symmetric", "seed": 0, "rate": 0.1, "draw": 0, "steps": 100}
        base |= {"validation_f1": 0.5, "validation_accuracy": 0.5, "macro_f1": 0.6, "macro_f1_tau0.5": 0.6}
        base |= {"accuracy": 0.6, "accuracy_tau0.5": 0.6}
        base |= {"reference_steps": 0, "reference_chosen": False, "quota": "", "keep_fraction": 1.0}
        rows += [base | {"method": method} for method in ("full", "confident learning")]
        for method, quota in ((m, q) for m in ("influence", "loss") for q in ("per_class", "global")):
            own = base | {"method": method, "quota": quota, "keep_fraction": 0.7, "reference_steps": 100}
            own |= {"reference_chosen": True}
            if (method, quota) == ("loss", "per_class"):
                own |= {"validation_f1": 0.5 + ahead, "macro_f1": 0.6 + gain}
            rows.append(own)
    return pd.DataFrame(rows)


def test_the_pilots_rule_prunes_where_noisy_validation_says_so_and_pays_what_the_test_set_says(stopped):
    made = s7.rules(stopped)
    table = made.groupby("rule")[["d", "sets"]].apply(lambda part: np.average(part.d, weights=part.sets))
    pilot = next(value for name, value in table.items() if name.startswith("pilot"))
    assert pilot == pytest.approx((0.03 + 0 - 0.04) / 3)
    assert table["hindsight: the best arm on the test set"] == pytest.approx((0.03 + 0.02) / 3)
    assert table["always prune 30 %"] == pytest.approx(0)
    assert set(made["prunes (%)"][made.rule == "always prune 30 %"]) == {100}  # though nothing is gained by it


def test_the_gains_are_corrected_over_the_table_and_less_keeping_everything_is_paired(stopped):
    every = {compare.STOPPED: stopped, "100 steps": stopped.assign(**stopped.filter(like="macro_f1") / 2)}
    full = s7.against_everything(every).set_index(["trained", "stratum", "arm"])
    stratum = data.stratum(LOOKED_AT[0])
    own = [name for name in LOOKED_AT[:3] if data.stratum(name) == stratum]
    gains = [dict(zip(LOOKED_AT, (0.03, 0.02, -0.04), strict=False))[name] for name in own]
    row = full.loc[(compare.STOPPED, stratum, "loss, quota")]
    assert row.d.item() == pytest.approx(np.mean(gains))
    assert row.p.item() == pytest.approx(ttest_1samp(gains, 0).pvalue)
    assert full["p (Holm)"].dropna().tolist() == pytest.approx(stats.holm(full.p.dropna()))
    levels = s7.stopped_or_pruned(every).set_index(["stratum", "arm"])[s7.LESS]
    assert levels[(stratum, "keep all, 100 steps")] == pytest.approx(-0.3)
    assert np.isnan(levels[(stratum, f"keep all, {compare.STOPPED}")])


def test_balanced_sets_are_split_by_their_classes(stopped):
    names = [name for name in data.COUNTED if data.stratum(name) == "balanced"]
    two = [name for name in names if data.REGISTRY[name].classes == 2][:2]
    more = [name for name in names if data.REGISTRY[name].classes > 2][:2]
    gains = dict(zip((*two, *more), (0.01, 0.03, -0.02, 0.0), strict=True))
    base = stopped[stopped.dataset == LOOKED_AT[0]]
    full = base.method == "full"
    rows = pd.concat(base.assign(dataset=name, macro_f1=0.6 + gain * ~full) for name, gain in gains.items())
    row = s7.by_classes(rows).set_index(["score", "arm"]).loc[("F1", "influence, quota")]
    assert [row[kind].item() for kind in s7.CLASSES] == pytest.approx([0.02, -0.01])
    expected = ttest_ind([-0.02, 0.0], [0.01, 0.03], equal_var=False).confidence_interval()
    assert [row["apart low"].item(), row["apart high"].item()] == pytest.approx([*expected])
    assert "at 10 % +2.0 [" in s7.classes_apart(s7.by_classes(rows))
    assert s7.classes_apart(s7.by_classes(rows[rows.dataset.isin(two)])).endswith("they are not split.")
