"""Sentences that say what section 4.5's table shows."""

import pandas as pd

from datalab import framework
from datalab.sections.overhead_cell import SCORING
from datalab.sections.overhead_tables import COLUMNS


def overheads(cells: pd.DataFrame, modest: float) -> str:
    """The total of each variant, whether it is modest by the rule, and what influence scoring adds."""
    said = []
    for variant in framework.VARIANTS:
        part = cells[(cells.variant == variant) & (cells.component == "Total")].set_index("measure")
        train, infer = (part.loc[COLUMNS[name]] for name in ("train", "infer"))
        word = "within" if train["ours high"] < 100 * modest else "not shown to be within"
        training = f"{train.ours:.0f} % on training [{train['ours low']:.0f}, {train['ours high']:.0f}]"
        inference = f"{infer.ours:.1f} % on inference [{infer['ours low']:.1f}, {infer['ours high']:.1f}]"
        said.append(f"**{variant}**: {training}, {word} the {100 * modest:g} % fixed beforehand; {inference}")
    scoring = cells[cells.component == SCORING].iloc[0]
    return "; ".join(said) + f". Influence scoring, once before training, is {scoring.ours:.0f} % of a training."
