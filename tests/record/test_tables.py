"""A table's faces: equal values give equal bytes, text survives each of them, and each carries its stamp."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalab.record.tables import Table


def table_of(frame: pd.DataFrame) -> Table:
    return Table(frame, "1_t", "A caption", {"profile": "smoke", "seeds": 2, "root_seed": 2024, "n": "3 data sets"})


@given(st.lists(st.floats(allow_nan=True, allow_infinity=False, width=32), min_size=1))
def test_a_table_read_back_by_pandas_has_its_values_to_six_digits(values: list[float]) -> None:
    frame = pd.DataFrame({"set": [f"s{i}" for i in range(len(values))], "d, F1": values})
    back = pd.read_csv(io.StringIO(table_of(frame).csv()))
    assert list(back.columns) == list(frame.columns)
    np.testing.assert_allclose(back["d, F1"].to_numpy(float), frame["d, F1"], rtol=1e-5, atol=1e-40)


def test_values_that_differ_by_rounding_noise_give_the_same_bytes() -> None:
    noisy, exact = (table_of(pd.DataFrame({"x": [value, -value * 0]})) for value in (0.1 + 0.2, 0.3))
    assert (noisy.csv(), noisy.markdown(), noisy.latex()) == (exact.csv(), exact.markdown(), exact.latex())
    assert "-0" not in noisy.csv()


def test_every_printed_face_of_a_table_carries_profile_seeds_and_n() -> None:
    table = table_of(pd.DataFrame({"x": [1.0]}))
    for face in (table.markdown(), table.latex(), table._repr_html_()):
        assert "profile smoke; seeds 2 (root 2024); n = 3 data sets" in face
    assert json.loads(table.sidecar())["n"] == "3 data sets"


def test_a_terminal_is_shown_thirty_rows_and_how_many_more_there_are_and_every_file_has_all() -> None:
    table = table_of(pd.DataFrame({"x": range(33)}))
    assert (len(repr(table).splitlines()), len(table.markdown().splitlines())) == (36, 39)
    assert "*3 more rows; profile smoke" in repr(table)
    assert repr(table_of(pd.DataFrame({"x": range(30)}))).count("more rows") == 0


def test_a_markdown_table_keeps_its_columns_whatever_the_text() -> None:
    lines = table_of(pd.DataFrame({"a|b": ["x|y\nz"], "n": [3]})).markdown().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {3}


def test_a_latex_table_escapes_what_latex_would_act_on() -> None:
    text = table_of(pd.DataFrame({"50 % & _x": ["a_b#$~^\\{}"]})).latex()
    assert r"50 \% \& \_x" in text
    assert r"a\_b\#\$\textasciitilde{}\textasciicircum{}\textbackslash{}\{\}" in text


def test_a_column_is_printed_with_aligned_decimals_and_no_more_than_four_digits() -> None:
    shown = table_of(pd.DataFrame({"d": [0.123456, -0.01], "p": [1e-9, 0.5], "n": [4.0, 12.0]})).markdown()
    assert "| 0.1235 | 1.0e-09 | 4 |" in shown
    assert "| -0.0100 | 0.5000 | 12 |" in shown


def test_a_named_index_becomes_columns_and_equal_column_names_are_refused() -> None:
    frame = pd.DataFrame({("a", "x"): [1], ("a", "y"): [2]}, index=pd.Index(["s"], name="set"))
    assert table_of(frame).csv() == "set,a x,a y\ns,1,2\n"
    with pytest.raises(ValueError, match="must differ"):
        table_of(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_a_bare_carriage_return_ends_no_row() -> None:
    frame = pd.DataFrame({"label": ["street\rname", "a"], "n": [1, 2]})
    back = pd.read_csv(io.StringIO(table_of(frame).csv()))
    assert back.label.tolist() == frame.label.tolist()
    assert table_of(frame.replace("\r", " ", regex=True)).csv() == "label,n\nstreet name,1\na,2\n"
