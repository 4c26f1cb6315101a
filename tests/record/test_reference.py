"""The committed record, `runs/reference`: whole, what its raw rows give, and every mutation of it is caught."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from datalab.record.checks import verify
from datalab.record.manifest import Manifest
from datalab.sections import STUDY

REFERENCE = Path(__file__).parents[2] / "runs" / "reference"
TEXTS = {".ipynb", ".json", ".csv", ".md", ".tex", ".svg"}


def test_the_reference_names_a_commit_that_is_here_and_says_that_nothing_was_changed_beside_it():
    """Before: it was executed from a copy with uncommitted changes, whose commit nobody could look up."""
    of = json.loads((REFERENCE / Manifest.NAME).read_text(encoding="utf-8"))["git"]
    assert of["clean"] is True
    git = ["git", "-C", str(REFERENCE)]
    shallow = subprocess.run([*git, "rev-parse", "--is-shallow-repository"], capture_output=True, text=True)
    if shallow.returncode or shallow.stdout.strip() != "false":
        pytest.skip("not a clone with its history")
    assert subprocess.run([*git, "merge-base", "--is-ancestor", of["commit"], "HEAD"]).returncode == 0


def test_every_mutation_of_every_file_of_the_reference_is_caught(tmp_path: Path, record_property: Callable) -> None:
    """Each file: a byte changed, cut short, deleted, swapped with its neighbour; and one added in each folder."""
    counted = []
    for what, mutate in (
        ("changed", change),
        ("cut short", cut),
        ("deleted", delete),
        ("swapped", swap),
        ("added", add),
    ):
        record = Path(shutil.copytree(REFERENCE, tmp_path / what.replace(" ", "-")))
        touched = mutate(record)
        named = {finding.what for finding in verify.verify(record, STUDY).findings}
        assert touched <= named, sorted(touched - named)[:5]
        counted.append(f"{len(touched & named)} of {len(touched)} {what}")
        shutil.rmtree(record)
    for change_manifest in (lambda b: b[:-1], lambda b: b.replace(b"complete", b"completf", 1), lambda b: b""):
        record = tmp_path / "manifest"
        record.mkdir()
        (record / Manifest.NAME).write_bytes(change_manifest((REFERENCE / Manifest.NAME).read_bytes()))
        assert Manifest.NAME in {finding.what for finding in verify.verify(record, STUDY).findings}
        shutil.rmtree(record)
    assert {finding.what for finding in verify.verify(tmp_path, STUDY).findings} == {Manifest.NAME}
    counted.append("4 of 4 of the manifest")
    record_property("mutations of runs/reference caught", ", ".join(counted))


def test_no_notebook_of_the_reference_warns_since_a_warning_names_a_folder_of_the_machine() -> None:
    for path in sorted((REFERENCE / "notebooks").glob("*.ipynb")):
        outputs = [o for c in json.loads(path.read_text())["cells"] for o in c.get("outputs", [])]
        assert [o["text"] for o in outputs if o.get("name") == "stderr"] == [], path.name


def test_no_file_of_the_reference_names_a_folder_of_the_machine_that_made_it() -> None:
    folder = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|opt|var|mnt)/[\w.-]+")
    named = {path.name: folder.findall(path.read_text()) for path in files(REFERENCE) if path.suffix in TEXTS}
    assert len(named) > 400
    assert {name: of[:3] for name, of in named.items() if of} == {}


SHARES = (
    "F1",
    "macro-F1",
    "accuracy",
    "balanced accuracy",
    "AUROC",
    "AUROC of weights",
    "AUROC of small loss",
    "ESS / n",
)
SHARES += ("ECE", "Brier score", "ours", "Baseline F1", "Ours F1", "Precision", "Recall", "common")
SIGNED = ("rank correlation with loss", "Pearson", "Kendall's tau", "r", "r, runs", "rho", "AUROC difference")
DIFFERENCES = ("4_5_cells", "0_version_1")  # whose columns are overheads, and differences in accuracy
NOT_NEGATIVE = ("gap to optimum (nats)", "variance ratio", "relative RMS error")


def test_no_limit_of_a_share_a_correlation_or_a_size_lies_outside_what_it_can_be() -> None:
    ends = (
        dict.fromkeys(SHARES, (0, 1)) | dict.fromkeys(SIGNED, (-1, 1)) | dict.fromkeys(NOT_NEGATIVE, (0, float("inf")))
    )
    checked, outside = set(), []
    for path in sorted((REFERENCE / "tables").glob("*.csv")):
        table = pd.read_csv(path)
        for column in table.columns[table.columns.str.endswith((" low", " high"))]:
            of = column.rpartition(" ")[0]
            name, unit = of.removesuffix(" (%)"), 100 if of.endswith(" (%)") else 1
            if name not in ends or path.stem in DIFFERENCES:
                continue
            limits = pd.to_numeric(table[column], errors="coerce").dropna() / unit
            checked.add(name)
            outside += [f"{path.stem}: {column}"] * int(not limits.between(*ends[name]).all())
    assert len(checked) > 12
    assert not outside, ", ".join(outside)
    claims = pd.read_csv(REFERENCE / "claims.csv").set_index("id")
    scores = claims[claims.index.str.fullmatch(r"T\d\.\w+\.(f1|precision|recall|baseline_f1|ours_f1)")]
    shares = pd.concat([scores, claims.loc[["S5.1.monitoring", "ABS.framework_f1", "S3.3.kl_prevents_collapse"]]])
    assert len(shares) > 30
    for end in ("low", "high"):
        assert shares[end].dropna().between(0, 1).all()
        assert 0 <= claims.loc["ABS.variance_explained", end] <= 100


def test_no_reason_is_read_on_limits_without_width_or_on_all_of_100_percent() -> None:
    why = pd.read_csv(REFERENCE / "claims.csv").why.dropna()
    assert not why[why.str.contains("[0, 0]", regex=False) | why.str.contains("at 100 %", regex=False)].tolist()


def test_no_section_of_the_reference_was_run_otherwise_than_its_profile_says() -> None:
    assert not list(verify.departures(Manifest.load(REFERENCE), STUDY))


def test_no_table_claims_more_data_sets_or_seeds_than_it_is_of() -> None:
    """Of those whose rows have as many data sets; two trainings side by side are of one seed but in 4.1 and 4.3."""
    wrong, counted, beside = {}, 0, 0
    for path in sorted((REFERENCE / "tables").glob("*.csv")):
        stamp, sets = json.loads(path.with_suffix(".json").read_text()), pd.read_csv(path).get("sets", pd.Series())
        if sets.nunique() == 1:
            counted += 1
            if stamp["n"] != f"{sets[0]} data sets":
                wrong[path.name] = (stamp["n"], sets[0])
        if "by_training" in path.name or "by_architecture" in path.name:
            beside += 1
            of_each_seed = path.name.startswith(("4_1", "4_3")) and "by_training" in path.name
            if stamp["seeds"] not in (1, None) and not of_each_seed:
                wrong[path.name] = stamp["seeds"]
    assert (counted > 20, beside > 10, wrong) == (True, True, {})


def test_no_statement_rests_on_rows_of_another_training_or_architecture() -> None:
    """Each method is trained once on every data set and seed; the tables beside have rows of equal names."""
    sections = Manifest.load(REFERENCE).sections
    for stem in ("4_1_main_results", "4_2_influence_level", "4_3_ablation", "5_3_negative_results"):
        entry = sections[stem]
        seeds = entry.parameters["seeds"] if stem.startswith(("4_1", "4_3")) else 1
        once = len(entry.parameters["datasets"]) * seeds
        rows = [claim["raw"]["rows"] for claim in entry.claims if claim["raw"]]
        assert len(rows) > 2, stem
        assert {n % once for n in rows} == {0}, stem


def files(record: Path) -> list[Path]:
    return sorted(p for p in record.rglob("*") if p.is_file() and p.name not in (Manifest.NAME, ".lock"))


def change(record: Path) -> set[str]:
    for path in files(record):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    return {path.relative_to(record).as_posix() for path in files(record)}


def cut(record: Path) -> set[str]:
    for path in files(record):
        os.truncate(path, path.stat().st_size - 1)
    return {path.relative_to(record).as_posix() for path in files(record)}


def delete(record: Path) -> set[str]:
    names = {path.relative_to(record).as_posix() for path in files(record)}
    for path in files(record):
        path.unlink()
    return names


def swap(record: Path) -> set[str]:
    all_, touched = files(record), set()
    for pair in zip(all_[::2], all_[1::2], strict=False):
        a, b = (path.read_bytes() for path in pair)
        if a != b:
            pair[0].write_bytes(b)
            pair[1].write_bytes(a)
            touched |= {path.relative_to(record).as_posix() for path in pair}
    assert len(touched) > 0.9 * len(all_)
    return touched


def add(record: Path) -> set[str]:
    names = {f"{folder}x.txt" for folder in ("", "cells/", "tables/", "figures/", "notebooks/", "report/", ".partial/")}
    for name in names:
        (record / name).parent.mkdir(exist_ok=True)
        (record / name).write_text("x")
    return names


def test_the_reference_says_what_its_raw_rows_give_without_data_or_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATALAB_CACHE", "/nonexistent")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    done = verify.verify(REFERENCE, STUDY, recompute=True)
    assert done.findings == []
    assert done.unconfirmed == []
    assert len(done.recomputed) == len(STUDY.sections)
    assert sum(done.claims for done in done.recomputed) == sum(
        len(entry.claims) for entry in Manifest.load(REFERENCE).sections.values()
    )
