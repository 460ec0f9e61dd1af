"""OME-TIFF and other TIFF pyramids, read part by part with tifffile."""

import re
import threading
from itertools import product
from pathlib import Path
from typing import Any, Self

import numpy as np
import tifffile

from moma_core.errors import DataError
from moma_core.slides.slide import ClippedSlide, Pixels, SlideLevel, plausible_mpp

_LARGEST_PART_BYTES = 256 * 2**20
_MICRONS = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
_SIZE = re.compile(r"PhysicalSize([XY])(Unit)?\s*=\s*\"([^\"]*)\"")


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
        super().__init__(path, levels, _mpp(file))

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens a file.

        Raises:
            DataError: It is no TIFF of 8-bit RGB, it is damaged, or one of its parts
                is too large to be decoded alone.
        """
        try:
            file = tifffile.TiffFile(path)
        except (tifffile.TiffFileError, OSError, ValueError, IndexError) as error:
            raise DataError(f"this is no TIFF: {error}") from None
        try:
            return cls(file, _levels(file), path)
        except DataError:
            file.close()
            raise
        except (tifffile.TiffFileError, ValueError, IndexError, KeyError) as error:
            file.close()
            raise DataError(f"the TIFF is damaged: {error}") from None

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
        tall, wide = page.chunks[:2] if page.planarconfig == 1 else page.chunks[-2:]
        height, width = into.shape[:2]
        across, down = -(-page.imagewidth // wide), -(-page.imagelength // tall)
        planes = page.samplesperpixel if page.planarconfig == 2 else 1
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
            with self._lock:
                self._file.filehandle.seek(offset)
                encoded = self._file.filehandle.read(count)
            part, _, shape = page.decode(encoded, index, jpegtables=page.jpegtables)
        except Exception as error:  # noqa: BLE001  # each codec raises its own
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"a part of the slide is damaged: {reason}") from None
        if part is None:
            return None
        decoded: Pixels = part[0, : shape[1], : shape[2]]
        return decoded


def _levels(file: tifffile.TiffFile) -> list[list[Any]]:
    """Returns the pages of each level of the first picture."""
    series = file.series[0]
    found = [_pages_of(level) for level in series.levels]
    for page in (page for level in found for page in level):
        size = int(np.prod(page.chunks)) * page.dtype.itemsize
        if size > _LARGEST_PART_BYTES:
            raise DataError(
                f"the TIFF holds {size / 2**20:.0f} MiB in one piece: save it with "
                f"tiles, such as a pyramid of vips or bfconvert"
            )
    return found


def _pages_of(level: Any) -> list[Any]:  # noqa: ANN401  # tifffile has no type for it
    pages = [page for page in level.pages if page is not None]
    first = pages[0].aspage()
    if first.dtype != np.uint8:
        raise DataError(f"the TIFF has pixels of {first.dtype}, expected 8-bit RGB")
    if first.samplesperpixel in (3, 4):
        return [first]
    if level.axes in ("CYX", "SYX") and len(pages) == 3:
        return [page.aspage() for page in pages]
    raise DataError(
        f"the TIFF has axes {level.axes} of {level.shape}, expected a picture in RGB"
    )


def _mpp(file: tifffile.TiffFile) -> float | None:
    if file.is_ome and file.ome_metadata:
        return _ome_mpp(file.ome_metadata)
    page = _pages_of(file.series[0].levels[0])[0]
    if page.tags.get("ResolutionUnit", None) is None:
        return None
    if int(page.tags["ResolutionUnit"].value) not in (2, 3):  # inch, centimetre
        return None
    x, y = page.get_resolution("MICROMETER")
    return plausible_mpp(1 / x if x else None, 1 / y if y else None)


def _ome_mpp(xml: str) -> float | None:
    """Returns the pixel size of the first picture in OME's XML."""
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", xml)
    if pixels is None:
        return None
    stated = {
        (axis, bool(is_unit)): value
        for axis, is_unit, value in _SIZE.findall(pixels.group())
    }

    def side(axis: str) -> float | None:
        microns = _MICRONS.get(stated.get((axis, True), "µm"))
        try:
            return float(stated[axis, False]) * microns if microns else None
        except (KeyError, ValueError):
            return None

    return plausible_mpp(side("X"), side("Y"))
