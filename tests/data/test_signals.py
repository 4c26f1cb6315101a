"""Time series: read without their header, cut into windows, and no series on two sides of a split."""

import numpy as np

from datalab.data import signals


def test_whole_series_are_read_without_their_header():
    file = b"#words\n@data\n1.0,2.5:1\n3,4:2\n"
    table = signals.whole(file, file, named={"1": "winter", "2": "summer"})
    assert table.features.to_numpy().tolist() == [[1.0, 2.5], [3.0, 4.0]] * 2
    assert table.labels.tolist() == ["winter", "summer"] * 2


def test_a_window_is_described_channel_by_channel():
    file = b"@data\n0,1,3,6,10,15:5,5,5,5,5,5:run\n"
    table = signals.windows(file, length=4, step=2)
    assert table.labels.tolist() == ["run", "run"]
    first, second = table.features.to_numpy()
    np.testing.assert_allclose(first[:5], [2.5, np.std([0, 1, 3, 6]), 0, 6, 2])
    np.testing.assert_allclose(second[:5], [8.5, np.std([3, 6, 10, 15]), 3, 15, 4])
    np.testing.assert_allclose(first[5:], [5, 0, 5, 5, 0])


def test_pieces_of_a_window_follow_each_other():
    table = signals.windows(b"0,1,2,3,10,20,30,40:a\n", length=8, step=8, pieces=2)
    np.testing.assert_allclose(table.features.to_numpy()[0, [0, 2, 3, 4, 5, 7, 8, 9]], [1.5, 0, 3, 1, 25, 10, 40, 10])


def test_a_group_holds_one_series_of_each_class():
    one, other = b"1,2,3,4:a\n5,6,7,8:b\n2,2,2,2:a\n", b"0,0,0,1:b\n"
    table = signals.windows(one, other, length=2, step=1)
    assert table.groups.tolist() == [0] * 6 + [1] * 6
    assert table.labels.tolist() == ["a"] * 3 + ["b"] * 3 + ["a"] * 3 + ["b"] * 3
