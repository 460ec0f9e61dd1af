"""Patches that are image files: compact columns, so that a million rows are cheap."""

import logging
import math
import re
import unicodedata
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moma_core.data.images import check_size, decode_rgb, image_mode
from moma_core.data.inventory import Inventory, printable
from moma_core.data.patch import NO_LABEL, Patch, PatchIndex, check_class_names
from moma_core.data.sources.file_identity import FileIdentities, identify_files
from moma_core.data.sources.pixel_cache import CacheKind, PixelCache, pixel_cache
from moma_core.data.splits import SplitFractions, assign_splits, split_code
from moma_core.errors import DataError

_logger = logging.getLogger(__name__)

_NO_SPLIT = 255
_DRIVE_OR_SCHEME = re.compile(r"[A-Za-z]:|\w+://")


class FilePatches:
    """Patches below one folder, made by a `FileTable`.

    Args:
        folder: No file outside it is ever opened.
        table: What the table collected.
        class_names: Names by class index.
        index: Of the table's rows.
        patch_size_px: Side that every patch must have, or None for any.

    Attributes:
        rows_without_split: Of how many rows the data name no split.
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
        self._listed_in = table.listed_in
        self._lines = table.lines
        self._paths = table.paths
        self._patients = table.patients
        self._slides = table.slides
        self._resolutions_mpp = table.resolutions_mpp
        self._patch_size_px = patch_size_px
        self._cache: PixelCache | None = None
        self.class_names = class_names
        self.index = index
        self.rows_without_split = table.rows_without_split

    def read(self, row: int) -> Patch:
        """Decodes one patch.

        Raises:
            DataError: The image is unreadable, of a wrong size, or a link that leads
                out of the folder.
        """
        try:
            pixels = self._pixels(row)
        except DataError as error:
            _logger.debug("cannot read %s: %s", self.path_of(row), error)
            raise
        label = int(self.index.labels[row])
        resolution_mpp = self._resolutions_mpp[row]
        return Patch(
            pixels=pixels,
            label=None if label == NO_LABEL else label,
            patient=self.patient_of(row),
            slide=self.slide_of(row),
            resolution_mpp=None if math.isnan(resolution_mpp) else resolution_mpp,
        )

    def keep_pixels(
        self, kind: CacheKind, folder: Path | None, limit_bytes: int
    ) -> None:
        """Has each picture decoded once.

        Args:
            kind: Where its pixels are kept.
            folder: For `disk`.
            limit_bytes: Of all pixels, at most.
        """
        name, rows = str(self._folder), len(self.index)
        self._cache = pixel_cache(kind, folder, name, rows, limit_bytes)

    def path_of(self, row: int) -> str:
        r"""Returns the path of a row's file, below the folder; for the site alone.

        It is made printable: bytes that are no UTF-8 are written as `\\xfc`.
        """
        return printable(self._paths[row])

    def place_of(self, row: int) -> str:
        """Returns line and path of a row, or its path alone; for the site alone."""
        path = self.path_of(row)
        if self._listed_in is None:
            return path
        return f"{self._listed_in} line {self._lines[row]}: {path}"

    def patient_of(self, row: int) -> str | None:
        """Returns the site's own pseudonym of a row's patient; for the site alone."""
        return self._patients.name_of_row(row)

    def slide_of(self, row: int) -> str | None:
        """Returns the site's own name of a row's slide; for the site alone."""
        return self._slides.name_of_row(row)

    def length_of(self, row: int) -> int | None:
        """Returns the length of a row's file in bytes; None where it is not there."""
        try:
            return (self._folder / self._paths[row]).stat().st_size
        except OSError:
            return None

    def mode_of(self, row: int) -> str:
        """Returns Pillow's name of how a row's file stores its pixels; empty: none."""
        return image_mode(self._folder / self._paths[row])

    def _pixels(self, row: int) -> NDArray[np.uint8]:
        path = (self._folder / self._paths[row]).resolve()
        if not path.is_relative_to(self._folder):
            raise DataError(f"row {row} leads out of the data folder")
        if self._cache is None:
            pixels = decode_rgb(path)
        else:
            pixels = self._cache.pixels(row, path, decode_rgb)
        check_size(pixels.shape[0], pixels.shape[1], self._patch_size_px)
        return pixels


