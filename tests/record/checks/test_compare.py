"""`datalab compare`: two records side by side. Each expectation is worked out from the files, not by the comparison."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import record_fakes
from hypothesis import given, settings
from hypothesis import strategies as st

from datalab import atomic, cli
from datalab.errors import UserError
from datalab.record import Study
from datalab.record.checks.compare import Comparison, compare
from datalab.record.checks.tablediff import DIFFERENT, INTERVAL, ROUNDING, SAME, TOLERANCE, diff, kind
from datalab.record.manifest import Manifest, SectionRecord
from datalab.sections import STUDY

TABLE = "tables/0_rows.csv"
HEAD = "set,rate,d,low,high,n\n"
ROWS = "a,0.1,0.5,0.25,0.75,5\na,0.2,0.6,0.35,0.85,5\nb,0.1,-1,-2,0,5\n"
CLAIM: dict[str, Any] = {"effect_size": 1.0, "n": 5, "why": "", "table": None, "row": None, "cell": 3}
CLAIM |= {"measured": 0.5, "low": 0.25, "high": 0.75, "verdict": "inconclusive"}


def record_of(
    folder: Path,
    tables: dict[str, str] | None = None,
    timing: tuple[str, ...] = (),
    claims: dict[str, dict[str, Any]] | None = None,
    section: dict[str, Any] | None = None,
    **provenance: Any,
) -> Path:
    """A whole record with these files and claims, written as the manifest would list them."""
    provenance = {"profile": "smoke", "created": "2026-01-01T00:00:00+00:00", "closed": True} | provenance
    manifest = Manifest(**provenance)
    for path, text in ({TABLE: HEAD + ROWS} if tables is None else tables).items():
        atomic.write(folder / path, text)
        manifest.add_file(folder, path, "0_alpha", path in timing)
    stated = [{**CLAIM, "id": claim_id, **claim} for claim_id, claim in (claims or {}).items()]
    entry = {"number": "0", "title": "A fake", "status": "complete", **(section or {})}
    manifest.sections["0_alpha"] = SectionRecord(claims=stated, **entry)
    manifest.save(folder)
    return folder


def both(tmp_path: Path, a: dict[str, Any], b: dict[str, Any], **how: Any) -> Comparison:
    return compare(record_of(tmp_path / "a", **a), record_of(tmp_path / "b", **b), STUDY, **how)


def call(*arguments: str | Path, study: Study = STUDY) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments], study=study)
    return ended.value.code


def cells(comparison: Comparison, path: str = TABLE) -> dict[tuple[str, ...], str]:
    """``{(*row, column): kind}`` of one table."""
    table = next(table for table in comparison.tables if table.path == path)
    return {(*cell.row, cell.column): cell.kind for cell in table.cells}


# --- records of real runs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeds(study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The first fake section run with two root seeds."""
    folder = tmp_path_factory.mktemp("seeds")
    for root_seed in (1, 2):
        assert record_fakes.run(study, folder / str(root_seed), "0", root_seed=root_seed) == 0
    return folder / "1", folder / "2"


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_of_two_seeds_it_lists_exactly_the_cells_that_differ(seeds: tuple[Path, Path], study: Study) -> None:
    comparison = compare(*seeds, study)
    assert [table.path for table in comparison.tables] == ["tables/0_rows.csv", "figures/0_curve.csv"]
    for table in comparison.tables:
        rows_a, rows_b = (read(record / table.path) for record in seeds)
        assert len(rows_a) == len(rows_b) == 4
        expected = {
            (a["index"], name, a[name], b[name])
            for a, b in zip(rows_a, rows_b, strict=True)
            for name in a
            if a[name] != b[name]
        }
        assert expected
        assert {(*cell.row, cell.column, cell.a, cell.b) for cell in table.cells} == expected
        assert table.compared == sum(map(len, rows_a))
    assert not comparison.same


def test_of_two_seeds_it_names_the_seed_and_the_claim_that_moved(seeds: tuple[Path, Path], study: Study) -> None:
    comparison = compare(*seeds, study)
    means = [sum(float(row["value"]) for row in read(record / TABLE)) / 4 for record in seeds]
    (claim,) = comparison.claims
    assert (claim.id, claim.kind) == ("TITLE.threshold", INTERVAL)  # the fakes' interval is [0, 1]
    assert [float(row["measured"]) for row in (claim.a, claim.b)] == pytest.approx(means, rel=1e-5)
    (setting,) = comparison.environment
    assert setting == {"what": "parameter root_seed", "a": "1", "b": "2", "sections": ["0"]}


