"""Small and nasty files: each is read as its owner means it, or refused in one line."""

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from PIL import Image

from datalab.advise import features, reading
from datalab.errors import UserError

N = 60
RNG = np.random.default_rng(0)


def whole(source: reading.Source) -> pd.DataFrame:
    return source.whole()


def german(path: Path, encoding: str = "latin-1") -> Path:
    """Semicolons, decimal commas, a quoted newline, umlauts, dates, gaps, empty and constant columns."""
    lines = ["nr;größe;preis;ort;am;text;leer;fest;gemischt;sorte"]
    for i in range(N):
        size = "" if i == 3 else f"{i},5"
        text = f'"Zeile {i} mit ""Zitat""\nund; noch mehr Worten darin"'
        mixed = "viel" if i == 7 else str(i % 5)
        price = f"1.{7 * i:03d},25"
        row = [
            f"id{i}",
            size,
            price,
            ["Köln", "Bonn"][i % 2],
            f"{i % 28 + 1:02d}.03.2024",
            text,
            "",
            "x",
            mixed,
            "AB"[i % 2],
        ]
        lines.append(";".join(row))
    path.write_bytes("\r\n".join(lines).encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8-sig", "utf-16", "utf-8"])
def test_a_german_csv_is_detected_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    source = reading.read(german(tmp_path / "daten.csv", encoding))
    detected = "cp1252" if encoding == "latin-1" else encoding  # which has all of Latin-1's letters, and the euro sign
    assert f"delimiter ';', decimal ',', encoding {detected}" in source.detected[0]
    assert source.columns[1] == "größe"
    frame = whole(source)
    assert len(frame) == N
    assert frame.text[0] == 'Zeile 0 mit "Zitat"\nund; noch mehr Worten darin'
    assert set(frame.ort) == {"Köln", "Bonn"}
    columns = features.Columns(frame.drop(columns="sorte"), source)
    assert columns.kinds == {
        "nr": "left out, different in nearly every row",
        "größe": "number",
        "preis": "number",
        "ort": "category",
        "am": "date",
        "text": "text",
        "leer": "left out, empty",
        "fest": "left out, constant",
        "gemischt": "number",
    }
    typed = columns.typed(frame)
    assert typed.preis[2] == 1014.25
    assert np.isnan(typed["größe"][3])
    assert np.isnan(typed.gemischt[7])
    assert typed.am[1] - typed.am[0] == 1
    encode = features.fit(typed[:40])
    x = encode(typed)
    assert x.dtype == np.float32
    assert np.isfinite(x).all()
    np.testing.assert_array_equal(x[50:], encode(typed[50:].reset_index(drop=True)))


@pytest.mark.parametrize(("head", "said"), [("5.1,3,a", True), ("5,3,1", True), ("0,1,y", False), ("a,b,y", False)])
def test_a_first_row_of_numbers_is_said_to_be_taken_for_names(tmp_path: Path, head: str, said: bool) -> None:
    (tmp_path / "t.csv").write_text(f"{head}\n4.9,2,b\n")
    assert any(line.startswith("no header? ") for line in reading.read(tmp_path / "t.csv").detected) == said


def test_a_quoted_newline_may_lie_anywhere_between_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (1500, 1700, 2000):
        monkeypatch.setattr(reading, "CSV_BLOCK", size)
        frame = whole(reading.read(german(tmp_path / "daten.csv")))
        assert frame.nr.tolist() == [f"id{i}" for i in range(N)]
        assert frame.text.str.contains("\nund; noch", regex=False).all()


def test_what_was_detected_can_be_overridden(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a;b\n1,5;2,5\n3,5;4,5\n")
    for decimal, value in ((None, 1.5), (".", np.nan)):
        source = reading.read(tmp_path / "t.csv", decimal=decimal)
        np.testing.assert_equal(features.numbers(whole(source).a, source.decimal)[0], value)
    with pytest.raises(UserError, match="delimiter"):
        reading.read(tmp_path / "t.csv", delimiter="|", encoding="ascii")
    with pytest.raises(UserError, match="unknown encoding"):
        reading.read(tmp_path / "t.csv", encoding="no-such-code")


def test_numbers_with_units_and_marks_between_thousands_are_numbers(tmp_path: Path) -> None:
    written = {
        "1,234.50 EUR": 1234.5, "$1,234.50": 1234.5, "1.234,50 €": 1234.5, "12.3%": 12.3, "12 %": 12.0,
        "-12,345": -12345.0, "USD 7": 7.0, "1'234": 1234.0, "12,34": np.nan, "A12": np.nan, "SKU123": np.nan,
    }  # fmt: skip
    np.testing.assert_equal(features.numbers(pd.Series([*written], dtype="str")).to_numpy(), [*written.values()])
    np.testing.assert_equal(features.numbers(pd.Series(["1.234,5 %", "7"], dtype="str"), ",").to_numpy(), [1234.5, 7.0])
    prices = [f"{i // 7:,}.{i % 90 + 10} EUR;{'ab'[i % 2]}" for i in range(0, 90_000, 700)]
    (tmp_path / "t.csv").write_text("price;y\n" + "\n".join(prices), encoding="cp1252")
    source = reading.read(tmp_path / "t.csv")
    assert features.Columns(whole(source).drop(columns="y"), source).kinds == {"price": "number"}


def test_a_tsv_and_an_english_csv_with_thousands_of_levels(tmp_path: Path) -> None:
    rows = [f"{i / 8}\tuser{i % 3000}\t{'ab'[i % 2]}" for i in range(9000)]
    (tmp_path / "t.tsv").write_text("x\tuser\ty\n" + "\n".join(rows))
    source = reading.read(tmp_path / "t.tsv")
    assert "delimiter tab, decimal '.'" in source.detected[0]
    frame = whole(source)
    typed = features.Columns(frame, source).typed(frame)
    assert len(typed.user.cat.categories) == 3000
    assert features.fit(typed)(typed[:5]).shape == (5, 4)  # a number, the rare levels' one, two of y


def test_parquet_with_nullable_types_categories_dates_and_vectors(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "whole": pd.array([None, *range(3, 3 * N, 3)], dtype="Int64"),
            "flag": pd.array([True, False, None] * (N // 3), dtype="boolean"),
            "kind": pd.Categorical(["u", "v", "w"] * (N // 3)),
            "when": pd.date_range("2024-01-01", periods=N, tz="UTC").where(np.arange(N) != 1),
            "took": pd.to_timedelta(np.arange(N) ** 2, "s").where(np.arange(N) != 2),
            "vector": list(RNG.normal(size=(N, 3))),
            "inf": np.where(np.arange(N) == 5, np.inf, np.arange(N) ** 2.0),
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    source = reading.read(tmp_path / "t.parquet")
    read = whole(source)
    columns = features.Columns(read, source)
    typed = columns.typed(read)
    assert {"whole", "flag", "kind", "when", "took", "inf", "vector[0", "vector[2"} <= set(typed)
    assert columns.kinds["when"] == "date"
    assert np.isnan(typed.when[1])
    assert np.isnan(typed.took[2])
    assert np.isnan(typed["inf"][5])
    assert np.isfinite(features.fit(typed)(typed)).all()


class Pairs(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.full((2, 2), float(i)), i % 2


class Arrow:  # as a Hugging Face data set offers it
    def to_pandas(self) -> pd.DataFrame:
        return pd.DataFrame({"a": np.arange(N), "label": ["p", "n"] * (N // 2)})


MEMORY = {
    "array": (np.arange(2 * N).reshape(N, 2), 2),
    "pictures": (np.zeros((N, 4, 4)), 16),
    "list": ([[1.0, 2.0]] * N, 2),
    "masked": (np.ma.masked_array(np.ones((N, 2)), mask=np.eye(N, 2)), 2),
    "sparse matrix": (scipy.sparse.random(N, 5, 0.5, format="coo", random_state=0), 5),
    "sparse array": (scipy.sparse.csr_array(np.eye(N, 5)), 5),
    "wide sparse matrix": (scipy.sparse.random(N, 5000, 0.01, random_state=0), N),
    "tensor": (torch.ones(N, 3, requires_grad=True), 3),
    "texts": (["some words"] * N, 1),
    "torch data set": (Pairs(), 5),
    "Hugging Face": (Arrow(), 2),
    "frame": (pd.DataFrame({0: [1] * N, "b": 2}, index=[7] * N), 2),
}


@pytest.mark.parametrize("kind", MEMORY)
def test_data_in_memory_become_rows_and_columns(kind: str) -> None:
    data, width = MEMORY[kind]
    source = reading.read(data)
    frame = whole(source)
    assert frame.shape == (N, width)
    assert list(frame) == source.columns
    some = pd.concat(list(source.blocks(source.columns[-1:])), ignore_index=True)
    assert list(some) == source.columns[-1:]


def test_numpy_files_name_their_features_and_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", embeddings=np.eye(N, 4), labels=np.arange(N) % 2, ids=np.arange(N))
    source = reading.read(tmp_path / "a.npz")
    assert source.label == "labels"
    assert source.columns == ["0", "1", "2", "3", "labels", "ids"]
    np.save(tmp_path / "b.npy", np.eye(N, 4))
    assert reading.read(tmp_path / "b.npy").columns == ["0", "1", "2", "3"]
    np.save(tmp_path / "c.npy", np.array([(1, 2.0)] * N, dtype=[("a", "i4"), ("b", "f8")]))
    assert reading.read(tmp_path / "c.npy").columns == ["a", "b"]


def test_a_folder_of_images_by_class(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / "shots" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((5, 9, 3), 60 * i, np.uint8)).save(tmp_path / "shots" / "ab"[i % 2] / f"{i}.png")
    source = reading.read(tmp_path / "shots")
    frame = whole(source)
    assert source.label == "class"
    assert frame["class"].tolist() == ["a", "a", "b", "b"]
    typed = features.Columns(frame[["image"]], source).typed(frame)
    assert typed.shape == (4, features.SIDES[False] ** 2)
    (tmp_path / "shots" / "a" / "0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"picture '0\.png'"):
        features.Columns(frame[["image"]], source).typed(frame)


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    made = {name: folder / name for name in ("empty.csv", "pickle.npz", "torn.npz", "torn.parquet", "x.pkl", "one.csv")}
    made["empty.csv"].touch()
    np.savez(made["pickle.npz"], x=np.eye(3), y=np.array(["a", None, 1], dtype=object))
    made["torn.npz"].write_bytes(made["pickle.npz"].read_bytes()[:100])
    pd.DataFrame({"a": range(50)}).to_parquet(made["torn.parquet"])
    made["torn.parquet"].write_bytes(made["torn.parquet"].read_bytes()[:-20])
    made["x.pkl"].write_bytes(b"\x80\x04.")
    made["one.csv"].write_text("a\n1\n2\n")
    for name, text in (("twice.csv", "a,a\n1,2\n"), ("nul.csv", "a,b\n\x00,1\n"), ("ragged.csv", "a,b\n1,2\n1,2,3\n")):
        made[name] = folder / name
        made[name].write_text(text)
    np.savez(folder / "flat.npz", y=np.arange(3))
    with zipfile.ZipFile(folder / "words.npz", "w") as archive:
        archive.writestr("readme.txt", "no array")
    (folder / "nothing").mkdir()
    says = {
        "empty.csv": "is empty",
        "pickle.npz": "pickled objects",
        "torn.npz": "cannot be read",
        "torn.parquet": "cannot be read",
        "x.pkl": "a pickle can run code",
        "one.csv": "one column 'a'",
        "twice.csv": "two columns are called 'a'",
        "nul.csv": "NUL",
        "ragged.csv": "Expected 2 columns, got 3",
        "flat.npz": "no features",
        "words.npz": "cannot be read|no features",
        "nothing": "no images by class",
        "nosuch.csv": "no such file",
    }
    return {name: (folder / name, words) for name, words in says.items()}


def test_what_cannot_be_read_is_refused_in_one_line_that_names_it(tmp_path: Path) -> None:
    for name, (path, says) in bad_files(tmp_path).items():
        with pytest.raises(UserError, match=says) as caught:
            whole(reading.read(path))
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_a_file_without_a_usable_feature_is_refused_with_the_reasons() -> None:
    source = reading.read(pd.DataFrame({"a": [1] * N, "b": [None] * N, "key": [f"k{i}" for i in range(N)]}))
    with pytest.raises(UserError, match="left out, constant: 'a'; left out, empty: 'b'; left out, different"):
        features.Columns(whole(source), source)


def test_a_column_that_gives_the_label_away_is_named() -> None:
    y = RNG.integers(0, 3, 600)
    frame = pd.DataFrame({"fine": RNG.normal(size=600), "result": y * 10.0, "code": pd.Categorical(y.astype(str))})
    found = features.leaks(frame, y)
    assert [line.split("'")[1] for line in found] == ["result", "code"]
