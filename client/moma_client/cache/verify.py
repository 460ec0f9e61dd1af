"""Which views of a site's patches the cache has answers to, by what they show.

A record's place names a row, and not what lies there: where a manifest gets one line
more, every row after it shows what another one did. So what is held is rendered once a
run, and what is held of other pixels counts as missing.
"""

import logging
import threading

import numpy as np
from numpy.typing import NDArray

from moma_client.cache.demand import cached_views, view_settings
from moma_client.config.site import SiteConfig
from moma_core.data.loader import view_batches
from moma_core.data.patch import TRAIN, PatchSource
from moma_core.data.view_mask import ViewMask
from moma_core.errors import StoppedError
from moma_core.teacher.cache.store import TeacherCache

_logger = logging.getLogger(__name__)

Slots = NDArray[np.int64]


class CacheVerifier:
    """Knows what it found for as long as the program does the same run.

    Args:
        config: The site's; keeps views.
        stop: Set by the operator.
    """

    def __init__(self, config: SiteConfig, stop: threading.Event) -> None:
        self._settings, self._stop = view_settings(config), stop
        self._run = ""
        self._strange = np.empty(0, np.int64)  # places of other pixels

    def table(self, cache: TeacherCache, source: PatchSource, run: str) -> ViewMask:
        """Returns the views of the training split whose answers are there.

        Raises:
            DataError: Patches cannot be read.
            StoppedError: The operator stops the program.
        """
        views = self._settings.views
        held = cached_views(cache, source.index, views)
        suspect = self._strange
        if run != self._run:
            suspect = _places(held, source.index.rows(TRAIN), views)
        self._strange, self._run = self._of_other_pixels(cache, source, suspect), run
        return _without(held, self._strange, views)

    def _of_other_pixels(
        self, cache: TeacherCache, source: PatchSource, places: Slots
    ) -> Slots:
        if not len(places):
            return places
        _logger.info(
            "teacher cache: looking whether %d views are as asked", len(places)
        )
        size, strange = self._settings.batch_size, [places[:0]]
        groups = [places[at : at + size] for at in range(0, len(places), size)]
        pairs = [np.stack(np.divmod(g, self._settings.views), axis=1) for g in groups]
        for batch in view_batches(source, pairs, self._settings):
            if self._stop.is_set():
                raise StoppedError("stopped while looking through the teacher cache")
            strange.append(groups[batch.step][cache.read(batch).missing.numpy()])
        found = np.concatenate(strange)
        if len(found):
            _logger.warning(
                "teacher cache: %d views show other pixels than those asked about: "
                "patches moved or changed, and these views count as missing",
                len(found),
            )
        return found


def _places(held: ViewMask, rows: NDArray[np.int64], views: int) -> Slots:
    """Returns the places of all views that are held, by row."""
    numbers = np.arange(views, dtype=np.uint64)
    bits = held.masks[rows, None] >> numbers & np.uint64(1)  # (N, V)
    found, number = np.nonzero(bits)
    return np.asarray(rows[found] * views + number, np.int64)


def _without(held: ViewMask, places: Slots, views: int) -> ViewMask:
    masks = held.masks.copy()
    rows, numbers = np.divmod(places, views)
    np.bitwise_and.at(masks, rows, ~(np.uint64(1) << numbers.astype(np.uint64)))
    return ViewMask(masks)
