"""Whether a set's rows agree: a patient or picture in one split, under one label.

What is only worth a warning is said by `checks`, once a program, and not here, where a
set is opened by each of its parts.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from moma_core.data.patch import (
    NO_LABEL,
    SPLITS,
    UNKNOWN_PATIENT,
    UNKNOWN_SLIDE,
    PatchIndex,
    PatchSource,
)
from moma_core.errors import DataError

SWAPPED = "; label and patient_id may be swapped: see which column holds what"
_MOST_CLASSES = 20
_PATCHES_OF_A_CLASS = 10  # at least, in most sets
_MOST_SHOWN = 3


class NamedRows(Protocol):
    """A source that can name its rows, for the site alone."""

    def place_of(self, row: int) -> str:
        """Returns where a row comes from, such as its file or its line."""
        ...

    def patient_of(self, row: int) -> str | None:
        """Returns the patient of a row."""
        ...

    def slide_of(self, row: int) -> str | None:
        """Returns the slide of a row."""
        ...


def check_consistency(source: PatchSource, names: NamedRows | None = None) -> None:
    """Refuses a set in which a picture or a patient serves two purposes.

    Where the patient is unknown, the slide stands for it.

    Args:
        source: The whole set.
        names: Names its rows in messages; None: they have numbers alone.

    Raises:
        DataError: One file has two labels or stands in two splits; or patients, or
            slides of unknown patients, stand in two splits. The message names the
            first few with their rows: it is for the site alone.
    """
    index, names = source.index, names or _NumberedRows()
    if index.files is not None:
        _check_files(index, index.files, source.class_names, names)
    _check_patients(index, names)


class _NumberedRows:
    """Rows of a source that does not name them."""

    def place_of(self, row: int) -> str:
        return f"row {row}"

    def patient_of(self, row: int) -> str | None:
        return None

    def slide_of(self, row: int) -> str | None:
        return None


def _check_files(
    index: PatchIndex,
    files: NDArray[np.int32],
    class_names: Sequence[str],
    names: NamedRows,
) -> None:
    labelled = np.flatnonzero(index.labels != NO_LABEL)
    if pairs := disagreeing(files, index.labels, labelled):
        shown = "; ".join(
            f"{names.place_of(first)} says {class_names[index.labels[first]]!r}, "
            f"{names.place_of(second)} says {class_names[index.labels[second]]!r}"
            for first, second in pairs[:_MOST_SHOWN]
        )
        raise DataError(
            f"{len(pairs)} {_pictures(len(pairs))} under two labels, keep the right "
            f"one: {shown}{_more(pairs)}"
        )
    if pairs := disagreeing(files, index.splits, np.arange(len(index))):
        raise DataError(
            f"{len(pairs)} {_pictures(len(pairs))} in more than one split, keep one: "
            f"{_places(index, pairs, names)}"
        )


def _check_patients(index: PatchIndex, names: NamedRows) -> None:
    known = index.patients != UNKNOWN_PATIENT
    if pairs := disagreeing(index.patients, index.splits, np.flatnonzero(known)):
        raise DataError(
            f"{len(pairs)} {'patient is' if len(pairs) == 1 else 'patients are'} in "
            f"more than one split, keep each in one: {_places(index, pairs, names)}"
            f"{SWAPPED if may_be_swapped(index) else ''}"
        )
    if index.slides is None:
        return
    alone = np.flatnonzero(~known & (index.slides != UNKNOWN_SLIDE))
    if pairs := disagreeing(index.slides, index.splits, alone):
        slides = "slide of an unknown patient is"
        if len(pairs) > 1:
            slides = "slides of unknown patients are"
        raise DataError(
            f"{len(pairs)} {slides} in more than one split, keep each in one: "
            f"{_places(index, pairs, names)}"
        )


def may_be_swapped(index: PatchIndex) -> bool:
    """Whether labels look like patients and patients like classes.

    Labels are as many as patients are, and patients as few as classes are.
    """
    labels = len(np.unique(index.labels[index.labels != NO_LABEL]))
    patients = len(np.unique(index.patients[index.patients != UNKNOWN_PATIENT]))
    is_many = labels > _MOST_CLASSES and labels > len(index) / _PATCHES_OF_A_CLASS
    return is_many and 2 <= patients <= _MOST_CLASSES


def disagreeing(
    codes: NDArray[np.int32], values: NDArray[np.integer], rows: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Returns, for each code with several values, the first row and one that differs.

    Args:
        codes: (N,), what should have one value.
        values: (N,).
        rows: Those that count.
    """
    if not len(rows):
        return []
    _, first, of_row = np.unique(codes[rows], return_index=True, return_inverse=True)
    differing = np.flatnonzero(values[rows] != values[rows][first[of_row]])
    _, one_each = np.unique(of_row[differing], return_index=True)
    seconds = differing[one_each]
    firsts = first[of_row[seconds]]
    return list(zip(rows[firsts].tolist(), rows[seconds].tolist(), strict=True))


def _places(
    index: PatchIndex, pairs: Sequence[tuple[int, int]], names: NamedRows
) -> str:
    def named(first: int, second: int) -> str:
        who = names.patient_of(first) or names.slide_of(first)
        where = " and ".join(
            f"{SPLITS[index.splits[row]]} ({names.place_of(row)})"
            for row in (first, second)
        )
        return f"{who!r} in {where}" if who else where

    shown = "; ".join(named(*pair) for pair in pairs[:_MOST_SHOWN])
    return shown + _more(pairs)


def _more(pairs: Sequence[tuple[int, int]]) -> str:
    rest = len(pairs) - _MOST_SHOWN
    return f"; and {rest} more" if rest > 0 else ""


def _pictures(count: int) -> str:
    return "picture is" if count == 1 else "pictures are"
