"""How the patches of a query are written: as plain arrays, or each as one picture.

A picture is made from the array, so that it holds pixels and nothing else. Whoever
reads one takes the declared kind alone, of the size that is known beforehand, and looks
at the size before any pixel is decoded.
"""

import io
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moma_core.errors import MalformedRequestError

PictureKind = Literal["png", "webp", "jpeg"]
EncodingKind = Literal["raw", "png", "webp", "jpeg"]

ENCODING_PATTERN = r"^(raw|png|webp|jpeg:([1-9][0-9]?|100))$"

_PILLOW_FORMATS: Final[dict[PictureKind, str]] = {
    "png": "PNG",
    "webp": "WEBP",
    "jpeg": "JPEG",
}
_MOST_READERS = 8
_PICTURE_BYTES = 4096  # beside the pixels: headers and tables, generously


@dataclass(frozen=True, slots=True)
class PixelEncoding:
    """What a site's policy lets its patches leave as.

    Args:
        kind: `raw` is the array itself; `png` and `webp` lose nothing.
        quality: Of `jpeg`, 1 to 100; 0 for the others.
    """

    kind: EncodingKind
    quality: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(ENCODING_PATTERN, str(self)):
            raise ValueError(f"{self} is no encoding of pixels")

    def __str__(self) -> str:
        """Returns it as a config file has it, for example `jpeg:90`."""
        return f"jpeg:{self.quality}" if self.kind == "jpeg" else self.kind

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what `str` writes.

        Raises:
            ValueError: It is none.
        """
        kind, _, quality = text.partition(":")
        known: Any = kind
        encoding = cls(known, int(quality) if quality.isdecimal() else 0)
        if str(encoding) != text:
            raise ValueError(f"{text!r} is no encoding of pixels")
        return encoding

    @property
    def is_lossy(self) -> bool:
        """Whether a teacher sees other pixels than the site has."""
        return self.kind == "jpeg"

    def pictures(self, pixels: NDArray[np.uint8]) -> list[bytes]:
        """Returns patches, (N, H, W, 3), as one picture each; not of `raw`."""
        if self.kind == "raw":
            raise ValueError("a plain array is no picture")
        return [_picture(patch, self.kind, self.quality) for patch in pixels]


RAW = PixelEncoding("raw")


def read_pictures(
    pictures: Sequence[bytes], kind: PictureKind, side_px: int
) -> NDArray[np.uint8]:
    """Returns the pixels of pictures that another party wrote, (N, side, side, 3).

    Args:
        pictures: One a patch.
        kind: Declared; a picture of another kind is refused.
        side_px: Of every patch.

    Raises:
        MalformedRequestError: One is damaged, of another kind or size, not 8-bit RGB,
            holds more than one picture, or is larger than its pixels can explain.
    """
    pixels = np.empty((len(pictures), side_px, side_px, 3), np.uint8)

    def read(place: int) -> None:
        pixels[place] = _read(pictures[place], kind, side_px)

    # a teacher reads one query of a site at a time, so it is done side by side here
    with ThreadPoolExecutor(_readers()) as pool:
        for _ in pool.map(read, range(len(pictures))):
            pass
    return pixels


def _readers() -> int:
    """Returns how many threads read the pictures of one query: half of the cores."""
    return max(1, min(_MOST_READERS, len(os.sched_getaffinity(0)) // 2))


def _picture(pixels: NDArray[np.uint8], kind: PictureKind, quality: int) -> bytes:
    settings: dict[str, object]
    if kind == "jpeg":
        settings = {"quality": quality, "subsampling": 0}
    elif kind == "webp":
        settings = {"lossless": True, "quality": 50, "method": 2, "exact": True}
    else:
        settings = {"compress_level": 6}
    file = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels), "RGB")
    image.save(file, _PILLOW_FORMATS[kind], **settings)
    return file.getvalue()


def _read(picture: bytes, kind: PictureKind, side_px: int) -> NDArray[np.uint8]:
    name = _PILLOW_FORMATS[kind]
    if len(picture) > side_px * side_px * 3 + _PICTURE_BYTES:
        raise MalformedRequestError(
            f"a {name} picture of {len(picture)} bytes is larger than its pixels"
        )
    try:
        with Image.open(io.BytesIO(picture), formats=(name,)) as image:
            _check(image, name, side_px)
            return np.asarray(image, np.uint8)
    except MalformedRequestError:
        raise
    except Exception as error:  # the border: Pillow raises anything for damaged files
        raise MalformedRequestError(f"a {name} picture is damaged") from error


def _check(image: Image.Image, name: str, side_px: int) -> None:
    if image.size != (side_px, side_px):
        raise MalformedRequestError(
            f"patches are {side_px} x {side_px} px, got a picture of "
            f"{image.size[1]} x {image.size[0]}"
        )
    is_one = getattr(image, "n_frames", 1) == 1
    if image.format != name or image.mode != "RGB" or not is_one:
        raise MalformedRequestError(f"a picture is not one 8-bit RGB {name}")
