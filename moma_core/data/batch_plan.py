"""Which rows a step sees: arithmetic on a seed, no pixels and no state."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moma_core.errors import DataError

_LABELLED, _UNLABELLED = 0, 1


class PlannedRow(NamedTuple):
    """One row of a batch.

    Args:
        row: In the source.
        drawn_before: How often the run drew it already.
        labelled: Whether it enters the cross-entropy.
    """

    row: int
    drawn_before: int
    labelled: bool


class BatchPlan:
    """The rows of every step of a run.

    Args:
        labelled_rows: (L,)
        unlabelled_rows: (U,), may be empty.
        batch_size: Rows over all ranks.
        labelled_share: Wanted share of labelled rows where there are both kinds.
        seed: Of the run.
        steps_per_epoch: Full batches of an endless stream, or None for passes.
        world_size: Ranks; a last batch that gives a rank under 2 rows is dropped.

    Raises:
        DataError: There are too few rows for one batch.
    """

    def __init__(
        self,
        *,
        labelled_rows: NDArray[np.int64],
        unlabelled_rows: NDArray[np.int64],
        batch_size: int,
        labelled_share: float,
        seed: int,
        steps_per_epoch: int | None,
        world_size: int,
    ) -> None:
        self._labelled = _Stream(labelled_rows, seed, _LABELLED)
        self._unlabelled = _Stream(unlabelled_rows, seed, _UNLABELLED)
        self._is_stream = steps_per_epoch is not None
        labelled = _labelled_per_batch(
            len(labelled_rows), len(unlabelled_rows), batch_size, labelled_share
        )
        # the kind that an epoch passes over once is the main one
        self._main_is_labelled = len(unlabelled_rows) == 0
        self._beside = 0 if self._main_is_labelled else labelled
        self._main = batch_size - self._beside
        self.steps_per_epoch = steps_per_epoch or self._steps_of_a_pass(world_size)
        if not self.steps_per_epoch or not len(self._main_stream):
            count = len(labelled_rows) + len(unlabelled_rows)
            raise DataError(f"{count} patches are too few for a batch of {batch_size}")

    def rows(self, step: int) -> list[PlannedRow]:
        """Returns the rows of a step, both kinds spread evenly over the batch.

        Args:
            step: Counted over the whole run from 0.
        """
        main = self._main_stream.rows(*self._main_span(step))
        beside = self._labelled.rows(step * self._beside, self._beside)
        places = np.concatenate([_evenly(len(beside)), _evenly(len(main))])
        planned = [PlannedRow(*drawn, labelled=True) for drawn in beside]
        planned += [PlannedRow(*drawn, self._main_is_labelled) for drawn in main]
        return [planned[place] for place in places.argsort(kind="stable")]

    @property
    def _main_stream(self) -> "_Stream":
        return self._labelled if self._main_is_labelled else self._unlabelled

    def _main_span(self, step: int) -> tuple[int, int]:
        """Returns start and count in the main stream."""
        if self._is_stream:
            return step * self._main, self._main
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        passed, size = step_in_epoch * self._main, len(self._main_stream)
        return epoch * size + passed, min(self._main, size - passed)

    def _steps_of_a_pass(self, world_size: int) -> int:
        full, rest = divmod(len(self._main_stream), self._main)
        has_rest = rest > 0 and (rest + self._beside) // world_size >= 2
        return full + has_rest


def _labelled_per_batch(
    labelled: int, unlabelled: int, batch_size: int, share: float
) -> int:
    """Returns how many labelled rows a batch with both kinds has."""
    if not labelled or not unlabelled:
        return 0
    natural = labelled / (labelled + unlabelled)
    return min(max(1, round(batch_size * max(share, natural))), batch_size - 1)


def _evenly(count: int) -> NDArray[np.float64]:
    """Returns places in (0, 1), so that every rank's share has both kinds."""
    return (np.arange(count) + 0.5) / max(count, 1)


class _Stream:
    """A pool of rows, shuffled anew in every pass, without end."""

    def __init__(self, pool: NDArray[np.int64], seed: int, kind: int) -> None:
        self._pool = pool
        self._seed = seed
        self._kind = kind
        self._passes: dict[int, NDArray[np.int64]] = {}

    def __len__(self) -> int:
        return len(self._pool)

    def rows(self, start: int, count: int) -> list[tuple[int, int]]:
        """Returns rows at `start` and after, each with the number of its pass."""
        drawn = []
        for position in range(start, start + count):
            number, place = divmod(position, len(self._pool))
            drawn.append((int(self._shuffled(number)[place]), number))
        return drawn

    def _shuffled(self, number: int) -> NDArray[np.int64]:
        if number not in self._passes:
            if len(self._passes) > 1:  # a batch spans two passes of a large pool
                self._passes.clear()
            draws = np.random.default_rng((self._seed, self._kind, number))
            self._passes[number] = draws.permutation(self._pool)
        return self._passes[number]