class FileTable:
    """Collects rows one by one; `patches` closes it.

    Args:
        folder: What the paths are relative to.
        listed_in: Name of the file whose lines the rows are; None: a folder's files.

    Attributes:
        folder: What the paths are relative to.
        inventory: Counts what was passed over.
        lines: Line of each row where they are lines of a file; whoever adds a row adds
            its line.
    """

    def __init__(self, folder: Path, listed_in: str | None = None) -> None:
        self.folder = folder
        self.listed_in = listed_in
        self.inventory = Inventory()
        self.lines = array("i")
        self.paths = _Texts()
        self.labels = _Names()
        self.patients = _Names()
        self.slides = _Names()
        self.centres = _Names()
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
        centre: str | None = None,
    ) -> None:
        """Adds a row; a path may neither be absolute nor climb with `..`.

        Names are compared as people read them: without blanks around them, and in one
        Unicode form (NFC), since some disks hand out another one.

        Raises:
            DataError: The path leads out of the folder, or the split is unknown.
        """
        parts = path.replace("\\", "/").split("/")
        if parts[0] == "" or ".." in parts or _DRIVE_OR_SCHEME.match(path):
            raise DataError(
                f"the path '{printable(path)}' is empty, absolute or leads out of "
                f"{self.folder}: paths start at that folder"
            )
        code = _NO_SPLIT if split is None else split_code(split)
        self.paths.append(path)
        self.labels.append(_tidy(label))
        self.patients.append(_writable(patient))
        self.slides.append(_writable(slide))
        self.centres.append(_writable(centre))
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
        files = identify_files(self.folder, self.paths)
        self._note_missing(files)
        names, index = self.columns(class_names, fractions, files.codes)
        index = replace(index, files=files.codes)
        return FilePatches(self.folder, self, names, index, patch_size_px)

    def columns(
        self,
        class_names: Sequence[str] | None,
        fractions: SplitFractions | None,
        files: NDArray[np.int32] | None = None,
    ) -> tuple[tuple[str, ...], PatchIndex]:
        """Returns class names and index of the rows.

        Args:
            class_names: As of `patches`.
            fractions: As of `patches`.
            files: (N,) codes of the rows' files; None: each row is one of its own.

        Raises:
            DataError: As `patches`.
        """
        if not len(self):
            raise DataError(self._nothing())
        given = tuple(_tidy(name) or name for name in class_names or ())
        self._check_labels(given)
        names = given or tuple(sorted(self.labels.names))
        files = np.arange(len(self), dtype=np.int32) if files is None else files
        return names, PatchIndex(
            labels=self._label_column(names),
            splits=self._split_column(fractions or SplitFractions(), files),
            patients=np.frombuffer(self.patients.codes, dtype=np.int32),
            slides=np.frombuffer(self.slides.codes, dtype=np.int32),
            passed_over=self.inventory.passed_over(),
            centres=np.frombuffer(self.centres.codes, dtype=np.int32)
            if self.centres.names
            else None,
        )

    def _nothing(self) -> str:
        passed = "; ".join(map(str, self.inventory.passed_over()))
        beside = f" but {passed}" if passed else ""
        if self.listed_in is not None:
            return (
                f"{self.folder} holds no patches{beside}: {self.listed_in} lists none "
                f"below its header"
            )
        return (
            f"{self.folder} holds no patches{beside}: put pictures (png, jpg, tif) "
            f"into <split>/<class>/ or <class>/ below it, or name the right folder"
        )

    def _check_labels(self, given: Sequence[str]) -> None:
        """Refuses names that cannot be written, or that people take for one another."""
        check_class_names(given)
        check_class_names(self.labels.names)
        folded = {_folded(name): name for name in given}
        for name in self.labels.names:
            if given and name not in given:
                near = folded.get(_folded(name))
                hint = "" if near is None else f"; did you mean {near!r}?"
                raise DataError(f"label {name!r} is not in {list(given)}{hint}")
            other = folded.setdefault(_folded(name), name)
            if not given and other != name:
                raise DataError(
                    f"the classes {other!r} and {name!r} differ by case, blanks, "
                    f"hyphens or .0 alone: write one, or list both in class_names"
                )

    def _note_missing(self, files: FileIdentities) -> None:
        for row in files.missing.tolist():
            line = "" if self.listed_in is None else f"line {self.lines[row]}: "
            self.inventory.note("missing", f"{line}{self.paths[row]}")

    def _label_column(self, class_names: tuple[str, ...]) -> NDArray[np.int16]:
        # the last entry is what code -1, no label, picks
        lookup = [*(class_names.index(name) for name in self.labels.names), NO_LABEL]
        codes = np.frombuffer(self.labels.codes, dtype=np.int32)
        return np.array(lookup, dtype=np.int16)[codes]

    def _split_column(
        self, fractions: SplitFractions, files: NDArray[np.int32]
    ) -> NDArray[np.uint8]:
        splits = np.frombuffer(self.splits, dtype=np.uint8)
        rows = np.flatnonzero(splits == _NO_SPLIT)
        if not len(rows):
            return splits
        _, first, inverse = np.unique(files, return_index=True, return_inverse=True)
        first_rows = first[inverse]  # a file that is listed twice has one split
        groups = [self._group(row, int(first_rows[row])) for row in rows.tolist()]
        split_of = assign_splits(groups, fractions)
        splits = splits.copy()
        splits[rows] = [split_of[group] for group in groups]
        return splits

    @property
    def rows_without_split(self) -> int:
        """How many rows were added with no split."""
        return self.splits.count(_NO_SPLIT)

    def _group(self, row: int, first_row: int) -> str:
        """What must not be torn: the patient, else the slide, else the file."""
        patient, slide = self.patients.name_of_row(row), self.slides.name_of_row(row)
        return patient or slide or self.paths[first_row]


def _tidy(name: str | None) -> str | None:
    """Returns a name as it is compared; None where nothing is left."""
    if name is None:
        return None
    return unicodedata.normalize("NFC", name.strip()) or None


def _writable(name: str | None) -> str | None:
    """Returns a name as it is compared, which any file can hold."""
    name = _tidy(name)
    return name if name is None or name.isprintable() else printable(name)


def _folded(name: str) -> str:
    """Returns what is left of a name when case, blanks and hyphens do not count.

    Nor does the form of a whole number: a table with a gap turns 1 into 1.0.
    """
    name = re.sub(r"^(\d+)\.0+$", r"\1", name)
    return re.sub(r"[-_\s]+", "", unicodedata.normalize("NFKC", name).casefold())


class _Texts(Sequence[str]):
    """Strings behind one another in one buffer, and names that are no UTF-8."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q", [0])

    def append(self, text: str) -> None:
        self._bytes += text.encode(errors="surrogateescape")
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> str:  # type: ignore[override]  # no slices
        if not 0 <= row < len(self):
            raise IndexError(row)
        start, end = self._ends[row : row + 2]
        return self._bytes[start:end].decode(errors="surrogateescape")


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
