"""Section 1: the audit's tables, ranked and drawn."""

from datalab import audit, ledger
from datalab.sections import compare
from datalab.sections import s1_paper_audit as s1

LEDGER = ledger.claims()
OUTCOMES = audit.outcomes(LEDGER)


def test_the_contradictions_are_ranked_by_strength_then_size():
    ranked = s1.contradictions(LEDGER, s1.cells(LEDGER, OUTCOMES))
    assert len(ranked) == 31
    assert ranked["statements"].sum() == 106
    level = ranked["strength"].map({"strict": 0, "strong": 1, "natural": 2})
    assert level.is_monotonic_increasing
    for strength, group in ranked.groupby("strength"):
        assert group[strength].is_monotonic_decreasing
        assert (group[list(s1.STRENGTHS[: s1.STRENGTHS.index(strength)])] == 0).all(axis=None)


def test_a_miss_is_zero_exactly_where_printed_and_recomputed_meet():
    cells = s1.cells(LEDGER, OUTCOMES)
    apart = (cells["printed low"] > cells["recomputed high"]) | (cells["recomputed low"] > cells["printed high"])
    assert ((cells["miss"] > 0) == apart).all()


def test_the_tables_hold_all_statements_and_their_totals_add_up():
    table = s1.statements(LEDGER)
    assert len(table) == 277
    counted = compare.tally(table, "section", "paper", ledger.PAPER_VERDICTS)
    assert counted.iloc[-1].tolist() == ["all", 28, 106, 143, 277]
    assert counted["all"].iloc[:-1].sum() == 277
    checks = s1.checks(LEDGER, OUTCOMES)
    assert len(checks) == 141
    assert checks["ledger agrees"].all()


def test_the_notebooks_own_arithmetic_is_the_audits():
    """Cell 4 of the notebook: the corners of 2PR / (P + R) for one row of table 4.1."""
    precision, recall = (LEDGER[f"T1.ln.{name}"].printed() for name in ("precision", "recall"))
    corners = [2 * p * r / (p + r) for p in (precision.low, precision.high) for r in (recall.low, recall.high)]
    assert (min(corners), max(corners)) == (OUTCOMES["T1.ln.f1"].interval.low, OUTCOMES["T1.ln.f1"].interval.high)


def test_the_figure_draws_a_panel_a_group_and_every_printed_figure_once():
    import matplotlib.pyplot as plt

    cells = s1.cells(LEDGER, OUTCOMES)
    figure = s1.printed_against_recomputed(cells).figure
    titles = [axes.get_title() or axes.get_title(loc="left") for axes in figure.axes]  # where the style puts it
    assert titles == list(dict.fromkeys(cells["group"]))
    assert sum(len(axes.get_yticks()) for axes in figure.axes) == len(cells)
    plt.close(figure)
