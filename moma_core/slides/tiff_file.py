"""OME-TIFF and other TIFF pyramids, read part by part with tifffile.

Which pages are the levels is looked up in the pages alone. tifffile's own search reads
the metadata of many programs: it opens other files that OME's XML names, wherever they
are, and makes room for as many planes as it states.
"""

import logging
import math
import re
import threading
from collections.abc import Iterator
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any, Self

import numpy as np
import tifffile
from PIL import Image

from moma_core.errors import DataError, first_line
from moma_core.slides.slide import (
    LARGEST_PART_BYTES,
    ClippedSlide,
    Pixels,
    SlideLevel,
    believed_mpp,
)

_MOST_PAGES = 256

_AS_LONG_AS_STATED = frozenset({1, 5, 8, 32773, 32946, 50000})
"""Compressions whose decoder stops at a part's size: none, LZW, deflate, PackBits and
Zstandard."""

_PICTURES = frozenset({6, 7, 33003, 33004, 33005, 33007, 34712, 34892, 50001})
"""Those that state a size of their own: JPEG, JPEG 2000 and WebP."""

_MICRONS = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
_SIZE = re.compile(r"PhysicalSize([XY])(Unit)?\s*=\s*\"([^\"]*)\"")
_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b[^<>]*>")
_PLANES = re.compile(r"\bSize([CZT])\s*=\s*\"(\d+)\"")

