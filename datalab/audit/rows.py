"""The row names of the paper's tables, as the ledger's ids spell them, in the order they are printed."""

METHODS = ("vanilla", "if", "ln", "full", "oracle")  # table 4.1
BENCHMARKS = ("A", "B", "C", "D", "E", "F")  # the benchmark table of 4.1
LEVELS = ("minimal", "low", "medium", "high", "extreme")  # table 4.2
ABLATIONS = ("full", "wo_fe", "wo_aw", "wo_reg", "wo_all")  # table 4.3
SIZES = ("1K", "5K", "10K", "50K", "100K")  # table 4.4
PARTS = ("fe", "aw", "reg")  # table 4.5
COSTS = ("train", "infer", "mem")
