"""Prepared data: the contract every model relies on, and the same bytes in every process."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from fetched import fetched

from datalab import data
from datalab.data import preparation, tables
from datalab.errors import UserError
from datalab.seeds import generator

QUICK = {"train": 1000, "validation": 400, "test": 2000}
ALL = [pytest.param(n, marks=() if n in data.EMBEDDED else pytest.mark.network) for n in data.REGISTRY]


@pytest.mark.parametrize("name", ALL)
def test_a_prepared_set_keeps_the_contract_and_comes_quickly_the_second_time(name):
    fetched(name)
    first = data.prepare(name, 0, 2024, QUICK)
    tables._load.cache_clear()
    began = time.process_time()
    found = data.prepare(name, 0, 2024, QUICK)
    assert time.process_time() - began < 1.0
    assert found.sha256 == first.sha256
    d = int(np.prod(found.grid))
    for part, cap in (("train", 1000), ("val", 400), ("test", 2000)):
        x, y, ids = (getattr(found, key) for key in (f"x_{part}", f"y_{part}", f"{part}_ids"))
        assert x.shape == (len(ids), d)
        assert x.dtype == np.float32
        assert x.flags.c_contiguous
        assert np.isfinite(x).all()
        assert np.abs(x).max() < 40
        assert y.dtype == np.int64
        assert len(y) == len(ids) <= cap
        assert set(y.tolist()) == set(range(found.n_classes))
        assert (data.load(name).labels[ids] == y).all()
    assert d <= 250
    assert np.bincount(found.y_train).min() >= 2
    assert found.dropped_classes == ()
    assert found.class_names == data.load(name).class_names
    held = [set(ids.tolist()) for ids in (found.train_ids, found.val_ids, found.test_ids)]
    assert len(set.union(*held)) == sum(map(len, held))


@pytest.mark.parametrize("name", ["digits", "breast_cancer", pytest.param("vader-tweets", marks=pytest.mark.network)])
def test_another_process_with_other_threads_gives_the_same_bytes(name, tmp_path):
    fetched(name)
    caps = {"train": 300, "validation": 120, "test": 300}
    here = data.prepare(name, 3, 2024, caps)
    program = f"from datalab import data; print(data.prepare({name!r}, 3, 2024, {caps!r}).sha256)"
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "PYTHONHASHSEED": "5"}
    if name not in data.EMBEDDED:  # computed there, not read from the cache: the same downloads, nothing derived
        (tmp_path / "packages").symlink_to(data.cache.folder() / "packages")
        environment["DATALAB_CACHE"] = str(tmp_path)
    there = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here.sha256


def test_another_seed_or_root_seed_gives_another_split():
    base = data.prepare("digits", 0, 2024, {})
    assert data.prepare("digits", 1, 2024, {}).sha256 != base.sha256
    assert data.prepare("digits", 0, 2025, {}).sha256 != base.sha256


def test_tables_are_standardised_by_train_rows_alone():
    found = data.prepare("wine", 0, 2024, {})  # nothing in it lies ten deviations out
    np.testing.assert_allclose(found.x_train.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(found.x_train.std(axis=0), 1, atol=1e-2)
    assert np.abs(found.x_test.mean(axis=0)).max() > 1e-3


@pytest.mark.network
def test_smartwatch_people_never_lie_on_two_sides():
    fetched("smartwatch")
    people = data.load("smartwatch").groups
    for seed in range(5):
        found = data.prepare("smartwatch", seed, 2024, QUICK)
        held = [set(people[ids].tolist()) for ids in (found.train_ids, found.val_ids, found.test_ids)]
        assert not held[0] & held[1]
        assert not held[0] & held[2]
        assert not held[1] & held[2]


RATED = [name for name, spec in data.REGISTRY.items() if spec.human_error]


@pytest.mark.network
@pytest.mark.parametrize("name", RATED)
def test_one_rater_errs_as_often_as_the_card_says(name):
    fetched(name)
    dataset, said = data.load(name), data.REGISTRY[name].human_error
    drawn = [
        np.mean(preparation.human_labels(dataset, generator(seed, "rater")) != dataset.labels) for seed in range(8)
    ]
    assert abs(np.mean(drawn) - said) < 0.01
    found = data.prepare(name, 0, 2024, QUICK)
    assert found.human_labels_train.shape == found.y_train.shape
    assert found.human_labels_val.shape == found.y_val.shape
    assert abs(np.mean(found.human_labels_train != found.y_train) - said) < 0.05


def test_sets_without_raters_have_no_human_labels():
    assert data.prepare("wine", 0, 2024, {}).human_labels_train is None


def test_unknown_names_and_encoders_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'wine'"):
        data.prepare("wines", 0, 2024, {})
    with pytest.raises(UserError, match="unknown encoder 'fats'; did you mean 'fast'"):
        data.prepare("wine", 0, 2024, {}, encoder="fats")
