"""Simulated verdicts: each rule of the ledger is among them and says what the ledger says; levels are as promised."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from datalab import ledger, stats
from datalab.ledger.verdict import sesoi
from datalab.protocol import protocol
from datalab.seeds import generator
from datalab.stats import decision, simulation, verdict_levels
from datalab.stats.verdict_levels import CASES, PAIRS, RULES

ALPHA, SMALL, TOLERANCE = protocol().statistics["alpha"], sesoi("f1"), protocol().measured_verdict["tolerance_f1"]
EQUIVALENCE = protocol().measured_verdict["equivalence_confidence"]
SECTIONS = Path(ledger.__file__).parents[1] / "sections"
WHERE = {"table": "t", "row": "r"}
WORDS = {decision.HOLDS: ledger.DIRECTION, decision.NULL: ledger.NULL, decision.OPPOSITE: ledger.OPPOSITE}
WORDS |= {decision.DIFFERENCE: ledger.DIFFERENCE, decision.OPEN: ledger.INCONCLUSIVE}


def level(rule: str, case: str, units: int, simulations: int, **given: float) -> list[dict]:
    how = {"alpha": ALPHA, "equivalence": EQUIVALENCE, "small": SMALL, "tolerance": TOLERANCE} | given
    return verdict_levels.verdict_level(rule, case, units, **how, simulations=simulations, root_seed=1)


@pytest.mark.parametrize("rule", RULES)
def test_every_verdict_rule_holds_its_level_wherever_differences_are_not_skewed(rule):
    for case in [case for of, case in CASES if of == rule and "skewed" not in case]:
        simulations = 4000 if RULES[rule].drawn is None else 800
        for row in level(rule, case, 15, simulations):
            low = scipy_stats.binomtest(row["hits"], simulations).proportion_ci(0.999, method="wilson").low
            assert low <= row["promised"], row


def test_what_refutes_a_claim_of_four_effects_would_be_said_too_often_without_a_correction():
    d = np.random.default_rng(1).normal(size=(4000, 4, 15))
    high = stats.t_interval(d, 1 - 0.05).high
    uncorrected = np.mean(np.any(high < 0, axis=1))
    corrected = level("all of four", "all null", 15, 4000, alpha=0.05)[0]
    assert uncorrected > 0.08
    assert corrected["hits"] / 4000 < 0.035 < uncorrected


def test_the_clearest_of_many_pairs_would_be_found_reversed_too_often_without_a_correction(monkeypatch):
    rule, case = f"clearest of {PAIRS} pairs", "no order reversed"
    assert level(rule, case, 15, 200)[0]["hits"] <= 3
    monkeypatch.setitem(RULES, rule, verdict_levels.Rule(RULES[rule].drawn, sized=False))
    assert level(rule, case, 15, 200)[0]["hits"] > 6


def test_skewed_differences_are_called_opposite_less_often_than_students_limits_would():
    d = simulation.draw("skewed", np.random.default_rng(1), (4000, 24))
    student = np.mean(stats.t_interval(d, 0.995).high < 0)
    ours = {row["wrongly said"]: row["hits"] / 4000 for row in level("a difference", "null, skewed", 24, 4000)}
    assert ours["opposite"] < 0.012 < student


def said(rule: str, case: str, studies: int) -> tuple[list[str], list[list[stats.Measurement]]]:
    """What the simulation decides of each study, of its effects together, and the same studies one by one."""
    of, made = RULES[rule], CASES[rule, case]
    drawn = verdict_levels.drawn(rule, case, 15, SMALL, studies, generator(1, "agreement", rule, case))
    effects = [[stats.Measurement(d) for d in study] if of.drawn is None else list(study) for study in drawn]
    tails, words = ((of.alpha or ALPHA) / of.tests, (1 - EQUIVALENCE) / of.tests), []
    how = made.side, SMALL if of.sized else 0.0
    alone = verdict_levels.decided(drawn, *tails, *how)[0]
    picked = verdict_levels.decided(drawn, *(tail / alone.shape[1] for tail in tails), *how)[0]
    order = (decision.OPPOSITE, decision.DIFFERENCE, decision.NULL)
    for by_itself, of_many in zip(alone, picked, strict=True):
        refuting = [word for word in order if word in of_many]
        words.append(refuting[0] if refuting else decision.HOLDS if set(by_itself) == {decision.HOLDS} else "open")
    return words, effects


@pytest.mark.parametrize(("rule", "case"), [key for key in CASES if key[0] != "printed value"])
def test_the_simulation_says_of_each_study_what_the_ledger_says(rule, case):
    """Many at once there, one by one by the ledger's own functions here; the claim prints no figure."""
    of, made = RULES[rule], CASES[rule, case]
    how = {"metric": "f1" if of.sized else None, "tests": of.tests, "alpha": of.alpha, **WHERE}
    words, studies = said(rule, case, 40)
    for word, effects in zip(words, studies, strict=True):
        if made.side == "either":
            own = ledger.judge_p("S4.1.wilcoxon", 0.5, effects[0].values, **how)
        elif len(effects) > 1:
            named = dict(zip("abcdefghijklmno", effects, strict=False))
            own = ledger.judge_all("T1.full_vs_vanilla", named, side=made.side, unit="F1", **how)
        else:
            own = ledger.judge("T1.full_vs_vanilla", effects[0], side=made.side, unit="F1", **how)
        assert own.verdict == WORDS[word], own.why


def test_a_printed_value_is_called_reproduced_or_excluded_where_it_clearly_is(monkeypatch):
    changes = {"off by the tolerance": {"truths": (3,), "spread": 0.5}, "true": {"printed": 9}}
    for case, changed in changes.items():
        monkeypatch.setitem(CASES, ("printed value", case), replace(CASES["printed value", case], **changed))
        (row,) = level("printed value", case, 15, 200)
        assert row["hits"] > 190, row


def test_every_side_and_level_that_a_section_judges_by_is_simulated():
    code = "".join(path.read_text(encoding="utf-8") for path in SECTIONS.glob("s[0-9]*.py"))
    sides = set(re.findall(r'"?side"?[=:] ?"(\w+)"', code))
    assert sides > {"greater", "not_less"}
    assert sides <= {case.side for case in CASES.values()}
    alphas = {float(alpha) for alpha in re.findall(r'"alpha": (0\.\d+)', code)}
    assert alphas == {rule.alpha for rule in RULES.values()} - {None}
