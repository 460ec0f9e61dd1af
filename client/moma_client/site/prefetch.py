"""Fills the teacher cache before a round: asks once for all students of the site.

A round asks for no view that it, or a round before it, does not show: in its first
epoch a run asks for one view of each patch, as it would without a cache.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from moma_client.cache.folder import CacheFolder, RequestJournal, cached_section
from moma_client.cache.views import (
    CacheVerifier,
    Rows,
    ViewSchedule,
    required_views,
    view_settings,
)
from moma_client.config.site import SiteConfig
from moma_client.config.teacher import FrozenTeacherSection
from moma_client.metrics import ClientMetrics
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

    One serves all rounds: it looks only once a run at what the cache's views show.

    Args:
        config: The site's.
        card: The teacher's.
        stop: Set by the operator.
        metrics: The site's.
        verify: Called before the teacher is asked; raises a TeacherError unless it has
            shown that it is the model of its card.
    """

    def __init__(
        self,
        config: SiteConfig,
        card: TeacherCard,
        stop: threading.Event,
        metrics: ClientMetrics,
        *,
        verify: Callable[[], None],
    ) -> None:
        self._config, self._card, self._verify_teacher = config, card, verify
        self._stop, self._metrics = stop, metrics
        self._verifier = CacheVerifier(config, stop)

    def prepare(
        self, task: RoundTask, folder: Path, progress: Progress | None = None
    ) -> None:
        """Leaves the round's table of views in the run's folder.

        Where the budget ends, the round trains on what is there.

        Args:
            task: The round.
            folder: Of the run.
            progress: A bar, or None in a log.

        Raises:
            DataError: There are more or fewer patches than when the run began.
            BudgetSpentError: Not one labelled patch has an answer.
            TeacherError: A view is missing, and the teacher does not answer.
            StoppedError: The operator stops the program; what was answered is kept.
        """
        section = cached_section(self._config)
        if section is None or task.kind != "train":
            return
        source, schedule = open_source(self._config.data), ViewSchedule(folder)
        schedule.check_rows(len(source.index))
        epochs = task.round * task.local_epochs
        required = required_views(self._config, source.index, epochs)
        cache = CacheFolder(self._config).open(self._card, len(source.index))
        with closing(cache):
            available = self._verifier.available(cache, source, task.run)
            missing = [
                cache.slots(available.missing(rows, number), number)
                for number, rows in enumerate(required)
            ]
            if sum(map(len, missing)):
                away = self._fill(cache, source, section, missing, progress)
                available = self._verifier.available(cache, source, task.run)
                if away and not schedule.suffices(available, source.index.rows(TRAIN)):
                    raise away
        self._check_labelled(available, source.index)
        usable = schedule.fix_round(task.round, available)
        _log_missing(usable, required, source.index.rows(TRAIN))

    def _check_labelled(self, available: ViewMask, index: PatchIndex) -> None:
        labelled = index.rows(TRAIN, labelled=True)
        if len(labelled) and not len(available.usable(labelled)):
            raise BudgetSpentError(
                f"the budget at teacher {self._card.name} covers no labelled patch: "
                f"ask its owner for more (budget.sites.{self._config.site} in its "
                f"server.yaml); moma-client plan says how many a run asks"
            )

    def _fill(
        self,
        cache: TeacherCache,
        source: PatchSource,
        section: FrozenTeacherSection,
        missing: Sequence[Slots],
        progress: Progress | None,
    ) -> TeacherUnavailableError | None:
        """Asks until all is here, the budget is spent, or the teacher is away."""
        opened = open_teacher(
            self._config, ids_by_content=True, stop=self._stop, metrics=self._metrics
        )
        journal = RequestJournal(cache.path.with_suffix(".asked"))
        groups, kept = journal.groups(), 0
        timed = CacheFolder(self._config).measured(self._metrics)
        with opened as remote, closing(journal), timed:
            try:
                self._verify_teacher()
                check_same(remote.describe(), self._card)
                end = len(source.index) * section.views  # it may have shrunk
                asked = [group for group in groups if group.max() < end]
                seed = self._config.training.seed
                groups = _groups(asked, missing, remote, seed)
                pairs = [np.stack(np.divmod(g, section.views), axis=1) for g in groups]
                batches = view_batches(source, pairs, view_settings(self._config))
                answering = remote.answer_batches(_noted(batches, groups, journal))
                for batch, answer in _shown(answering, groups, progress):
                    _keep(cache, batch, answer)
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


def _shown(
    pairs: Iterator[tuple[Batch, TeacherOutput]],
    groups: Sequence[Slots],
    progress: Progress | None,
) -> Iterator[tuple[Batch, TeacherOutput]]:
    """Passes pairs on, and shows how many views are still to come."""
    total = sum(map(len, groups))
    _logger.info("teacher cache: asking for %d views", total)
    bar = progress.add_task("views", total=total) if progress else None
    for batch, answer in pairs:
        yield batch, answer
        if progress is not None and bar is not None:
            progress.advance(bar, len(batch.rows))


def _groups(
    asked: Sequence[Slots], missing: Sequence[Slots], remote: RemoteTeacher, seed: int
) -> list[Slots]:
    """Returns what to ask, a request each; no more than the budget allows.

    What was asked before the program broke off comes first, as it was asked: it is
    free, unless it was refused. What may have been refused and does not fit the budget
    comes last, the smallest first: if it is refused again, it ends the filling. The
    rest is shuffled, so that no slide and no label is told by the order.
    """
    size = remote.patches_per_request()
    granted, charged = remote.budget()
    room = left = max(0, granted - charged)
    lacking = np.concatenate(missing)
    again = [group for group in asked if np.isin(group, lacking).any()]
    known = np.concatenate([*again, lacking[:0]])
    groups = [group for group in again if len(group) <= room]
    for number, slots in enumerate(missing):
        new = slots[~np.isin(slots, known)][:left]
        left -= len(new)
        new = np.random.default_rng((seed, number)).permutation(new)
        groups += [new[start : start + size] for start in range(0, len(new), size)]
    return groups + sorted((g for g in again if len(g) > room), key=len)


def _noted(
    batches: Iterator[Batch], groups: Sequence[Slots], journal: RequestJournal
) -> Iterator[Batch]:
    """Passes each batch on once the journal has it."""
    for batch in batches:
        journal.add(groups[batch.step])
        yield batch


def _keep(cache: TeacherCache, batch: Batch, answer: TeacherOutput) -> None:
    """Keeps what is new: an answer that is there may have been trained on."""
    new = cache.read(batch).missing
    part = TeacherOutput(answer.embedding[new], answer.logits[new])
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