def test_a_record_compared_with_itself_shows_nothing_and_exits_0(
    seeds: tuple[Path, Path], study: Study, capsys: pytest.CaptureFixture
) -> None:
    comparison = compare(seeds[0], seeds[0], study)
    assert comparison.same
    assert (comparison.tables, comparison.claims, comparison.sections, comparison.environment) == ((), (), (), ())
    assert call("compare", seeds[0], seeds[0], study=study) == 0
    *head, last = capsys.readouterr().out.splitlines()
    assert len(head) == 3  # the two records, and how to read a difference
    assert last.startswith("the same")


# --- one pair of cells ------------------------------------------------------------------------------------------------

PAIRS = [
    ("0.100001", "0.1", TOLERANCE),
    ("1", "1.00001", TOLERANCE),
    ("1", "1.0001", DIFFERENT),
    ("-0.5", "0.5", DIFFERENT),
    ("1e-15", "-3e-14", TOLERANCE),
    ("0", "1e-06", DIFFERENT),
    ("1e6", "1000000", TOLERANCE),
    ("9.4 %", "9.40001 %", TOLERANCE),
    ("9.4 %", "9.4", DIFFERENT),
    ("< 0 %", "< 1 %", DIFFERENT),
    ("< 10 %", "< 10.00001 %", DIFFERENT),
    ("inf", "1e300", DIFFERENT),
    ("-inf", "inf", DIFFERENT),
    ("4_1", "41", DIFFERENT),
    ("nan", "NaN", DIFFERENT),
    ("", "0", DIFFERENT),
    ("True", "False", DIFFERENT),
    ("2 [1, 3]", "2.5 [1, 3]", INTERVAL),
    ("2 [1, 3]", "2.5 [2.2, 3]", DIFFERENT),
    ("2 [1, 3]", "2.5", DIFFERENT),
    ("2 [-inf, 3]", "2.00001 [-inf, 3]", TOLERANCE),
    ("mlp", "mlp", SAME),
]


@pytest.mark.parametrize(("a", "b", "expected"), PAIRS)
def test_a_pair_of_cells_has_its_kind_whichever_comes_first(a: str, b: str, expected: str) -> None:
    assert kind(a, b, 1e-5) == kind(b, a, 1e-5) == expected


def test_with_no_tolerance_only_equal_bytes_are_the_same_but_for_how_a_number_is_written() -> None:
    assert kind("1e-15", "-3e-14", 0.0) == DIFFERENT
    assert kind("1", "1.00001", 0.0) == DIFFERENT
    assert kind("1", "1.0", 0.0) == TOLERANCE


def test_the_tolerance_decides_the_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    a = record_of(tmp_path / "a")
    b = record_of(tmp_path / "b", {TABLE: HEAD + ROWS.replace("0.6", "0.65")})
    assert call("compare", a, b) == 1
    assert call("compare", a, b, "--tolerance", "0.1") == 0
    assert "1 values within the tolerance" in capsys.readouterr().out


# --- another processor's rounding -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "same"),
    [
        ("a,0.2,0.612,0.36,0.86,5", True),  # half-width 0.25: moved by under 0.0125
        ("a,0.2,0.613,0.36,0.86,5", False),  # by more
        ("a,0.2,0.6,0.35,0.89,5", True),  # a limit may move by a fifth
        ("a,0.2,0.6,0.35,0.91,5", False),  # the estimate stayed, a limit did not
        ("a,0.2,0.601,0.35,0.85,6", False),  # a count never follows
    ],
)
def test_an_estimate_agrees_that_moved_by_under_a_twentieth_of_its_half_width(
    tmp_path: Path, capsys: pytest.CaptureFixture, row: str, same: bool
) -> None:
    a = record_of(tmp_path / "a")
    b = record_of(tmp_path / "b", {TABLE: HEAD + ROWS.replace("a,0.2,0.6,0.35,0.85,5", row)})
    assert call("compare", a, b) == (0 if same else 1)
    assert capsys.readouterr().out.splitlines()[-1].startswith("agrees (other rounding)") == same
    assert call("compare", a, b, "--tolerance", "0") == 1


