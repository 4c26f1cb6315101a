"""The board: every statement in it once, both columns apart, and a reason for each one that was not run."""

import numpy as np
import pandas as pd

from datalab import ledger
from datalab.record import claims_table
from datalab.sections import s6_verdicts as s6

LEDGER = ledger.claims()


def record_claims(**measured):
    """The record's claims with some statements measured: ``{id: {column: value}}``."""
    rows = [statement | measured.get(statement["id"], {}) for statement in ledger.statements()]
    return pd.DataFrame(rows, columns=claims_table.COLUMNS)


MEASURED = {
    "TITLE.threshold": {
        "measured": 12.345,
        "measured_unit": "% of labels flipped",
        "low": 8.1,
        "high": 17.9,
        "n": 15,
        "verdict": ledger.INCONCLUSIVE,
        "why": "not held: the crossover interval lies inside (5, 30) %",
        "notebook": "notebooks/0_title_noise_threshold.ipynb",
    },
    "S3.4.bonferroni": {"measured": "15 tests", "verdict": ledger.SHOWN, "notebook": "notebooks/3_4_statistics.ipynb"},
}
EMPTY, BOARD = s6.board(record_claims()), s6.board(record_claims(**MEASURED))


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


def test_a_figure_in_another_unit_than_the_paper_prints_says_so():
    share = {"measured": -0.0454, "measured_unit": "F1", "low": -0.071, "high": -0.0198}
    board = s6.board(record_claims(**{"S4.3.share_aw": share}))
    assert row(board, "S4.3.share_aw")["measured"] == "-0.045 F1 [-0.071, -0.020]"
    assert row(board, "S4.3.share_aw")["reported"] == "49.2 % of gain"


def test_an_interval_without_an_end_says_so_in_words_and_in_no_more_digits_than_its_other_end_supports():
    ends = {"measured": 0.269181, "measured_unit": "% of labels flipped", "low": -np.inf, "high": 3.95627}
    board = s6.board(record_claims(**{"TITLE.threshold": ends}))
    assert row(board, "TITLE.threshold")["measured"] == "0.3 [below all rates, 4.0]"
    ends |= {"measured": np.inf, "low": 12.0, "high": np.inf}
    board = s6.board(record_claims(**{"TITLE.threshold": ends}))
    assert row(board, "TITLE.threshold")["measured"] == "above all rates [12.0, above all rates]"


def test_a_statement_that_no_section_measured_says_so():
    assert row(BOARD, "TITLE.only_when")["verdict"] == ledger.NOT_RUN
    assert "no section of this record" in row(BOARD, "TITLE.only_when")["why"]
    assert row(BOARD, "TITLE.only_when")["notebook"] == "-"


def test_the_counts_add_up_to_all_statements_in_both_tables():
    counts = s6.counts(BOARD)
    assert counts.iloc[-1]["all"] == 277
    assert counts["all"].iloc[:-1].sum() == 277
    both = s6.both_columns(BOARD)
    assert both.iloc[-1].tolist() == ["all", 28, 106, 143, 277, 0]


def test_only_statements_that_are_settled_count_as_established():
    assert s6.established(BOARD).empty  # one is open, one shown
    settled = BOARD.assign(verdict=BOARD.verdict.replace(ledger.INCONCLUSIVE, ledger.OPPOSITE))
    assert s6.established(settled)["statement"].tolist() == ["TITLE.threshold"]
    assert s6.established(EMPTY).empty


def test_the_summary_is_computed_from_the_board():
    counted = "Of 277 statements, a run can reach 147; this record measured 2 of them: 1 inconclusive, 1 shown."
    assert s6.summary(BOARD).startswith(counted)
    assert "106 are contradicted" in s6.summary(BOARD)
    assert "measured 0 of them. Of 0 printed figures" in s6.summary(EMPTY)


def test_what_qualifies_a_verdict_stands_in_columns_of_its_own():
    kl = {"measured": 0.99, "verdict": ledger.DIRECTION, "notebook": "notebooks/3_3_framework.ipynb"}
    f1 = {"measured": 0.72, "verdict": ledger.INCONCLUSIVE, "excluded": "yes", "notebook": "notebooks/4_1.ipynb"}
    board = s6.board(record_claims(**{"S3.3.kl_prevents_collapse": kl, "T1.if.f1": f1}))
    assert row(board, "T1.if.f1")[s6.EXCLUDED] == "yes"
    assert row(board, "T1.if.f1")[s6.CONSTRUCTED] == ""
    assert row(board, "TITLE.threshold")[s6.EXCLUDED] == "-"
    assert "KL term alone decides" in row(board, "S3.3.kl_prevents_collapse")[s6.CONSTRUCTED]
    assert "Of 1 printed figures that could be held against an interval, 1 lie outside" in s6.summary(board)


def test_no_count_of_directions_that_hold_is_told_without_those_that_hold_by_construction():
    forced = {"measured": 0.99, "verdict": ledger.DIRECTION}
    board = s6.board(record_claims(**{"S3.3.kl_prevents_collapse": forced, "T5.fe.train": forced, "T1.if.f1": forced}))
    assert "3 direction reproduced (2 of them by construction)" in s6.summary(board)
    counts = s6.counts(board).set_index("section")[s6.CONSTRUCTED]
    assert counts[counts > 0].to_dict() == {"3.3": 1, "4.5": 1, "all": 2}
    assert s6.both_columns(board).set_index("measured")[s6.CONSTRUCTED][ledger.DIRECTION] == 2


def test_the_ten_findings_are_read_as_holding_or_not():
    board = s6.board(record_claims(**{"S5.3.filtering": {"verdict": ledger.NULL}, **MEASURED}))
    text = s6.reading(s6.findings(board))
    assert text.startswith("**Holds**: none. **Does not**: S5.3.filtering. **Open**: TITLE.threshold. **Not measured**")


def test_the_findings_keep_their_order_and_say_what_was_measured():
    table = s6.findings(BOARD).set_index("statement")
    assert list(table.index) == list(s6.FINDINGS)
    assert table.loc["TITLE.threshold", "measured"] == "12.3 [8.1, 17.9]"
