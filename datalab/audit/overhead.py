"""Table 4.5: the total row against its parts and the text; sections 5.1 and 5.3: what cannot cost or gain that much."""

from datalab.audit.outcomes import Check, Figures, Outcome, equals, same_everywhere, sign
from datalab.audit.rows import COSTS, PARTS
from datalab.ledger.rounding import RoundingInterval, total


def _sum(figures: Figures, cost: str) -> RoundingInterval:
    return total([figures(f"T5.{part}.{cost}") for part in PARTS])


def _total_cell(cost: str) -> Check:
    return lambda figures: equals(figures(f"T5.total.{cost}"), _sum(figures, cost), "sum of the three parts")


def _text_against_parts(cost: str) -> Check:
    return lambda figures: equals(figures(f"S4.5.total_{cost}"), _sum(figures, cost), "sum of the three parts")


def _text_against_table(cost: str) -> Check:
    return lambda figures: same_everywhere(figures, (f"S4.5.total_{cost}", f"T5.total.{cost}"))


def _must_be_free(statement_id: str) -> Check:
    """A part that acts in training only costs nothing at inference."""
    return lambda figures: sign(figures(statement_id), "zero", "inference overhead, which must be 0")


def _far_below(small: str, large: tuple[str, str]) -> Check:
    def check(figures: Figures) -> Outcome:
        return sign(figures(*large) - figures(small), "positive", f"{large[0]} - {small}")

    return check


CHECKS: dict[str, Check] = {
    **{f"T5.total.{cost}": _total_cell(cost) for cost in COSTS},
    **{f"S4.5.total_{cost}": _text_against_table(cost) for cost in ("train", "infer")},
    **{f"S4.5.text_vs_sum_{cost}": _text_against_parts(cost) for cost in ("train", "infer")},
    "T5.aw.infer": _must_be_free("T5.aw.infer"),
    "T5.reg.infer": _must_be_free("T5.reg.infer"),
    "S5.1.no_arch_change": _must_be_free("T5.total.infer"),
    "S5.3.ensemble": _far_below("S5.3.ensemble", ("S4.1.headline_rel", "value")),
    "S5.3.ensemble_vs_range": _far_below("S5.3.ensemble", ("S4.1.range", "lo")),
}
