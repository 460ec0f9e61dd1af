"""A patch, and the one interface that every source of patches has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from moma_core.data.inventory import PassedOver, printable
from moma_core.errors import DataError, quoted

NO_LABEL = -1
UNKNOWN_PATIENT = -1
UNKNOWN_SLIDE = -1
UNKNOWN_CENTRE = -1

TRAIN, VALIDATION, UNSEEN = "train", "validation", "unseen"
SPLITS = (TRAIN, VALIDATION, UNSEEN)

MOST_CLASSES, LONGEST_CLASS = 10_000, 200
"""Classes, and letters of a name: as many as a card may have."""


def check_class_names(names: Sequence[str]) -> None:
    """Refuses more classes, or other names, than a card can hold.

    Raises:
        DataError: There are; the message quotes the beginning of a name.
    """
    if len(names) > MOST_CLASSES:
        raise DataError(
            f"there are {len(names)} classes, and at most {MOST_CLASSES} can be "
            f"trained: does the label hold the name of a patch, a slide or a patient?"
        )
    for name in names:
        if len(name) > LONGEST_CLASS:
            raise DataError(
                f"the class {quoted(name)} has a name of {len(name)} letters, and at "
                f"most {LONGEST_CLASS} are read: rename it"
            )
        if not name.isprintable():  # nor is what stands for bytes that are no UTF-8
            raise DataError(
                f"the class '{printable(name)}' has letters that are no UTF-8 or "
                f"cannot be printed: rename it"
            )


class Square(NamedTuple):
    """A patch's place on its slide, in pixels of level 0.

    Args:
        x_px: Left edge.
        y_px: Upper edge.
        side_px: Length of a side.
    """

    x_px: int
    y_px: int
    side_px: int


@dataclass(frozen=True, slots=True)
class Patch:
    """One decoded patch.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        label: Class index, or None for an unlabelled patch.
        patient: The site's own pseudonym; never leaves the site.
        slide: The site's own name; never leaves the site.
        resolution_mpp: Microns a pixel, where known.
        is_stand_in: Whether the requested row is unreadable and this is another one.
        square: Where it lies on its slide; None: it is a picture of its own.
    """

    pixels: NDArray[np.uint8]
    label: int | None
    patient: str | None
    slide: str | None
    resolution_mpp: float | None
    is_stand_in: bool = False
    square: Square | None = None


@dataclass(frozen=True, slots=True)
class PatchIndex:
    """What is known of all patches before any pixel is read; columns, not objects.

    Args:
        labels: (N,) int16 class indices, NO_LABEL where there is none.
        splits: (N,) uint8 indices into SPLITS.
        patients: (N,) int32 codes, equal for equal patients, UNKNOWN_PATIENT
            where the source names none.
        slides: (N,) int32 codes, equal for equal slides, UNKNOWN_SLIDE where the
            source names none; None where it names none at all.
        files: (N,) int32 codes, equal where rows are one file on the disk; None where
            patches are no files.
        passed_over: What lay beside the patches and was not read, by kind.
        centres: (N,) int32 codes, equal for equal centres, UNKNOWN_CENTRE where the
            source names none; None where it names none at all.
        places: SHA-256 of where patches lie in the pictures that they are cut from,
            hex; empty: each is a picture of its own.
    """

    labels: NDArray[np.int16]
    splits: NDArray[np.uint8]
    patients: NDArray[np.int32]
    slides: NDArray[np.int32] | None = None
    files: NDArray[np.int32] | None = None
    passed_over: tuple[PassedOver, ...] = ()
    centres: NDArray[np.int32] | None = None
    places: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, split: str, *, labelled: bool | None = None) -> NDArray[np.int64]:
        """Returns the row numbers of a split, in order.

        Args:
            split: One of SPLITS.
            labelled: Only rows with a label, only rows without, or all (None).
        """
        chosen = self.splits == SPLITS.index(split)
        if labelled is not None:
            chosen &= (self.labels != NO_LABEL) == labelled
        return np.flatnonzero(chosen)


class PatchSource(Protocol):
    """A set of patches of one site, read one at a time."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class index; ordered where the classes are grades."""
        ...

    @property
    def index(self) -> PatchIndex:
        """The rows, without pixels."""
        ...

    def read(self, row: int) -> Patch:
        """Decodes one patch.

        Raises:
            DataError: The image is unreadable, empty or of a wrong size.
        """
        ...


class WrappedSource:
    """A source that reads from another one; its classes and rows are the same.

    Args:
        source: Where the patches come from.
    """

    def __init__(self, source: PatchSource) -> None:
        self._source = source

    @property
    def wrapped(self) -> PatchSource:
        """Where the patches come from."""
        return self._source

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class index."""
        return self._source.class_names

    @property
    def index(self) -> PatchIndex:
        """The rows, without pixels."""
        return self._source.index
