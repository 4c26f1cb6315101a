"""Small and nasty files: each is read as its owner means it, or refused in one line."""

import os
import uuid
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.csv
import pytest
import scipy.sparse
import torch
from PIL import Image
from threadpoolctl import threadpool_limits

from datalab.errors import UserError
from datalab.intake import features, reading
from datalab.intake.portraits import portraits

N = 60
RNG = np.random.default_rng(0)


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
    frame = source.take()
    assert len(frame) == N
    assert frame.text[0] == 'Zeile 0 mit "Zitat"\nund; noch mehr Worten darin'
    assert set(frame.ort) == {"Köln", "Bonn"}
    columns = features.Columns(frame.drop(columns="sorte"), source)
    assert columns.kinds == {
        "nr": "left out, different in nearly every row",
        "größe": "number",
        "preis": "number",
        "ort": "category",
        "am": "date (day first)",
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
        frame = reading.read(german(tmp_path / "daten.csv")).take()
        assert frame.nr.tolist() == [f"id{i}" for i in range(N)]
        assert frame.text.str.contains("\nund; noch", regex=False).all()


def test_what_was_detected_can_be_overridden(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a;b\n1,5;2,5\n3,5;4,5\n")
    for decimal, value in ((None, 1.5), (".", np.nan)):
        source = reading.read(tmp_path / "t.csv", decimal=decimal)
        np.testing.assert_equal(features.numbers(source.take().a, source.decimal)[0], value)
    (tmp_path / "tabs.csv").write_text("a, b; c\td\n1\t2\n")
    for typed in ("\\t", "tab", "\t"):
        assert reading.read(tmp_path / "tabs.csv", delimiter=typed).columns == ["a, b; c", "d"]
    with pytest.raises(UserError, match="delimiter"):
        reading.read(tmp_path / "t.csv", delimiter="|", encoding="ascii")
    with pytest.raises(UserError, match="unknown encoding"):
        reading.read(tmp_path / "t.csv", encoding="no-such-code")


def test_numbers_with_units_and_marks_between_thousands_are_numbers(tmp_path: Path) -> None:
    written = {
        "1,234.50 EUR": 1234.5, "$1,234.50": 1234.5, "1.234,50 €": np.nan, "12.3%": 12.3, "12 %": 12.0,
        "-12,345": -12345.0, "USD 7": 7.0, "1'234": 1234.0, "12,34": np.nan, "0,125": np.nan, "A12": np.nan,
        "SKU123": np.nan, "\u22121,234.5": -1234.5, "\u22127 %": -7.0, "\u22120.5": -0.5, "\u2212": np.nan,
    }  # fmt: skip
    np.testing.assert_equal(features.numbers(pd.Series([*written], dtype="str")).to_numpy(), [*written.values()])
    german = pd.Series(["1.234,5 %", "7", "\u22121,5", "\u221213.700", "€ 1.644", "0.125"], dtype="str")
    np.testing.assert_equal(features.numbers(german, ",").to_numpy(), [1234.5, 7.0, -1.5, -13700.0, 1644.0, np.nan])
    prices = [f"{i // 7:,}.{i % 90 + 10} EUR;{'ab'[i % 2]}" for i in range(0, 90_000, 700)]
    (tmp_path / "t.csv").write_text("price;y\n" + "\n".join(prices), encoding="cp1252")
    source = reading.read(tmp_path / "t.csv")
    assert features.Columns(source.take().drop(columns="y"), source).kinds == {"price": "number"}


def test_a_unit_hides_no_decimal_comma_and_a_typeset_minus_is_one(tmp_path: Path) -> None:
    rows = [f"{i * 37 % 900:,},{i % 90 + 10} €;\u2212{i}.{i % 7};{'ab'[i % 2]}" for i in range(N)]
    (tmp_path / "t.csv").write_text("price;change;y\n" + "\n".join(rows).replace(".", ","), encoding="utf-8")
    source = reading.read(tmp_path / "t.csv")
    columns = features.Columns(source.take(["price", "change"]), source)
    assert columns.kinds == {"price": "number", "change": "number"}
    assert columns.typed(source.take()).iloc[8].tolist() == [296.18, -8.1]


def test_points_between_thousands_are_told_from_decimal_ones_by_their_column(tmp_path: Path) -> None:
    rows = [f"{i * 13_700 + 250:,}".replace(",", ".") + f";{i / 7:.2f}".replace(".", ",") for i in range(N)]
    rows = [f"{row};{(i + 1) / 8:.3f};{1370 * i + 1370:,}.50;{'ab'[i % 2]}" for i, row in enumerate(rows)]
    (tmp_path / "t.csv").write_text("pay;hours;rate;price;y\n" + "\n".join(rows))
    source = reading.read(tmp_path / "t.csv")
    frame = source.take()
    columns = features.Columns(frame[["pay", "hours", "rate", "price"]], source)
    point = "number, decimal point"
    assert columns.kinds == {"pay": "number", "hours": "number", "rate": point, "price": point}
    typed = columns.typed(frame)
    assert typed.pay.tolist() == [i * 13_700 + 250 for i in range(N)]
    assert typed.rate[:3].tolist() == [0.125, 0.25, 0.375]
    assert typed.price[:2].tolist() == [1370.5, 2740.5]


def test_a_tsv_and_an_english_csv_with_thousands_of_levels(tmp_path: Path) -> None:
    rows = [f"{i / 8}\tuser{i % 3000}\t{'ab'[i % 2]}" for i in range(9000)]
    (tmp_path / "t.tsv").write_text("x\tuser\ty\n" + "\n".join(rows))
    source = reading.read(tmp_path / "t.tsv")
    assert "delimiter tab, decimal '.'" in source.detected[0]
    frame = source.take()
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
    read = source.take()
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
    "wide sparse matrix": (scipy.sparse.random(N, 5000, 0.01, random_state=0), N),
    "sparse array": (scipy.sparse.csr_array(np.eye(N, 5)), 5),
    "dictionary of keys": (scipy.sparse.dok_matrix(np.eye(N, 5)), 5),
    "tensor": (torch.ones(N, 3, requires_grad=True), 3),
    "texts": (["some words"] * N, 1),
    "array of texts": (np.array([None] + ["some words"] * (N - 1)), 1),
    "torch data set": (Pairs(), 5),
    "Hugging Face": (Arrow(), 2),
    "frame": (pd.DataFrame({0: [1] * N, "b": 2}, index=[7] * N), 2),
}


@pytest.mark.parametrize("kind", MEMORY)
def test_data_in_memory_become_rows_and_columns(kind: str) -> None:
    data, width = MEMORY[kind]
    source = reading.read(data)
    frame = source.take()
    assert frame.shape == (N, width)
    assert list(frame) == source.columns
    some = pd.concat(list(source.blocks(source.columns[-1:])), ignore_index=True)
    assert list(some) == source.columns[-1:]


def test_the_directions_of_a_wide_sparse_matrix_do_not_depend_on_the_number_of_threads() -> None:
    x = scipy.sparse.random(360, 500, 0.05, random_state=0)
    made = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            made.append(reading.read(x).take())
    pd.testing.assert_frame_equal(*made, check_exact=True)


def test_a_wide_sparse_matrix_with_gaps_and_a_data_set_without_pairs_are_refused() -> None:
    x = scipy.sparse.random(N, 500, 0.05, random_state=0)
    for value, dtype in ((np.nan, float), (np.inf, float), (1, complex)):
        x.data[3] = value
        with pytest.raises(UserError, match=r"the sparse matrix: .* real and finite numbers"):
            reading.read(x.astype(dtype))
    with pytest.raises(UserError, match=r"the data set: need \(features, label\) of each example, got a dict"):
        reading.read(type("D", (), {"__len__": lambda self: N, "__getitem__": lambda self, i: {"x": 1}})())


def test_numpy_files_name_their_features_and_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", embeddings=np.eye(N, 4), labels=np.arange(N) % 2, ids=np.arange(N))
    source = reading.read(tmp_path / "a.npz")
    assert source.label == "labels"
    assert source.columns == ["0", "1", "2", "3", "labels", "ids"]
    np.savez(tmp_path / "d.npz", x=np.eye(N, 4), y=np.zeros((N, 1)), x_test=np.ones((N // 4, 4)))
    assert reading.read(tmp_path / "d.npz").columns == ["0", "1", "2", "3", "y"]
    np.save(tmp_path / "b.npy", np.eye(N, 4))
    assert reading.read(tmp_path / "b.npy").columns == ["0", "1", "2", "3"]
    np.save(tmp_path / "c.npy", np.array([(1, 2.0)] * N, dtype=[("a", "i4"), ("b", "f8")]))
    with pytest.raises(UserError, match=r"c\.npy: need features \(n, d\) of numbers or text"):
        reading.read(tmp_path / "c.npy")


def test_a_folder_of_images_by_class(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / "shots" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((5, 9, 3), 60 * i, np.uint8)).save(tmp_path / "shots" / "ab"[i % 2] / f"{i}.png")
    source = reading.read(tmp_path / "shots")
    frame = source.take()
    assert source.label == "class"
    assert frame["class"].tolist() == ["a", "a", "b", "b"]
    typed = features.Columns(frame[["image"]], source).typed(frame)
    assert typed.shape == (4, features.SIDES[False] ** 2)
    (tmp_path / "shots" / "a" / "0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"picture 'a/0\.png'"):
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
            reading.read(path).take()
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_a_file_without_a_usable_feature_is_refused_with_the_reasons() -> None:
    source = reading.read(pd.DataFrame({"a": [1] * N, "b": [None] * N, "key": [f"k{i}" for i in range(N)]}))
    with pytest.raises(UserError, match="left out, constant: 'a'; left out, empty: 'b'; left out, different"):
        features.Columns(source.take(), source)


def test_values_without_a_place_in_a_table_are_left_out_and_too_large_ones_missing() -> None:
    assert (
        kinds([{"path": f"a picture of {i}", "bytes": b""} for i in range(N)]) == "left out, neither numbers nor text"
    )
    assert kinds([(i, 1.0) for i in range(N)]) == "vector"
    np.testing.assert_equal(features.numbers(pd.Series([1e38, -1e39, 2.0])).to_numpy(), [1e38, np.nan, 2.0])


def test_a_column_that_gives_the_label_away_is_named() -> None:
    y = RNG.integers(0, 3, 600)
    frame = pd.DataFrame({"fine": RNG.normal(size=600), "result": y * 10.0, "code": pd.Categorical(y.astype(str))})
    found = features.leaks(frame, y)
    assert [line.split("'")[1] for line in found] == ["result", "code"]


def kinds(column: object, **of_source: object) -> str:
    source = reading.of_frame("t", pd.DataFrame({"a": column, "b": RNG.normal(size=N)}), "", **of_source)
    return features.Columns(source.take(), source).kinds["a"]


def test_a_row_number_is_one_where_rows_are_left_out_too() -> None:
    source = reading.of_frame(
        "t", pd.DataFrame({"up": range(1, N + 1), "down": range(N, 0, -1), "x": np.eye(N)[3]}), ""
    )
    some = source.take().drop(index=[5, 6, 30])
    assert features.Columns(some, source).kinds == {
        "up": "left out, a row number",
        "down": "left out, a row number",
        "x": "number",
    }


def test_a_leak_is_seen_in_a_sorted_file_and_columns_not_looked_at_are_said() -> None:
    y = np.repeat([0, 1, 2], 60)
    wide = pd.DataFrame({"copy": y * 1.0, **{f"x{i}": RNG.normal(size=180) for i in range(300)}})
    first, last = features.leaks(wide, y)
    assert "'copy' alone" in first
    assert "only the first 300 of 301 columns" in last


def test_dates_have_one_order_a_column_three_parts_and_any_year() -> None:
    said = pd.date_range("2024-01-01", periods=N)
    for pattern, order in (("%d/%m/%Y", "day"), ("%d-%m-%y", "day"), ("%m/%d/%Y", "month"), ("%d.%m.%Y", "day")):
        column = pd.Series(said.strftime(pattern))
        assert kinds(column) == f"date ({order} first)"
        frame = pd.DataFrame({"a": column})
        typed = features.Columns(frame, reading.read(frame)).typed(frame)
        assert set(np.diff(typed.a)) == {1}
    assert features.days(pd.Series(["2024-03-01T12:00", "01/03/2024 12:00"]), True).tolist() == [19783.5, 19783.5]
    far = pd.Series([f"{1400 + i}-03-0{i % 9 + 1}" for i in range(N - 1)] + ["9999-12-31"])
    assert kinds(far) == "date"
    assert features.days(far).notna().all()
    assert features.days(far).iloc[-1] == 2932896
    for no_date in ([f"{i % 24:02d}:{i:02d}" for i in range(N)], [f"{i % 5}-{i % 3}" for i in range(N)]):
        assert "date" not in kinds(no_date)


def test_marks_between_thousands_are_no_decimal_commas_where_tabs_cut(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("pop\ty\n" + "".join(f"{v:,}\ta\n" for v in range(1000, 90_000, 1500)))
    source = reading.read(tmp_path / "t.tsv")
    assert features.numbers(source.take()["pop"], source.decimal)[:2].tolist() == [1000, 2500]


@pytest.mark.parametrize(
    "text", ["\n\na b,y\n1,2\n", '"a\n b",y\n1,2\n', "sep=;\na b;y\n1;2\n", "sep=\t\r\na b\ty\r\n1\t2"]
)
def test_a_header_may_be_broken_or_come_late(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode())
    pd.testing.assert_frame_equal(
        reading.read(tmp_path / "t.csv").take().astype(int), pd.DataFrame({"a b": [1], "y": 2})
    )


def test_a_header_of_any_length_is_read_whole(tmp_path: Path) -> None:
    """It was cut at 2**18 characters, and refused from 2**17 on, the longest cell that Python's reader takes."""
    names = [f"column {i} with a name of some sixty characters for whatever end" for i in range(5000)]
    (tmp_path / "t.csv").write_text(f"{';'.join(names)}\n{'1;' * 4999}2\n")
    source = reading.read(tmp_path / "t.csv")
    assert source.columns == names
    assert source.take(names[-2:]).to_numpy().tolist() == [["1", "2"]]
    (tmp_path / "t.csv").write_text("name" * (1 << 19) + ",b\n1,2\n")
    with pytest.raises(UserError, match="or a row of over 2 MB"):
        reading.read(tmp_path / "t.csv")


def test_columns_that_a_spreadsheet_leaves_empty_are_named_by_their_place(tmp_path: Path) -> None:
    """Two of them were refused as two columns of one name; one alone, R's row names, keeps its empty name."""
    for name, columns in (("a,b,,", ["a", "b", "column 3", "column 4"]), (",a,b,c", ["", "a", "b", "c"])):
        (tmp_path / "t.csv").write_text(f"{name}\n1,2,,\n3,4,,\n")
        source = reading.read(tmp_path / "t.csv")
        assert source.columns == columns
        assert source.take(columns[:2]).to_numpy().tolist() == [["1", "2"], ["3", "4"]]


def test_a_row_that_is_too_long_is_said_to_be_and_why_it_may_be(tmp_path: Path) -> None:
    rows = ["1,2,3\n"] * 100
    for before in (0, 60):
        text = ["a,b,c\n", *rows[:before], '"1,2,3\n', *rows, "x" * (5 << 20)]
        (tmp_path / "t.csv").write_text("".join(text))
        with pytest.raises(UserError, match=r"row of over 2 MB \(a quotation mark that is never closed\?\)"):
            reading.read(tmp_path / "t.csv").take()


def test_a_reader_that_fails_holds_no_function_of_pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread lets go of the function when Python may have ended, which aborted a third of such calls."""
    opened, held = pyarrow.csv.open_csv, []

    def watched(path: Path, reads: object, parses: pyarrow.csv.ParseOptions, converts: object) -> object:
        try:
            return opened(path, reads, parses, converts)
        except pyarrow.ArrowInvalid:
            held.append(parses.invalid_row_handler)
            raise

    monkeypatch.setattr(pyarrow.csv, "open_csv", watched)
    (tmp_path / "t.csv").write_text("a,b\n1," + "x" * (5 << 20) + "\n")
    with pytest.raises(UserError, match="row of over 2 MB"):
        reading.read(tmp_path / "t.csv")
    assert held == [None] * 4


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for rows, cells in ((60, "1,2"), (40, "1,2"), (50, "2,1")):
        path.write_text("a,b\n" + "1,2\n" * 50)
        source = reading.read(path)
        assert source.count() == 50
        path.write_text("a,b\n" + f"{cells}\n" * rows)
        with pytest.raises(UserError, match=r"^t\.csv: it has changed since it was first read"):
            source.take()


def test_what_is_no_regular_file_is_said_to_be_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(UserError, match=r"t\.csv': it is no regular file"):
        reading.read(tmp_path / "t.csv")


def test_bytes_that_are_no_letters_lead_to_the_encoding(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("a,b\n1,ä\n".encode("cp1252") + b"\x81,2\n")
    for encoding in (None, "utf-8"):
        with pytest.raises(UserError, match="if it is text, name its encoding"):
            reading.read(tmp_path / "t.csv", encoding=encoding)


@pytest.mark.parametrize("name", ["number", "category", "verbose", "my__text", "pipeline-1"])
def test_a_column_of_text_may_be_called_anything(name: str) -> None:
    """Scikit-learn's names of steps were the columns', of which it refuses some."""
    frame = pd.DataFrame({name: [f"some words and more of them {i}" for i in range(N)], "x": np.arange(N) % 7.0})
    source = reading.read(frame)
    assert features.fit(features.Columns(frame, source).typed(frame))(frame).shape[0] == N


@pytest.mark.filterwarnings("error")
def test_texts_without_a_word_have_directions_of_zero() -> None:
    frame = pd.DataFrame({"t": ["! ? ! ?"] * N}, dtype="str")
    assert not features.fit(frame)(frame).any()


def test_lists_of_words_are_left_out_and_vectors_of_different_lengths_refused() -> None:
    assert kinds([["red", "round"][: i % 3] for i in range(N)]) == "left out, neither numbers nor text"
    frame = pd.DataFrame({"v": [[1.0, 2.0]] * (N - 1) + [[1.0]]})
    with pytest.raises(UserError, match=r"column 'v': its vectors differ in length.*; leave these rows or the column"):
        features.Columns(frame, reading.read(frame)).typed(frame)


def test_a_table_without_rows_is_said_to_have_none(tmp_path: Path) -> None:
    empty = pd.DataFrame({"a": [1.0], "b": 2})[:0]
    empty.to_parquet(tmp_path / "t.parquet")
    for data, name in ((empty, "the table"), (tmp_path / "t.parquet", r"t\.parquet")):
        with pytest.raises(UserError, match=f"^{name}: it has no rows$"):
            reading.read(data).take()
    empty.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(UserError, match=r"^t\.csv: a header, and no rows under it$"):
        reading.read(tmp_path / "t.csv")


def test_marks_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a;b\n1,5;2,5\n")
    for given, says in (
        ({"decimal": "x"}, "decimal: must be '.' or ','"),
        ({"delimiter": ";;"}, "1-character"),
        ({"delimiter": "\n"}, "1-character"),
        ({"delimiter": "§"}, "ASCII"),
    ):
        with pytest.raises(UserError, match=says):
            reading.read(tmp_path / "t.csv", **given)


def test_a_named_index_of_parquet_is_a_column(tmp_path: Path) -> None:
    pd.DataFrame({"x": range(N)}, index=pd.Index([f"p{i}" for i in range(N)], name="plant")).to_parquet(
        tmp_path / "t.pq"
    )
    assert reading.read(tmp_path / "t.pq").take(["plant"]).plant[3] == "p3"


def test_pictures_are_upright_on_white_and_of_any_depth_or_none(tmp_path: Path) -> None:
    deep = np.arange(400, dtype=np.uint16).reshape(20, 20) * 150
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    turned = Image.Exif()
    turned[0x112] = 6
    Image.fromarray(np.repeat(np.uint8([[0], [255]]), 10, 0).repeat(40, 1)).save(tmp_path / "turned.jpg", exif=turned)
    Image.new("L", (20_000, 10_000)).save(tmp_path / "bomb.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    deep, clear, turned = (features._grey(tmp_path, f, 16, "") for f in ("deep.png", "clear.png", "turned.jpg"))
    assert len(np.unique(deep)) > 200
    assert (clear == 255).all()
    assert turned[:, 0].mean() > turned[:, -1].mean() + 200
    for name in ("bomb.png", "bad.png", "x" * 300 + ".png", "none.png", "\0.png"):
        assert features.picture(tmp_path / name) is None
    shown = pd.DataFrame({"text": ["bad.png", "x" * 300 + ".png", "deep.png"]})
    source = reading.of_frame("t", shown, "", folder=tmp_path)
    assert [bool(picture) for picture, _ in portraits(source, shown, set())] == [False, False, True]
    assert kinds(["x" * 300 + f"{i}.png" for i in range(N)]) == "left out, pictures that are not there"
    table = pd.DataFrame({"file": ["deep.png"] * 30 + ["clear.png", None]})
    columns = features.Columns(table, source)
    assert columns.detected == ["image (grey, 16 x 16): 'file'"]
    with pytest.raises(UserError, match="column 'file', row 31: no picture"):
        columns.typed(table)


def test_a_folder_leaves_out_what_is_hidden_and_names_rows_by_path(tmp_path: Path) -> None:
    for name in ("a/0.png", "b/1.png", ".ipynb_checkpoints/0.png", "a/._0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    source = reading.read(tmp_path)
    assert source.take()[source.key].tolist() == ["a/0.png", "b/1.png"]
    assert source.detected == ["folder: 2 images in 2 classes"]


def test_a_folder_says_what_it_passes_over(tmp_path: Path) -> None:
    for name in ("a/0.png", "a/notes.txt", "b/1.png", "c/2.heic", "c/3.HEIC", "d/deep/4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        Image.new("L", (4, 4)).save(tmp_path / name, "png")
    assert reading.read(tmp_path).detected[1:] == [
        "folder: left out, no pictures by their names: 2 .heic, 1 .txt, 1 deep",
        "folder: no pictures in 'c', 'd', so no class of that name",
    ]


def test_texts_may_be_short_or_without_blanks() -> None:
    good = np.arange(N) % 2
    for words in (("bad ", "good "), ("质量太差了完全不值", "这个产品非常好用我很喜欢")):
        texts = [f"{words[g]}{i}" for i, g in enumerate(good)]
        source = reading.read(texts)
        frame = source.take()
        typed = features.Columns(frame, source).typed(frame)
        x = features.fit(typed)(typed)
        apart = np.abs(x[good == 1].mean(0) - x[good == 0].mean(0)).max()
        assert apart > 2 * x.std(0).mean()
    assert kinds(texts) == "text"


def test_a_column_of_short_phrases_is_text_and_one_of_ids_is_not() -> None:
    words = np.array(["great", "small", "works", "broken", "phone", "cable", "never", "lovely", "again", "cheap"])
    pairs = [f"{a} {b}" for a in words for b in words][:N]
    assert kinds(pairs) == "text"
    assert kinds([f"{pair} {i}" for i, pair in enumerate(pairs)]) == "text"
    for ids in (
        [str(uuid.UUID(int=int(RNG.integers(2**62)) ** 2)) for _ in range(N)],
        [f"customer number {i}" for i in range(N)],
        [f"ORD-2024-{i:04d}" for i in range(N)],
        [f"{word}.{i}@mail.org" for i, word in enumerate(RNG.choice(words, N))],
    ):
        assert kinds(ids) == "left out, different in nearly every row"


def kind_of(values: list) -> str:
    source = reading.read(pd.DataFrame({"c": values, "other": np.arange(len(values)) ** 2 % 61}))
    return features.Columns(source.take(), source).kinds["c"]


def test_a_unit_is_one_a_column_and_a_versions_numbers_are_no_date() -> None:
    codes = [f"{['MAT', 'PHY'][i % 2]} {i % 9}" for i in range(90)]
    assert kind_of(codes) == "category"
    assert kind_of([f"EUR {i * i}" for i in range(90)]) == "number"
    assert kind_of([f"1.{i % 4}.{i % 3}" for i in range(90)]) == "category"


def test_one_day_in_the_months_place_turns_no_column_of_dates() -> None:
    american = [f"{1 + i % 12:02d}/{1 + i % 28:02d}/2024" for i in range(400)]
    assert kind_of([*american, "13/01/2024"]) == "date (month first)"
    assert kind_of([f"{1 + i % 28:02d}.{1 + i % 12:02d}.2024" for i in range(400)]) == "date (day first)"


def test_whether_a_value_is_there_is_a_feature_where_it_is_always_the_same() -> None:
    assert kind_of(["Gravel", None] * 45) == "category"
    assert kind_of(["Gravel"] * 90) == "left out, constant"


def test_a_rows_number_is_one_in_whichever_order() -> None:
    frame = pd.DataFrame({"n": np.random.default_rng(0).permutation(90), "x": np.arange(90) ** 2 % 61})
    source = reading.read(frame)
    assert features.Columns(frame, source).kinds == {"n": "left out, a row number", "x": "number"}


def test_several_marks_in_a_number_lie_between_thousands(tmp_path: Path) -> None:
    amounts = ["999", "12.345", "1.234.567", "7.654.321"]
    (tmp_path / "t.csv").write_text("pay;y\n" + "".join(f"{pay};{'ab'[i % 2]}\n" for i, pay in enumerate(amounts * 9)))
    source = reading.read(tmp_path / "t.csv")
    frame = source.take(["pay"])
    assert features.Columns(frame, source).typed(frame).pay[:4].tolist() == [999, 12345, 1234567, 7654321]


def test_a_link_is_of_its_own_names_kind_and_a_pipe_is_no_picture(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1, 2]}).to_parquet(tmp_path / "blob")
    (tmp_path / "t.parquet").symlink_to(tmp_path / "blob")
    assert reading.read(tmp_path / "t.parquet").columns == ["a"]
    (tmp_path / "pictures" / "a").mkdir(parents=True)
    os.mkfifo(tmp_path / "pictures" / "a" / "p.png")
    with pytest.raises(UserError, match="no images by class"):
        reading.read(tmp_path / "pictures")
    assert features.picture(tmp_path / "pictures" / "a" / "p.png") is None


def test_labels_and_test_rows_of_an_npz_are_not_its_features(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", labels=np.eye(3)[np.arange(9) % 3], X_test=np.ones((4, 5)), images=np.ones((9, 5)))
    assert len(reading.read(tmp_path / "t.npz").columns) == 5


def test_pandas_own_index_is_no_feature_of_a_parquet(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1, 2]}, index=[7, 8]).to_parquet(tmp_path / "t.parquet")
    source = reading.read(tmp_path / "t.parquet")
    assert source.columns == ["a"]
    assert "index: pandas' own, without a name, is left out" in source.detected


def test_a_leak_is_seen_where_one_class_has_nearly_all_rows() -> None:
    y = (np.arange(1000) % 33 == 0).astype(int)
    frame = pd.DataFrame({"leak": y * 5 + 1.0, "x": np.random.default_rng(0).normal(size=1000)})
    assert [line.split("'")[1] for line in features.leaks(frame, y)] == ["leak"]
