"""Fills the teacher cache before a round: one query of a view, for all students.

A round queries no view that it, or a round before it, does not show: in its first epoch
a run queries one view of each patch, as it would without a cache.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import NamedTuple

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
        if not self._config.teacher.caches or task.kind != "train":
            return
        source = open_source(self._config.data)
        ViewSchedule(folder).check_rows(len(source.index))
        fix_views({"": self.gather(task, source, progress)}, source, folder, task)

    def gather(
        self, task: RoundTask, source: PatchSource, progress: Progress | None = None
    ) -> "Gathered":
        """Queries what the round requires and the cache lacks, as far as it can.

        Raises:
            TeacherError: The teacher refuses, for another reason than its budget.
            StoppedError: The operator stops the program; outputs so far are kept.
        """
        section = self._config.teacher
        if not section.caches:
            raise ValueError("no output of this teacher is cached")
        index, epochs = source.index, task.round * task.local_epochs
        required = required_views(self._config, index, epochs)
        cache = CacheFolder(self._config).open(self._card, len(index))
        unavailable = None
        with closing(cache):
            available = self._verifier.available(cache, source, task.run)
            missing = _missing(cache, available, required)
            if sum(map(len, missing)):
                unavailable = self._fill(cache, source, section, missing, progress)
                available = self._verifier.available(cache, source, task.run)
        return Gathered(
            self._config.site, self._card.name, required, available, unavailable
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
        every = config.training.log_every_seconds
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
                _log_queries(groups, self._verifier.stale)
                pairs = [np.stack(np.divmod(g, section.views), axis=1) for g in groups]
                batches = view_batches(source, pairs, view_settings(config))
                outputs = remote.answer_batches(_journaled(batches, groups, journal))
                for batch, output in _with_progress(outputs, groups, progress, every):
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


class Gathered(NamedTuple):
    """What the cache of one teacher holds for a round.

    Args:
        site: Name of this site.
        teacher: Name of the teacher.
        required: Rows of which the round requires view 0, view 1, and so on.
        available: The views that are cached.
        unavailable: Why not all are; None: they are, or the budget ended.
    """

    site: str
    teacher: str
    required: Sequence[Rows]
    available: ViewMask
    unavailable: TeacherUnavailableError | None


def fix_views(
    gathered: Mapping[str, Gathered],
    source: PatchSource,
    folder: Path,
    task: RoundTask,
    *,
    others: bool = False,
) -> None:
    """Writes which views a round shows, and, of several teachers, whose they are.

    A batch shows what one teacher at least has answered. So one that is away, or whose
    budget ended, says nothing of some patches, and the others do.

    Args:
        gathered: By name; under an empty one: of the site's only teacher.
        source: Patches of the site.
        folder: Folder of the run.
        task: The round.
        others: Whether there is a teacher beside these that answers every view.

    Raises:
        BudgetSpentError: No labelled patch has an output.
        TeacherUnavailableError: A patch has none, and a teacher was away.
    """
    index, schedule = source.index, ViewSchedule(folder)
    rows, first = index.rows(TRAIN), next(iter(gathered.values()))
    whole = ViewMask.whole(len(index), rows, len(first.required) if others else 0)
    shown = reduce(ViewMask.union, (e.available for e in gathered.values()), whole)
    away = [each.unavailable for each in gathered.values() if each.unavailable]
    if away and not schedule.suffices(shown, rows):
        raise away[0]
    _check_labelled(first, shown, index)
    for name, each in gathered.items():
        if name:
            own = ViewSchedule(folder, name).fix_share(task.round, each.available)
            _log_missing(own, each, rows)
    shown = schedule.fix_round(task.round, shown)
    if "" in gathered:
        _log_missing(shown, first, rows)


def _check_labelled(one: Gathered, shown: ViewMask, index: PatchIndex) -> None:
    labelled = index.rows(TRAIN, labelled=True)
    if len(labelled) and not len(shown.usable(labelled)):
        raise BudgetSpentError(
            f"the budget at teacher {one.teacher} covers no labelled patch: ask its "
            f"owner for more (budget.sites.{one.site} in its server.yaml); moma-client "
            f"plan says how many a run needs"
        )


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
    every_seconds: float,
) -> Iterator[tuple[Batch, TeacherOutput]]:
    """Passes pairs on, and shows how many views are still to come.

    Args:
        pairs: Views and what the teacher says of them.
        groups: All that are queried.
        progress: Shows a bar; None: the log gets a line instead.
        every_seconds: So often; 0: never.
    """
    total, done = sum(map(len, groups)), 0
    bar = progress.add_task("views", total=total) if progress else None
    begun = logged = time.monotonic()
    for batch, output in pairs:
        yield batch, output
        done += len(batch.rows)
        now = time.monotonic()
        if progress is not None and bar is not None:
            progress.advance(bar, len(batch.rows))
        elif every_seconds and now - logged >= every_seconds:
            _log_pace(done, total, now - begun)
            logged = now


def _log_queries(groups: Sequence[Slots], stale: Slots) -> None:
    """Logs how many views are queried, and how many of them a second time."""
    queried = np.concatenate([*groups, stale[:0]])
    _logger.info("teacher cache: querying %d views", len(queried))
    again = int(np.isin(queried, stale).sum())
    if again:
        _logger.warning(
            "teacher cache: %d of these views were queried before, and their pictures "
            "changed since: they are charged to the budget again",
            again,
        )


def _log_pace(done: int, total: int, seconds: float) -> None:
    rate = done / max(seconds, 1e-9)
    _logger.info(
        "teacher cache: %d of %d views, %.0f a second, %s left",
        done,
        total,
        rate,
        timedelta(seconds=round((total - done) / rate)),
    )


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


def _log_missing(usable: ViewMask, one: Gathered, rows: Rows) -> None:
    """Logs how many of the views that the round requires are missing."""
    total = sum(map(len, one.required))
    missing = sum(
        len(usable.missing(level, number)) for number, level in enumerate(one.required)
    )
    if not missing:
        _logger.info(
            "teacher cache of %s: all %d views of this round are here",
            one.teacher,
            total,
        )
        return
    _logger.warning(
        "teacher cache of %s: %d of %d views of this round are missing: %d patches "
        "show the views that they have, %d that have none are left out",
        one.teacher,
        missing,
        total,
        len(usable.usable(rows)),
        len(rows) - len(usable.usable(rows)),
    )