@pytest.mark.parametrize(
    ("a", "b", "kinds"),
    [
        ("x,0.5,0.25,0.75,0.041,holds", "x,0.501,0.251,0.751,0.044,holds", {ROUNDING}),  # a p follows its estimate
        ("x,0.5,0.25,0.75,0.041,holds", "x,0.501,0.251,0.751,0.049,holds", {ROUNDING, DIFFERENT}),  # not that far
        ("x,0.5,0.25,0.75,0.041,holds", "x,0.501,0.251,0.751,0.041,liberal", {ROUNDING, DIFFERENT}),  # a word does not
        ("x,0.5,,,0.041,d +0.1234", "x,0.5001,,,0.04101,d +0.1235", {ROUNDING}),  # no interval: a thousandth
        ("x,0.5,,,0.041,d +0.1", "x,0.501,,,0.041,d +0.1", {DIFFERENT}),
    ],
)
def test_what_has_no_interval_follows_the_estimates_of_its_row(a: str, b: str, kinds: set[str]) -> None:
    columns = ["set", "d", "d low", "d high", "p", "reading"]
    one, other = (pd.DataFrame([line.split(",")], columns=columns) for line in (a, b))
    found = {cell.kind for cell in diff(one, other, 1e-5).cells}
    assert found == kinds


def test_claims_that_moved_by_rounding_alone_are_the_same_and_the_page_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    moved = {"measured": 0.501, "low": 0.251, "high": 0.749, "effect_size": 1.002, "why": "difference +0.1235"}
    a = record_of(tmp_path / "a", claims={"TITLE.threshold": {"why": "difference +0.1234"}})
    b = record_of(tmp_path / "b", claims={"TITLE.threshold": moved})
    assert call("compare", a, b) == 0
    assert "agrees (other rounding): every verdict is the same" in capsys.readouterr().out
    c = record_of(tmp_path / "c", claims={"TITLE.threshold": {**moved, "verdict": "shown"}})
    assert call("compare", a, c) == 1


# --- intervals --------------------------------------------------------------------------------------------------------

NAMES = [  # a value, columns between it and its limits, and the limits
    (("d", "p", "d low", "d high"), 0),
    (("d (F1)", "low", "high"), 0),
    (("d (F1)", "low", "high", "bootstrap low", "bootstrap high"), 0),
    (("p", "d", "95 % low", "95 % high"), 1),
    (("d, paper", "p", "d low, paper", "d high, paper"), 0),
    (("p", "alpha 0.05 (%)", "alpha 0.05 low", "alpha 0.05 high"), 1),
]


@pytest.mark.parametrize(("names", "place"), NAMES, ids=str)
def test_values_inside_each_others_interval_are_named_so_and_still_differ(
    names: tuple[str, ...], place: int, tmp_path: Path
) -> None:
    def text(value: str, low: str, high: str) -> str:
        limits = {name: low if "low" in name else high for name in names if "low" in name or "high" in name}
        row = {"set": "x"} | dict.fromkeys(names, "0.01") | {names[place]: value} | limits
        quoted = ",".join(f'"{name}"' for name in row)
        return f"{quoted}\n{','.join(row.values())}\n"

    a, b = text("0.5", "0.25", "0.75"), text("0.6", "0.35", "0.85")
    comparison = both(tmp_path, {"tables": {TABLE: a}}, {"tables": {TABLE: b}})
    assert cells(comparison) == {("x", name): INTERVAL for name in names if name != "p"}  # limits move with their value
    assert not comparison.same


def test_an_interval_that_is_open_at_the_end_of_the_grid_holds_all_beyond() -> None:
    inside = ("9.4 %", "-5 %", 1e-5, ("< 0 %", "19.1 %"), ("< -10 %", "> 40 %"))
    assert kind(*inside) == INTERVAL
    assert kind("9.4 %", "45 %", 1e-5, ("< 0 %", "19.1 %"), ("< 0 %", "> 40 %")) == DIFFERENT
    assert kind("9.4", "8.4", 1e-5, ("< 0 %", "19.1 %"), ("< 0 %", "19.1 %")) == DIFFERENT  # another unit


