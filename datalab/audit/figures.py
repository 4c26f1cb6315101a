"""The paper's printed figures, and the rows of its tables."""

from collections.abc import Iterable, Mapping

import numpy as np

from datalab.ledger.claim import Claim
from datalab.ledger.rounding import RoundingInterval

# The rows of the paper's tables as the ledger's ids spell them, in the order of printing.
METHODS = ("vanilla", "if", "ln", "full", "oracle")  # table 4.1
BENCHMARKS = ("A", "B", "C", "D", "E", "F")  # the benchmark table of 4.1
LEVELS = ("minimal", "low", "medium", "high", "extreme")  # table 4.2
ABLATIONS = ("full", "wo_fe", "wo_aw", "wo_reg", "wo_all")  # table 4.3
SIZES = ("1K", "5K", "10K", "50K", "100K")  # table 4.4
PARTS = ("fe", "aw", "reg")  # table 4.5
COSTS = ("train", "infer", "mem")


class Figures:
    """The paper's printed figures by statement id; calling it gives the rounding interval."""

    def __init__(self, statements: Mapping[str, Claim]):
        self.statements = statements

    def __call__(self, statement_id: str, name: str = "value") -> RoundingInterval:
        return self.statements[statement_id].printed(name)

    def count(self, statement_id: str) -> int:
        """A printed count."""
        return int(self(statement_id).middle)

    def each(self, pattern: str, names: Iterable[str]) -> np.ndarray:
        """One figure a name, which stands for ``{}`` in the id: an array (n,) of intervals, to reckon with."""
        return np.array([self(pattern.format(name)) for name in names], dtype=object)
