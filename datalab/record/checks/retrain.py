"""Are the raw rows what training gives? Some tasks of a record, drawn by chance, trained anew and compared.

Only tasks that the study's own notebooks ask for are trained: what a raw file says of its function is never run.
"""

import contextlib
import functools
import random
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from datalab import sweep
from datalab.errors import UserError
from datalab.record import folder, provenance, rawrows
from datalab.record.checks import recompute
from datalab.record.manifest import Manifest
from datalab.record.tables import exact
from datalab.sweep import Task, kernels
from datalab.sweep.pool import in_processes

# Columns of raw rows that hold measured time or memory, or name the process: they differ between equal runs.
MEASURED = frozenset({"seconds", "memory", "train", "infer", "base", "pid"})
Place = tuple[str, str]  # of a task's raw rows: the path of the file, and the task's key in it
MOST_HOURS = 12
# What another processor or another library may do to a task's numbers: move them by this, of a number or of one; and
# this share of them further, since what rounding decides (a length, an example near the border) moves by whole steps.
# Of 152 tasks of the study, trained by the kernels of AVX-512 and of AVX2, the most had .042 further, all but 18 none.
ROUNDING, MOST_FURTHER = 0.01, 0.05


@dataclass(frozen=True)
class Drawn:
    """How many tasks to train anew, and the seed they are drawn by."""

    count: int
    seed: int


@dataclass(frozen=True)
class Retrained:
    """One task trained anew: ``same`` says how its rows agree; ``different`` where they do not, else it is empty.

    ``path`` is its raw rows' file, with its name where the file has several. ``rounded``: the same only as far as
    :data:`ROUNDING` and :data:`MOST_FURTHER` say, and on the word of the record that it was made elsewhere.
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
    than the record names, or it names no processor, they may differ by rounding (:data:`ROUNDING`). Rows are made by
    the kernels that they say they were made by, of AVX2 or of the processor. Raises :class:`UserError` where a data set
    that they need is not on this disk.
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
    names = [name for name in ("python", "system") if then.get(name) != here[name]]
    other = [f"{name} {then.get(name)} (here {here[name]})" for name in names]
    other += recompute.other_libraries(manifest)
    kept = {place: _rows(record, place, task) for place, task in chosen.items()}
    with tempfile.TemporaryDirectory() as made:
        for by_avx2 in (True, False):
            alike = [task for place, task in chosen.items() if kept[place].processor.endswith(kernels.HELD) == by_avx2]
            with contextlib.suppress(sweep.SweepError):  # those that failed have no file
                sweep.run(alike, Path(made), executor=functools.partial(in_processes, workers=cores, held=by_avx2))
        return [_compared(kept[place], task.path(Path(made)), other) for place, task in chosen.items()]


class _Kept(NamedTuple):
    """A task's rows as the record has them: how to name them, the processor they say, and the rows."""

    path: str
    processor: str
    frame: pd.DataFrame


def _rows(record: Path, place: Place, task: Task) -> _Kept:
    path, key = place
    parts = rawrows.Reader().by_task(folder.inside(record, path))
    finished, frame = next(part for part in parts if part[0].key == key)
    return _Kept(path if len(parts) == 1 else f"{path}: {task.label}", finished.processor, frame)


def _compared(kept: _Kept, made: Path, other: list[str]) -> Retrained:
    if not made.is_file():
        return Retrained(kept.path, different="it cannot be trained here")
    (task, given), *_ = rawrows.Reader().by_task(made)
    frame = kept.frame
    if not frame.dtypes.equals(given.dtypes) or len(frame) != len(given):  # words may stand where a time should
        return Retrained(kept.path, different="it has other columns, or more or fewer rows")
    columns = [name for name in frame if name not in MEASURED]
    first, count = _difference(frame[columns], given[columns])
    if not first:
        aside = len(columns) < frame.shape[1]
        return Retrained(kept.path, same="equal but for measured time" if aside else "equal to the byte")
    if kept.processor != task.processor:
        other = [f"{kept.processor or 'a processor that the rows do not name'} (here {task.processor})", *other]
    if other and count.is_rounding:
        return Retrained(kept.path, same=f"{count}, on another machine: {'; '.join(other)}", rounded=True)
    return Retrained(kept.path, different=f"{first} ({count})")


class _Count(NamedTuple):
    """Of ``numbers``, how many ``differ``, how many ``further`` than :data:`ROUNDING`; and whether any word does."""

    numbers: int
    differ: int
    further: int
    words: bool

    @property
    def is_rounding(self) -> bool:
        return not self.words and self.further <= MOST_FURTHER * self.numbers

    def __str__(self) -> str:
        return f"{self.differ:,} of {self.numbers:,} numbers differ, {self.further:,} by more than {ROUNDING:.0%}"


def _exactly(value: Any) -> str:
    """All of a value as text; of an array ``repr`` would leave out its middle and its last digits."""
    return repr(value.tolist() if isinstance(value, np.ndarray) else value)


def _difference(kept: pd.DataFrame, given: pd.DataFrame) -> tuple[str, _Count]:
    """Where two frames of equal shape first part, empty where they do not; and how much of them does."""
    unequal = kept.map(_exactly) != given.map(_exactly)
    numbers = [name for name in kept if pd.api.types.is_numeric_dtype(kept[name])]
    x, y = (frame[numbers].to_numpy(float) for frame in (kept, given))
    differ, words = unequal[numbers].to_numpy(bool), unequal.drop(columns=numbers)
    with np.errstate(invalid="ignore"):  # of two that are both infinite, which are equal
        further = differ & ~(np.abs(x - y) <= ROUNDING * np.maximum(1, np.minimum(np.abs(x), np.abs(y))))
    first = ""
    if unequal.any(axis=None):
        name = unequal.any().idxmax()
        row = unequal[name].argmax()
        there, here = (exact(frame[name][row]) for frame in (kept, given))
        first = f"row {row + 1}, {name}: the record has {there}, training gives {here}"
    return first, _Count(differ.size, int(differ.sum()), int(further.sum()), bool(words.any(axis=None)))
