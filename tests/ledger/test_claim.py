"""The ledger of statements and its paper column."""

from fractions import Fraction

import pytest

from datalab import ledger
from datalab.errors import UserError
from datalab.ledger.claim import STRENGTHS


def test_the_ledger_holds_277_statements_with_unique_ids_in_the_papers_order():
    known = ledger.claims()
    assert len(known) == 277
    assert next(iter(known)) == "TITLE.threshold"
    assert all(claim.id == key for key, claim in known.items())


def test_the_ledger_cannot_be_written_to():
    claim = ledger.claims()["TITLE.threshold"]
    with pytest.raises(TypeError):
        ledger.claims()["new"] = claim
    with pytest.raises(TypeError):
        claim.reported["value"] = 16
    with pytest.raises(AttributeError):
        claim.text = "other"


def test_every_contradiction_has_a_strength_and_every_strength_a_contradiction():
    for claim in ledger.claims().values():
        check = claim.paper_check
        contradicted = claim.paper_verdict == "contradicted"
        assert contradicted == (check.strength in STRENGTHS) == (check.contradiction is not None), claim.id


def test_the_contradictions_are_the_31_of_the_ledger():
    slugs = {claim.paper_check.contradiction for claim in ledger.claims().values()} - {None}
    assert sorted(slug[:3] for slug in slugs) == [f"C{number:02d}" for number in range(1, 32)]


def test_every_testable_statement_has_a_ceiling_and_every_untestable_one_a_reason():
    for claim in ledger.claims().values():
        assert (claim.testability == "rerun") == (claim.verdict_ceiling in ("direction", "value")), claim.id
        if claim.testability == "untestable":
            assert claim.untestable_because, claim.id


def test_a_printed_figure_stands_for_its_rounding_interval_exactly():
    cell = ledger.claims()["T1.if.f1"].printed()
    assert (cell.low, cell.high) == (Fraction(795, 1000), Fraction(805, 1000))
    assert ledger.claims()["ABS.n_instances"].printed().half_width == 0
    bound = ledger.claims()["T1b.A.p"].printed()
    assert (bound.low, bound.high) == (0, Fraction(1, 1000))
    assert ledger.claims()["S5.3.ensemble"].printed("n_models").half_width == 0


def test_a_reported_figure_is_shown_with_the_digits_that_were_printed():
    shown = {key: ledger.claims()[key].reported_text() for key in ("T1.if.f1", "ABS.framework_f1_ci", "T1b.A.p")}
    assert shown == {"T1.if.f1": "0.80", "ABS.framework_f1_ci": "[0.73, 0.76]", "T1b.A.p": "< 0.001"}
    assert ledger.claims()["TITLE.only_when"].reported_text() == ""


def test_an_unknown_claim_is_refused_with_a_suggestion():
    with pytest.raises(UserError, match=r"unknown claim 'TITLE\.treshold'; did you mean 'TITLE\.threshold'\?"):
        ledger.find("TITLE.treshold")
    with pytest.raises(UserError, match="datalab claims"):
        ledger.find("??")


def test_the_paper_column_says_strength_and_missing_support():
    claim = ledger.claims()["S1.formal_guarantees"]
    paper = claim.paper_verdict, claim.paper_check.strength, claim.unsupported_in_paper
    assert paper == ("contradicted", "strict", True)
    claim = ledger.claims()["S1.n_domains"]
    paper = claim.paper_verdict, claim.paper_check.strength, claim.unsupported_in_paper
    assert paper == ("uncheckable", None, False)
