"""Sentences that follow the numbers: by intervals alone, and nothing of a row without a value."""

import numpy as np
import pandas as pd
import pytest

from datalab import ledger
from datalab.record import Statement
from datalab.sections import sentences

ROWS = pd.DataFrame(
    {
        "arm": ["up", "down", "wide", "tiny", "base"],
        "d": [0.05, -0.05, 0.01, 0.002, np.nan],
        "d low": [0.02, -0.08, -0.04, 0.001, np.nan],
        "d high": [0.08, -0.02, 0.06, 0.003, np.nan],
    }
)


def named(text: str) -> dict[str, list[str]]:
    """The arms after each word of a sentence."""
    parts = (part.split("**: ") for part in text.split(". **"))
    return {word.strip("*"): [arm for arm in ROWS.arm if f"{arm} (" in rest] for word, rest in parts}


def test_a_row_is_ahead_behind_or_open_by_its_interval_and_a_base_row_is_none():
    text = sentences.standing(ROWS, "d", "arm")
    assert named(text) == {"Ahead": ["up", "tiny"], "Behind": ["down"], "Open": ["wide"]}
    assert "nan" not in text


@pytest.mark.parametrize(
    ("side", "bound", "held", "failed", "open_"),
    [
        ("above", 0.0, ["up", "tiny"], ["down"], ["wide"]),
        ("below", 0.0, ["down"], ["up", "tiny"], ["wide"]),
        ("above", 0.01, ["up"], ["down", "tiny"], ["wide"]),
        ("within", 0.01, ["tiny"], ["up", "down"], ["wide"]),
    ],
)
def test_an_expectation_held_failed_or_is_open_by_intervals(side, bound, held, failed, open_):
    text = sentences.expected(ROWS, "d", "arm", side, bound)
    assert named(text) == {"Held": held, "Failed": failed, "Open": open_}
    assert "base" not in text


@pytest.mark.parametrize("rows", [ROWS[:0], ROWS[ROWS.arm == "base"]])
def test_of_no_row_with_a_value_the_sentence_says_that_there_is_none(rows):
    assert sentences.standing(rows, "d", "arm") == sentences.expected(rows, "d", "arm", "above") == sentences.NOTHING


def test_a_figure_without_limits_stands_alone():
    assert sentences.with_limits({"d": 0.0123, "d low": -0.1, "d high": 0.2}, "d") == "+0.012 [-0.100, 0.200]"
    assert sentences.with_limits({"d": 1.23, "d low": np.nan, "d high": np.nan}, "d", 1) == "+1.2"


@pytest.mark.parametrize(
    ("made", "answer"),
    [
        (
            {"id": "S4.1.headline_rel", "measured": -0.489, "low": -2.067, "high": 1.089, "verdict": "inconclusive"},
            "**Does DATA-LAB raise F1 over plain training?** Not settled: -0.5 % relative F1 [-2.1, 1.1]; "
            "the paper prints 19.9.",
        ),
        (
            {"id": "S4.1.consistent_all", "measured": -0.038, "unit": "F1", "verdict": "inconclusive"},
            "**Is DATA-LAB ahead of plain training on every benchmark?** Not settled: on the least in favour "
            "-0.038 F1.",
        ),
        (
            {"id": "S4.3.aw_most", "measured": -0.093, "low": -0.144, "high": -0.042, "verdict": ledger.OPPOSITE},
            "**Do the adaptive weights contribute most?** No, the other way round: their part of F1 less the largest "
            "other -0.09 [-0.14, -0.04].",
        ),
        ({"id": "S4.5.modest", "measured": None, "verdict": "inconclusive"}, sentences.NOTHING),
        ({"id": "T1.full.f1", "measured": 0.7, "verdict": "inconclusive"}, sentences.NOTHING),  # nobody's question
    ],
)
def test_a_statement_that_answers_a_sections_question_says_so_in_a_sentence(made, answer):
    assert sentences.answers([Statement(**made)]) == answer


def test_every_question_is_of_a_statement_that_a_run_can_reach():
    assert all(ledger.find(claim_id).testability == "rerun" for claim_id in sentences.QUESTIONS)
    assert set(sentences._WORDS) == set(ledger.ANSWERS)
