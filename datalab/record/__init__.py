"""The record of a run: executed notebooks, tables, figures, claims and a manifest that says how each came to be.

A notebook needs two names from here: :func:`start` opens its section of the record, and the :class:`Section` it returns
saves what the notebook shows. The command line needs the rest; nothing heavy is imported before it is used.
"""

from datalab.record.section import Section, start

__all__ = ["Section", "start"]
