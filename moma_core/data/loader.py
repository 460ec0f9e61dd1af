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
from moma_core.data.sampler import BatchPlan, BatchSettings
from moma_core.errors import DataError

__all__ = ["BatchSettings", "TrainingBatches", "evaluation_batches", "view_batches"]

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
            labels=source.index.labels,
        )
        labels = source.index.labels[labelled_rows]
        self._class_sizes = np.bincount(labels, minlength=len(source.class_names))
        self.steps_per_epoch = plan.steps_per_epoch
        self._steps = _StepSampler()
        self._loader = DataLoader(
            _StepDataset(source, plan, settings),
            batch_size=None,
            sampler=self._steps,
            num_workers=settings.workers,
            prefetch_factor=settings.prefetch if settings.workers else None,
            multiprocessing_context="spawn" if settings.workers else None,
            persistent_workers=settings.workers > 0,
            timeout=_WORKER_TIMEOUT_SECONDS if settings.workers else 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else every epoch draws from the global one
        )

    def class_weights(self) -> Tensor:
        """Returns (C,) weights, one over a class's size, 1 on the labelled average."""
        sizes = self._class_sizes
        present = np.count_nonzero(sizes)
        weights = sizes.sum() / (max(1, present) * np.maximum(1, sizes))
        return torch.from_numpy(np.where(sizes > 0, weights, 1.0)).float()

    def epoch(self, epoch: int, first_step_in_epoch: int = 0) -> Iterator[Batch]:
        """Yields the batches of an epoch, the same ones whenever it is called.

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
        yield from _batches_or_raise(self._loader)


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
        _GroupDataset(source, groups, settings),
        batch_size=None,
        num_workers=settings.workers,
        prefetch_factor=settings.prefetch if settings.workers else None,
        multiprocessing_context="spawn" if settings.workers else None,
        timeout=_WORKER_TIMEOUT_SECONDS if settings.workers else 0,
        generator=torch.Generator(),  # else it draws from the global one
    )
    yield from _batches_or_raise(loader)


def evaluation_batches(
    source: PatchSource,
    rows: NDArray[np.int64],
    *,
    view_size_px: int,
    batch_size: int = 64,
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


def _batches_or_raise(loader: DataLoader[Batch | DataError]) -> Iterator[Batch]:
    """Raises what a dataset returns: from a worker it would come as a traceback."""
    for loaded in loader:
        if isinstance(loaded, DataError):
            raise loaded
        yield loaded


class _StepSampler:
    """Names the steps of one epoch."""

    range: Sequence[int] = ()

    def __iter__(self) -> Iterator[int]:
        return iter(self.range)

    def __len__(self) -> int:
        return len(self.range)


class _RenderedViews(Dataset[Batch | DataError]):
    """Views of a source's patches, rendered in whichever process this is."""

    def __init__(self, source: PatchSource, settings: BatchSettings) -> None:
        self._source, self._settings = source, settings

    def _render(self, row: int, number: int) -> Tensor:
        pixels = self._source.read(row).pixels
        settings = self._settings
        seed = view_seed(settings.seed, row, number)
        return render_view(pixels, seed, settings.recipe, settings.view_size_px)

    def _jittered(self, view: Tensor, row: int, number: int) -> Tensor:
        seed = view_seed(self._settings.seed, row, number)
        return photometric_jitter(view, seed, self._settings.recipe.photometric)


class _StepDataset(_RenderedViews):
    """From a step of the run to its batch."""

    def __init__(
        self, source: PatchSource, plan: BatchPlan, settings: BatchSettings
    ) -> None:
        super().__init__(source, settings)
        self._plan = plan

    def __getitem__(self, step: int) -> Batch | DataError:
        settings = self._settings
        planned = self._plan.rows(step)
        share = len(planned) // settings.world_size
        planned = planned[settings.rank * share : (settings.rank + 1) * share]
        shown = [
            (each.row, settings.view_number(each.row, each.drawn_before))
            for each in planned
        ]
        try:
            views = torch.stack([self._render(*view) for view in shown])
        except DataError as error:
            return error
        images = views
        if settings.recipe.photometric:
            pairs = zip(views, shown, strict=True)
            images = torch.stack([self._jittered(view, *at) for view, at in pairs])
        labels = self._source.index.labels
        known = [
            int(labels[each.row]) if each.labelled else NO_LABEL for each in planned
        ]
        rows, numbers = map(torch.tensor, zip(*shown, strict=True))
        return Batch(views, images, torch.tensor(known), step, rows, numbers)


class _GroupDataset(_RenderedViews):
    """From a group's place to its batch."""

    def __init__(
        self,
        source: PatchSource,
        groups: Sequence[NDArray[np.int64]],
        settings: BatchSettings,
    ) -> None:
        super().__init__(source, settings)
        self._groups = groups

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, place: int) -> Batch | DataError:
        if place >= len(self):
            raise IndexError(place)
        group = torch.from_numpy(self._groups[place])
        try:
            views = torch.stack([self._render(*pair) for pair in group.tolist()])
        except DataError as error:
            return error
        labels = torch.full((len(group),), NO_LABEL)
        return Batch(views, views, labels, place, group[:, 0], group[:, 1])
