"""Which views each round of a run trains on, on the site's disk.

A round's table is made once, so that a killed round goes on with the views that it
began with. Which patches take part at all is settled by the run's first table.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moma_core.data.view_mask import ViewMask
from moma_core.errors import DataError, TeacherUnavailableError


class ViewSchedule:
    """The tables of one run.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "views"

    def check_rows(self, count: int) -> None:
        """Refuses patches of another number than those the run began with.

        Raises:
            DataError: They are.
        """
        for path in sorted(self._folder.glob("*.npy"))[:1]:
            began_with = len(ViewMask.load(path).masks)
            if count != began_with:
                raise DataError(
                    f"the patches changed within the run, from {began_with} to "
                    f"{count}; a new run is needed"
                )

    def suffices(self, held: ViewMask, rows: NDArray[np.int64]) -> bool:
        """Whether each of these patches has a view, or the run began without it."""
        kept = sorted(self._folder.glob("*.npy"))
        needed = ViewMask.load(kept[0]).shown(rows) if kept else rows
        return len(held.shown(needed)) == len(needed)

    def settle(self, round_number: int, held: ViewMask) -> ViewMask:
        """Returns and keeps a round's table, made of the views that are held.

        Raises:
            TeacherUnavailableError: A patch that took part so far has no view left.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        table, path = held, self._path(round_number)
        kept = sorted(self._folder.glob("*.npy"))
        if path in kept:
            table = table.within(ViewMask.load(path))
        if kept:
            first = ViewMask.load(kept[0])
            table = table.of_rows_in(first)
            lost = np.count_nonzero((first.masks != 0) & (table.masks == 0))
            if lost:
                raise TeacherUnavailableError(
                    f"the teacher cache has lost every view of {lost} patches of "
                    f"this run"
                )
        table.save(path)
        return table

    def of_round(self, round_number: int) -> ViewMask | None:
        """Returns the table of a round, or of the last one before it that has one."""
        last = self._path(round_number)
        known = [path for path in sorted(self._folder.glob("*.npy")) if path <= last]
        return ViewMask.load(known[-1]) if known else None

    def _path(self, round_number: int) -> Path:
        return self._folder / f"{round_number:06}.npy"
