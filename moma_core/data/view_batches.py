"""Chosen views of chosen patches, rendered without a training run around them."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from moma_core.data.augment.views import render_view, view_seed
from moma_core.data.batch import Batch
from moma_core.data.patch import NO_LABEL, PatchSource
from moma_core.data.sampler import BatchSettings
from moma_core.errors import DataError

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
