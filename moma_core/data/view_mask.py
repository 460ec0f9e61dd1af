"""Which views of each patch are usable: those that a teacher has answered."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moma_core.errors import DataError
from moma_core.runtime.array_faults import ARRAY_FAULTS
from moma_core.runtime.files import write_private

MOST_VIEWS = 64
"""Of one patch: a row of the mask is one number of 64 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class ViewMask:
    """The usable views, one row for each row of the source.

    Args:
        masks: (N,) uint64; bit v is set where view v is usable.
    """

    masks: NDArray[np.uint64]

    @classmethod
    def whole(cls, size: int, rows: NDArray[np.int64], views: int) -> "ViewMask":
        """Returns the mask of `size` rows in which `rows` have all their views."""
        masks = np.zeros(size, np.uint64)
        masks[rows] = (1 << views) - 1
        return cls(masks)

    def has(self, row: int, number: int) -> bool:
        """Whether a view of a patch is usable."""
        return bool(int(self.masks[row]) >> number & 1)

    def number(self, row: int, drawn_before: int) -> int:
        """Returns which view a patch shows that was drawn so often before."""
        mask = int(self.masks[row])
        views = [number for number in range(MOST_VIEWS) if mask >> number & 1]
        return views[drawn_before % len(views)]

    def usable(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns those of `rows` that have a usable view, in order."""
        usable: NDArray[np.int64] = rows[self.masks[rows] != 0]
        return usable

    def missing(self, rows: NDArray[np.int64], number: int) -> NDArray[np.int64]:
        """Returns those of `rows` of which one view is missing, in order."""
        available = self.masks[rows] >> np.uint64(number) & np.uint64(1)
        missing: NDArray[np.int64] = rows[available == 0]
        return missing

    def intersection(self, other: "ViewMask") -> "ViewMask":
        """Returns the views that are usable in both masks."""
        return ViewMask(self.masks & other.masks)

    def union(self, other: "ViewMask") -> "ViewMask":
        """Returns the views that are usable in one of the masks or both."""
        return ViewMask(self.masks | other.masks)

    def of_rows_in(self, other: "ViewMask") -> "ViewMask":
        """Returns the mask without the rows that have no usable view in `other`."""
        none = np.uint64(0)
        return ViewMask(np.where(other.masks == none, none, self.masks))

    def row_digest(self) -> str:
        """Returns a SHA-256, hex, of which rows have a view, and not of which."""
        return hashlib.sha256(np.packbits(self.masks != 0).tobytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Writes the mask, whole or not at all; its folder exists."""
        content = io.BytesIO()
        np.save(content, self.masks, allow_pickle=False)
        write_private(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> "ViewMask":
        """Reads a mask.

        Raises:
            DataError: The file cannot be read, or is no mask.
        """
        try:
            masks = np.load(path, allow_pickle=False)
        except (OSError, *ARRAY_FAULTS) as error:
            raise DataError(f"cannot read the mask of views {path}: {error}") from None
        if masks.dtype != np.uint64 or masks.ndim != 1:
            raise DataError(f"{path} is no mask of views")
        return cls(masks)