@pytest.mark.parametrize(
    ("row", "kinds"),
    [
        ("0.8,0.25,0.75", {"d": DIFFERENT}),  # outside A's interval
        ("0.6,0.55,0.75", {"d": DIFFERENT, "low": DIFFERENT}),  # A's value is outside B's
        ("0.5,0.3,0.75", {"low": DIFFERENT}),  # a limit alone
        ("0.6,,", {"d": DIFFERENT, "low": DIFFERENT, "high": DIFFERENT}),  # B states no interval
    ],
)
def test_one_value_outside_the_others_interval_is_different(row: str, kinds: dict[str, str], tmp_path: Path) -> None:
    tables = [{TABLE: f"set,d,low,high\nx,{values}\n"} for values in ("0.5,0.25,0.75", row)]
    comparison = both(tmp_path, {"tables": tables[0]}, {"tables": tables[1]})
    assert cells(comparison) == {("x", column): name for column, name in kinds.items()}


def test_a_column_that_only_sounds_like_a_limit_is_none(tmp_path: Path) -> None:
    tables = [{TABLE: f"set,d,highest,lowest,low confidence\nx,{d},0.9,0.1,0.1\n"} for d in ("0.5", "0.6")]
    assert cells(both(tmp_path, {"tables": tables[0]}, {"tables": tables[1]})) == {("x", "d"): DIFFERENT}


# --- rows, columns, tables --------------------------------------------------------------------------------------------


def test_rows_columns_and_tables_that_one_record_alone_has_are_listed_as_such(tmp_path: Path) -> None:
    a = {TABLE: HEAD + ROWS, "tables/0_gone.csv": "x\n1\n", "figures/0_curve.csv": "x\n1\n"}
    b = {TABLE: "set,rate,d,low,high,seeds\na,0.2,0.6,0.35,0.85,5\nc,0.1,0.5,0.25,0.75,5\nb,0.1,-1,-2,0,5\n"}
    b |= {"tables/0_new.csv": "x\n1\n", "figures/0_curve.csv": "x\n1\n"}
    comparison = both(tmp_path, {"tables": a}, {"tables": b})
    assert [(table.path, table.only) for table in comparison.tables] == [
        ("tables/0_gone.csv", "a"),
        ("tables/0_new.csv", "b"),
        (TABLE, ""),
    ]
    assert comparison.counts["tables"] == 4  # the figure's data, which are the same, among them
    rows = comparison.tables[2]
    assert (rows.key, rows.rows_only_a, rows.rows_only_b) == (("set", "rate"), (("a", "0.1"),), (("c", "0.1"),))
    assert (rows.columns_only_a, rows.columns_only_b, rows.cells) == (("n",), ("seeds",), ())
    assert rows.compared == 2 * 5


@pytest.mark.parametrize(
    "other",
    [
        {"tables": {}},
        {"tables": {TABLE: HEAD + ROWS[:-15]}},
        {"tables": {TABLE: (HEAD + ROWS).replace(",n\n", ",m\n")}},
    ],
    ids=["a table", "a row", "a column"],
)
def test_each_of_them_alone_makes_the_records_different(other: dict[str, Any], tmp_path: Path) -> None:
    assert not both(tmp_path, {}, other).same


def test_rows_in_another_order_are_matched_by_their_settings_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    a = record_of(tmp_path / "a")
    b = record_of(tmp_path / "b", {TABLE: HEAD + "".join(reversed(ROWS.splitlines(keepends=True)))})
    assert call("compare", a, b) == 0
    assert f"{TABLE}: 18 cells compared; in another order" in capsys.readouterr().out


def test_rows_that_only_their_results_would_name_are_matched_by_their_number() -> None:
    a = pd.DataFrame({"set": ["x", "x"], "d": ["0.123456", "0.234567"]})
    b = pd.DataFrame({"set": ["x", "x", "x"], "d": ["0.123456", "0.234599", "0.3"]})
    comparison = diff(a, b, 1e-5)
    assert (comparison.key, comparison.rows_only_b) == ((), (("2",),))
    assert [(cell.row, cell.column) for cell in comparison.cells] == [(("1",), "d")]


# --- claims -----------------------------------------------------------------------------------------------------------


