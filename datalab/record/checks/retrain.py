"""Are the raw rows what training gives? Some tasks of a record, drawn by chance, trained anew and compared.

Only tasks that the study's own notebooks ask for are trained: what a raw file says of its function is never run.
"""

import contextlib
import random
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from datalab import sweep
from datalab.errors import UserError
from datalab.record import folder, provenance, rawrows
from datalab.record.checks import recompute
from datalab.record.manifest import Manifest
from datalab.record.tables import exact
from datalab.sweep import Task

# Columns of raw rows that hold measured time or memory, or name the process: they differ between equal runs.
MEASURED = frozenset({"seconds", "memory", "train", "infer", "pid"})
Place = tuple[str, str]  # of a task's raw rows: the path of the file, and the task's key in it
MOST_HOURS = 12
ROUNDING = 0.01  # of a number, or of one: what another processor or another library may move a score by


@dataclass(frozen=True)
class Drawn:
    """How many tasks to train anew, and the seed they are drawn by."""

    count: int
    seed: int


@dataclass(frozen=True)
class Retrained:
    """One task trained anew: ``same`` says how its rows agree; ``different`` where they do not, else it is empty.

    ``path`` is its raw rows' file, with its name where the file has several. ``rounded``: the same only within
    :data:`ROUNDING`, and on the word of the record that it was made elsewhere.
    """

    path: str
    same: str = ""
    different: str = ""
    rounded: bool = False


def retrain(
    record: Path, manifest: Manifest, tasks: Mapping[Place, Task], drawn: Drawn, workers: int | None
) -> list[Retrained]:
    """Train the drawn ones of ``tasks``, all where there are no more than asked for, and compare their rows.

    They must be equal to the byte, measured time and memory aside; where the processor, Python or a library is another
    than the record names, every number must be within :data:`ROUNDING`. Raises :class:`UserError` where a data set that
    they need is not on this disk.
    """
    places = random.Random(drawn.seed).sample(sorted(tasks), min(drawn.count, len(tasks)))
    chosen = {place: tasks[place] for place in places}
    if not chosen:
        return []
    from datalab import data
    from datalab.sweep import machine_speed

    given = [value for task in chosen.values() for name, value in task.parameters.items() if name.endswith("dataset")]
    if missing := data.missing(dict.fromkeys(name for name in given if isinstance(name, str))):
        words = " ".join(missing)
        raise UserError(f"to train tasks anew their data must be on this disk: datalab datasets --fetch {words}")
    # How long training takes is the record's word: a stranger's sizes must not keep this machine busy for days.
    cores = workers or sweep.available_cores()
    hours = sum(task.cost for task in chosen.values()) * machine_speed.pace() / 3600 / cores
    if hours > MOST_HOURS:
        raise UserError(f"the drawn tasks would take {hours:,.0f} hours here, more than {MOST_HOURS}; draw fewer")
    then, here = manifest.machine, provenance.machine()
    names = [name for name in ("processor", "python", "system") if then.get(name) != here[name]]
    other = [f"{name} {then.get(name)} (here {here[name]})" for name in names]
    other += recompute.other_libraries(manifest)
    with tempfile.TemporaryDirectory() as made:
        with contextlib.suppress(sweep.SweepError):  # those that failed have no file
            sweep.run(list(chosen.values()), Path(made), workers)
        return [_compared(record, place, task, Path(made), other) for place, task in chosen.items()]


def _compared(record: Path, place: Place, task: Task, made: Path, other: list[str]) -> Retrained:
    tasks = {held.key: frame for held, frame in rawrows.by_task(folder.inside(record, place[0]))}
    path = place[0] if len(tasks) == 1 else f"{place[0]}: {task.label}"
    if not task.path(made).is_file():
        return Retrained(path, different="it cannot be trained here")
    held, given = tasks[place[1]], rawrows.by_task(task.path(made))[0][1]
    if not held.dtypes.equals(given.dtypes) or len(held) != len(given):  # words may stand where a time should
        return Retrained(path, different="it has other columns, or more or fewer rows")
    columns = [name for name in held if name not in MEASURED]
    first = _first_difference(held[columns], given[columns], rounding=0.0)
    beyond = _first_difference(held[columns], given[columns], ROUNDING) if other else first
    if beyond:
        return Retrained(path, different=beyond)
    if first:
        return Retrained(path, same=f"within {ROUNDING:g}, on another machine ({'; '.join(other)})", rounded=True)
    aside = len(columns) < held.shape[1]
    return Retrained(path, same="equal but for measured time" if aside else "equal to the byte")


def _first_difference(held: pd.DataFrame, given: pd.DataFrame, rounding: float) -> str:
    """Where two frames of equal shape part by more than ``rounding``; empty where they do not."""
    for name, a in held.items():
        b = given[name]
        if rounding and pd.api.types.is_numeric_dtype(a) and pd.api.types.is_numeric_dtype(b):
            same = np.isclose(a.astype(float), b.astype(float), rtol=rounding, atol=rounding, equal_nan=True)
        else:
            same = (a.map(repr) == b.map(repr)).to_numpy()
        if not same.all():
            row = int((~same).argmax())
            return f"row {row + 1}, {name}: the record has {exact(a[row])}, training gives {exact(b[row])}"
    return ""
