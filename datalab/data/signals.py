"""Time series: taken whole where all are of one length, else cut into windows that a few figures describe."""

import io
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pandas as pd

from datalab.data.raw import RawTable, as_labels, as_numbers


def _described(window: np.ndarray) -> np.ndarray:
    """Of each channel of ``window`` (time, channels): mean, deviation, least, greatest, mean absolute step."""
    step = np.abs(np.diff(window, axis=0)).mean(axis=0)
    return np.stack([window.mean(0), window.std(0), window.min(0), window.max(0), step]).T.ravel()


def smartwatch(file: bytes) -> RawTable:
    """Shoulder exercises seen by a smartwatch: windows of 100 samples every 50, six channels.

    The group is the person, since windows of one person overlap and resemble each other.
    """
    source = np.load(io.BytesIO(file), allow_pickle=True).item()
    rows, labels, groups = [], [], []
    for series, label, person in zip(source["X"], source["y"], source["subject"], strict=True):
        for start in range(0, len(series) - 99, 50):
            rows.append(_described(series[start : start + 100]))
            labels.append(source["y_labels"][label])
            groups.append(int(person))
    names = [f"{channel}_{what}" for channel in source["X_labels"] for what in ("mean", "std", "min", "max", "step")]
    return RawTable(pd.DataFrame(np.asarray(rows), columns=names), as_labels(labels), np.asarray(groups))


def _series(files: tuple[bytes, ...]) -> Iterator[tuple[np.ndarray, str]]:
    """Each line's series (time, channels) and class: channels end in a colon, their values are split by commas."""
    for file in files:
        for line in file.decode("latin-1").splitlines():
            if line.strip() and line[0] not in "#@":
                *channels, label = line.split(":")
                yield np.asarray([channel.split(",") for channel in channels], dtype=float).T, label.strip()


def whole(*files: bytes, named: dict[str, str]) -> RawTable:
    """Series of one channel and one length, a value a column."""
    series, labels = zip(*_series(files), strict=True)
    return RawTable(as_numbers(np.stack(series)[:, :, 0]), as_labels([named[label] for label in labels]))


def windows(*files: bytes, length: int, step: int, pieces: int = 1) -> RawTable:
    """Windows of ``length`` samples every ``step``; each of a channel's equal ``pieces`` is described by itself.

    The group joins the first series of every class, the second of every class and so on: windows of one series
    overlap, so no series is split, and every part of a split has every class.
    """
    rows, labels, groups = [], [], []
    of_class: dict[str, int] = defaultdict(int)
    for series, label in _series(files):
        for start in range(0, len(series) - length + 1, step):
            window = series[start : start + length].T
            rows.append(_described(window.reshape(pieces * len(window), -1).T))
            labels.append(label)
            groups.append(of_class[label])
        of_class[label] += 1
    return RawTable(as_numbers(np.asarray(rows)), as_labels(labels), np.asarray(groups))