def test_a_changed_verdict_is_listed_first_with_both_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    a = record_of(tmp_path / "a", claims={"TITLE.threshold": {}, "T1.if_vs_vanilla": {}})
    changed = {"TITLE.threshold": {"measured": 0.9}, "T1.if_vs_vanilla": {"verdict": "direction reproduced"}}
    b = record_of(tmp_path / "b", claims=changed)
    assert call("compare", a, b) == 1
    shown = capsys.readouterr().out.splitlines()
    at = shown.index("claims: 1 changed verdict, 1 changed measured")
    assert shown[at + 1].split("  ")[1] == "changed verdict"
    assert all(
        words in shown[at + 1] for words in ("T1.if_vs_vanilla", "inconclusive: 0.5", "direction reproduced: 0.5")
    )
    assert "TITLE.threshold" in shown[at + 2]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"measured": 0.6, "low": 0.4, "effect_size": 2.0}, INTERVAL),
        ({"measured": 0.500001}, TOLERANCE),
        ({"measured": 0.9}, "changed measured"),
        ({"low": 0.1}, "changed measured"),
        ({"n": 15}, "changed measured"),
        ({"measured": "half"}, "changed measured"),
        ({"why": "the interval allows both"}, "changed reason"),
        ({"excluded": "yes"}, "changed reason"),
        ({"verdict": "shown", "measured": 0.6}, "changed verdict"),
        ({"cell": 9, "row": "another"}, None),  # where it stands, not what it says
    ],
)
def test_a_claim_has_its_kind(change: dict[str, Any], expected: str | None, tmp_path: Path) -> None:
    comparison = both(tmp_path, {"claims": {"TITLE.threshold": {}}}, {"claims": {"TITLE.threshold": change}})
    assert [claim.kind for claim in comparison.claims] == ([expected] if expected else [])
    assert comparison.same == (expected in (None, TOLERANCE))


def test_a_claim_that_one_record_did_not_measure_or_todays_ledger_does_not_know_is_compared(tmp_path: Path) -> None:
    comparison = both(tmp_path, {"claims": {"TITLE.threshold": {}, "OLD.claim": {}}}, {"claims": {}})
    verdicts = {claim.id: (claim.kind, claim.a["verdict"], claim.b["verdict"]) for claim in comparison.claims}
    assert verdicts == {
        "TITLE.threshold": ("changed verdict", "inconclusive", "not run"),
        "OLD.claim": ("changed verdict", "inconclusive", ""),
    }


# --- measured time ----------------------------------------------------------------------------------------------------

TIMES = "tables/0_times.csv"
BOARD = "tables/0_board.csv"


def timed(seconds: str, verdict: str = "inconclusive", n: str = "5") -> dict[str, Any]:
    board = f"statement,measured,verdict,n\nT5.fe.train,{seconds},{verdict},{n}\nTITLE.threshold,1,shown,{n}\n"
    return {
        "tables": {TIMES: f"what,seconds\nfit,{seconds}\n", BOARD: board},
        "timing": (TIMES,),
        "claims": {"T5.fe.train": {"measured": float(seconds), "verdict": verdict, "table": TIMES, "n": int(n)}},
    }


def test_measured_time_is_reported_apart_and_counts_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    a, b = record_of(tmp_path / "a", **timed("1.5")), record_of(tmp_path / "b", **timed("9.5"))
    assert call("compare", a, b) == 0
    shown = capsys.readouterr().out.splitlines()
    at = shown.index("measured time and memory (does not count; --timing counts it):")
    assert not any(path in line for line in shown[:at] for path in (TIMES, BOARD, "T5.fe.train"))
    assert [sum(name in line for line in shown[at:]) for name in (TIMES, BOARD, "T5.fe.train")] == [1, 1, 1]
    assert "1.5  |  9.5" not in "\n".join(shown)
    assert shown[-1].startswith("the same, measured time and memory aside")
    assert call("compare", a, b, "--timing") == 1
    shown = capsys.readouterr().out.splitlines()
    at = shown.index("measured time and memory (counted):")
    assert any(line.endswith("1.5  |  9.5") for line in shown[at:])
    assert shown[-1].startswith("different in 1 claims, 2 tables")


def test_a_verdict_that_rests_on_measured_time_counts_and_so_does_what_else_its_row_says(tmp_path: Path) -> None:
    comparison = both(tmp_path, timed("1.5"), timed("9.5", verdict="shown"))
    assert [(claim.kind, claim.timing) for claim in comparison.claims] == [("changed verdict", False)]
    assert not comparison.same
    comparison = both(tmp_path, timed("1.5"), timed("9.5", n="6"))
    assert [(claim.kind, claim.timing) for claim in comparison.claims] == [("changed measured", False)]
    board = next(table for table in comparison.tables if table.path == BOARD)
    assert {(cell.row[0], cell.column): cell.timing for cell in board.cells} == {
        ("T5.fe.train", "measured"): True,
        ("T5.fe.train", "n"): False,
        ("TITLE.threshold", "n"): False,
    }
    assert not comparison.same


