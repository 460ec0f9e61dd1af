"""Slides that OpenSlide reads: SVS, NDPI, MRXS, SCN, BIF, tiled TIFF and more."""

import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import openslide
from PIL import Image

from moma_core.errors import DataError, first_line
from moma_core.slides.slide import (
    LARGEST_PART_BYTES,
    Pixels,
    Slide,
    SlideLevel,
    believed_mpp,
)

_CACHE_BYTES = 32 * 2**20  # of decoded parts, a slide that is open
_PIXEL_BYTES = 4  # as OpenSlide decodes them


class OpenSlideFile(Slide):
    """A slide that OpenSlide opened.

    After one damaged part OpenSlide refuses all others, so the file is opened anew, and
    what other threads were reading is read again.

    Args:
        handle: Of OpenSlide.
        path: File of the slide.
    """

    def __init__(self, handle: openslide.OpenSlide, path: Path) -> None:
        sizes = zip(handle.level_dimensions, handle.level_downsamples, strict=True)
        levels = tuple(SlideLevel(*size, downsample) for size, downsample in sizes)
        super().__init__(path, levels, _mpp(handle.properties))
        _check_tiles(handle.properties, len(levels))
        self._handle, self._lock = handle, threading.Lock()
        self._running = self._begun = 0  # reads: now, and ever
        self._is_broken = self._is_closed = False

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens a file.

        Raises:
            DataError: OpenSlide does not know it, or it is damaged.
        """
        return cls(_opened(path), path)

    def close(self) -> None:
        """Closes the file."""
        if not self._is_closed:
            self._is_closed = True
            self._handle.close()

    def read_region(
        self, x_px: int, y_px: int, *, level: int, width_px: int, height_px: int
    ) -> Pixels:
        """Returns (height_px, width_px, 3) uint8, as `Slide.read_region`."""
        part = (x_px, y_px), level, (width_px, height_px)
        with self._lock:
            handle, is_alone = self._handle, not (self._running or self._is_broken)
            self._running += 1
            self._begun += 1
            number = self._begun
        try:
            region = handle.read_region(*part)
        except openslide.OpenSlideError as error:
            self._reopen(handle)
            if is_alone and number == self._begun:
                raise _damage(error) from None  # no other read can have broken it
            region = self._read_alone(*part)
        finally:
            with self._lock:
                self._running -= 1
        white = Image.new("RGB", region.size, "white")
        white.paste(region, mask=region.getchannel("A"))
        return np.array(white)

    def _read_alone(
        self, corner: tuple[int, int], level: int, size: tuple[int, int]
    ) -> Image.Image:
        """Reads a part again: what is damaged may be what another thread read."""
        with _opened(self.path) as handle:
            try:
                return handle.read_region(corner, level, size)
            except openslide.OpenSlideError as error:
                raise _damage(error) from None

    def _reopen(self, broken: openslide.OpenSlide) -> None:
        with self._lock:  # another thread may have done it
            if self._handle is broken:
                self._is_broken = True
                self._handle = _opened(self.path)  # the last reader closes the old one
                self._is_broken = False


def _damage(error: Exception) -> DataError:
    return DataError(f"a part of the slide is damaged: {first_line(error)}")


def _opened(path: Path) -> openslide.OpenSlide:
    try:
        handle = openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError:
        raise DataError("this is no slide that OpenSlide knows") from None
    except (openslide.OpenSlideError, OSError) as error:
        raise DataError(f"the slide is damaged: {first_line(error)}") from None
    handle.set_cache(openslide.OpenSlideCache(_CACHE_BYTES))
    return handle


def _check_tiles(properties: Mapping[str, str], levels: int) -> None:
    """Refuses tiles that are decoded whole, and would fill the memory."""
    for level in range(levels):
        sides = [
            int(properties.get(f"openslide.level[{level}].tile-{side}", 0))
            for side in ("width", "height")
        ]
        if math.prod(sides) * _PIXEL_BYTES > LARGEST_PART_BYTES:
            raise DataError(
                f"it has tiles of {sides[0]} x {sides[1]} px: save it with smaller ones"
            )


def _mpp(properties: Mapping[str, str]) -> float | None:
    try:
        x = float(properties[openslide.PROPERTY_NAME_MPP_X])
        y = float(properties[openslide.PROPERTY_NAME_MPP_Y])
    except (KeyError, ValueError):
        return None
    return believed_mpp(x, y)
