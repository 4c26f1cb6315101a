"""The data sets: registry, download, loading, splits and preprocessing, data cards."""

from datalab.data.cards import card
from datalab.data.download import fetch, missing, on_disk
from datalab.data.preparation import Prepared, prepare
from datalab.data.registry import (
    COUNTED,
    EMBEDDED,
    ENCODERS,
    PACKAGES,
    REGISTRY,
    DatasetSpec,
    PackageSpec,
    check_names,
    stratum,
)
from datalab.data.tables import Dataset, load

__all__ = [
    "COUNTED",
    "EMBEDDED",
    "ENCODERS",
    "PACKAGES",
    "REGISTRY",
    "Dataset",
    "DatasetSpec",
    "PackageSpec",
    "Prepared",
    "card",
    "check_names",
    "fetch",
    "load",
    "missing",
    "on_disk",
    "prepare",
    "stratum",
]