# what it says of a file names it, and is said by our own errors
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class TiffFile(ClippedSlide):
    """A TIFF whose levels are pages of RGB; each in tiles or strips.

    Args:
        file: As tifffile opened it.
        pages: The pages of each level: one of RGB, or one a colour.
        path: File of the slide.
    """

    def __init__(
        self, file: tifffile.TiffFile, pages: list[list[Any]], path: Path
    ) -> None:
        self._file, self._pages = file, pages
        self._lock = threading.Lock()
        largest = pages[0][0]
        levels = tuple(
            SlideLevel(
                level[0].imagewidth,
                level[0].imagelength,
                largest.imagewidth / level[0].imagewidth,
            )
            for level in pages
        )
        super().__init__(path, levels, _mpp(largest))

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens a file.

        Raises:
            DataError: It is no TIFF of 8-bit RGB, it is damaged, or one of its parts
                is too large to be decoded alone.
        """
        try:
            # of these forms it would look for pages in their metadata
            file = tifffile.TiffFile(
                path, is_lsm=False, is_ndpi=False, is_scanimage=False
            )
        except Exception as error:  # noqa: BLE001  # tifffile raises what it likes
            raise DataError(f"this is no TIFF: {first_line(error)}") from None
        try:
            return cls(file, _levels(file), path)
        except DataError:
            file.close()
            raise
        except Exception as error:  # noqa: BLE001
            file.close()
            raise DataError(f"the TIFF is damaged: {first_line(error)}") from None

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _read_inside(
        self, level: int, left: int, top: int, width: int, height: int
    ) -> Pixels:
        pixels = np.full((height, width, 3), 255, np.uint8)
        pages = self._pages[level]
        for colour, page in enumerate(pages):
            into = pixels if len(pages) == 1 else pixels[:, :, colour : colour + 1]
            self._read_page(page, into, left, top)
        return pixels

    def _read_page(self, page: Any, into: Pixels, left: int, top: int) -> None:  # noqa: ANN401  # tifffile has no type for it
        """Decodes the parts of a page that a region needs, one after the other."""
        tall, wide = page.chunks[:2]
        height, width = into.shape[:2]
        across, down = -(-page.imagewidth // wide), -(-page.imagelength // tall)
        planes = min(page.samplesperpixel, 3) if page.planarconfig == 2 else 1
        rows = range(top // tall, -(-(top + height) // tall))
        columns = range(left // wide, -(-(left + width) // wide))
        for plane, row, column in product(range(planes), rows, columns):
            part = self._decoded(page, (plane * down + row) * across + column)
            if part is None:
                continue  # a part without bytes is empty glass
            y, x = row * tall - top, column * wide - left
            from_y, from_x = max(-y, 0), max(-x, 0)
            part = part[from_y : height - y, from_x : width - x]
            y, x = max(y, 0), max(x, 0)
            target = into[y : y + part.shape[0], x : x + part.shape[1]]
            if planes > 1:
                target[:, :, plane] = part[:, :, 0]
            else:
                target[:] = part[:, :, : into.shape[2]]

    def _decoded(self, page: Any, index: int) -> Pixels | None:  # noqa: ANN401  # tifffile has no type for it
        """Returns one tile or strip, (H, W, samples)."""
        try:
            offset, count = page.dataoffsets[index], page.databytecounts[index]
            if not count:
                return None
            file = self._file.filehandle
            if offset + count > file.size:
                raise DataError("it ends behind the end of the file")
            with self._lock:
                file.seek(offset)
                encoded = file.read(count)
            _check_size(encoded, page)
            part, _, shape = page.decode(encoded, index, jpegtables=page.jpegtables)
        except Exception as error:  # noqa: BLE001  # each codec raises its own
            raise DataError(
                f"a part of the slide is damaged: {first_line(error)}"
            ) from None
        if part is None:
            return None
        decoded: Pixels = part[0, : shape[1], : shape[2]]
        if decoded.dtype != np.uint8 or decoded.shape[2] not in (1, 3, 4):
            raise DataError("a part of the slide is damaged: it is no 8-bit RGB")
        return decoded


def _check_size(encoded: bytes, page: Any) -> None:  # noqa: ANN401  # tifffile has no type for it
    """Refuses a part that is a picture larger than a part, before it is decoded."""
    if page.compression not in _PICTURES:
        return
    with Image.open(BytesIO(encoded), formats=("JPEG", "JPEG2000", "WEBP")) as picture:
        wide, tall = picture.size
    if tall > page.chunks[0] or wide > page.chunks[1]:
        raise DataError(f"it states {wide} x {tall} px")


def _levels(file: tifffile.TiffFile) -> list[list[Any]]:
    """Returns the pages of each level of the first picture."""
    _check_pages(file)
    first = _checked(file.pages[0])
    planes = _planes_of(file, first)
    if not first.subifds:
        return [planes, *([page] for page in _smaller(file, first))]
    _check_number(len(first.subifds))  # as OME has them
    smaller = range(len(first.subifds))
    return [planes, *([_checked(page.pages[n]) for page in planes] for n in smaller)]


def _check_pages(file: tifffile.TiffFile) -> None:
    """Refuses many pages, of which some may lead back to others."""
    try:
        file.pages[_MOST_PAGES]
    except IndexError:
        return
    _check_number(_MOST_PAGES + 1)


def _check_number(pages: int) -> None:
    if pages > _MOST_PAGES:
        raise DataError(
            f"the TIFF has more than {_MOST_PAGES} pages, a slide has one a level: "
            f"save the picture that is meant alone"
        )


def _planes_of(file: tifffile.TiffFile, first: Any) -> list[Any]:  # noqa: ANN401  # tifffile has no type for it
    """Returns the pages of level 0: one of RGB, or one a colour where OME says so."""
    if first.samplesperpixel in (3, 4):
        return [first]
    stated = dict(_PLANES.findall(_ome_pixels(first)))
    if len(file.pages) < 3 or stated != {"C": "3", "Z": "1", "T": "1"}:
        raise DataError("the TIFF has one sample a pixel, expected 8-bit RGB")
    return [first, _checked(file.pages[1]), _checked(file.pages[2])]


def _smaller(file: tifffile.TiffFile, first: Any) -> Iterator[Any]:  # noqa: ANN401  # tifffile has no type for it
    """Yields the pages behind the first one that show the same, ever smaller."""
    width_px, height_px = first.imagewidth, first.imagelength
    last_px = width_px
    for number in range(1, len(file.pages) if first.samplesperpixel > 1 else 0):
        page = file.pages[number].aspage()
        # each side is rounded
        off = abs(page.imagewidth * height_px - page.imagelength * width_px)
        if 0 < page.imagewidth < last_px and off <= width_px + height_px:
            last_px = page.imagewidth
            yield _checked(page)


def _checked(page: Any) -> Any:  # noqa: ANN401  # tifffile has no type for it
    """Returns a page; refuses what is no 8-bit RGB, or not decoded part by part."""
    sides = (page.imagewidth, page.imagelength, page.samplesperpixel, *page.chunks)
    if not all(isinstance(side, int) and side > 0 for side in sides):
        raise DataError("the TIFF is damaged: it states no size")
    if page.dtype != np.uint8 or page.samplesperpixel not in (1, 3, 4):
        raise DataError(
            f"the TIFF has {page.samplesperpixel} x {page.dtype} a pixel, expected "
            f"8-bit RGB"
        )
    if page.compression not in _AS_LONG_AS_STATED | _PICTURES:
        raise DataError(
            f"the TIFF has the compression {int(page.compression)}, which is not read: "
            f"save it with JPEG or deflate"
        )
    size = math.prod(page.chunks)
    if size > LARGEST_PART_BYTES:
        raise DataError(
            f"the TIFF holds {size / 2**20:.0f} MiB in one piece: save it with "
            f"tiles, such as a pyramid of vips or bfconvert"
        )
    tall, wide = page.chunks[:2]
    parts = -(-page.imagelength // tall) * -(-page.imagewidth // wide)
    if page.imagedepth != 1 or len(page.dataoffsets) > parts * page.samplesperpixel:
        raise DataError("the TIFF is damaged: it has more parts than it needs")
    return page


def _mpp(page: Any) -> float | None:  # noqa: ANN401  # tifffile has no type for it
    if page.is_ome:
        return _ome_mpp(_ome_pixels(page))
    if page.tags.get("ResolutionUnit", None) is None:
        return None
    if int(page.tags["ResolutionUnit"].value) not in (2, 3):  # inch, centimetre
        return None
    x, y = page.get_resolution("MICROMETER")
    return believed_mpp(1 / x if x else None, 1 / y if y else None)


def _ome_pixels(page: Any) -> str:  # noqa: ANN401  # tifffile has no type for it
    """Returns the tag of the first picture in OME's XML, empty where there is none.

    It is found as text: an XML parser would expand entities.
    """
    found = _PIXELS.search(page.description) if page.is_ome else None
    return found.group() if found else ""


def _ome_mpp(pixels: str) -> float | None:
    """Returns the pixel size that OME's XML states."""
    stated = {
        (axis, bool(is_unit)): value for axis, is_unit, value in _SIZE.findall(pixels)
    }

    def side(axis: str) -> float | None:
        microns = _MICRONS.get(stated.get((axis, True), "µm"))
        try:
            return float(stated[axis, False]) * microns if microns else None
        except (KeyError, ValueError):
            return None

    return believed_mpp(side("X"), side("Y"))
