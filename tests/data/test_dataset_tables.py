"""Tables: exact duplicates, class order, content hash and the cache."""

import numpy as np
import pandas as pd
import pytest

from datalab import data
from datalab.data import tables
from datalab.data.loaders import RawTable
from datalab.errors import UserError


def _raw(rows: int = 40) -> RawTable:
    rng = np.random.default_rng(3)
    features = pd.DataFrame(
        {
            "number": np.where(np.arange(rows) % 7 == 0, np.nan, rng.normal(size=rows)),
            "count": np.arange(rows, dtype="uint8"),
            "kind": pd.Categorical.from_codes(rng.integers(-1, 3, rows), ["a", "b", "c"]),
            "text": [f"word{i} ünd" for i in range(rows)],
        }
    )
    labels = np.asarray([str(i % 2) for i in range(rows)], dtype=object)
    votes = [np.asarray([str(vote % 2) for vote in range(i % 4 + 1)], dtype=object) for i in range(rows)]
    return RawTable(features, labels, np.arange(rows) % 5, votes)


def test_of_equal_rows_one_stays_and_none_when_their_labels_differ():
    features = pd.DataFrame({"a": [1, 1, 2, 2, 3, np.nan, np.nan], "b": list("xxyyzww")})
    kept, duplicates, conflicts = tables.without_duplicates(features, np.asarray(list("ppqrppp")))
    assert kept.tolist() == [0, 4, 5]
    assert (duplicates, conflicts) == (2, 2)


def test_a_majority_does_not_save_conflicting_rows():
    features = pd.DataFrame({"a": [1, 1, 1, 2]})
    kept, duplicates, conflicts = tables.without_duplicates(features, np.asarray(["p", "p", "q", "p"]))
    assert kept.tolist() == [3]
    assert (duplicates, conflicts) == (0, 3)


def test_class_names_are_in_the_order_of_numbers_where_they_are_numbers():
    assert tables.class_order(np.asarray(["10", "9", "-1"])) == ("-1", "9", "10")
    assert tables.class_order(np.asarray(["b", "10", "9"])) == ("10", "9", "b")


def test_a_table_reads_back_from_the_cache_as_it_was_written(tmp_path):
    dataset = tables.build("tiny", _raw())
    tables._write_cached(tmp_path / "tiny.parquet", dataset)
    back = tables._read_cached(tmp_path / "tiny.parquet")
    assert tables.content_hash(back) == dataset.sha256 == back.sha256
    assert back.features["count"].dtype == np.uint8
    assert (back.rows_read, back.duplicates, back.conflicts) == (40, 0, 0)


def test_a_damaged_cached_table_is_built_anew(tmp_path):
    file = tmp_path / "tiny.parquet"
    tables._write_cached(file, tables.build("tiny", _raw()))
    file.write_bytes(file.read_bytes()[:-20])
    assert tables._read_cached(file) is None


def test_votes_keep_to_their_rows_and_become_the_labels_codes():
    dataset = tables.build("tiny", _raw())
    for row, votes in zip(dataset.source_rows, dataset.votes, strict=True):
        assert [dataset.class_names[vote] for vote in votes] == [str(vote % 2) for vote in range(row % 4 + 1)]


@pytest.mark.parametrize("change", ["value", "level", "text", "label", "group", "vote"])
def test_any_change_of_content_changes_the_hash(change):
    raw = _raw()
    if change == "value":
        raw.features.loc[1, "number"] = 0.0
    elif change == "level":
        raw.features.loc[1, "kind"] = "a" if raw.features.loc[1, "kind"] != "a" else "b"
    elif change == "text":
        raw.features.loc[1, "text"] = "other"
    elif change == "label":
        raw.labels[1] = "0"
    elif change == "group":
        raw.groups[1] = 4
    else:
        raw.votes[1][0] = "1"
    assert tables.build("tiny", raw).sha256 != tables.build("tiny", _raw()).sha256


def test_the_embedded_sets_need_no_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DATALAB_CACHE", str(tmp_path / "none"))
    for name in data.EMBEDDED:
        assert len(data.load(name)) == data.REGISTRY[name].unique_rows
        data.prepare(name, 0, 1, {"train": 100})
    assert not (tmp_path / "none").exists()


def test_a_set_that_is_not_on_disk_is_named_with_the_command_that_fetches_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DATALAB_CACHE", str(tmp_path))
    assert data.missing(["wine", "adult"]) == ["adult"]
    with pytest.raises(UserError, match=r"'adult' is not on disk.*datalab datasets --fetch adult") as refusal:
        data.load("adult")
    assert "\n" not in str(refusal.value)
