"""What is never split apart: equal rows, and groups. No model judges a row after it saw its twin or its group."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import datalab
from datalab.advise import advice, pilot, verdict
from datalab.errors import UserError
from datalab.intake import examples, reading

pytestmark = pytest.mark.usefixtures("quick")


def twice(n: int = 120, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Every row twice, the second copies in another order, with labels of their own."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 4))
    return np.concatenate([x, x[::-1]]), rng.integers(0, classes, 2 * n)


def test_equal_rows_lie_in_one_part_of_a_split_and_in_one_fold(begun: Callable) -> None:
    x, y = twice()
    lines, pool = begun(x, y)
    assert "120 rows repeat another's features (of 240 looked at)" in lines
    assert len(pool.labels) == 240
    rows = pilot.split_rows(pool, 1, 0)
    parts = [set(pool.twins[part]) for part in (rows.train, rows.validation, rows.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 120
    assert sorted(np.concatenate([rows.train, rows.validation, rows.test])) == list(range(240))
    trainer = pilot.Trainer(x.astype(np.float32), 2, (5,))
    fold = trainer.references(y, np.random.default_rng(0), pool.twins).fold
    np.testing.assert_array_equal(fold[:120], fold[120:][::-1])


def test_the_order_of_rows_that_repeat_decides_nothing(begun: Callable) -> None:
    """Of 16 different rows, seen 25 times each, the first one's label was that of all; sorted by label, one class."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (400, 4)).astype(float)
    y = (rng.random(400) < 0.3 + 0.4 * x[:, 0]).astype(int)
    shares = [
        begun(x[order], y[order])[1].labels.mean() for order in (np.argsort(y), np.argsort(-y), rng.permutation(400))
    ]
    assert shares == pytest.approx([y.mean()] * 3)


def test_folds_hold_whole_groups_and_groups_that_share_a_row_are_one(begun: Callable) -> None:
    x, y = twice()
    groups = np.arange(240) // 4
    _, pool = begun(x, y, groups=groups)
    graph = scipy.sparse.coo_matrix((np.ones(240), (pool.groups, pool.twins)))
    assert (graph.astype(bool).sum(0) == 1).all()  # every row with its twins is of one group
    assert pd.Series(pool.groups).groupby(groups).nunique().eq(1).all()
    fold = pilot.Trainer(x.astype(np.float32), 2, (5,)).references(y, np.random.default_rng(0), pool.units).fold
    assert pd.Series(fold).groupby(pool.groups).nunique().eq(1).all()


