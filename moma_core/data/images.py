"""Decoding image files to plain RGB arrays, and nothing but the pixels."""

import re
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from moma_core.errors import DataError
from moma_core.runtime.folders import is_special

MIN_SIDE_PX = 8
MAX_SIDE_PX = 4096

DECODING = (
    "8-bit RGB; transparency laid on white; EXIF orientation and colour profile dropped"
)
"""What becomes of a picture before mean and std, as a student's card says it."""

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_EIGHT_BIT_MODES = frozenset(
    {"RGB", "RGBA", "RGBX", "L", "LA", "P", "PA", "CMYK", "YCbCr"}
)
_OTHER_MODES = {
    "1": "one bit a pixel",
    "I": "32 bits a channel",
    "F": "floating-point pixels",
}
# of Pillow's raw modes: more than 8 bits, of which it would keep the upper 8
_SIXTEEN_BITS = re.compile(r";16[BLNS]?[BLN]?$")


def decode_rgb(path: Path) -> NDArray[np.uint8]:
    """Returns the pixels of an image file, (H, W, 3) uint8.

    What is decided for each kind of picture:

    - Transparency is laid on white, the colour of a slide without tissue: what a slide
      reader leaves out is (0, 0, 0, 0), which would be black without its alpha.
    - Grey and palette pictures become RGB. CMYK becomes RGB by Pillow's plain formula:
      colour profiles are dropped.
    - The orientation in EXIF is dropped: pixels come as they are stored, as readers of
      slides give them.
    - More than 8 bits a channel, floating point and one bit a pixel are refused: which
      of their values is white is known to whoever wrote them alone.
    - Several pages or frames are refused: a patch is one picture. Tiled TIFF is read.

    The size is checked before any pixel is decoded, and Pillow's own guard against
    decompression bombs stays on.

    Raises:
        DataError: The file is no 8-bit image of a known format, is damaged, or is
            smaller or larger than a patch can be. The message does not name it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damage to what is dropped anyway
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(_file(path), formats=_FORMATS) as image:
                return _pixels(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError("an image has far more pixels than a patch") from None
    except UnidentifiedImageError:
        raise DataError("a file is no image of a known format") from None
    except FileNotFoundError:
        raise DataError("there is no such file") from None
    except PermissionError:
        raise DataError("a file may not be read by this user") from None
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - anything, and OSError names the file
        raise DataError(f"an image is damaged: {type(error).__name__}") from None


def _file(path: Path) -> Path:
    """Returns a path at which there is no pipe, for which Pillow would wait."""
    if is_special(path):
        raise DataError("a pipe or a device is no image")
    return path


def image_mode(path: Path) -> str:
    """Returns Pillow's name of how an image stores its pixels, such as CMYK.

    Its header alone is read. Empty: it is no image of a known format.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `decode_rgb` says what counts
            with Image.open(_file(path), formats=_FORMATS) as image:
                return image.mode
    except (DataError, OSError, Image.DecompressionBombError):
        return ""


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


def _pixels(image: ImageFile) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16") or _has_sixteen_bits(image):
        raise DataError(
            "an image has 16 bits a channel, expected 8-bit RGB: convert it, with "
            "white at 255"
        )
    if image.mode not in _EIGHT_BIT_MODES:
        kind = _OTHER_MODES.get(image.mode, f"pixels of kind {image.mode}")
        raise DataError(f"an image has {kind}, expected 8-bit RGB: convert it")
    check_size(image.height, image.width)
    if (pages := getattr(image, "n_frames", 1)) > 1:
        raise DataError(
            f"an image has {pages} pages or frames, a patch is one: export the one "
            f"that is meant"
        )
    return np.array(_on_white(image), dtype=np.uint8)


def _has_sixteen_bits(image: ImageFile) -> bool:
    raw_modes = (
        part
        for tile in image.tile
        for part in (tile.args if isinstance(tile.args, tuple) else (tile.args,))
    )
    return any(
        isinstance(mode, str) and _SIXTEEN_BITS.search(mode) for mode in raw_modes
    )


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
