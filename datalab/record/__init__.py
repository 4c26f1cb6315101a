"""The record of a run: executed notebooks, tables, figures, claims and a manifest that says how each came to be.

A notebook writes to its :class:`Section` of the record. The command line needs the rest; nothing heavy is imported
before it is used.
"""

import sys

from datalab.record.section import Section, Statement, open_section
from datalab.record.study import SectionSpec, Study

__all__ = ["Section", "SectionSpec", "Statement", "Study", "open_section"]

# jsonschema's check of IRIs takes seconds to import in each process that imports nbformat (the commands, a kernel that
# asks papermill where it writes), and no schema of a notebook asks for it.
sys.modules.setdefault("rfc3987_syntax", None)
