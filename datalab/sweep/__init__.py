"""Tasks -> rows: what a task is, how a grid of them runs here or on a cluster, and what running costs."""

from datalab.sweep.pool import SweepError, available_cores, run
from datalab.sweep.rowfiles import Finished
from datalab.sweep.task import Task, at_most

__all__ = ["Finished", "SweepError", "Task", "at_most", "available_cores", "run"]
