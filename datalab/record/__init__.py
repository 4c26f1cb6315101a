"""The record of a run: executed notebooks, tables, figures, claims and a manifest that says how each came to be.

A notebook writes to its :class:`Section` of the record. The command line needs the rest; nothing heavy is imported
before it is used.
"""

from datalab.record.section import Section, Statement, open_section
from datalab.record.study import SectionSpec, Study

__all__ = ["Section", "SectionSpec", "Statement", "Study", "open_section"]