def test_a_row_outside_the_pool_is_judged_by_models_that_saw_neither_its_twin_nor_its_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(advice, "POOL", 120)
    x, y = twice()
    frame = pd.DataFrame(x).add_prefix("f").assign(y=y, g=np.r_[np.arange(120), np.arange(120)] // 2)
    for groups in (None, "g"):
        given = examples.gather(frame if groups else frame.drop(columns="g"), label="y", groups=groups)
        pooled = examples.sample(given, advice._pool_rows(given.codes, 1), False)
        streamed = list(pooled.stream(given, lambda block: block.to_numpy()))
        at, place = (np.concatenate([block[i] for block in streamed]) for i in (0, 2))
        np.testing.assert_array_equal(at, np.arange(240))
        seen = place >= 0
        same = (x[pooled.at[place]] == x).all(1)
        assert (
            same[seen].all()
            if groups is None
            else (same | (frame.g == frame.g.iloc[pooled.at[place]].to_numpy()))[seen].all()
        )
        alone = ~pd.Series(x[:, 0]).isin(x[pooled.at, 0]).to_numpy()
        alone &= True if groups is None else ~frame.g.isin(frame.g.iloc[pooled.at]).to_numpy()
        np.testing.assert_array_equal(~seen, alone)


def test_nothing_is_trained_on_a_test_rows_group_or_its_features_in_half_the_digits(begun: Callable) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(240, 3))).add_prefix("f").assign(y=[*"ab"] * 120, g=np.arange(240) // 4)
    test = frame[:60].assign(f0=frame.f0 + 1, g=frame.g.astype(float))
    lines, pool = begun(frame, label="y", groups="g", X_test=test)
    assert "60 further rows are of a test row's group" in lines
    assert len(pool.labels) == 180
    x = frame[["f0", "f1", "f2"]].to_numpy()
    lines, pool = begun(x, frame.y, X_test=x[:60].astype(np.float32), y_test=frame.y[:60])
    assert "60 rows of the data (of 240 looked at) have a test row's features" in lines


def test_groups_are_the_same_however_their_numbers_are_written(begun: Callable) -> None:
    x, y = np.random.default_rng(0).normal(size=(120, 3)), np.arange(120) % 2
    groups = np.arange(120) // 3
    written = [str(g) if i % 2 else f"{g}.0" for i, g in enumerate(groups)]
    for given in (groups, groups.astype(float), written):
        assert len(np.unique(begun(x, y, groups=given)[1].groups)) == 40


def test_rows_dropped_by_loss_are_as_many_in_the_pool_as_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pd.DataFrame({"code": np.zeros(100, int), "id": range(100)})
    scored = rows.assign(wrong=False, trained=np.arange(100) < 50, drop=np.arange(100.0), given=0.5, probability=0.5)
    scored = scored.assign(suggested=0, agreement=0.0)
    frame = pd.DataFrame({"x": range(100)})
    monkeypatch.setattr(advice, "lines", lambda *_: [])
    v = advice.conclude(_rows(), 1)._replace(arm=("loss", "20%"), answer=verdict.ACT)
    table = examples.Labelled(rows, np.array(["a"]), {})
    made = advice._advice(table, reading.read(frame), v, _rows(), scored, {"n": 100, "classes": 1})
    assert (made.kept.id < 50).sum() == (made.kept.id >= 50).sum() == 40


def _rows() -> pd.DataFrame:
    noise = {"surest": 0.1, "all": 0.2, "by_class": 0.1, "calibrated": 0.1, "counted": 0.1}
    noise |= {"clean": 0.0, "classes": 2, "smallest": 0.5, "largest": 0.5}
    made = [{"kind": "noise", "split": k} | noise for k in (0, 1)]
    for k in (0, 1):
        for method, amount in pilot.ARMS:
            score = {"method": method, "amount": amount, "dropped": 0.0, "macro_f1": 0.5, "class_f1": [0.5]}
            made.append({"kind": "arm", "split": k, **score})
    return pd.DataFrame(made).assign(n_train=60, n_test=25)


def test_blocks_without_a_label_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was a traceback after the whole pilot."""
    monkeypatch.setattr(reading, "BLOCK", 50)
    monkeypatch.setattr(advice, "POOL", 100)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(300, 3))).add_prefix("f").assign(y=[*"ab"] * 150)
    frame.loc[150:250, "y"] = None
    assert len(datalab.advise(frame, label="y", splits=2).kept) == 199


def test_ids_are_the_tables_index_and_whole_numbers_keep_their_digits(begun: Callable, tmp_path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(60, 3)), columns=[*"abc"], index=rng.permutation(60) + 7).assign(
        y=[*"uv"] * 30
    )
    assert examples.gather(frame, label="y").table.rows.id.tolist() == frame.index.tolist()
    large = [2**53 + i for i in range(59)]
    assert (
        examples.gather(frame.reset_index(drop=True), label="y", ids=[*large, None]).table.rows.id.tolist()[:59]
        == large
    )
    frame.assign(k=pd.array([*large, None], "Int64")).to_parquet(tmp_path / "t.parquet")
    rows = examples.gather(tmp_path / "t.parquet", label="y", ids="k").table.rows
    assert rows.id.astype(str).tolist()[:59] == [*map(str, large)]
    assert examples.gather(frame, label="y", ids=[b"k%d" % i for i in range(60)]).table.rows.id[3] == "k3"


def test_features_of_another_file_are_in_the_datas_order(begun: Callable) -> None:
    frame = pd.DataFrame({"key": [f"k{i}" for i in range(60)], "y": [*"ab"] * 30})
    features = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)), columns=[*"uv"]).assign(key=frame.key)
    begun(frame, label="y", ids="key", embedded=features)
    with pytest.raises(UserError, match="features: its 'key' is not that of the data row by row"):
        datalab.advise(frame, label="y", ids="key", embedded=features[::-1].reset_index(drop=True))


@pytest.mark.parametrize(
    ("test", "says"),
    [
        (np.ones((50, 7)), "X_test: rows of 7 numbers, those of the data have 5"),
        (np.random.default_rng(1).normal(size=(39, 5)), "X_test: 39 rows with a label; 40 are needed"),
    ],
)
def test_test_rows_of_another_width_or_too_few_are_refused(test: np.ndarray, says: str) -> None:
    x, y = np.random.default_rng(0).normal(size=(100, 5)), np.arange(100) % 2
    with pytest.raises(UserError, match=says):
        datalab.advise(x, y, X_test=test, y_test=np.arange(len(test)) % 2)


def test_vectors_of_another_length_are_refused_and_infinite_ones_missing(begun: Callable) -> None:
    rng, y = np.random.default_rng(0), np.arange(100) % 2
    vectors = [*rng.normal(size=(100, 5))]
    vectors[3] = np.array([np.inf, 1, 1, 1, 1e200])
    data = {"v": vectors, "y": y}
    _, pool = begun(data, label="y")
    assert np.isfinite(pool.encode(np.arange(60))(np.arange(100))).all()
    for width in (4, 8):
        with pytest.raises(UserError, match="vectors or pictures are of another length"):
            datalab.advise(data, label="y", X_test={"v": [*rng.normal(size=(50, width))], "y": y[:50]})


def test_levels_that_the_data_do_not_have_are_said(begun: Callable) -> None:
    frame = pd.DataFrame({"x": np.random.default_rng(0).normal(size=100), "c": ["yes", "no"] * 50, "y": [*"aabb"] * 25})
    test = frame[:50].assign(c=frame.c.str.upper(), x=frame.x + 1)
    assert "test: 100% of 'c' are levels that the data do not have" in begun(frame, label="y", X_test=test)[0]


def test_probabilities_are_taken_by_name_however_the_classes_are_written(begun: Callable) -> None:
    y = np.arange(100) % 2
    p = pd.DataFrame(np.c_[y, 1 - y] * 0.2 + 0.4, columns=[1.0, 0.0])
    x = np.random.default_rng(0).normal(size=(100, 2))
    np.testing.assert_array_equal(begun(x, y.astype(float), pred_probs=p)[1].probabilities, p.to_numpy()[:, ::-1])


@pytest.mark.parametrize("groups", [2, 3])
def test_groups_too_few_to_leave_one_out_are_a_line(groups: int) -> None:
    """Three were a traceback: the training part is one group, and a fold's models had nothing to train on."""
    x, y = np.random.default_rng(0).normal(size=(120, 3)), np.arange(120) % 2
    with pytest.raises(UserError, match="groups"):
        datalab.advise(x, y, groups=np.arange(120) % groups, splits=2)
