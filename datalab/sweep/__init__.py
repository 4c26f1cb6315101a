"""Tasks -> rows: what a task is, how a grid of them runs here or on a cluster, and what running costs."""

from datalab.sweep.pool import WORKER_ENVIRONMENT, Executor, Progress, SweepError, available_cores, run
from datalab.sweep.rowfiles import Finished
from datalab.sweep.task import Task

__all__ = [
    "WORKER_ENVIRONMENT",
    "Executor",
    "Finished",
    "Progress",
    "SweepError",
    "Task",
    "available_cores",
    "run",
]
