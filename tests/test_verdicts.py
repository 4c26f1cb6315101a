"""The board: every statement in it once, both columns apart, and a reason for each one that was not run."""

import pandas as pd
import pytest

from datalab import ledger
from datalab.ledger import claim as claim_rules
from datalab.sections import SECTIONS
from datalab.sections import s6_verdicts as verdicts

LEDGER = ledger.claims()
MEASURED = ("measured", "low", "high", "effect_size", "n", "verdict", "why", "table", "row", "notebook", "cell", "raw")


def record_claims(**measured):
    """The record's claims with some statements measured: ``{id: {column: value}}``."""
    rows = []
    for key, claim in LEDGER.items():
        paper, fixed = ledger.paper_column(claim), claim_rules.automatic(claim)
        row = dict.fromkeys(MEASURED) | {
            "id": key,
            "section": claim.section,
            "text": claim.text,
            "reported": claim.reported_text(),
            "unit": claim.unit,
            "paper_check": paper.verdict,
            "paper_strength": paper.strength,
            "unsupported": paper.unsupported,
            "verdict": fixed.verdict if fixed else ledger.NOT_RUN,
            "why": fixed.why if fixed else "",
        }
        rows.append(row | measured.get(key, {}))
    return pd.DataFrame(rows)


FOUND = {
    "TITLE.threshold": {
        "measured": 12.345,
        "low": 8.1,
        "high": 17.9,
        "n": 15,
        "verdict": ledger.INCONCLUSIVE,
        "why": "not held: the crossover interval lies inside (5, 30) %",
        "notebook": "notebooks/0_title_noise_threshold.ipynb",
    },
    "S3.4.bonferroni": {"measured": "15 tests", "verdict": ledger.SHOWN, "notebook": "notebooks/3_4_statistics.ipynb"},
}
EMPTY, BOARD = verdicts.board(record_claims(), "smoke"), verdicts.board(record_claims(**FOUND), "smoke")


def row(board, key):
    return board.set_index("statement").loc[key]


def test_the_board_holds_every_statement_once_in_the_papers_order():
    assert BOARD["statement"].tolist() == list(LEDGER)


def test_every_statement_has_a_verdict_of_the_rules_and_a_reason_unless_it_was_measured():
    assert set(BOARD["verdict"]) <= set(ledger.VERDICTS)
    assert (EMPTY["why"] != "").all()


def test_the_measured_column_never_moves_the_paper_column():
    assert BOARD["paper"].tolist() == EMPTY["paper"].tolist()


def test_a_measured_figure_is_shown_with_no_more_digits_than_its_interval_supports():
    assert row(BOARD, "TITLE.threshold")["measured"] == "12.3 [8.1, 17.9]"
    assert row(BOARD, "TITLE.threshold")["n"] == "15"
    assert row(BOARD, "S3.4.bonferroni")["measured"] == "15 tests"


def test_every_statement_a_run_can_reach_names_the_notebook_that_measures_it():
    reached = [key for key, claim in LEDGER.items() if claim.testability == "rerun"]
    assert verdicts.AUDIT not in {verdicts.notebook_of(key) for key in reached}


@pytest.mark.parametrize(
    ("claim_id", "reason"),
    [
        ("TITLE.only_when", "notebook 0_title_noise_threshold does not measure it in profile smoke"),
        ("S3.2.n_seeds", "has measured nothing in this record: `datalab run 3_2_experimental_framework"),
        ("T4.1K.ours_f1", "needs notebook 4_4_scaling, which this version of the package does not have"),
    ],
)
def test_a_statement_that_was_not_run_says_what_it_needs(claim_id, reason):
    if verdicts.notebook_of(claim_id) in {section.stem for section in SECTIONS} and "needs notebook" in reason:
        pytest.skip("that notebook is there by now")
    assert reason in row(BOARD, claim_id)["why"]
    assert row(BOARD, claim_id)["verdict"] == ledger.NOT_RUN


def test_the_counts_add_up_to_all_statements_in_both_tables():
    counts = verdicts.counts(BOARD, ledger.VERDICTS)
    assert counts.iloc[-1]["all"] == 277
    assert counts["all"].iloc[:-1].sum() == 277
    both = verdicts.both_columns(BOARD, ledger.VERDICTS, ledger.PAPER_VERDICTS)
    assert both.iloc[-1].tolist() == ["all", 28, 106, 143, 277]


def test_what_was_not_run_lists_each_such_statement_once():
    listed = [key for names in verdicts.not_run(BOARD)["which"] for key in names.split(", ")]
    assert sorted(listed) == sorted(BOARD.loc[BOARD["verdict"] == ledger.NOT_RUN, "statement"])


def test_only_statements_with_a_measured_answer_count_as_established():
    assert verdicts.established(BOARD)["statement"].tolist() == ["TITLE.threshold"]
    assert verdicts.established(EMPTY).empty


def test_the_sentences_are_computed_from_the_board():
    said = verdicts.sentences(BOARD, ledger.VERDICTS)
    assert said[0] == "Of 277 statements, a run can reach 126; this record measured 2 of them: 1 inconclusive, 1 shown."
    assert said[2].startswith("TITLE.threshold: inconclusive. Not held: the crossover interval")
    assert "measured 0 of them." in verdicts.sentences(EMPTY, ledger.VERDICTS)[0]


def test_the_boards_words_are_those_of_the_rules():
    words = (verdicts.NOT_RUN, verdicts.UNTESTABLE, verdicts.SHOWN)
    assert words == (ledger.NOT_RUN, ledger.UNTESTABLE, ledger.SHOWN)