# --- environment and sections -----------------------------------------------------------------------------------------


def test_the_environment_is_listed_and_does_not_count(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    key = {"code": "1" * 64, "notebook": "0" * 64}
    a = {
        "sources": {"code": "1" * 64},
        "git": {"commit": "1" * 40, "clean": True},
        "machine": {"cores": 2},
        "packages": {"torch": "2.9", "numpy": "2.2"},
        "section": {"key": key, "parameters": {"seeds": 5, "record": "here"}, "device": "cpu"},
    }
    b = {
        "profile": "quick",
        "sources": {"code": "2" * 64},
        "git": {"commit": "1" * 40, "clean": False},
        "machine": {"cores": 64},
        "packages": {"torch": "2.10", "numpy": "2.2", "dask": "1"},
        "section": {
            "key": {**key, "code": "2" * 64},
            "parameters": {"seeds": 13, "record": "there"},
            "device": "NVIDIA H100",
        },
    }
    comparison = both(tmp_path, a, b)
    assert [tuple(setting.values()) for setting in comparison.environment] == [
        ("profile", "smoke", "quick", []),
        ("code", "1" * 64, "2" * 64, []),
        ("git tree clean", "true", "false", []),
        ("machine: cores", "2", "64", []),
        ("package torch", "2.9", "2.10", []),
        ("package dask", None, "1", []),
        ("device", "cpu", "NVIDIA H100", ["0"]),
        ("parameter seeds", "5", "13", ["0"]),
    ]
    assert call("compare", tmp_path / "a", tmp_path / "b") == 0
    assert "environment (does not count):" in capsys.readouterr().out


def test_raw_cells_and_images_are_counted_by_hash_and_do_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    a = record_of(tmp_path / "a", {"cells/x.parquet": "1", "cells/y.parquet": "1", "figures/0_c.svg": "1"})
    b = record_of(tmp_path / "b", {"cells/x.parquet": "2", "cells/z.parquet": "1", "figures/0_c.svg": "1"})
    assert call("compare", a, b) == 0
    shown = capsys.readouterr().out
    assert "raw cells, by hash: 0 the same, 1 different, 1 only in A, 1 only in B" in shown
    assert "figures' images" not in shown


def test_another_form_of_a_table_counts_where_its_csv_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    a = record_of(tmp_path / "a", {TABLE: HEAD, "tables/0_rows.md": "1", "tables/0_new.csv": "x\n1\n"})
    b = record_of(tmp_path / "b", {TABLE: HEAD, "tables/0_rows.md": "2", "tables/0_new.csv": "x\n1\n"})
    assert call("compare", a, b) == 1
    shown = capsys.readouterr().out
    assert "  tables/0_rows.md differs, though its .csv does not" in shown
    assert "different in 1 tables' other forms" in shown


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ([{"text": "Gain 0.5000001 of 5 sets"}], True),
        ([{"text": "Gain 0.51 of 5 sets"}], True),  # other rounding, which its tables tell
        ([{"text": "Gain 0.7 of 5 sets"}], False),
        ([{"text": "Gain 0.5 of 6 sets"}], False),
        ([{"text": "The title is proved: 0.5 of 5 sets"}], False),
        ([{"text": "Gain 0.5 of 5 sets"}, {"caption": "", "columns": ["won"], "rows": [["yes"]]}], False),
        ([], False),
    ],
)
def test_a_headline_counts_but_for_rounding(other: list[dict[str, Any]], same: bool, tmp_path: Path) -> None:
    headline = [{"text": "Gain 0.5 of 5 sets"}]
    comparison = both(tmp_path, {"section": {"headline": headline}}, {"section": {"headline": other}})
    assert comparison.same == same
    assert [section["stem"] for section in comparison.sections] == ["0_alpha: headline"] * (not same)


