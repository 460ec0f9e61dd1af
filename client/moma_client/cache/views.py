"""Which views of its patches a site requires, which are available, and each round's.

A slot of the cache names a row, and not what lies there: where a manifest gets one line
more, every row after it shows what another one did. So what is available is rendered
once a run, and what was requested of other pixels counts as missing.

A round's mask is made once, so that a killed round goes on with the views that it
began with. Which patches take part at all is fixed by the run's first mask.
"""

import logging
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moma_client.config.site import SiteConfig
from moma_core.data.augment.recipe import recipe_named
from moma_core.data.loader import view_batches
from moma_core.data.patch import TRAIN, PatchIndex, PatchSource
from moma_core.data.sampler import BatchPlan, BatchSettings
from moma_core.data.view_mask import ViewMask
from moma_core.errors import DataError, StoppedError, TeacherUnavailableError
from moma_core.runtime.files import make_folder
from moma_core.teacher.cache.store import TeacherCache
from moma_core.training.devices import loading_workers

_logger = logging.getLogger(__name__)

Rows = NDArray[np.int64]
Slots = NDArray[np.int64]


def view_settings(config: SiteConfig) -> BatchSettings:
    """Returns how a site's batches are made, all ranks together."""
    training = config.training
    return BatchSettings(
        batch_size=training.batch_size,
        labelled_share=training.labelled_share,
        seed=training.seed,
        recipe=recipe_named(config.views),
        view_size_px=config.view_size_px,
        views=config.kept_views,
        balanced=training.balance == "sampler",
        workers=loading_workers(training),
        prefetch=training.prefetch_batches,
        world_size=training.devices,
    )


def batch_plan(config: SiteConfig, index: PatchIndex) -> BatchPlan:
    """Returns the rows of every step of a run on all patches.

    Raises:
        DataError: There are too few for one batch.
    """
    return BatchPlan(
        labelled_rows=index.rows(TRAIN, labelled=True),
        unlabelled_rows=index.rows(TRAIN, labelled=False),
        settings=view_settings(config),
        labels=index.labels,
    )


def required_views(
    config: SiteConfig, index: PatchIndex, epochs: int | None
) -> list[Rows]:
    """Returns the rows of which a run shows view 0, view 1, and so on.

    Labelled rows stand first: where a budget ends, they are the last to lose a view.

    Args:
        config: Settings of this site, whose teacher's outputs are cached.
        index: Index of the site's patches.
        epochs: Epochs of the run so far; None for every view.

    Raises:
        DataError: There are too few patches for one batch.
    """
    views = view_settings(config).views
    labelled = index.rows(TRAIN, labelled=True)
    unlabelled = index.rows(TRAIN, labelled=False)
    often = (views, views)
    if epochs is not None:
        plan = batch_plan(config, index)
        often = plan.passes(epochs * plan.steps_per_epoch)
    return [
        np.concatenate(
            [
                labelled if number < max(1, often[0]) else labelled[:0],
                unlabelled if number < max(1, often[1]) else unlabelled[:0],
            ]
        )
        for number in range(views)
    ]


def available_views(cache: TeacherCache, index: PatchIndex, views: int) -> ViewMask:
    """Returns the views of the training split that the cache holds whole, by slot."""
    masks = np.zeros(len(index), np.uint64)
    rows = index.rows(TRAIN)
    for number in range(views):
        present = cache.present(cache.slots(rows, number))
        masks[rows] |= present.astype(np.uint64) << np.uint64(number)
    return ViewMask(masks)


