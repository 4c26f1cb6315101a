"""Production streams that shift, made of the data sets that have one: later months, other people, corrupted images.

A stream has a training part, held-out reference examples, a quiet part like these, and a shifted part after it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datalab.data import encoders
from datalab.data.registry import REGISTRY
from datalab.data.tables import load
from datalab.protocol import protocol

TRAIN, REFERENCE = 1000, 1000  # examples, at most
CORRUPTION = 2.0  # standard deviations of noise at the stream's end


@dataclass(frozen=True)
class Stream:
    """The encoded examples ``x`` (n, d) and labels ``y`` (n,) of the parts train, reference, quiet and shifted."""

    x: dict[str, NDArray[np.float32]]
    y: dict[str, NDArray[np.int64]]
    grid: tuple[int, int, int]
    n_classes: int


def shift_of(name: str) -> str | None:
    """How a data set's stream shifts: by ``time``, ``subject`` or ``corruption``; None if it has no stream."""
    image = REGISTRY[name].modality == "image"
    return {"flights-origin": "time", "smartwatch": "subject"}.get(name, "corruption" if image else None)


def shifting_stream(name: str, rng: np.random.Generator) -> Stream:
    """A data set's stream, encoded by its fast encoder fitted on the training part.

    The shifted part is the months after June, in order (``time``), three tenths of the people, one after another
    (``subject``), or the quiet part once more with noise that grows from none (``corruption``).
    """
    dataset, shift = load(name), shift_of(name)
    order, later, when = rng.permutation(len(dataset)), np.zeros(len(dataset), dtype=bool), dataset.groups
    if shift == "time":
        month = dataset.features["month"].to_numpy()
        later, when = month > 6, 100 * month + dataset.features["day"].to_numpy()
    elif shift == "subject":
        people = rng.permutation(np.unique(dataset.groups))
        later = np.isin(dataset.groups, people[: max(1, round(0.3 * len(people)))])
    before, after = order[~later[order]], order[later[order]]
    train = min(TRAIN, len(before) // 2)
    held = min(REFERENCE, (len(before) - train) // 2)
    most = protocol().monitoring["window"] * protocol().monitoring["windows"] // 2
    rows = {"train": before[:train], "reference": before[train : train + held]}
    rows["quiet"] = rows["shifted"] = before[train + held :][:most]
    if shift != "corruption":
        after = after[:most]
        rows["shifted"] = after[np.argsort(when[after], kind="stable")]
    encoder = encoders.fast(dataset, REGISTRY[name]).fit(rows["train"])
    x = {part: encoder.transform(ids) for part, ids in rows.items()}
    if shift == "corruption":
        spread = np.linspace(0, CORRUPTION, len(rows["shifted"]))[:, None]
        x["shifted"] = (x["shifted"] + spread * rng.standard_normal(x["shifted"].shape)).astype(np.float32)
    y = {part: dataset.labels[ids].astype(np.int64) for part, ids in rows.items()}
    return Stream(x, y, encoder.grid, len(dataset.class_names))
