"""Slides in DICOM (VL Whole Slide Microscopy), read with wsidicom."""

import threading
from pathlib import Path
from typing import Self

import numpy as np
from wsidicom import WsiDicom
from wsidicom.errors import WsiDicomError

from moma_core.errors import DataError
from moma_core.slides.slide import ClippedSlide, Pixels, SlideLevel, plausible_mpp


class DicomFolder(ClippedSlide):
    """One slide in DICOM: a folder of its instances, or one file of them.

    Args:
        opened: As wsidicom opened it.
        path: File or folder of the slide.
    """

    def __init__(self, opened: WsiDicom, path: Path) -> None:
        self._opened, self._lock = opened, threading.Lock()
        # wsidicom numbers a level by its power of two, and may leave some out
        self._numbers = [level.level for level in opened.levels]
        largest = opened.levels[0].size
        levels = tuple(
            SlideLevel(
                level.size.width, level.size.height, largest.width / level.size.width
            )
            for level in opened.levels
        )
        spacing = opened.levels[0].mpp
        super().__init__(path, levels, plausible_mpp(spacing.width, spacing.height))

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens the slide in a folder, or the slide that a file belongs to.

        Raises:
            DataError: It is no slide in DICOM, several slides, or damaged.
        """
        try:
            return cls(WsiDicom.open(path), path)
        except DataError:
            raise
        except Exception as error:  # noqa: BLE001  # pydicom raises what it likes
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"this is no slide in DICOM: {reason}") from None

    def close(self) -> None:
        """Closes the files."""
        self._opened.close()

    def _read_inside(
        self, level: int, left: int, top: int, width: int, height: int
    ) -> Pixels:
        try:
            with self._lock:  # a dataset's file has one position
                region = self._opened.read_region(
                    (left, top), self._numbers[level], (width, height)
                )
        except (WsiDicomError, OSError, ValueError, KeyError) as error:
            raise DataError(f"a part of the slide is damaged: {error}") from None
        return np.array(region.convert("RGB"))
