"""A few broken patches do not stop a run; many do."""

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moma_core.data.patch import Patch, PatchSource, WrappedSource
from moma_core.errors import DataError

_logger = logging.getLogger(__name__)


class TolerantSource(WrappedSource):
    """Reads a like patch in place of one that cannot be read, up to a limit.

    The next readable row of the same split and label stands in, so a batch never
    depends on what was read before it. Each broken row counts once, in every process
    that loads patches.

    Args:
        source: Where the patches come from.
        max_unreadable: Broken rows that are tolerated.
    """

    def __init__(self, source: PatchSource, max_unreadable: int) -> None:
        if max_unreadable < 0:
            raise ValueError(f"max_unreadable must be >= 0, got {max_unreadable}")
        super().__init__(source)
        self._max_unreadable = max_unreadable
        self._broken: set[int] = set()

    @property
    def unreadable(self) -> int:
        """How many rows turned out to be broken so far."""
        return len(self._broken)

    def read(self, row: int) -> Patch:
        """Decodes a patch, or one that can stand in for it.

        Raises:
            DataError: More rows are broken than tolerated, or none can stand in.
        """
        patch = self._try(row)
        if patch is not None:
            return patch
        for candidate in self._stand_ins(row):
            patch = self._try(int(candidate))
            if patch is not None:
                return replace(patch, is_stand_in=True)
        raise DataError(f"row {row} is unreadable and no like patch can stand in")

    def _try(self, row: int) -> Patch | None:
        if row in self._broken:
            return None
        try:
            return self._source.read(row)
        except DataError as error:
            self._count(row, error)
            return None

    def _count(self, row: int, error: DataError) -> None:
        self._broken.add(row)
        broken, limit = len(self._broken), self._max_unreadable
        if broken > limit:
            raise DataError(
                f"unreadable patches: {broken}, tolerated: {limit} "
                f"(data.max_unreadable); row {row}: {error}"
            ) from error
        _logger.warning(
            "unreadable patches: %d, tolerated: %d; row %d: %s",
            broken,
            limit,
            row,
            error,
        )

    def _stand_ins(self, row: int) -> NDArray[np.int64]:
        index = self._source.index
        like = (index.labels == index.labels[row]) & (index.splits == index.splits[row])
        rows = np.flatnonzero(like)
        return np.roll(rows, -np.searchsorted(rows, row, side="right"))[:-1]
