"""How many patches, patients and slides a set has, by class and split."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moma_core.data.patch import (
    NO_LABEL,
    SPLITS,
    TRAIN,
    UNKNOWN_PATIENT,
    UNKNOWN_SLIDE,
    PatchIndex,
)

_MOST_LINES = 60
_UNLABELLED, _ALL = "without a label", "all"


class Count(NamedTuple):
    """Of one class in one split.

    Args:
        patches: How many.
        patients: Different patients; None: no patch names one.
        slides: Different slides, likewise.
    """

    patches: int
    patients: int | None
    slides: int | None

    def __str__(self) -> str:
        return " / ".join("?" if n is None else str(n) for n in self)


@dataclass(frozen=True, slots=True)
class Census:
    """A set, counted.

    Args:
        class_names: By class index.
        index: Of the set.
    """

    class_names: tuple[str, ...]
    index: PatchIndex

    def patches(self, split: str) -> dict[str, int]:
        """Returns the number of labelled patches of each class in a split."""
        labels = self.index.labels[self.index.rows(split, labelled=True)]
        counts = np.bincount(labels, minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))

    def count(self, split: str, label: int | None) -> Count:
        """Returns the count of a class in a split.

        Args:
            split: One of SPLITS.
            label: Class index, or NO_LABEL; None: all together.
        """
        rows = self.index.rows(split)
        if label is not None:
            rows = rows[self.index.labels[rows] == label]
        patients = self.index.patients[rows]
        slides = None if self.index.slides is None else self.index.slides[rows]
        return Count(
            len(rows),
            _different(patients, UNKNOWN_PATIENT),
            None if slides is None else _different(slides, UNKNOWN_SLIDE),
        )

    def lines(self) -> Iterator[str]:
        """Yields a table, one line a class, as a person reads it."""
        rows = [*enumerate(self.class_names[:_MOST_LINES])]
        names: list[tuple[int | None, str]] = [(None, _ALL), *rows]
        if (self.index.labels == NO_LABEL).any():
            names.append((NO_LABEL, _UNLABELLED))
        table: list[tuple[str, ...]] = [("class", *SPLITS)]
        for label, name in [*names[1:], names[0]]:
            counts = [str(self.count(split, label)) for split in SPLITS]
            table.append((name, *counts))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for cells in table:
            padded = zip(cells, widths, strict=True)
            yield "  ".join(cell.ljust(width) for cell, width in padded).rstrip()
        if len(self.class_names) > _MOST_LINES:
            yield f"and {len(self.class_names) - _MOST_LINES} classes more"

    def as_json(self) -> dict[str, dict[str, dict[str, int | None]]]:
        """Returns the table for a script: class -> split -> what -> number."""
        return {
            name: {split: self.count(split, label)._asdict() for split in SPLITS}
            for label, name in enumerate(self.class_names)
        }

    def lacking(self, split: str) -> list[str]:
        """Returns the classes without a patch in a split that are trained on."""
        trained, found = self.patches(TRAIN), self.patches(split)
        return [name for name in self.class_names if trained[name] and not found[name]]


def _different(codes: NDArray[np.int32], unknown: int) -> int | None:
    known = codes[codes != unknown]
    return len(np.unique(known)) if len(known) or not len(codes) else None
