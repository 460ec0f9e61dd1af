"""Which rows a step sees: arithmetic on a seed, no pixels and no state."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moma_core.data.augment.recipe import ViewRecipe
from moma_core.data.view_mask import ViewMask
from moma_core.errors import DataError

_LABELLED, _UNLABELLED, _TURNS, _CLASSES = 0, 1, 2, 3  # kinds of streams


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """How batches are made.

    Args:
        batch_size: Rows of one batch over all ranks, >= 2.
        labelled_share: Wanted share of labelled rows where there are unlabelled ones,
            in [0, 1]; the natural share of the pool is the least.
        seed: Of the run, >= 0.
        recipe: What may be done to a patch.
        view_size_px: Side of the square views.
        views: Makes a patch's views come again after this many, so that each is
            queried once; 0: a new view whenever a patch is drawn.
        table: Which views a patch may show, where not each of them.
        balanced: Whether labelled rows are drawn class by class, each equally often;
            else row by row.
        workers: Loading processes; 0 loads in this one.
        prefetch: Batches that each of them holds ready.
        steps_per_epoch: Makes an epoch this many full batches of an endless stream;
            None makes it one pass.
        rank: This process among `world_size`.
        world_size: Processes that share each batch.
    """

    batch_size: int
    labelled_share: float
    seed: int
    recipe: ViewRecipe
    view_size_px: int
    views: int = 0
    table: ViewMask | None = None
    balanced: bool = False
    workers: int = 0
    prefetch: int = 2
    steps_per_epoch: int | None = None
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is not in [0, {self.world_size})")
        if self.batch_size // self.world_size < 2:
            raise ValueError(f"batch_size {self.batch_size} gives a rank under 2 rows")
        if not 0 <= self.labelled_share <= 1:
            raise ValueError(f"labelled_share must be in [0, 1]: {self.labelled_share}")
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch must be >= 1: {self.steps_per_epoch}")
        if min(self.seed, self.workers, self.views) < 0:
            raise ValueError("seed, workers and views must be >= 0")

    def view_number(self, row: int, drawn_before: int) -> int:
        """Returns which view a patch shows that was drawn so often before."""
        if self.table is not None:
            return self.table.number(row, drawn_before)
        return drawn_before % self.views if self.views else drawn_before


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
        settings: How batches are made. A last batch that gives a rank under 2 rows
            is dropped.
        labels: (N,) of every row of the source, for settings that are balanced.

    Raises:
        DataError: There are too few rows for one batch.
    """

    def __init__(
        self,
        *,
        labelled_rows: NDArray[np.int64],
        unlabelled_rows: NDArray[np.int64],
        settings: BatchSettings,
        labels: NDArray[np.int16] | None = None,
    ) -> None:
        self._labelled: _Stream | _BalancedStream
        if settings.balanced and len(labelled_rows):
            if labels is None:
                raise ValueError("a balanced plan needs labels")
            self._labelled = _BalancedStream(
                labelled_rows, labels[labelled_rows], settings.seed
            )
        else:
            self._labelled = _Stream(labelled_rows, settings.seed, _LABELLED)
        self._unlabelled = _Stream(unlabelled_rows, settings.seed, _UNLABELLED)
        self._is_stream = settings.steps_per_epoch is not None
        # the kind that an epoch passes over once is the main one
        self._main_is_labelled = len(unlabelled_rows) == 0
        self._beside = _labelled_beside(
            len(labelled_rows), len(unlabelled_rows), settings
        )
        self._main = settings.batch_size - self._beside
        one_pass = self._steps_of_a_pass(settings.world_size)
        self.steps_per_epoch = settings.steps_per_epoch or one_pass
        if not self.steps_per_epoch or not len(self._main_stream):
            count = len(labelled_rows) + len(unlabelled_rows)
            raise DataError(
                f"{count} patches are too few for a batch of {settings.batch_size}"
            )

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

    def size(self, step: int) -> int:
        """Returns how many rows a step has."""
        return self._beside + self._main_span(step)[1]

    def passes(self, steps: int) -> tuple[int, int]:
        """Returns how often, at most, a run of so many steps draws one row.

        Args:
            steps: Counted over the whole run from 0.

        Returns:
            Of a labelled row, and of an unlabelled one.
        """
        if not steps:
            return 0, 0
        start, count = self._main_span(steps - 1)
        main = self._main_stream.passes(start + count)
        if self._main_is_labelled:
            return main, 0
        return self._labelled.passes(steps * self._beside), main

    @property
    def _main_stream(self) -> "_Stream | _BalancedStream":
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


def _labelled_beside(labelled: int, unlabelled: int, settings: BatchSettings) -> int:
    """Returns how many labelled rows stand beside a batch's unlabelled ones."""
    if not labelled or not unlabelled:
        return 0
    share = max(settings.labelled_share, labelled / (labelled + unlabelled))
    wanted = round(settings.batch_size * share)
    return min(max(1, wanted), settings.batch_size - 1)


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

    def passes(self, drawn: int) -> int:
        """Returns how often one row is in the first `drawn` ones, at most."""
        return -(-drawn // max(1, len(self._pool)))

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


class _BalancedStream:
    """A pool of labelled rows, each class equally often, without end.

    Rows come in turns of one of each class, in a new order every turn; each class is
    a stream of its own.
    """

    def __init__(
        self, pool: NDArray[np.int64], labels: NDArray[np.int16], seed: int
    ) -> None:
        self._size, self._seed = len(pool), seed
        self._classes = [
            _Stream(pool[labels == label], seed, _CLASSES + int(label))
            for label in np.unique(labels)
        ]

    def __len__(self) -> int:
        return self._size

    def passes(self, drawn: int) -> int:
        """Returns how often one row is in the first `drawn` ones, at most."""
        turns = -(-drawn // len(self._classes))
        return max(stream.passes(turns) for stream in self._classes)

    def rows(self, start: int, count: int) -> list[tuple[int, int]]:
        """Returns rows at `start` and after, each with how often it was drawn."""
        drawn = []
        for position in range(start, start + count):
            turn, place = divmod(position, len(self._classes))
            order = np.random.default_rng((self._seed, _TURNS, turn))
            stream = self._classes[order.permutation(len(self._classes))[place]]
            drawn += stream.rows(turn, 1)
        return drawn
