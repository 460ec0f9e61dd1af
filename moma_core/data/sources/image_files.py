"""Patches that are image files: compact columns, so that a million rows are cheap."""

import logging
import math
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moma_core.data.images import check_size, decode_rgb
from moma_core.data.patch import NO_LABEL, UNKNOWN_PATIENT, Patch, PatchIndex
from moma_core.data.splits import SplitFractions, assign_splits, split_code
from moma_core.errors import DataError

_logger = logging.getLogger(__name__)

_NO_SPLIT = 255


class FilePatches:
    """Patches below one folder, made by a `FileTable`.

    Args:
        folder: No file outside it is ever opened.
        table: What the table collected.
        class_names: Names by class index.
        index: Of the table's rows.
        patch_size_px: Side that every patch must have, or None for any.
    """

    def __init__(
        self,
        folder: Path,
        table: "FileTable",
        class_names: tuple[str, ...],
        index: PatchIndex,
        patch_size_px: int | None,
    ) -> None:
        self._folder = folder.resolve()
        self._paths = table.paths
        self._patients = table.patients.names
        self._slides = table.slides
        self._resolutions_mpp = table.resolutions_mpp
        self._patch_size_px = patch_size_px
        self.class_names = class_names
        self.index = index

    def read(self, row: int) -> Patch:
        """Decodes one patch.

        Raises:
            DataError: The image is unreadable, of a wrong size, or a link that leads
                out of the folder.
        """
        try:
            pixels = self._pixels(row)
        except DataError as error:
            _logger.debug("cannot read %s: %s", self._paths[row], error)
            raise
        label = int(self.index.labels[row])
        patient = int(self.index.patients[row])
        resolution_mpp = self._resolutions_mpp[row]
        return Patch(
            pixels=pixels,
            label=None if label == NO_LABEL else label,
            patient=None if patient == UNKNOWN_PATIENT else self._patients[patient],
            slide=self._slides.name_of_row(row),
            resolution_mpp=None if math.isnan(resolution_mpp) else resolution_mpp,
        )

    def path_of(self, row: int) -> str:
        """Returns the path of a row's file, below the folder; for the site alone."""
        return self._paths[row]

    def _pixels(self, row: int) -> NDArray[np.uint8]:
        path = (self._folder / self._paths[row]).resolve()
        if not path.is_relative_to(self._folder):
            raise DataError(f"row {row} leads out of the data folder")
        pixels = decode_rgb(path)
        check_size(pixels.shape[0], pixels.shape[1], self._patch_size_px)
        return pixels


class FileTable:
    """Collects rows one by one; `patches` closes it.

    Args:
        folder: What the paths are relative to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.paths = _Texts()
        self.labels = _Names()
        self.patients = _Names()
        self.slides = _Names()
        self.splits = array("B")
        self.resolutions_mpp = array("f")

    def __len__(self) -> int:
        return len(self.splits)

    def add(
        self,
        path: str,
        *,
        label: str | None,
        split: str | None,
        patient: str | None = None,
        slide: str | None = None,
        resolution_mpp: float | None = None,
    ) -> None:
        """Adds a row; a path may neither be absolute nor climb with `..`.

        Raises:
            DataError: The path leads out of the folder, or the split is unknown.
        """
        parts = path.replace("\\", "/").split("/")
        if parts[0] == "" or ".." in parts or ":" in parts[0]:
            raise DataError(
                f"the path {path!r} is empty, absolute or leads out of {self._folder}: "
                f"paths start at that folder"
            )
        code = _NO_SPLIT if split is None else split_code(split)
        self.paths.append(path)
        self.labels.append(label)
        self.patients.append(patient)
        self.slides.append(slide)
        self.splits.append(code)
        self.resolutions_mpp.append(
            math.nan if resolution_mpp is None else resolution_mpp
        )

    def patches(
        self,
        class_names: Sequence[str] | None = None,
        fractions: SplitFractions | None = None,
        patch_size_px: int | None = None,
    ) -> FilePatches:
        """Returns the rows as a source.

        Args:
            class_names: By class index; None takes the sorted names seen.
            fractions: Divides the patients of the rows that name no split; None takes
                the defaults.
            patch_size_px: Side that every patch must have, or None for any.

        Raises:
            DataError: There is no row, or a label is no class name.
        """
        names, index = self.columns(class_names, fractions)
        return FilePatches(self._folder, self, names, index, patch_size_px)

    def columns(
        self, class_names: Sequence[str] | None, fractions: SplitFractions | None
    ) -> tuple[tuple[str, ...], PatchIndex]:
        """Returns class names and index of the rows; arguments as of `patches`.

        Raises:
            DataError: There is no row, or a label is no class name.
        """
        if not len(self):
            raise DataError(f"{self._folder} holds no patches")
        names = tuple(class_names or sorted(self.labels.names))
        return names, PatchIndex(
            labels=self._label_column(names),
            splits=self._split_column(fractions or SplitFractions()),
            patients=np.frombuffer(self.patients.codes, dtype=np.int32),
            slides=np.frombuffer(self.slides.codes, dtype=np.int32),
        )

    def _label_column(self, class_names: tuple[str, ...]) -> NDArray[np.int16]:
        strangers = sorted(set(self.labels.names) - set(class_names))
        if strangers:
            raise DataError(f"label {strangers[0]!r} is not in {list(class_names)}")
        # the last entry is what code -1, no label, picks
        lookup = [*(class_names.index(name) for name in self.labels.names), NO_LABEL]
        codes = np.frombuffer(self.labels.codes, dtype=np.int32)
        return np.array(lookup, dtype=np.int16)[codes]

    def _split_column(self, fractions: SplitFractions) -> NDArray[np.uint8]:
        splits = np.frombuffer(self.splits, dtype=np.uint8)
        rows = np.flatnonzero(splits == _NO_SPLIT)
        if not len(rows):
            return splits
        split_of = assign_splits(map(self._group, rows.tolist()), fractions)
        splits = splits.copy()
        splits[rows] = [split_of[self._group(row)] for row in rows.tolist()]
        return splits

    @property
    def rows_without_split(self) -> int:
        """How many rows were added with no split."""
        return self.splits.count(_NO_SPLIT)

    def _group(self, row: int) -> str:
        """What must not be torn: the patient, else the slide, else the patch."""
        patient, slide = self.patients.name_of_row(row), self.slides.name_of_row(row)
        return patient or slide or self.paths[row]


class _Texts:
    """Strings behind one another in one buffer."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q", [0])

    def append(self, text: str) -> None:
        self._bytes += text.encode()
        self._ends.append(len(self._bytes))

    def __getitem__(self, row: int) -> str:
        return self._bytes[self._ends[row] : self._ends[row + 1]].decode()


class _Names:
    """A column of few distinct names, kept as codes; -1 where there is none."""

    def __init__(self) -> None:
        self.codes = array("i")
        self._code_of: dict[str, int] = {}
        self.names: list[str] = []

    def append(self, name: str | None) -> None:
        if name is None:
            self.codes.append(-1)
            return
        code = self._code_of.setdefault(name, len(self.names))
        if code == len(self.names):
            self.names.append(name)
        self.codes.append(code)

    def name_of_row(self, row: int) -> str | None:
        code = self.codes[row]
        return None if code == -1 else self.names[code]
