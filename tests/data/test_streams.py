"""Streams that shift: parts that do not meet, corruption that grows from nothing, a shift only where there is one."""

import numpy as np
from scipy import stats as scipy_stats

from datalab import data
from datalab.data.streams import shift_of, shifting_stream


def test_corruption_begins_at_nothing_and_grows():
    stream = shifting_stream("digits", np.random.default_rng(0))
    moved = np.abs(stream.x["shifted"] - stream.x["quiet"]).mean(1)
    assert moved[0] == 0
    assert scipy_stats.spearmanr(moved, np.arange(len(moved))).statistic > 0.95
    np.testing.assert_array_equal(stream.y["shifted"], stream.y["quiet"])


def test_what_is_trained_on_held_as_reference_and_streamed_are_different_examples():
    stream = shifting_stream("digits", np.random.default_rng(0))
    parts = [{row.tobytes() for row in stream.x[part]} for part in ("train", "reference", "quiet")]
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_a_stream_shifts_by_time_by_people_by_corruption_or_there_is_none():
    assert (shift_of("flights-origin"), shift_of("smartwatch"), shift_of("digits")) == ("time", "subject", "corruption")
    assert shift_of("wine") is None
    assert {shift_of(name) for name in data.REGISTRY} == {"time", "subject", "corruption", None}
