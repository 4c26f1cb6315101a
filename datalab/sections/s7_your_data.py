"""Section 7, beyond the paper: the same protocol on a file of one's own, or on digits whose wrong labels are known.

A task is one advice: its rows have a ``kind``: "arm" and "noise" (the pilot's, of which the verdict is a function),
"line" (the answer's words), "class" and "flagged"; with known labels "truth", every arm's gain on clean test labels.
"""

import functools
import hashlib
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pydantic

from datalab import advise, data, noise, seeds
from datalab.advise import pilot
from datalab.advise.advice import SHOWN
from datalab.errors import UserError
from datalab.intake import examples, reading
from datalab.record.parameters import SectionParameters
from datalab.sections.parameters import estimated
from datalab.sweep import Task

KNOWN, FLIPPED, ROWS = "digits", 0.2, 600  # the set, the share of its labels flipped, and the rows of the file
TRUTH_SPLITS = 2
Column = Annotated[str, pydantic.Field(coerce_numbers_to_str=True)]  # `-p label 4` is the column called 4


class Parameters(SectionParameters):
    """``path`` None: digits with a fifth of the labels flipped. ``minutes`` plans the splits; None: ``splits``."""

    path: Annotated[str, pydantic.AfterValidator(os.path.abspath)] | None = None
    label: Column | None = None
    id: Column | None = None
    minutes: Annotated[float, pydantic.Field(gt=0, le=1440)] | None = None
    splits: Annotated[int, pydantic.Field(ge=2, le=200, strict=True)]

    @functools.cached_property  # it is asked twice where it says no
    def unfit(self) -> str:
        """Columns without a file to hold them, and what the advice would refuse once it had begun."""
        if not self.path:
            named = [name for name in ("label", "id") if getattr(self, name) is not None]
            why = "a column of no file; name the file as 'path', or leave it out"
            return f"parameter '{named[0]}': {why}" if named else super().unfit
        try:
            examples.labelled(reading.read(self.path), self.label, self.id, None)
        except UserError as error:
            of = next((name for name in ("label", "id") if str(error).startswith(name)), "path")
            return f"parameter '{of}': {error}"
        return super().unfit


def tasks(p: Parameters) -> list[Task]:
    """One task; the file's hash is part of it, so that another content is another task."""
    given = {"path": p.path, "label": p.label, "id": p.id, "minutes": p.minutes, "root_seed": p.root_seed}
    given |= {"splits": None if p.minutes else p.splits}
    if p.path:
        path = Path(p.path)
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        if not path.exists():
            raise UserError(f"parameter 'path': there is no file '{p.path}'")
        content = hashlib.sha256()
        for file in files:
            content.update(file.name.encode() + (file.read_bytes() if file.is_file() else b""))
        given["sha256"] = content.hexdigest()
    return [Task(f"{__name__}:run_task", given, 60 * p.minutes if p.minutes else 4.0 * (p.splits + TRUTH_SPLITS))]


estimate = estimated(tasks, 8e8)


def known() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Digits as pictures: the file (n, 8, 8), its labels, a fifth flipped; the true ones; clean test rows, labels."""
    dataset = data.load(KNOWN)
    x, y = dataset.features.to_numpy(dtype=np.float32).reshape(-1, 8, 8), dataset.labels
    observed = noise.corrupt(y[:ROWS], "symmetric", FLIPPED, 10, seeds.generator(0, "your data"))
    return x[:ROWS], observed, y[:ROWS], x[ROWS:], y[ROWS:]


def run_task(
    path: str | None,
    label: str | None,
    id: str | None,
    minutes: float | None,
    splits: int | None,
    root_seed: int,
    sha256: str = "",
) -> list[dict[str, Any]]:
    """The rows of one advice; ``sha256`` names the file's content."""
    budget = {"minutes": minutes or 10, "splits": splits, "seed": root_seed}
    if path:
        advice = advise.advise(path, label=label, ids=id, **budget)
    else:
        x, observed, true, x_test, y_test = known()
        advice = advise.advise(x, observed, **budget)
    rows = advice.rows.drop(columns="class_f1").to_dict("records")
    rows += [{"kind": "line", "text": line} for line in advice.facts["lines"]]
    rows += advice.hit.to_dict("records")
    flagged = advice.flagged.rename(columns=lambda name: name.replace(" ", "_")).astype({"id": str})
    if not path:
        at = advice.flagged.id.to_numpy()
        flagged["true_label"] = true[at].astype(str)
        judged = advise.advise(x, observed, X_test=x_test, y_test=y_test, **budget | {"splits": TRUTH_SPLITS}).rows
        judged = judged[judged.kind == "arm"].groupby(["method", "amount"], sort=False).macro_f1.mean()
        gains = (judged - judged[(pilot.KEEP_ALL, "")]).reset_index().to_dict("records")
        rows += [{"kind": "truth", "wrong": int((observed != true).sum()), **row} for row in gains]
    return rows + [{"kind": "flagged", **row} for row in flagged.to_dict("records")]


def of_kind(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows of one kind, with the columns it has."""
    return rows[rows.kind == kind].dropna(axis=1, how="all").reset_index(drop=True)


def answer(rows: pd.DataFrame) -> str:
    """The five lines; of the sample file, that they are of it."""
    lines = "\n\n".join(of_kind(rows, "line").text)
    sample = f"On the sample file ({ROWS} {KNOWN}, {FLIPPED:.0%} of the labels flipped): "
    return sample + lines if "truth" in set(rows.kind) else lines


def suspicious(rows: pd.DataFrame) -> pd.DataFrame:
    """The labels that look most wrong, and the true ones where they are known."""
    names = ["id", "given_label", "suggested_label", "true_label", "score", "agreement"]
    flagged = of_kind(rows, "flagged").head(SHOWN).filter(names)
    return flagged.rename(columns=lambda name: name.replace("_", " "))


def against_truth(rows: pd.DataFrame, gains: pd.DataFrame) -> pd.DataFrame:
    """A row an arm: its gain as advised, on noisy labels, and on clean ones. Empty for a file of one's own."""
    if "truth" not in set(rows.kind):
        return pd.DataFrame(columns=["arm", "gain", "low", "high", "true gain"])
    truth = of_kind(rows, "truth").rename(columns={"macro_f1": "true gain"})
    return gains.merge(truth, on=["method", "amount"])[["arm", "gain", "low", "high", "true gain"]]


def flags_found(rows: pd.DataFrame) -> pd.DataFrame:
    """How many of the flagged labels are wrong, and how many of the wrong ones are flagged, where that is known."""
    flagged = of_kind(rows, "flagged")
    if "true_label" not in flagged:
        return pd.DataFrame({"flagged": [len(flagged)]})
    hits, wrong = int((flagged.given_label != flagged.true_label).sum()), int(of_kind(rows, "truth").wrong[0])
    made = {"flagged": len(flagged), "truly wrong": wrong, "precision": hits / len(flagged), "recall": hits / wrong}
    right = float((flagged.suggested_label == flagged.true_label).mean())
    return pd.DataFrame([made | {"suggestion right": right}])