def test_a_headline_of_measured_time_counts_only_when_asked(tmp_path: Path) -> None:
    a, b = ({"section": {"headline": [{"text": f"It took {s}"}]}, "timing": (TABLE,)} for s in ("5 s", "6 s"))
    assert both(tmp_path, a, b).same
    assert not compare(tmp_path / "a", tmp_path / "b", STUDY, timing=True).same


def test_a_section_that_failed_in_one_record_makes_them_different(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    a, b = record_of(tmp_path / "a"), record_of(tmp_path / "b", section={"status": "failed", "reason": "as asked"})
    assert call("compare", a, b) == 1
    shown = capsys.readouterr().out
    assert "0_alpha  complete  |  failed" in shown
    assert "different in 1 sections' status" in shown


# --- what is refused --------------------------------------------------------------------------------------------------


def torn(record: Path) -> None:
    path = record / Manifest.NAME
    path.write_text(path.read_text()[:-20])


def edited(record: Path) -> None:
    path = record / Manifest.NAME
    path.write_text(path.read_text().replace("complete", "failed"))


def unfinished(record: Path) -> None:
    manifest = Manifest.load(record)
    manifest.closed = False
    manifest.save(record)


BROKEN = [
    (shutil.rmtree, "there is no such folder"),
    (
        lambda record: (record / Manifest.NAME).unlink(),
        "record.json is missing; name a folder that `datalab run` wrote",
    ),
    (torn, "changed: record.json: cannot be read"),
    (edited, "changed: record.json: was changed after it was written"),
    (lambda record: (record / TABLE).write_text(HEAD), f"changed: {TABLE}"),
    (lambda record: (record / TABLE).unlink(), f"missing: {TABLE}"),
    (lambda record: (record / "tables/0_more.csv").write_text("x"), "added: tables/0_more.csv"),
    (unfinished, "its writer was interrupted"),
]


@pytest.mark.parametrize(("breaks", "says"), BROKEN, ids=[says for _, says in BROKEN])
@pytest.mark.parametrize("broken", ["a", "b"])
def test_a_record_that_is_not_whole_is_refused_in_one_line(
    broken: str, breaks: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        record_of(Path(name))
    breaks(Path(broken))
    assert call("compare", "a", "b") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith(f"datalab: record '{broken}'")
    assert says in line


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_that_is_none_is_refused(tolerance: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a number of 0 or more"):
        both(tmp_path, {}, {}, tolerance=tolerance)


# --- what is printed --------------------------------------------------------------------------------------------------


def test_a_long_list_is_cut_with_how_many_more_unless_all_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name, shift in (("a", 0), ("b", 1000)):
        record_of(tmp_path / name, {TABLE: "set,n\n" + "".join(f"s{i:02},{i + shift}\n" for i in range(25))})
    assert call("compare", tmp_path / "a", tmp_path / "b") == 1
    shown = capsys.readouterr().out
    assert (shown.count("  different  s"), "and 15 more (--all lists them)" in shown) == (10, True)
    assert call("compare", tmp_path / "a", tmp_path / "b", "--all") == 1
    shown = capsys.readouterr().out
    assert (shown.count("  different  s"), "more" in shown) == (25, False)


def test_of_two_long_texts_what_differs_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name, word in (("a", "holds"), ("b", "fails")):
        record_of(tmp_path / name, {TABLE: f"set,why\nx,{'so it is said ' * 20}{word}{' and more' * 20}\n"})
    assert call("compare", tmp_path / "a", tmp_path / "b") == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  different")]
    assert "holds" in line
    assert "fails" in line
    assert len(line) < 120


def test_json_is_one_object_that_agrees_with_the_text(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    a = record_of(tmp_path / "a", claims={"TITLE.threshold": {}}, packages={"torch": "2.9"})
    tables = {TABLE: HEAD + ROWS.replace("0.6", "0.61").replace("-1", "7"), "tables/0_new.csv": "x\n1\n"}
    b = record_of(tmp_path / "b", tables, claims={"TITLE.threshold": {"verdict": "shown"}}, packages={"torch": "2.10"})
    status = call("compare", a, b)
    text = capsys.readouterr().out
    assert call("compare", a, b, "--json") == status == 1
    printed = capsys.readouterr().out
    tree = json.loads(printed)
    assert call("compare", a, b, "--json", "--all") == 1
    assert capsys.readouterr().out == printed
    assert list(tree) == [
        *("same", "other_rounding", "a", "b", "tolerance", "timing", "counts"),
        *("claims", "tables", "sections", "files", "environment"),
    ]
    assert tree["same"] is False
    assert [(table["path"], table["counts"]) for table in tree["tables"]] == [("tables/0_new.csv", True), (TABLE, True)]
    shown = [line.split() for line in text.splitlines()]
    for cell in tree["tables"][1]["cells"]:
        words = [*cell["kind"].split(), *", ".join(cell["row"]).split(), cell["column"], cell["a"], "|", cell["b"]]
        assert words in shown
    by_kind = tree["counts"]["by_kind"]
    assert {name: n for name, n in by_kind.items() if n} == {
        "cells different": 1,
        "cells agrees (other rounding)": 1,
        "claims changed verdict": 1,
    }
    assert tree["environment"] == [{"what": "package torch", "a": "2.9", "b": "2.10", "sections": []}]


# --- laws -------------------------------------------------------------------------------------------------------------

VALUES = st.sampled_from(["", "0.5", "0.500001", "0.6", "-1", "1.23456", "x", "y", "9.4 %", "< 0 %", "inf", "2 [1, 3]"])
COLUMNS = st.lists(
    st.sampled_from(["set", "rate", "d", "low", "high", "F1", "F1 low", "F1 high"]), unique=True, max_size=6
)


@st.composite
def tables(draw: st.DrawFn, columns: st.SearchStrategy = COLUMNS) -> str:
    names = draw(columns)
    rows = draw(st.lists(st.lists(VALUES, min_size=len(names), max_size=len(names)), max_size=4))
    return "".join(",".join(row) + "\n" for row in [names, *rows] if row)


def mirrored(node: Any) -> Any:
    """The tree with A and B exchanged; a table's cells in an order of their own, since A's rows give it."""
    if isinstance(node, dict):
        other = {"a": "b", "b": "a", "rows_only_a": "rows_only_b", "rows_only_b": "rows_only_a"}
        other |= {"columns_only_a": "columns_only_b", "columns_only_b": "columns_only_a"}
        other |= {"only_a": "only_b", "only_b": "only_a"}
        return {other.get(name, name): mirrored(value) for name, value in node.items()} | (
            {"only": other.get(node["only"], "")} if "only" in node else {}
        )
    return [mirrored(child) for child in node] if isinstance(node, list | tuple) else node


def in_order(tree: dict[str, Any]) -> dict[str, Any]:
    for table in tree["tables"]:
        for name in ("cells", "columns_only_a", "columns_only_b"):
            table[name] = sorted(table[name], key=str)
    return json.loads(json.dumps(tree, sort_keys=True))


@settings(max_examples=20, deadline=None)
@given(st.lists(tables(), max_size=4), st.lists(tables(), max_size=4), st.sampled_from([0.0, 1e-5, 0.3]))
def test_comparing_the_other_way_round_gives_the_mirror_image(
    tmp_path_factory: pytest.TempPathFactory, a: list[str], b: list[str], tolerance: float
) -> None:
    folder = tmp_path_factory.mktemp("pair")
    for name, texts in (("a", a), ("b", b)):
        record_of(folder / name, {f"tables/0_{i}.csv": text for i, text in enumerate(texts)})
    forth = compare(folder / "a", folder / "b", STUDY, tolerance)
    back = compare(folder / "b", folder / "a", STUDY, tolerance)
    assert forth.same == back.same
    assert in_order(mirrored(forth.as_dict())) == in_order(back.as_dict())


@given(
    st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=1, max_size=5),
    st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=5, max_size=5),
)
def test_of_rows_with_names_exactly_the_cells_whose_text_differs_are_listed(
    a: list[list[str]], b: list[list[str]]
) -> None:
    names = [f"row {i}" for i in range(len(a))]
    columns = ["set", "d", "low", "high"]
    grids = [
        pd.DataFrame([[name, *row] for name, row in zip(names, rows, strict=False)], columns=columns) for rows in (a, b)
    ]
    expected = {
        (name, column, x, y)
        for name, row_a, row_b in zip(names, a, b, strict=False)
        for column, x, y in zip(("d", "low", "high"), row_a, row_b, strict=True)
        if x != y
    }
    comparison = diff(*grids, 1e-5)
    assert {(*cell.row, cell.column, cell.a, cell.b) for cell in comparison.cells} == expected
    assert all(cell.kind != SAME for cell in comparison.cells)
