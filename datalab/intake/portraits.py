"""What a row looks like to a person: its picture, or its first columns in words."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from datalab.intake import features
from datalab.intake.reading import IMAGES, Source

COLUMNS, LETTERS = 8, 200  # of a row in words


def portraits(source: Source, rows: pd.DataFrame, hidden: set[str]) -> list[tuple[Image.Image | None, str]]:
    """Each of the source's ``rows``, as they were read: its picture or None, and words without ``hidden`` columns."""
    made, grid = [], source.grid
    for row in rows.to_dict("records"):
        path = next((v for v in row.values() if isinstance(v, str) and v.strip().lower().endswith(IMAGES)), None)
        picture = path and features.picture(source.folder / path.strip())
        if picture:
            picture, words = picture.convert("L" if picture.mode == "F" else "RGB"), Path(path).name
            picture.thumbnail((96, 96))
        elif grid:
            pixels, words = np.array([row[str(i)] for i in range(grid[0] * grid[1])], dtype=float).reshape(grid), ""
            grey = 255 * (pixels - pixels.min()) / (np.ptp(pixels) or 1)
            picture = Image.fromarray(grey.astype(np.uint8)).resize((64, 64), 0)
        else:
            told = [(name, value) for name, value in row.items() if name not in hidden and str(value).strip()]
            told.sort(key=lambda item: _is_number(item[1]))  # words say more than numbers
            first = ((name, f"{of:.4g}" if isinstance(of, float) else str(of)) for name, of in told[:COLUMNS])
            words = " · ".join(f"{name}: {short(of, LETTERS)}" for name, of in first)
        made.append((picture or None, words))
    return made


def short(text: str, letters: int) -> str:
    """``text``, or so much of it that it has no more ``letters``, with an ellipsis."""
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _is_number(value: Any) -> bool:
    with contextlib.suppress(ValueError):
        return float(str(value).replace(",", ".")) is not None
    return False
