"""Section 4.3: DATA-LAB with every set of its three components. It reads the cells of section 4.1."""

from datalab.sections.s4_1_main_results import Parameters, estimate, tasks

__all__ = ["Parameters", "estimate", "tasks"]
