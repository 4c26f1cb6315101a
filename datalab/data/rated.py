"""Sets whose raters are known one by one: the class is what most of them say, a vote is what one of them said."""

import ast
import io
import sqlite3
import tarfile
from collections.abc import Sequence

import numpy as np
import pandas as pd

from datalab.data.raw import RawTable, as_labels, as_text

LEAST_READERS = 3  # for three classes; two off the scale's middle for two
MOST_READERS = 4  # of a scan: more marks so close are two nodules
TOUCHING = 6.0  # mm between the centres of two marks of one nodule


def _majority(votes: Sequence[str]) -> str | None:
    """What most voted for; None when two classes share the first place."""
    classes, counts = np.unique(np.asarray(votes, dtype=str), return_counts=True)
    first = np.flatnonzero(counts == counts.max())
    return str(classes[first[0]]) if len(first) == 1 else None


def _tabbed(file: bytes) -> list[list[str]]:
    try:
        content = file.decode("utf-8-sig")
    except UnicodeDecodeError:
        content = file.decode("latin-1").removeprefix("\xef\xbb\xbf")
    return [line.split("\t") for line in content.splitlines() if line.strip()]


def vader(file: bytes, *, name: str, neutral: bool = False, grouped: bool = False) -> RawTable:
    """Sentences rated from -4 to 4 by some 20 people.

    The class is the sign of the mean rating (sentences with mean 0 are left out) and the votes are the raters who
    did not say 0; with ``neutral`` a rating of 0 is a vote too and the class is the majority's (ties are left out).
    With ``grouped`` the group is the review or article a sentence was taken from.
    """
    with tarfile.open(fileobj=io.BytesIO(file)) as archive:
        ground_truth, ratings = (
            _tabbed(archive.extractfile(f"hutto_ICWSM_2014/{name}_{part}.txt").read())
            for part in ("GroundTruth", "anonDataRatings")
        )
    text_of = {row[0]: row[2] for row in ground_truth}
    names = np.asarray(["negative", "neutral", "positive"], dtype=object)
    texts, labels, votes, groups = [], [], [], []
    for row in ratings:
        scores = np.asarray(ast.literal_eval(row[3]))
        voted = names[np.sign(scores if neutral else scores[scores != 0]) + 1]
        label = _majority(voted) if neutral else names[int(np.sign(scores.mean())) + 1]
        if label is None or (label == "neutral" and not neutral):
            continue
        texts.append(text_of[row[0]])
        labels.append(label)
        votes.append(voted)
        groups.append(int(row[0].split("_")[0]))
    features = as_text(pd.Series(texts, dtype=object))
    return RawTable(features, as_labels(labels), np.asarray(groups) if grouped else None, votes)


def lidc(file: bytes, *, indeterminate: bool = False) -> RawTable:
    """Lung nodules marked by up to four radiologists: their mean ratings of its look, and its size.

    The class is the majority's opinion of malignancy (1 to 5), below or above 3 among at least two readers who did
    not say 3; with ``indeterminate`` a 3 is a vote too, among at least three readers. Ties are left out. Marks of one
    scan whose centres lie within 6 mm of each other, by single linkage, are one nodule; the group is the patient.
    """
    marks = _marks(file)
    looks = ["subtlety", "internalStructure", "calcification", "sphericity", "margin", "lobulation"]
    looks += ["spiculation", "texture"]
    sizes = ["diameter_mm", "volume_mm3", "largest_area_mm2", "slices"]
    names = np.asarray(["benign", "indeterminate", "malignant"], dtype=object)
    kept, labels, votes = [], [], []
    for nodule, opinions in marks.groupby("nodule")["malignancy"]:
        signs = np.sign(opinions.to_numpy() - 3)
        voted = names[(signs if indeterminate else signs[signs != 0]) + 1]
        enough = len(voted) >= (LEAST_READERS if indeterminate else LEAST_READERS - 1)
        if not enough or len(opinions) > MOST_READERS or (label := _majority(voted)) is None:
            continue
        kept.append(nodule)
        labels.append(label)
        votes.append(voted)
    by_nodule = marks.groupby("nodule")
    features = by_nodule[looks + sizes].mean().loc[kept].reset_index(drop=True)
    patients = pd.factorize(by_nodule["patient"].first().loc[kept])[0]
    return RawTable(features.astype("float64"), as_labels(labels), patients, votes)


def _marks(file: bytes) -> pd.DataFrame:
    """One row per radiologist and nodule: the ratings, the size of the outline, and which nodule it is."""
    from scipy.cluster.hierarchy import fcluster, linkage

    database = sqlite3.connect(":memory:")
    database.deserialize(file)
    marks = pd.read_sql(
        "select a.*, s.patient_id as patient, s.pixel_spacing, s.slice_thickness from annotations a "
        "join scans s on s.id = a.scan_id order by a.id",
        database,
    ).set_index("id")
    outlines = database.execute(
        "select annotation_id, image_z_position, coords from contours where inclusion = 1 order by id"
    ).fetchall()
    database.close()
    measured = []
    for mark, z, coordinates in outlines:
        points = np.asarray(list(map(int, coordinates.replace("\n", ",").split(","))))
        x, y = points[::2], points[1::2]
        area = abs(x[:-1] @ y[1:] - y[:-1] @ x[1:] + x[-1] * y[0] - y[-1] * x[0]) / 2  # of the polygon, in pixels
        measured.append((mark, x.mean(), y.mean(), z, area, max(np.ptp(x), np.ptp(y))))
    columns = ["mark", "x", "y", "z", "area", "extent"]
    by_mark = pd.DataFrame(measured, columns=columns).groupby("mark")
    marks = marks.join(by_mark[["x", "y", "z"]].mean())
    marks["diameter_mm"] = by_mark["extent"].max() * marks["pixel_spacing"]
    marks["largest_area_mm2"] = by_mark["area"].max() * marks["pixel_spacing"] ** 2
    marks["volume_mm3"] = by_mark["area"].sum() * marks["pixel_spacing"] ** 2 * marks["slice_thickness"]
    marks["slices"] = by_mark.size()
    marks[["x", "y"]] = marks[["x", "y"]].mul(marks["pixel_spacing"], axis=0)
    centres, nodules, first = marks[["x", "y", "z"]].to_numpy(), np.zeros(len(marks), dtype=int), 0
    for rows in marks.groupby("scan_id").indices.values():
        which = fcluster(linkage(centres[rows], "single"), TOUCHING, "distance") if len(rows) > 1 else np.ones(1)
        nodules[rows] = which + first
        first = nodules[rows].max()
    return marks.assign(nodule=nodules)
