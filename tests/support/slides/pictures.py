"""Slides that a test paints: pink tissue, violet tumour, and glass around."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

GLASS, STROMA, TUMOUR = (244, 243, 246), (224, 150, 196), (122, 62, 150)

WIDTH_PX, HEIGHT_PX = 1600, 1200
STROMA_BOX = (100, 100, 800, 1000)  # left, top, right, bottom
TUMOUR_BOX = (800, 100, 1500, 1000)


def painted(width_px: int = WIDTH_PX, height_px: int = HEIGHT_PX) -> NDArray[np.uint8]:
    """Returns a slide of half stroma and half tumour, with a little noise."""
    pixels = np.full((height_px, width_px, 3), GLASS, np.int16)
    for box, colour in ((STROMA_BOX, STROMA), (TUMOUR_BOX, TUMOUR)):
        left, top, right, bottom = box
        pixels[top:bottom, left:right] = colour
    noise = np.random.default_rng(0).integers(-6, 7, (height_px, width_px, 1))
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def write_ome(path: Path, pixels: NDArray[np.uint8], mpp: float | None = 0.5) -> Path:
    """Writes an OME-TIFF of two levels; the second one is a quarter of the first."""
    size: dict[str, Any] = {"axes": "YXS"}
    if mpp is not None:
        size |= {"PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm"}
        size |= {"PhysicalSizeY": mpp, "PhysicalSizeYUnit": "µm"}
    tiles: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb"}
    tiles |= {"compression": "deflate"}
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(pixels, subifds=1, metadata=size, **tiles)
        file.write(pixels[::4, ::4], subfiletype=1, **tiles)
    return path


def write_tiff(path: Path, pixels: NDArray[np.uint8], mpp: float | None = None) -> Path:
    """Writes a tiled TIFF pyramid that OpenSlide reads; it states an mpp, or none."""
    tiles: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb"}
    tiles |= {"compression": "jpeg", "metadata": None}
    if mpp is not None:
        tiles |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, **tiles)
        file.write(pixels[::4, ::4], subfiletype=1, **tiles)
    return path


def damage_level(path: Path, level: int, parts: int | None = None) -> None:
    """Overwrites the pixels of one level of a file of `write_tiff`.

    Args:
        path: The file.
        level: Place of the level.
        parts: How many of its tiles, from the upper left; None: all.
    """
    with tifffile.TiffFile(path) as file:
        page = file.series[0].levels[level].pages[0]
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with path.open("r+b") as raw:
        for offset, count in places[:parts]:
            raw.seek(offset)
            raw.write(b"\0" * count)
