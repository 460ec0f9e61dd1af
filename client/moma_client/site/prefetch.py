"""Fills the teacher cache before a round: one query of a view, for all students.

A round queries no view that it, or a round before it, does not show: in its first epoch
a run queries one view of each patch, as it would without a cache.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from moma_client.cache.folder import CacheFolder, RequestJournal
from moma_client.cache.views import (
    CacheVerifier,
    Rows,
    ViewSchedule,
    required_views,
    view_settings,
)
from moma_client.config.teacher import FrozenTeacherSection
from moma_client.context import RunContext
from moma_client.teacher.connect import check_same, open_teacher
from moma_client.teacher.remote_teacher import RemoteTeacher
from moma_core.data.batch import Batch
from moma_core.data.loader import view_batches
from moma_core.data.patch import TRAIN, PatchIndex, PatchSource
from moma_core.data.sources.factory import open_source
from moma_core.data.view_mask import ViewMask
from moma_core.errors import BudgetSpentError, TeacherUnavailableError
from moma_core.federation.task import RoundTask
from moma_core.teacher.cache.cached_teacher import part_of
from moma_core.teacher.cache.store import TeacherCache
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.protocol import TeacherOutput

_logger = logging.getLogger(__name__)

Slots = NDArray[np.int64]


class CachePrefetch:
    """Gets a round's views into the cache, and says which the round may show.

    One serves all rounds: it verifies only once a run what the cache's views show.

    Args:
        context: Settings, stop and metrics of this process.
        card: Card of the teacher.
        verify: Called before a query; raises a TeacherError unless the teacher has
            shown that it is the model of its card.
    """

    def __init__(
        self, context: RunContext, card: TeacherCard, *, verify: Callable[[], None]
    ) -> None:
        self._context, self._config = context, context.config
        self._card, self._verify_teacher = card, verify
        self._verifier = CacheVerifier(context.config, context.stop)

    def prepare(
        self, task: RoundTask, folder: Path, progress: Progress | None = None
    ) -> None:
        """Writes which views the round may show to the run's folder.

        Where the budget ends, the round trains on what is there.

        Args:
            task: The round.
            folder: Folder of the run.
            progress: A bar, or None in a log.

        Raises:
            DataError: There are more or fewer patches than when the run began.
            BudgetSpentError: No labelled patch has an output.
            TeacherError: A view is missing, and the teacher does not answer.
            StoppedError: The operator stops the program; outputs so far are kept.
        """
        section = self._config.teacher
        if not section.caches or task.kind != "train":
            return
        source, schedule = open_source(self._config.data), ViewSchedule(folder)
        index = source.index
        schedule.check_rows(len(index))
        epochs = task.round * task.local_epochs
        required = required_views(self._config, index, epochs)
        cache = CacheFolder(self._config).open(self._card, len(index))
        with closing(cache):
            available = self._verifier.available(cache, source, task.run)
            missing = _missing(cache, available, required)
            if sum(map(len, missing)):
                unavailable = self._fill(cache, source, section, missing, progress)
                available = self._verifier.available(cache, source, task.run)
                if unavailable and not schedule.suffices(available, index.rows(TRAIN)):
                    raise unavailable
        self._check_labelled(available, index)
        shown = schedule.fix_round(task.round, available)
        _log_missing(shown, required, index.rows(TRAIN))

    def _check_labelled(self, available: ViewMask, index: PatchIndex) -> None:
        labelled = index.rows(TRAIN, labelled=True)
        if len(labelled) and not len(available.usable(labelled)):
            raise BudgetSpentError(
                f"the budget at teacher {self._card.name} covers no labelled patch: "
                f"ask its owner for more (budget.sites.{self._config.site} in its "
                f"server.yaml); moma-client plan says how many a run needs"
            )

    def _fill(
        self,
        cache: TeacherCache,
        source: PatchSource,
        section: FrozenTeacherSection,
        missing: Sequence[Slots],
        progress: Progress | None,
    ) -> TeacherUnavailableError | None:
        """Queries until all is here, the budget is spent, or the teacher is away."""
        config, stop, metrics = self._context
        opened = open_teacher(config, ids_by_content=True, stop=stop, metrics=metrics)
        journal = RequestJournal(cache.path.with_suffix(".asked"))
        groups, kept = journal.groups(), 0
        timed = CacheFolder(config).measured(metrics)
        with opened as remote, closing(journal), timed:
            try:
                self._verify_teacher()
                check_same(remote.describe(), self._card)
                end = len(source.index) * section.views  # it may have shrunk
                pending = [group for group in groups if group.max() < end]
                groups = _groups(pending, missing, remote, config.training.seed)
                pairs = [np.stack(np.divmod(g, section.views), axis=1) for g in groups]
                batches = view_batches(source, pairs, view_settings(config))
                outputs = remote.answer_batches(_journaled(batches, groups, journal))
                for batch, output in _with_progress(outputs, groups, progress):
                    _keep(cache, batch, output)
                    kept = batch.step + 1
            except BudgetSpentError as error:
                _logger.warning("teacher cache: %s", error)
            except TeacherUnavailableError as error:
                _logger.warning("teacher cache: %s", error)
                return error
            finally:
                cache.flush()
            journal.keep(groups[kept:])
        return None


def _missing(
    cache: TeacherCache, available: ViewMask, required: Sequence[Rows]
) -> list[Slots]:
    """Returns the slots of view 0, view 1, and so on, that the cache lacks."""
    return [
        cache.slots(available.missing(rows, number), number)
        for number, rows in enumerate(required)
    ]


def _with_progress(
    pairs: Iterator[tuple[Batch, TeacherOutput]],
    groups: Sequence[Slots],
    progress: Progress | None,
) -> Iterator[tuple[Batch, TeacherOutput]]:
    """Passes pairs on, and shows how many views are still to come."""
    total = sum(map(len, groups))
    _logger.info("teacher cache: querying %d views", total)
    bar = progress.add_task("views", total=total) if progress else None
    for batch, output in pairs:
        yield batch, output
        if progress is not None and bar is not None:
            progress.advance(bar, len(batch.rows))


def _groups(
    pending: Sequence[Slots], missing: Sequence[Slots], remote: RemoteTeacher, seed: int
) -> list[Slots]:
    """Returns what to query, a request each; no more than the budget allows.

    What was requested before the program broke off comes first, in the same requests:
    they are free, unless they were refused. What may have been refused and does not fit
    the budget comes last, the smallest first: if it is refused again, it ends the
    filling. The rest is shuffled, so that the order discloses no slide and no label.
    """
    size = remote.patches_per_request()
    granted, charged = remote.budget()
    room = left = max(0, granted - charged)
    absent = np.concatenate(missing)
    again = [group for group in pending if np.isin(group, absent).any()]
    known = np.concatenate([*again, absent[:0]])
    groups = [group for group in again if len(group) <= room]
    for number, slots in enumerate(missing):
        new = slots[~np.isin(slots, known)][:left]
        left -= len(new)
        new = np.random.default_rng((seed, number)).permutation(new)
        groups += [new[start : start + size] for start in range(0, len(new), size)]
    return groups + sorted((g for g in again if len(g) > room), key=len)


def _journaled(
    batches: Iterator[Batch], groups: Sequence[Slots], journal: RequestJournal
) -> Iterator[Batch]:
    """Passes each batch on once the journal has it."""
    for batch in batches:
        journal.add(groups[batch.step])
        yield batch


def _keep(cache: TeacherCache, batch: Batch, output: TeacherOutput) -> None:
    """Keeps what is new: an output that is there may have been trained on."""
    new = cache.read(batch).missing
    part = TeacherOutput(output.embedding[new], output.logits[new])
    cache.write(part_of(batch, new), part)


def _log_missing(usable: ViewMask, required: Sequence[Rows], rows: Rows) -> None:
    """Logs how many of the views that the round requires are missing."""
    total = sum(map(len, required))
    missing = sum(
        len(usable.missing(level, number)) for number, level in enumerate(required)
    )
    if not missing:
        _logger.info("teacher cache: all %d views of this round are here", total)
        return
    _logger.warning(
        "teacher cache: %d of %d views of this round are missing: %d patches show the "
        "views that they have, %d that have none are left out",
        missing,
        total,
        len(usable.usable(rows)),
        len(rows) - len(usable.usable(rows)),
    )
