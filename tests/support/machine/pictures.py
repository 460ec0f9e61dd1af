"""Small image files for the tests of sources."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def noise(seed: int, height_px: int = 16, width_px: int = 16) -> NDArray[np.uint8]:
    draws = np.random.default_rng(seed)
    return draws.integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)


def write_picture(path: Path, seed: int = 0, side_px: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, side_px, side_px)).save(path)
    return path
