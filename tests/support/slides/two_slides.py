"""Two slides in a folder, `one.ome.tif` and `two.tif`, and patches of them."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moma_core.data.patch import PatchSource
from moma_core.data.sources.factory import open_source
from tests.support.slides.pictures import painted, write_ome, write_tiff

GRID = {"mpp": 1.0, "patch_size_px": 64, "min_tissue_area_um2": 1000}
"""77 patches lie on the tissue of each."""


def two_slides(folder: Path) -> Path:
    """Writes them into a new folder, and returns it."""
    folder.mkdir()
    write_ome(folder / "one.ome.tif", painted(), 0.5)
    write_tiff(folder / "two.tif", painted(), 0.5)
    return folder


def open_patches(slides: Path, **keys: Any) -> PatchSource:
    """Opens the patches of a folder's slides, with further keys of `data`."""
    return open_source({"kind": "slides", "root": slides, "patches": GRID, **keys})


def has_colour(pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> bool:
    """Tells whether pixels, (H, W, 3), have a colour of `painted` in their mean."""
    return bool(np.abs(pixels.reshape(-1, 3).mean(0) - colour).max() < 6)


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    """Writes rows of one kind as a CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path