class CacheVerifier:
    """Finds the cached views that are stale; what it found holds for one run.

    Args:
        config: Settings of this site, whose teacher's outputs are cached.
        stop: Set by the operator.
    """

    def __init__(self, config: SiteConfig, stop: threading.Event) -> None:
        self._settings, self._stop = view_settings(config), stop
        self._run = ""
        self._stale = np.empty(0, np.int64)  # slots of other pixels

    @property
    def stale(self) -> Slots:
        """Slots of views that were requested, and show other pixels now."""
        return self._stale

    def available(self, cache: TeacherCache, source: PatchSource, run: str) -> ViewMask:
        """Returns the views of the training split whose outputs are cached.

        Raises:
            DataError: Patches cannot be read.
            StoppedError: The operator stops the program.
        """
        views = self._settings.views
        available = available_views(cache, source.index, views)
        suspect = self._stale
        if run != self._run:
            suspect = _slots(available, source.index.rows(TRAIN), views)
        self._stale, self._run = self._stale_of(cache, source, suspect), run
        return _without(available, self._stale, views)

    def _stale_of(
        self, cache: TeacherCache, source: PatchSource, slots: Slots
    ) -> Slots:
        if not len(slots):
            return slots
        _logger.info("teacher cache: checking whether %d views are stale", len(slots))
        size, stale = self._settings.batch_size, [slots[:0]]
        groups = [slots[at : at + size] for at in range(0, len(slots), size)]
        pairs = [np.stack(np.divmod(g, self._settings.views), axis=1) for g in groups]
        for batch in view_batches(source, pairs, self._settings):
            if self._stop.is_set():
                raise StoppedError("stopped while checking the teacher cache")
            stale.append(groups[batch.step][cache.read(batch).missing.numpy()])
        found = np.concatenate(stale)
        if len(found):
            _logger.warning(
                "teacher cache: %d views are stale, they show other pixels than those "
                "requested: patches moved or changed, and these views count as missing",
                len(found),
            )
        return found


def _slots(available: ViewMask, rows: Rows, views: int) -> Slots:
    """Returns the slots of all available views, by row."""
    numbers = np.arange(views, dtype=np.uint64)
    bits = available.masks[rows, None] >> numbers & np.uint64(1)  # (N, V)
    found, number = np.nonzero(bits)
    return np.asarray(rows[found] * views + number, np.int64)


def _without(available: ViewMask, slots: Slots, views: int) -> ViewMask:
    masks = available.masks.copy()
    rows, numbers = np.divmod(slots, views)
    np.bitwise_and.at(masks, rows, ~(np.uint64(1) << numbers.astype(np.uint64)))
    return ViewMask(masks)


class ViewSchedule:
    """The masks of one run's rounds, on the site's disk.

    Args:
        folder: The run's folder.
        teacher: Name of one of several teachers, whose own masks these are; empty: of
            what the site's batches show.
    """

    def __init__(self, folder: Path, teacher: str = "") -> None:
        self._folder = folder / "views" / teacher

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

    def suffices(self, available: ViewMask, rows: Rows) -> bool:
        """Whether each of these patches has a view, or the run began without it."""
        kept = sorted(self._folder.glob("*.npy"))
        needed = ViewMask.load(kept[0]).usable(rows) if kept else rows
        return len(available.usable(needed)) == len(needed)

    def fix_round(self, round_number: int, available: ViewMask) -> ViewMask:
        """Returns and keeps a round's mask, made of the views that are available.

        Raises:
            TeacherUnavailableError: A patch that took part so far has no view left.
        """
        make_folder(self._folder)
        mask, path = available, self._path(round_number)
        kept = sorted(self._folder.glob("*.npy"))
        if path in kept:
            mask = mask.intersection(ViewMask.load(path))
        if kept:
            first = ViewMask.load(kept[0])
            mask = mask.of_rows_in(first)
            lost = np.count_nonzero((first.masks != 0) & (mask.masks == 0))
            if lost:
                raise TeacherUnavailableError(
                    f"the teacher cache has lost every view of {lost} patches of "
                    f"this run"
                )
        mask.save(path)
        return mask

    def fix_share(self, round_number: int, available: ViewMask) -> ViewMask:
        """Returns and keeps the round's mask of one of several teachers.

        It may grow from round to round, and be empty: the others answer meanwhile.
        """
        make_folder(self._folder)
        path = self._path(round_number)
        if path.exists():
            available = available.intersection(ViewMask.load(path))
        available.save(path)
        return available

    def of_round(self, round_number: int) -> ViewMask | None:
        """Returns the mask of a round, or of the last one before it that has one."""
        last = self._path(round_number)
        known = [path for path in sorted(self._folder.glob("*.npy")) if path <= last]
        return ViewMask.load(known[-1]) if known else None

    def _path(self, round_number: int) -> Path:
        return self._folder / f"{round_number:06}.npy"
