"""Batches of a training run, each a pure function of the run's seed and the step.

Labelled patches are few and unlabelled ones many: a batch takes a fixed share from an
endlessly reshuffled stream of the labelled ones, and the rest from one pass over the
unlabelled ones. Without unlabelled patches an epoch is a pass over the labelled ones.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from moma_core.data.augment.photometric import photometric_jitter
from moma_core.data.augment.views import plain_view, render_view, view_seed
from moma_core.data.batch import Batch
from moma_core.data.patch import NO_LABEL, PatchSource
from moma_core.data.sampler import BatchPlan, BatchSettings, PlannedRow
from moma_core.errors import DataError

__all__ = ["BatchSettings", "TrainingBatches", "evaluation_batches"]

_WORKER_TIMEOUT_SECONDS = 600


class TrainingBatches:
    """The batches of one site's training run.

    Args:
        source: Where the patches come from.
        labelled_rows: Rows that enter the cross-entropy as well.
        unlabelled_rows: Rows that do not, whatever the index says; may be empty.
        settings: How batches are made.

    Raises:
        DataError: There are too few rows for one batch, or a labelled one has no label.
    """

    def __init__(
        self,
        source: PatchSource,
        *,
        labelled_rows: NDArray[np.int64],
        unlabelled_rows: NDArray[np.int64],
        settings: BatchSettings,
    ) -> None:
        if (source.index.labels[labelled_rows] == NO_LABEL).any():
            raise DataError("some labelled rows have no label")
        plan = BatchPlan(
            labelled_rows=labelled_rows,
            unlabelled_rows=unlabelled_rows,
            settings=settings,
        )
        self.steps_per_epoch = plan.steps_per_epoch
        self._steps = _StepSampler()
        self._loader = DataLoader(
            _StepDataset(source, plan, settings),
            batch_size=None,
            sampler=self._steps,
            num_workers=settings.workers,
            multiprocessing_context="spawn" if settings.workers else None,
            persistent_workers=settings.workers > 0,
            timeout=_WORKER_TIMEOUT_SECONDS if settings.workers else 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else every epoch draws from the global one
        )

    def epoch(self, epoch: int, first_step_in_epoch: int = 0) -> Iterator[Batch]:
        """Yields the batches of an epoch, the same ones whenever it is asked.

        Args:
            epoch: From 0.
            first_step_in_epoch: Where a resumed run goes on.

        Raises:
            DataError: Patches cannot be read.
        """
        if epoch < 0 or not 0 <= first_step_in_epoch <= self.steps_per_epoch:
            raise ValueError(f"no step {first_step_in_epoch} in epoch {epoch}")
        start = epoch * self.steps_per_epoch
        self._steps.range = range(
            start + first_step_in_epoch, start + self.steps_per_epoch
        )
        for loaded in self._loader:
            if isinstance(loaded, DataError):
                raise loaded
            yield loaded


def evaluation_batches(
    source: PatchSource,
    rows: NDArray[np.int64],
    *,
    view_size_px: int,
    batch_size: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields plain views, (N, 3, H, W) uint8, and labels, (N,) int64, in order.

    Rows in whose place the source gives another one are left out: a figure counts no
    patch twice.

    Raises:
        DataError: Patches cannot be read.
    """
    for start in range(0, len(rows), batch_size):
        views, labels = [], []
        for row in rows[start : start + batch_size]:
            patch = source.read(int(row))
            if not patch.is_stand_in:
                views.append(plain_view(patch.pixels, view_size_px))
                labels.append(int(source.index.labels[row]))
        if views:
            yield torch.stack(views), torch.tensor(labels)


class _StepSampler:
    """Names the steps of the epoch that is asked for."""

    range: Sequence[int] = ()

    def __iter__(self) -> Iterator[int]:
        return iter(self.range)

    def __len__(self) -> int:
        return len(self.range)


class _StepDataset(Dataset[Batch | DataError]):
    """From a step of the run to its tensors, in whichever process this is."""

    def __init__(
        self, source: PatchSource, plan: BatchPlan, settings: BatchSettings
    ) -> None:
        self._source = source
        self._plan = plan
        self._settings = settings

    def __getitem__(self, step: int) -> Batch | DataError:
        settings = self._settings
        planned = self._plan.rows(step)
        share = len(planned) // settings.world_size
        planned = planned[settings.rank * share : (settings.rank + 1) * share]
        try:
            pairs = [self._render(row) for row in planned]
        except DataError as error:
            return error  # raised by a worker it would arrive as a traceback in a text
        views = images = torch.stack([view for view, _ in pairs])
        if settings.recipe.photometric:
            images = torch.stack([image for _, image in pairs])
        return Batch(
            views,
            images,
            labels=torch.tensor([self._label(row) for row in planned]),
            step=step,
            rows=torch.tensor([row.row for row in planned]),
            view_numbers=torch.tensor(
                [settings.view_number(row.row, row.drawn_before) for row in planned]
            ),
        )

    def _render(self, planned: PlannedRow) -> tuple[Tensor, Tensor]:
        settings = self._settings
        number = settings.view_number(planned.row, planned.drawn_before)
        seed = view_seed(settings.seed, planned.row, number)
        pixels = self._source.read(planned.row).pixels
        view = render_view(pixels, seed, settings.recipe, settings.view_size_px)
        return view, photometric_jitter(view, seed, settings.recipe.photometric)

    def _label(self, planned: PlannedRow) -> int:
        labels = self._source.index.labels
        return int(labels[planned.row]) if planned.labelled else NO_LABEL


_TIMEOUT_SECONDS = 600


def view_batches(
    source: PatchSource, groups: Sequence[NDArray[np.int64]], settings: BatchSettings
) -> Iterator[Batch]:
    """Yields a batch for each group, in order; no label, and no jitter.

    Args:
        source: Where the patches come from.
        groups: (N, 2) int64 each: row and number of every view.
        settings: Those of the training run whose views they are.

    Raises:
        DataError: Patches cannot be read.
    """
    loader = DataLoader(
        _Groups(source, groups, settings),
        batch_size=None,
        num_workers=settings.workers,
        multiprocessing_context="spawn" if settings.workers else None,
        timeout=_TIMEOUT_SECONDS if settings.workers else 0,
        generator=torch.Generator(),  # else it draws from the global one
    )
    for loaded in loader:
        if isinstance(loaded, DataError):
            raise loaded
        yield loaded


class _Groups(Dataset[Batch | DataError]):
    """From a group's place to its tensors, in whichever process this is."""

    def __init__(
        self,
        source: PatchSource,
        groups: Sequence[NDArray[np.int64]],
        settings: BatchSettings,
    ) -> None:
        self._source, self._groups, self._settings = source, groups, settings

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, place: int) -> Batch | DataError:
        if place >= len(self):
            raise IndexError(place)
        group = torch.from_numpy(self._groups[place])
        try:
            views = torch.stack([self._render(*pair) for pair in group.tolist()])
        except DataError as error:
            return error  # raised by a worker it would arrive as a traceback in a text
        labels = torch.full((len(group),), NO_LABEL)
        return Batch(views, views, labels, place, group[:, 0], group[:, 1])

    def _render(self, row: int, number: int) -> torch.Tensor:
        settings = self._settings
        seed = view_seed(settings.seed, row, number)
        pixels = self._source.read(row).pixels
        return render_view(pixels, seed, settings.recipe, settings.view_size_px)
