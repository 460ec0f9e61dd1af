"""Slides in DICOM (VL Whole Slide Microscopy), read with wsidicom."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)
from wsidicom import Settings, WsiDicom
from wsidicom.options import DecoderOption

from moma_core.errors import DataError, first_line
from moma_core.runtime.folders import entries_of
from moma_core.slides.dicom_series import dicom_files_in
from moma_core.slides.slide import (
    LARGEST_PART_BYTES,
    ClippedSlide,
    Pixels,
    SlideLevel,
    believed_mpp,
)

# what it says of a file names it, and is said by our own errors
logging.getLogger("wsidicom").setLevel(logging.CRITICAL)

_SAMPLES = 3

_BY_PILLOW = frozenset({JPEGBaseline8Bit, JPEG2000, JPEG2000Lossless})
"""Frames that Pillow decodes: it refuses one that ends too early, or states far more
pixels than a frame has, where wsidicom's first choice makes grey of it, or room."""


class DicomFolder(ClippedSlide):
    """One slide in DICOM: a folder of its files, or one of them for all.

    Args:
        opened: As wsidicom opened it.
        path: File or folder of the slide.
    """

    def __init__(self, opened: WsiDicom, path: Path) -> None:
        self._opened, self._lock = opened, threading.Lock()
        # wsidicom numbers a level by its power of two, and may leave some out
        self._numbers = [level.level for level in opened.levels]
        largest, tile = opened.levels[0].size, opened.levels[0].tile_size
        if tile.width * tile.height * _SAMPLES > LARGEST_PART_BYTES:
            raise DataError(f"it has frames of {tile.width} x {tile.height} px")
        levels = tuple(
            SlideLevel(
                level.size.width, level.size.height, largest.width / level.size.width
            )
            for level in opened.levels
        )
        spacing = opened.levels[0].mpp
        super().__init__(path, levels, believed_mpp(spacing.width, spacing.height))

    @classmethod
    def open(cls, path: Path, files: Sequence[Path] = ()) -> Self:
        """Opens the slide in a folder, or the slide that a file belongs to.

        Args:
            path: File or folder of the slide.
            files: All of the slide; none: they are looked for.

        Raises:
            DataError: It is no slide in DICOM, several slides, or damaged.
        """
        try:
            files = list(files) or _files_of(path)
            by_pillow = _syntaxes(files) <= _BY_PILLOW
            decoder = DecoderOption.PILLOW if by_pillow else None
            settings = Settings(preferred_decoder=decoder)
            return cls(WsiDicom.open(files, settings=settings), path)
        except DataError:
            raise
        except Exception as error:  # noqa: BLE001  # pydicom raises what it likes
            raise DataError(f"this is no slide in DICOM: {first_line(error)}") from None

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
        except Exception as error:  # noqa: BLE001  # each codec raises its own
            raise DataError(
                f"a part of the slide is damaged: {first_line(error)}"
            ) from None
        return np.array(region.convert("RGB"))


def _files_of(path: Path) -> list[Path]:
    """Returns the files of the slide in a folder, or of the slide of a file.

    wsidicom takes all of one study for one slide, so it is shown no other.

    Raises:
        DataError: The folder holds several slides.
    """
    is_folder = path.is_dir()
    slides = dicom_files_in(path if is_folder else path.parent).slides
    if not is_folder:
        return next((files for files in slides if path in files), [path])
    if len(slides) > 1:
        names = " and ".join(files[0].name for files in slides[:2])
        raise DataError(
            f"it holds {len(slides)} slides, such as {names}: name a file of the one "
            f"that is meant"
        )
    return slides[0] if slides else entries_of(path).files


def _syntaxes(files: list[Path]) -> set[UID]:
    """Returns how the files of a slide are packed.

    Raises:
        DataError: One is a stream that pydicom unpacks whole, however long it becomes.
    """
    found: set[UID] = set()
    for file in files:
        try:
            found.add(read_file_meta_info(file).TransferSyntaxUID)
        except (InvalidDicomError, AttributeError):
            continue  # wsidicom passes it over
        if DeflatedExplicitVRLittleEndian in found:
            raise DataError(
                f"{file.name} is deflated as a whole, which is not read: save it with "
                f"JPEG frames"
            )
    return found
