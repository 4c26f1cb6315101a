"""Loaders that many sets share: which rows stay, what the classes are called, what is left out."""

import pandas as pd
import pytest

from datalab.data import loaders


def _frame(file: bytes) -> pd.DataFrame:
    return pd.DataFrame(
        {"label": [0.0, 1.0, 2.0, None], "who": ["a", "b", "a", "c"], "id": [1, 2, 3, 4], "kind": ["x", None, "y", "x"]}
    )


def test_a_label_that_is_missing_or_not_named_leaves_its_row_out():
    table = loaders.every_column(b"", frame=_frame, label="label", left_out=("id",), group="who")
    assert table.labels.tolist() == ["0.0", "1.0", "2.0"]
    assert list(table.features) == ["kind"]
    assert table.features["kind"].isna().tolist() == [False, True, False]
    assert table.groups.tolist() == [0, 1, 0]
    named = loaders.every_column(b"", frame=_frame, label="label", named={2.0: "two", 0.0: "none"})
    assert named.labels.tolist() == ["none", "two"]
    assert named.groups is None
    assert list(named.features) == ["who", "id", "kind"]


@pytest.mark.parametrize("rows", ['"-1","so, so"\r\n"1","good\nbook"\r\n', '"so, so","-1"\n"good\nbook","1"\n'])
def test_a_corpus_has_its_class_before_the_text_or_behind_it(rows):
    table = loaders.corpus(b"\xef\xbb\xbf" + rows.encode(), named=loaders.SENTIMENT)
    assert table.labels.tolist() == ["negative", "positive"]
    assert [text.replace("\r", "") for text in table.features["text"]] == ["so, so", "good\nbook"]


def test_two_lists_are_two_classes():
    table = loaders.one_class_a_file("差\n\n".encode(), "好\n很好\n".encode(), named=("negative", "positive"))
    assert table.features["text"].tolist() == ["差", "好", "很好"]
    assert table.labels.tolist() == ["negative", "positive", "positive"]


def test_tags_of_words_are_taken_off():
    tagged = b"El/DA ni\xc3\xb1o/NCS y&slash;o/CC 1/2/Z ./Fp\n"
    table = loaders.one_class_a_file(tagged, named=("Spanish",), tagged=True)
    assert table.features["text"].tolist() == ["El ni\u00f1o y/o 1/2 ."]


def test_an_hours_weather_is_grouped_by_day(monkeypatch):
    hours = {"origin": ["EWR", "JFK"], "year": 2013, "month": [1, 11], "day": [11, 1], "hour": [1, 2], "time_hour": "x"}
    monkeypatch.setattr(loaders, "_rdataset", lambda file: pd.DataFrame(hours))
    table = loaders.weather_month(b"")
    assert table.labels.tolist() == ["1", "11"]
    assert table.groups.tolist() == [111, 1101]
    assert list(table.features) == ["origin", "hour"]


def test_crashes_of_an_area_are_told_apart_and_their_vehicles_are_not(monkeypatch):
    cases = pd.DataFrame({"caseid": ["2:3:1", "2:3:2", "2:31:1"]})
    monkeypatch.setattr(loaders, "_rdataset", lambda file: cases)
    assert loaders._crashes(b"")["crash"].tolist() == ["2:3", "2:3", "2:31"]


def test_a_movies_rating_is_cut_at_4_and_people_are_the_groups():
    def parquet(**columns):
        return pd.DataFrame(columns).to_parquet()

    ratings = parquet(user_id=[5, 5, 6], movie_id=[1, 2, 1], rating=[4, 3, 5], timestamp=[0, 0, 0])
    people = parquet(user_id=[5, 6], age=[30, 40], zip_code=["1", "2"])
    dates = ["01-Jan-1995", None]
    films = parquet(
        movie_id=[1, 2], movie_title=["a", "b"], release_date=dates, video_release_date=dates, IMDb_URL=dates
    )
    table = loaders.movielens(ratings, people, films)
    assert table.labels.tolist() == ["4-5", "1-3", "4-5"]
    assert table.groups.tolist() == [5, 5, 6]
    assert table.features["ratings_of_person"].tolist() == [2, 2, 1]
    assert table.features["ratings_of_film"].tolist() == [2, 1, 2]
    assert table.features["year"].tolist()[::2] == [1995.0, 1995.0]
    assert not {"user_id", "movie_id", "rating", "timestamp", "zip_code"} & set(table.features)
