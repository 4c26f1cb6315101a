"""From data to an answer and its files, as a user does it."""

import base64
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from PIL import Image

import datalab
from datalab import cli
from datalab.advise import advice, page, pilot, verdict, write
from datalab.errors import UserError
from datalab.intake import examples, features, reading

pytestmark = pytest.mark.usefixtures("quick")


def table(noisy: NamedTuple) -> pd.DataFrame:
    frame = pd.DataFrame(noisy.x.reshape(len(noisy.x), -1)).add_prefix("pixel ")
    return frame.assign(
        sort=np.array(["null", "eins", "zwei", "drei"])[noisy.y], key=[f"k{i}" for i in range(len(frame))]
    )


def test_flags_are_wrong_labels_and_the_same_seed_gives_the_same_bytes(noisy: NamedTuple, tmp_path: Path) -> None:
    said: list[str] = []
    made = [datalab.advise(noisy.x, noisy.y, splits=2, say=said.append) for _ in range(2)]
    at = made[0].flagged.id.to_numpy()
    assert noisy.flipped[at].mean() > 0.85
    assert noisy.flipped[at].sum() > 0.6 * noisy.flipped.sum()
    suggested = made[0].flagged["suggested label"].astype(int).to_numpy()
    assert (suggested == noisy.true[at]).mean() > 0.85
    assert any(re.match(r"about \d+\.\d minutes: 2 splits", line) for line in said)
    folders = [tmp_path / "a", tmp_path / "b"]
    for each, folder in zip(made, folders, strict=True):
        write(each, folder)
    for name in ("kept.csv", "flagged.csv", "index.html"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    answers = [json.loads((folder / "advice.json").read_text()) for folder in folders]
    assert {key for key in answers[0] if answers[0][key] != answers[1][key]} <= {"seconds"}
    assert {"advice", "arm", "gain_over_random", "gain_over_keeping_all", "noise_rate", "metric", "n", "splits", "seed",
            "versions", "seconds"} <= set(answers[0])  # fmt: skip
    assert len(str(made[0]).splitlines()) == 5


def test_what_was_read_is_said_before_texts_are_embedded(noisy: NamedTuple, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "sample", lambda *given: 1 / 0)
    said: list[str] = []
    with pytest.raises(ZeroDivisionError):
        datalab.advise(noisy.x, noisy.y, pretrained=True, say=said.append)
    assert "classes, the largest" in said[-2]
    assert said[-1] == "texts and pictures are embedded now, before the minutes are known"


def test_an_earlier_advice_is_replaced_unless_somebody_worked_in_it(noisy: NamedTuple, tmp_path: Path) -> None:
    made = datalab.advise(noisy.x, noisy.y, splits=2)
    for _ in range(2):
        write(made, tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(page.FILES)
    for name in ("flagged.csv", "kept.csv"):
        as_written = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(as_written + b"0,mine\n")
        with pytest.raises(UserError, match=f"its {name} was changed; move it"):
            write(made, tmp_path)
        assert (tmp_path / name).read_bytes().endswith(b"mine\n")
        (tmp_path / name).write_bytes(as_written)
    for broken in ("", "[]", '{"sha256": 1}', '{"sha256": [1]}'):
        (tmp_path / "advice.json").write_text(broken)
        with pytest.raises(UserError, match="was changed"):
            write(made, tmp_path)


def test_the_four_files_are_written_all_or_none(
    noisy: NamedTuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = datalab.advise(noisy.x, noisy.y, splits=2)
    monkeypatch.setattr(
        page, "csv_of", lambda table, path: path.write_text("half") if len(table) == len(made.kept) else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        write(made, tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def test_the_page_stands_alone_and_shows_what_was_read_as_text(noisy: NamedTuple, tmp_path: Path) -> None:
    frame = table(noisy).assign(note="<script>alert(1)</script> and some more words &")
    frame["note"] = frame.note + frame.key
    write(datalab.advise(frame, label="sort", ids="key", splits=2), tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)
    assert page.count('<img alt="') >= 4
    assert "k" in pd.read_csv(tmp_path / "flagged.csv").id[0]


def test_where_no_label_looks_wrong_every_row_is_kept_and_none_is_listed(tmp_path: Path) -> None:
    """Seen on wine: a table of no rows took on the rows of a column it was given, all of them missing."""
    x, y = np.random.default_rng(0).normal(0, 0.1, (150, 3)), np.arange(150) % 3
    made = datalab.advise(x + y[:, None] * 10, y, splits=2)
    assert made.flagged.empty
    assert len(made.kept) == 150
    assert made.facts["lines"][3] == "No label looks wrong."
    assert 0 < made.facts["noise_rate"]["high"] < 0.3
    write(made, tmp_path / "new" / "folder")
    assert pd.read_csv(tmp_path / "new" / "folder" / "flagged.csv").columns.tolist() == made.flagged.columns.tolist()


def test_classes_that_may_be_one_and_ids_that_are_not_unique_are_said(noisy: NamedTuple) -> None:
    labels = np.array(["Yes", "yes ", "No", "never"])[noisy.y]
    made = datalab.advise(noisy.x, labels, ids=np.arange(len(labels)) // 2, splits=2)
    said = "\n".join(made.facts["detected"])
    assert "differ in case or blanks alone: 'Yes', 'yes'" in said
    assert "id: 180 rows have another's" in said


def test_kept_and_dropped_rows_are_all_rows(noisy: NamedTuple, monkeypatch: pytest.MonkeyPatch) -> None:
    conclude, run, groups = advice.conclude, pilot.run, np.arange(len(noisy.y)) % 9
    done: list = []  # the pilot's result, the same for all
    monkeypatch.setattr(pilot, "run", lambda *a: done[0] if done else done.append(run(*a)) or done[0])
    for arm in (
        ("influence", "30%"),
        ("loss", pilot.ESTIMATED),
        ("confident learning", "10%"),
        (pilot.RELABEL, pilot.ESTIMATED),
    ):
        monkeypatch.setattr(advice, "conclude", lambda *a, arm=arm: conclude(*a)._replace(answer=verdict.ACT, arm=arm))
        made = datalab.advise(noisy.x, noisy.y, groups=groups, splits=2)
        kept = made.kept.id.to_numpy()
        dropped = np.setdiff1d(np.arange(len(noisy.y)), kept)
        assert len(kept) + made.facts["dropped"] == len(noisy.y)
        if arm[0] == pilot.RELABEL:
            labels = made.kept.label.astype(int).to_numpy()
            assert (labels == noisy.true).mean() > (noisy.y == noisy.true).mean() + 0.05
            assert made.facts["lines"][0].startswith("Look at the")
        else:
            assert noisy.flipped[dropped].mean() > 1.7 * noisy.flipped.mean()
            assert made.hit.dropped.max() > 0
        assert "group" in made.facts["lines"][3]


def test_a_large_file_is_sampled_for_the_pilot_and_scored_whole(
    noisy: NamedTuple, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(advice, "POOL", 320)
    monkeypatch.setattr(reading, "BLOCK", 100)
    frame = table(noisy)
    frame.loc[5, "sort"] = None
    frame.to_parquet(tmp_path / "t.parquet")
    made = datalab.advise(tmp_path / "t.parquet", label="sort", ids="key", splits=2)
    assert any("the pilot sees 320 of 359 rows" in line for line in made.facts["detected"])
    assert any("1 rows without a label" in line for line in made.facts["detected"])
    assert len(made.kept) == 359
    assert "k5" not in set(made.kept.id)
    wrong = made.flagged.id.str[1:].astype(int).to_numpy()
    assert noisy.flipped[wrong].mean() > 0.8
    assert made.shown.key.tolist() == made.flagged.id.head(50).tolist()


def test_labels_and_features_of_every_type_are_the_same_rows(noisy: NamedTuple) -> None:
    flat, words = noisy.x.reshape(len(noisy.x), -1), pd.Series(noisy.y.astype(str))
    made = []
    for x, y in (
        (noisy.x, noisy.y),
        (flat, noisy.y[:, None].astype(float)),
        (scipy.sparse.csr_matrix(flat), words.astype("category")),
        (pd.DataFrame(flat), list(words)),
        (flat, np.ma.masked_array(np.where(np.arange(len(flat)) == 3, 9, noisy.y), mask=np.arange(len(flat)) == 3)),
    ):
        source = reading.read(x)
        table = examples.labelled(source, y, None, None)
        codes = table.rows.code[table.rows.code >= 0]
        raw = source.take(source.columns, codes.index)
        made.append((codes.to_numpy(), table.names.tolist(), features.Columns(raw, source).typed(raw).to_numpy()))
    for codes, names, values in made[1:4]:
        assert names == made[0][1] == ["0", "1", "2", "3"]
        np.testing.assert_array_equal(codes, made[0][0])
        np.testing.assert_array_equal(values, made[0][2])
    np.testing.assert_array_equal(made[4][0], np.delete(noisy.y, 3))


def test_own_probabilities_own_features_and_a_clean_test_file_are_used(noisy: NamedTuple, tmp_path: Path) -> None:
    frame, p = table(noisy), np.eye(4)[noisy.true] * 0.96 + 0.01
    order = np.argsort(np.array(["null", "eins", "zwei", "drei"]))
    np.save(tmp_path / "p.npy", p[:, order])
    np.save(tmp_path / "f.npy", noisy.x.reshape(len(noisy.x), -1))
    given = {"label": "sort", "splits": 2, "pred_probs": tmp_path / "p.npy", "embedded": tmp_path / "f.npy"}
    made = datalab.advise(frame[["sort", "key"]], **given)
    assert sorted(made.flagged.id) == np.flatnonzero(noisy.flipped).tolist()
    np.save(tmp_path / "long.npy", np.eye(len(frame) + 1))
    with pytest.raises(UserError, match="361 rows for 360 labels"):
        datalab.advise(frame, **given | {"embedded": tmp_path / "long.npy"})
    clean = frame.assign(sort=np.array(["null", "eins", "zwei", "drei"])[noisy.true])[:100]
    judged = datalab.advise(frame, label="sort", ids="key", X_test=clean, splits=2)
    assert judged.rows.n_test.dropna().eq(100).all()
    assert "clean test labels" in judged.facts["lines"][1]
    with pytest.raises(UserError, match="test label: class 'neu'"):
        datalab.advise(frame, label="sort", X_test=clean.assign(sort="neu"), splits=2)


def test_labels_and_ids_that_do_not_fit_the_rows_are_refused(noisy: NamedTuple, tmp_path: Path) -> None:
    for given, says in (
        ({"y": noisy.y[:50]}, "label: 50 for 360 rows"),
        ({"y": noisy.y, "ids": [1, 2]}, "id: 2 for 360 rows"),
        ({"y": np.eye(4)[noisy.y]}, r"one-hot rows or votes pass .argmax\(1\)"),
    ):
        with pytest.raises(UserError, match=says):
            datalab.advise(noisy.x, **given)
    table(noisy).to_csv(tmp_path / "t.csv", index=False)
    for many in (np.arange(350) % 4, np.arange(370) % 4):
        with pytest.raises(UserError, match=f"label: {len(many)} for 360 rows"):
            datalab.advise(tmp_path / "t.csv", many)


def test_a_pool_holds_every_class_of_a_file_with_many() -> None:
    codes = np.repeat(np.arange(300), 40)
    drawn = np.bincount(codes[advice._pool_rows(codes, 1)])
    assert drawn.sum() == advice.POOL
    assert drawn.min() >= examples.LEAST_OF_CLASS


def test_duplicates_and_leaks_are_said(noisy: NamedTuple) -> None:
    frame = table(noisy).drop(columns="key")
    twice = pd.concat([frame, frame[:30]], ignore_index=True).assign(result=np.r_[noisy.y, noisy.y[:30]])
    made = datalab.advise(twice, label="sort", splits=2)
    assert any("30 rows repeat" in line for line in made.facts["detected"])
    assert any(line.startswith("leak? 'result'") for line in made.facts["detected"])
    assert len(made.kept) == len(twice)


def test_test_rows_are_typed_as_their_own_file_and_never_trained_on(
    noisy: NamedTuple, tmp_path: Path, begun: Callable
) -> None:
    frame = table(noisy).drop(columns="key")
    frame.to_csv(tmp_path / "main.csv", index=False)
    test = pd.concat([frame[:50], frame[:40].assign(**{"pixel 3": np.arange(40) / 7 + 20})], ignore_index=True)
    test.loc[3, "sort"] = None
    test.to_csv(tmp_path / "test.csv", index=False, sep=";", decimal=",")
    lines, pool = begun(tmp_path / "main.csv", label="sort", X_test=tmp_path / "test.csv")
    assert "test: text table: 65 columns, delimiter ';', decimal ','" in lines
    assert "test: 1 rows without a label: left out" in lines
    assert "test: 49 rows of the data (of 360 looked at) have a test row's features" in lines
    assert (len(pool.labels), len(pool.clean)) == (311, 89)
    encoded = pool.encode(np.arange(311))(None)
    assert len(np.unique(encoded, axis=0)) > 80
    with pytest.raises(UserError, match="every row of the data is a test row too"):
        datalab.advise(frame, label="sort", X_test=frame)


def test_pictures_of_a_test_folder_are_read_from_it(tmp_path: Path, begun: Callable) -> None:
    for folder, grey in (("main", 10), ("test", 200)):
        for i in range(50):
            (tmp_path / folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), grey + i).save(tmp_path / folder / "ab"[i % 2] / f"{i}.png")
    lines, pool = begun(tmp_path / "main", X_test=tmp_path / "test", ids="image")
    encode = pool.encode(np.arange(50))
    assert encode(None).min() > encode(np.arange(50)).max()
    assert "image (grey, 16 x 16): 'image'" in lines
    assert "test: folder: 50 images" in lines
    assert "leak?" not in lines


def test_classes_are_in_ascending_order_and_probabilities_in_another_are_refused(begun: Callable) -> None:
    y = np.arange(360) % 12
    frame = pd.DataFrame({"x": y + np.linspace(0, 0.5, 360), "y": y.astype(str)})
    p = np.eye(12)[y] * 0.88 + 0.01
    assert (
        "columns of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11: the largest is the label's in 100%"
        in begun(frame, label="y", pred_probs=p)[0]
    )
    assert "'False' (50.0%)" in begun(frame, y % 2 == 1)[0]
    with pytest.raises(UserError, match="in 17% of rows, and with the columns in another order in 100%"):
        datalab.advise(frame, label="y", pred_probs=p[:, np.argsort(np.arange(12).astype(str))])


def test_probabilities_in_columns_called_as_the_classes_are_taken_by_name(begun: Callable) -> None:
    y = np.arange(360) % 2
    frame, p = pd.DataFrame({"x": y + np.linspace(0, 0.5, 360)}), np.stack([0.5 + y / 10, 0.5 - y / 10], 1)
    given = pd.DataFrame(p, columns=["yes", "no"])
    _, pool = begun(frame, np.array(["no", "yes"])[y], pred_probs=given)
    np.testing.assert_array_equal(pool.probabilities, p[:, ::-1])


def test_bytes_in_another_order_are_labels_ids_and_groups_all_the_same(begun: Callable) -> None:
    y = np.arange(360) % 3
    x = (y + np.linspace(0, 0.5, 360))[:, None]
    _, pool = begun(x.astype(">f4"), y.astype(">i2"), ids=np.arange(360).astype(">i8"), groups=(y % 2).astype(">u4"))
    np.testing.assert_array_equal(pool.labels, y)


def test_probabilities_of_a_text_table_are_read_as_its_numbers(tmp_path: Path, begun: Callable) -> None:
    y = np.arange(60) % 2
    p = pd.DataFrame(np.eye(2)[y] * 0.875 + 0.0625, columns=["a", "b"])
    p.to_csv(tmp_path / "p.csv", index=False, sep=";", decimal=",")
    _, pool = begun(np.arange(60.0)[:, None] ** [2, 3], y, pred_probs=tmp_path / "p.csv")
    np.testing.assert_array_equal(pool.probabilities, p)
    p.astype(str).replace("0.0625", "little").to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(UserError, match="pred_probs: must be finite, got 60 entries that are not"):
        datalab.advise(np.arange(60.0)[:, None] ** [2, 3], y, pred_probs=tmp_path / "p.csv")


def test_probabilities_with_a_column_too_many_are_refused_by_their_shape(tmp_path: Path) -> None:
    """An index written along made numbers that are no probabilities: "these look like votes"."""
    x, y = np.arange(60.0)[:, None] ** [2, 3], np.arange(60) % 2
    p = pd.DataFrame(np.eye(2)[y])
    p.to_csv(tmp_path / "p.csv")
    for given in (p.assign(id=range(60)), p.assign(id=[f"k{i}" for i in range(60)]), tmp_path / "p.csv"):
        with pytest.raises(
            UserError, match=r"pred_probs: need \(60, 2\), a column for each class.* got shape \(60, 3\)"
        ):
            datalab.advise(x, y, pred_probs=given)
    for what in ("pred_probs", "embedded"):
        with pytest.raises(UserError, match=f"^{what.replace('embedded', 'features')}: the array: need features"):
            datalab.advise(x, y, **{what: np.arange(60.0)})


def test_whole_numbers_are_one_class_with_and_without_a_point(tmp_path: Path, begun: Callable) -> None:
    y = [1.0, 10.0, 2.0] * 30
    frame = pd.DataFrame({"x": np.arange(90) % 7 / 3, "z": np.arange(90) ** 2, "y": y}).astype({"y": "str"})
    frame.loc[0, "y"] = "1"
    frame.to_csv(tmp_path / "main.csv", index=False)
    frame.assign(x=frame.x + 1).astype({"y": float}).astype({"y": int}).to_csv(tmp_path / "test.csv", index=False)
    lines, pool = begun(tmp_path / "main.csv", label="y", X_test=tmp_path / "test.csv")
    assert "label 'y': 3 classes, the largest '1'" in lines
    assert pool.labels.tolist() == pool.clean.tolist() == [0, 2, 1] * 30
    assert begun(frame.assign(y=["007", "008", "009"] * 30), label="y")[0].count("'007'") == 1


def test_a_wide_sparse_test_matrix_is_brought_to_the_datas_directions(begun: Callable) -> None:
    x = scipy.sparse.random(120, 400, 0.05, format="csr", random_state=0)
    for test in (x[::-1][:50], x.toarray()[:50]):
        lines, _ = begun(x, np.arange(120) % 2, X_test=test, y_test=np.arange(50) % 2)
        assert "50 rows of the data (of 120 looked at) have a test row's features" in lines
    for test, says in ((x[:, 1:], "X_test: .* 399 features"), ("test.csv", "X_test: cannot be read")):
        with pytest.raises(UserError, match=says):
            datalab.advise(x, np.arange(120) % 2, X_test=test, y_test=np.arange(120) % 2)


@pytest.mark.parametrize("what", ["label", "id", "group", "features", "pred_probs", "test label"])
def test_what_pandas_holds_in_another_order_than_the_rows_is_refused(what: str, begun: Callable) -> None:
    """It was taken by position, in silence: every label a stranger's."""
    x = pd.DataFrame({"a": np.arange(90) % 7 / 3, "b": np.arange(90) ** 2}, index=[f"p{i}" for i in range(90)])
    y = pd.Series([*"abc"] * 30, index=x.index)
    given = {
        "label": {"y": y},
        "id": {"ids": y + y.index},
        "group": {"groups": pd.Series(np.arange(90) // 3, index=x.index)},
        "features": {"embedded": x},
        "pred_probs": {"pred_probs": pd.get_dummies(y)},
        "test label": {"X_test": x + 0.1, "y_test": y},
    }[what]
    begun(x, **{"y": y} | given)
    turned = {name: of if name == "X_test" else of[::-1] for name, of in given.items()}
    with pytest.raises(UserError, match=rf"^{what}: its index is that of X in another order; pass \.loc"):
        datalab.advise(x, **{"y": y} | turned)
    other = {name: of if name == "X_test" else of.set_axis(range(90)) for name, of in given.items()}
    begun(x, **{"y": y} | other)  # labels that are not those of X say nothing: by position


def test_what_lies_before_the_call_is_in_the_budget_and_not_in_what_reading_takes(
    noisy: NamedTuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Given(Exception):
        pass

    def run(pool: pilot.Pool, seed: int, minutes: float, splits: int | None, began: float, after: Callable, *_) -> None:
        raise Given(began, after(0))

    monkeypatch.setattr(pilot, "run", run)
    with pytest.raises(Given) as caught:
        datalab.advise(noisy.x, noisy.y, began=-1000)
    began, after = caught.value.args
    assert began == -1000
    assert after < 100


def test_the_label_is_no_feature_where_the_file_of_features_has_it_too(noisy: NamedTuple, begun: Callable) -> None:
    frame = table(noisy)
    lines, _ = begun(frame, label="sort", ids="key", embedded=frame[["pixel 20", "pixel 21", "sort", "key"]])
    assert "number: 'pixel 20', 'pixel 21'" in lines
    assert "leak?" not in lines
    assert (
        "number: '0', '1', '2', '5' and 33 more"
        in begun(np.c_[noisy.y, noisy.y], label=0, embedded=noisy.x.reshape(360, -1)[:, 20:])[0]
    )


def test_features_of_a_file_of_their_own_are_read_once(
    noisy: NamedTuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: Callable
) -> None:
    frame, blocks, read = table(noisy), reading.Source.blocks, []
    frame.drop(columns=["sort", "key"]).to_csv(tmp_path / "f.csv", index=False)
    monkeypatch.setattr(reading.Source, "blocks", lambda *a: read.append(a[0].name) or blocks(*a))
    begun(frame[["sort"]], label="sort", embedded=tmp_path / "f.csv")
    assert read.count("f.csv") == 1
    (tmp_path / "f.csv").write_text("a,b\n")
    with pytest.raises(UserError, match=r"f\.csv: a header, and no rows under it"):
        datalab.advise(frame[["sort"]], label="sort", embedded=tmp_path / "f.csv")


def test_options_of_text_tables_are_taken_for_a_test_table_alone(tmp_path: Path, begun: Callable) -> None:
    frame = pd.DataFrame({"x": np.arange(90) % 7 / 3, "z": np.arange(90) ** 2, "y": [*"abc"] * 30})
    frame.assign(x=frame.x + 1).to_csv(tmp_path / "test.csv", sep="\t", index=False)
    lines, _ = begun(frame, label="y", X_test=tmp_path / "test.csv", read={"delimiter": "tab"})
    assert "test: text table: 3 columns, delimiter tab" in lines


def test_pretrained_weights_that_nothing_asks_for_are_said(begun: Callable) -> None:
    x, y = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 2
    assert "pretrained: no column is text or a picture's path" in begun(x, y, pretrained=True)[0]
    assert "pretrained" not in begun(x, y)[0]


def test_many_numbers_are_said_to_be_brought_to_fewer_directions(
    monkeypatch: pytest.MonkeyPatch, begun: Callable
) -> None:
    """A split of 3,000 columns took minutes. Up to ``WIDE`` columns nothing is brought to anything."""
    monkeypatch.setattr(features, "WIDE", 10)
    monkeypatch.setattr(features, "DIRECTIONS", 3)
    rng, y = np.random.default_rng(0), np.arange(60) % 2
    x = rng.normal(size=(60, 2)) @ rng.normal(size=(2, 11)) + 1e-3 * rng.normal(size=(60, 11))
    for columns, width, said in ((11, 3, True), (10, 10, False)):
        lines, pool = begun(x[:, :columns], y)
        made = pool.encode(np.arange(40))(np.arange(60))
        assert made.shape == (60, width)
        assert ("wide: 11 numbers a row, brought to 3 principal directions" in lines) is said
    wide = features.fit(pd.DataFrame(x).add_prefix("f"))(pd.DataFrame(x).add_prefix("f"))
    z = (x - x.mean(0)) / x.std(0)  # of rank 2 but for a thousandth: nothing else is lost
    np.testing.assert_allclose(wide @ wide.T, z @ z.T * 3 / 11, atol=0.02)


def test_missing_groups_and_a_test_column_of_another_kind_are_said(begun: Callable) -> None:
    frame = pd.DataFrame({"x": np.arange(90) % 7 / 3, "z": np.arange(90) ** 2, "y": [*"abc"] * 30})
    test = frame.assign(z="none of it")
    lines, _ = begun(frame, label="y", groups=[None] * 5 + [*range(85)], X_test=test)
    assert "group: 5 rows have none, and are one together" in lines
    assert "test: no value that is the data's kind in 'z'" in lines


def test_duplicates_with_another_label_and_what_is_not_tried_are_said(begun: Callable) -> None:
    y = np.repeat(np.arange(61), 22)
    x = np.random.default_rng(0).normal(size=(len(y), 2))
    x[22] = x[44] = x[0]
    lines, _ = begun(x, y)
    assert "2 rows repeat another's features (of 1,342 looked at), 2 with another label" in lines
    assert "influence is not tried with more than 60 classes" in lines


def test_calls_from_python_are_taken_as_meant_or_refused_truly(noisy: NamedTuple, begun: Callable) -> None:
    x, y = noisy.x.reshape(len(noisy.x), -1), noisy.y
    frame = pd.DataFrame(np.c_[x, y])
    for data, given in (
        ({"a": x @ np.arange(64) / 7, "b": y.tolist()}, {"label": "b"}),
        (frame, {"label": 64, "ids": 3}),
    ):
        begun(data, **given)
    _, pool = begun(frame, label=64, splits=np.int64(3), seed=np.int64(3), minutes=np.float32(3))
    assert len(pool.encode(np.arange(100))(np.arange(5))[0]) == 64 - (x[:, :64].max(0) == x.min(0)).sum()
    for given, says in (
        ({"minutes": "5"}, "minutes: must be above 0 .*'5'"),
        ({"minutes": None}, "minutes: .* got None"),
        ({"splits": 201}, "splits: must be 2 to 200 .* got 201"),
        ({"read": {"sep": ";"}}, "read: unknown 'sep'"),
        ({"read": "utf-8"}, "read: must be a dict of text .* got 'utf-8'"),
        ({"read": {"delimiter": 5}}, "read: must be a dict of text"),
        ({"seed": 1.5}, "seed: must be a whole number"),  # which took minutes to say
        ({"groups": pd.MultiIndex.from_arrays([y, y])}, "group: cannot be read"),
        ({"label": 65}, "label '65': no such"),
        ({"y": y}, "label: given as values and as a column's name"),
        ({"y_test": y}, "y_test: labels of no rows; give X_test too"),
        ({"ids": [[1]] * (len(y) - 1) + [[1, 2]]}, "id: rows of different lengths"),
        (
            {"read": {"decimal": ",", "delimiter": None}},
            "decimal: of text tables alone .* neither the data nor the test",
        ),
    ):
        with pytest.raises(UserError, match=says):
            datalab.advise(frame, **{"label": 64} | given)
    with pytest.raises(UserError, match="label 'k': lists and the like are no label"):
        datalab.advise(frame.assign(k=[[0], [1, 2]] * (len(y) // 2)), label="k")
    for data in ({"a": [1], "b": [1, 2]}, [[1, 2], [3]]):
        with pytest.raises(UserError, match="the data: cannot be read"):
            datalab.advise(data, label="a")


@pytest.mark.parametrize("storage", ["python", "pyarrow"])
@pytest.mark.parametrize("kind", [object, None, pd.StringDtype("python"), "category"])
def test_half_a_letter_is_refused_however_pandas_stores_text(
    storage: str, kind: Any, noisy: NamedTuple, begun: Callable
) -> None:
    frame, y = pd.DataFrame(noisy.x.reshape(len(noisy.x), -1)), noisy.y
    ids, labels = ([f"{value}\udcff" for value in values] for values in (range(len(y)), y))
    if kind is not None:  # pandas' own; a list where it is None
        with pd.option_context("mode.string_storage", "python"):
            ids, labels = (pd.Series(of, dtype=object).astype(kind) for of in (ids, labels))
    with pd.option_context("mode.string_storage", storage):
        for what, data, given in (
            ("id", frame, {"y": y, "ids": ids}),
            ("label", frame, {"y": labels}),
            ("group", frame, {"y": y, "groups": labels}),
            ("test label", frame, {"y": y, "X_test": frame[:90] + 0.5, "y_test": labels[:90]}),
            ("the data", {"t": ids, "y": y}, {"label": "y"}),
            ("the data", frame.assign(**{"t\udcff": y}), {"y": y}),
        ):
            with pytest.raises(UserError, match=f"^{what}: cannot be read .*surrogates not allowed"):
                datalab.advise(data, **given)


def test_what_a_stranger_named_moves_no_cursor_and_adds_no_line(noisy: NamedTuple) -> None:
    names = np.array(["a\nb", "c\x1b[2J", "d", "e"])
    frame = pd.DataFrame(noisy.x.reshape(len(noisy.x), -1)).assign(**{"leak\n": noisy.y * 1.0, "sort": names[noisy.y]})
    said: list[str] = []
    made = datalab.advise(frame, label="sort", splits=2, say=said.append)
    assert all(line.isprintable() for line in [*said, *made.facts["lines"]])
    assert len(str(made).split("\n")) == 5
    assert set(made.kept.label) == {*names}  # where they are as given


def test_the_page_draws_any_name_and_is_made_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["$0-$25k", "$25k_$50k", r"\$", "a & b"]
    hit = pd.DataFrame({"of": names, "kind": "class", "flagged": [0.1, 0.2, 0.9, 0.5]})
    figure = page.hit(hit.assign(dropped=0.0))
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()][-1:] == [r"\\$"]  # the most flagged first
    svg = page.figures.render(figure, "t")["svg"].decode()
    assert all(part in svg for part in ("$25k_$50k", "$0-$25k"))
    monkeypatch.setattr(page, "html", lambda advice: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(type("", (), {"facts": {}, "kept": hit, "flagged": hit})(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_no_picture_can_hold_is_drawn_all_the_same_and_long_classes_keep_their_arrow(noisy: NamedTuple) -> None:
    names = np.array(["a\x0b" + "long" * 9, "c\x1b[2J" + "long" * 9, "d", "e"])
    made = datalab.advise(noisy.x, names[noisy.y], splits=2)
    assert "\x0b" not in page.figures.render(page.bars(pd.Series({"a\x0b": 1}), "rows"), "t")["svg"].decode()
    svg = page.html(made)
    drawn = [base64.b64decode(part.split('"')[0]) for part in svg.split("data:image/svg+xml;base64,")[1:]]
    for picture in drawn:
        ElementTree.fromstring(picture)
    assert len(drawn) == 4


def test_a_methods_colour_is_the_same_whatever_else_was_tried() -> None:
    gains = pd.DataFrame(
        {"method": ["influence", "loss", "relabel"], "dropped": 0.1, "gain": 0.0, "low": -1.0, "high": 1}
    )
    colours = [page.gain(part).axes[0].lines[-1].get_color() for part in (gains[:2], gains[1:2])]
    assert colours[0] == colours[1]


def test_groups_of_few_rows_are_not_named_and_a_class_hardly_ever_told_is(noisy: NamedTuple) -> None:
    groups = np.where(np.arange(len(noisy.y)) < 40, "large", [f"g{i}" for i in range(len(noisy.y))])
    made = datalab.advise(noisy.x, noisy.y, groups=groups, splits=2)
    assert made.hit.of[made.hit.kind == "group"].tolist() == ["large"]
    assert made.flagged.group.tolist() == groups[made.flagged.id].tolist()
    whole = pd.DataFrame({"of": ["a", "b"], "kind": "class", "flagged": [1.0, 0.1], "dropped": 0.0, "rows": 30})
    said = advice._hit(whole.assign(f1=[0.1, 0.9]), np.array([0, -0.02]), pd.Series(["b"] * 30 + ["a"] * 3), "")
    assert said.startswith("Who is flagged: class 'a' most (30 of 30), 'b' least (3 of 30).")
    assert "Suggested most often: 'b' (30 of 33)." in said
    assert "Class 'a' is hardly ever told (F1 0.10 with everything kept): its flags say little." in said
    assert "Class 'b' loses 0.020 F1 by it." in said
    assert "Class 'b' is" not in said


def test_what_the_flagged_rows_share_is_said(noisy: NamedTuple) -> None:
    site = np.where(noisy.flipped, "east", np.random.default_rng(0).choice(["north", "west"], len(noisy.y)))
    frame = table(noisy).drop(columns="key").assign(site=site, other=[*"ab"] * 180)
    made = datalab.advise(frame, label="sort", splits=2)
    share = re.search(r"(\d+)% of them have 'east' in column 'site', as 20% of all rows have: look there", str(made))
    assert int(share[1]) == round(100 * np.mean(site[made.flagged.id] == "east"))
    without = datalab.advise(frame.assign(site=frame.other), label="sort", splits=2)
    assert "look there first" not in str(without)


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["advise", *arguments])
    return ended.value.code


def test_the_command_prints_five_lines_and_writes_four_files(
    noisy: NamedTuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    table(noisy).to_csv("mine.csv", index=False, sep=";", decimal=",")
    assert call("mine.csv", "--label", "sort", "--id", "key", "--splits", "2") == 0
    shown = capsys.readouterr().out
    assert "decimal ','" in shown
    assert shown.split("\n\n")[1].count("\n") == 4
    assert sorted(os.listdir("mine-advice")) == ["advice.json", "flagged.csv", "index.html", "kept.csv"]
    assert call("mine.csv", "--label", "sort", "--splits", "2") == 0  # an earlier advice is replaced
    (tmp_path / "mine-advice" / "thesis.txt").touch()
    assert call("mine.csv", "--label", "sort", "--splits", "2") == 2


def test_wrong_calls_are_one_line_exit_2_and_write_nothing(
    noisy: NamedTuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = table(noisy)
    frame.to_csv("good.csv", index=False)
    frame.assign(sort="x").to_csv("one.csv", index=False)
    frame.assign(sort=np.where(np.arange(len(frame)) < 3, "rare", frame.sort)).to_csv("few.csv", index=False)
    Path("header.csv").write_text("a,b")
    frame.to_parquet("good.parquet")
    frame[:0].to_parquet("none.parquet")
    frame[["sort", "key"]].to_csv("bare.csv", index=False)
    np.savez("pickle.npz", x=noisy.x, y=noisy.y.astype(object))
    np.save("short.npy", np.eye(4)[noisy.y[:10]])
    os.mkdir("folder")
    os.makedirs("taken/kept.csv")
    for name in ("t.csv.gz", "t.py", "t", "t.PKL"):
        Path(name).write_bytes(b"x")
    before = sorted(os.listdir())
    wrong = [
        (["good.csv", "--label", "sotr"], "did you mean 'sort'"),
        (["good.csv", "--label", "key"], "an id or a quantity"),
        (["good.csv", "--label", "pixel 20"], "class|quantity"),
        (["good.csv"], "name the label's column"),
        (["one.csv", "--label", "sort"], "one class, 'x'"),
        (["few.csv", "--label", "sort"], "class 'rare' has 3 examples; 20 are needed"),
        (["header.csv", "--label", "a"], "no rows under it"),
        (["bare.csv", "--label", "sort", "--id", "key"], "no feature is left"),
        (["pickle.npz"], "pickled objects"),
        (["folder"], "no images by class"),
        (["nosuch.csv", "--label", "a"], "no such file"),
        (["good.csv", "--label", "sort", "--minutes", "0"], "minutes"),
        (["good.csv", "--label", "sort", "--splits", "1"], "splits"),
        (["good.csv", "--label", "sort", "--seed", "-1"], "seed"),
        (["good.csv", "--label", "sort", "--delimiter", "||"], "1-character"),
        (["good.csv", "--label", "sort", "--group", "sort"], "groups"),
        (["good.csv", "--label", "sort", "--id", "nokey"], "did you mean 'key'"),
        (["good.csv", "--label", "sort", "--pred-probs", "short.npy"], "pred_probs"),
        (["good.csv", "--label", "sort", "--features", "short.npy"], "one row an example"),
        (["good.csv", "--label", "sort", "--test", "bare.csv"], "no such column in bare.csv"),
        (["good.csv", "--label", "sort", "--test", "header.csv"], "header.csv: a header, and no rows under it"),
        (["good.csv", "--label", "sort", "--to", "one.csv/new"], "cannot be written .*--to"),
        (["good.csv", "--label", "sort", "--to", "taken"], "'taken': holds other files"),
        (["good.csv", "--label", "sort", "--minutes", "1e9"], "below 10,000"),
        (["good.csv", "--label", "sort", "--decimal", "x"], "'x' is not one of"),
        (["good.parquet", "--label", "sort", "--decimal", ","], "decimal: of text tables alone"),
        (
            ["short.npy", "--label", "0", "--delimiter", ";", "--encoding", "utf-8"],
            "delimiter, encoding: of text tables",
        ),
        (["none.parquet", "--label", "sort"], "none.parquet: it has no rows"),
        (["good.csv", "--label", "sort", "--features", "nosuch.npy"], "features: file 'nosuch.npy': there is no such"),
        (["folder/.", "--label", "sort"], "folder 'folder'"),
        (["t.csv.gz", "--label", "sort"], "t.csv.gz': '.gz' is packed; unpack it first, or save it as .csv, "),
        (["t.py", "--label", "sort"], "t.py': '.py' is no kind that is read; save it as .csv, "),
        (["t", "--label", "sort"], "t': its name has no ending that says its kind; save it as .csv, "),
        (["t.PKL", "--label", "sort"], "a pickle can run code, and is never opened; save it as .csv, "),
    ]
    for arguments, says in wrong:
        assert call(*arguments) == 2, arguments
        shown = capsys.readouterr().err
        assert len(shown.strip().splitlines()) == 1, shown
        assert re.search(says, shown), shown
    assert sorted(os.listdir()) == before


def test_the_room_is_its_verb_however_it_was_imported() -> None:
    from datalab.advise import page  # noqa: F401, which binds the module to its name in the package

    assert callable(datalab.advise)
    with pytest.raises(UserError, match="minutes"):
        datalab.advise(np.eye(3), [0, 1, 2], minutes=-1)


def test_nothing_of_the_callers_is_moved_and_an_answer_is_shown_as_its_lines(noisy: NamedTuple, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state, style = torch.get_rng_state(), dict(matplotlib.rcParams)
    made = datalab.advise(noisy.x, noisy.y, splits=2, say=None)
    write(made, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(matplotlib.rcParams) == style
    assert repr(made) == str(made) == "\n".join(made.facts["lines"])
    assert made.verdict.gains[["low", "high"]].abs().max(axis=None) <= 1
