"""Slides that one process has open: a few, the longest unused is closed first."""

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

from moma_core.slides.grid import PatchGrid
from moma_core.slides.open import open_slide
from moma_core.slides.slide import Pixels, Slide

_MOST_OPEN = 8


class SlidePool:
    """Opens slides when they are read; a copy in another process opens its own.

    Args:
        paths: Of the slides.
        files: Of slides in DICOM, by path; of others in DICOM they are looked for.
        most_open: Slides that are open at a time, in each process.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        files: Mapping[Path, Sequence[Path]] | None = None,
        *,
        most_open: int = _MOST_OPEN,
    ) -> None:
        self._paths, self._files = tuple(paths), dict(files or {})
        self._most_open = most_open
        self._begin()

    def read(self, slide: int, grid: PatchGrid, patch: int) -> Pixels:
        """Returns a patch of a slide, (size_px, size_px, 3) uint8.

        Args:
            slide: Place of the slide in `paths`.
            grid: Its patches.
            patch: Which of them.

        Raises:
            DataError: The slide cannot be opened, or this part of it is damaged.
        """
        x_px, y_px = grid.corners[patch].tolist()
        if self._process != os.getpid():  # forked: a file's position is shared
            self._begin()
        with self._lock:  # so that none is closed while it is read
            opened = self._opened(slide)
            return opened.read_square(x_px, y_px, grid.side_px, grid.size_px)

    @property
    def open_slides(self) -> int:
        """How many slides this process has open."""
        return len(self._open)

    def __getstate__(self) -> tuple[tuple[Path, ...], dict[Path, Sequence[Path]], int]:
        return self._paths, self._files, self._most_open

    def __setstate__(
        self, state: tuple[tuple[Path, ...], dict[Path, Sequence[Path]], int]
    ) -> None:
        self._paths, self._files, self._most_open = state
        self._begin()

    def _begin(self) -> None:
        self._open: OrderedDict[int, Slide] = OrderedDict()
        self._lock, self._process = threading.Lock(), os.getpid()

    def _opened(self, number: int) -> Slide:
        if number not in self._open:
            while len(self._open) >= self._most_open:
                self._open.popitem(last=False)[1].close()
            path = self._paths[number]
            self._open[number] = open_slide(path, files=self._files.get(path, ()))
        self._open.move_to_end(number)
        return self._open[number]
