"""Decoding image files to plain RGB arrays, and nothing but the pixels."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from moma_core.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
MIN_SIDE_PX = 8
MAX_SIDE_PX = 4096

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_EIGHT_BIT_MODES = frozenset({"RGB", "RGBA", "RGBX", "L", "LA", "P", "CMYK", "YCbCr"})


def decode_rgb(path: Path) -> NDArray[np.uint8]:
    """Returns the pixels of an image file, (H, W, 3) uint8.

    EXIF, colour profile and transparency are dropped. The size is checked before
    any pixel is decoded, and Pillow's own guard against decompression bombs stays on.

    Raises:
        DataError: The file is no 8-bit image of a known format, is damaged, or is
            smaller or larger than a patch can be. The message does not name it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                return _pixels(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError("an image has far more pixels than a patch") from None
    except UnidentifiedImageError:
        raise DataError("a file is no image of a known format") from None
    except FileNotFoundError:
        raise DataError("there is no such file") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow raises all of these for damaged files; OSError names the file
        raise DataError(f"an image is damaged: {type(error).__name__}") from None


def check_size(height_px: int, width_px: int, expected_px: int | None = None) -> None:
    """Refuses a patch that cannot be one.

    Args:
        height_px: Of the patch.
        width_px: Of the patch.
        expected_px: Side of a square patch, or None to take any sensible size.

    Raises:
        DataError: The patch is empty, huge, or not of the expected size.
    """
    size = f"{width_px}x{height_px}"
    if expected_px is not None and (height_px, width_px) != (expected_px, expected_px):
        raise DataError(f"a patch is {size} px, expected {expected_px}x{expected_px}")
    if min(height_px, width_px) < MIN_SIDE_PX or max(height_px, width_px) > MAX_SIDE_PX:
        raise DataError(
            f"a patch is {size} px, expected {MIN_SIDE_PX} to {MAX_SIDE_PX} px a side"
        )


def list_images(folder: Path) -> Iterator[str]:
    """Yields the image files below a folder, sorted, relative, with forward slashes.

    Hidden files are passed over and linked folders are not entered.
    """
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield (Path(here) / name).relative_to(folder).as_posix()


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode not in _EIGHT_BIT_MODES:
        raise DataError(f"an image has pixels of kind {image.mode}, expected 8-bit RGB")
    check_size(image.height, image.width)
    return np.array(image.convert("RGB"), dtype=np.uint8)
