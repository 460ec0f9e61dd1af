"""A site's teachers in a run: onboarded, asked for a round's views, and weighed."""

import logging
from pathlib import Path
from typing import NamedTuple

from rich.progress import Progress

from moma_client.cache.views import ViewSchedule
from moma_client.context import RunContext
from moma_client.reports.teacher_labels import look_at_cached_labels
from moma_client.site.prefetch import CachePrefetch, fix_views
from moma_client.student.checks import look_at_fallback, look_at_task
from moma_client.student.factory import (
    SiteTeacher,
    check_students,
    needs_teachers,
    scenario_of,
)
from moma_client.student.teacher_weights import with_weights
from moma_client.teacher.onboarding import audit_sentence, onboard, verify_remote
from moma_core.data.patch import PatchSource
from moma_core.data.sources.factory import open_source
from moma_core.data.view_mask import ViewMask
from moma_core.distillation.scenario import Scenario
from moma_core.errors import ConfigError
from moma_core.federation.task import RoundTask
from moma_core.runtime.finding import heed
from moma_core.teacher.card.card import TeacherCard

_logger = logging.getLogger(__name__)


class _Known(NamedTuple):
    """A teacher that passed every check.

    Args:
        context: Of this process, with a config as if it were the only teacher.
        card: Card of the teacher.
        scenario: Which losses apply.
    """

    context: RunContext
    card: TeacherCard
    scenario: Scenario

    @property
    def caches(self) -> bool:
        """Whether its outputs are kept."""
        return self.context.config.teacher.caches


class RunTeacher:
    """One teacher through all rounds of a run.

    Args:
        known: The teacher.
        is_verified: Whether it answered its reference patch in this run.

    Attributes:
        is_compared: Whether its outputs were compared with the labels in this run.
    """

    def __init__(self, known: _Known, *, is_verified: bool) -> None:
        self.known, self._is_verified = known, is_verified
        self.is_compared = False
        self.prefetch = CachePrefetch(known.context, known.card, verify=self.verify)

    @property
    def name(self) -> str:
        """Name of the teacher, as its card has it."""
        return self.known.card.name

    def verify(self) -> None:
        """Has the teacher answer its reference patch, unless it did in this run.

        Raises:
            MismatchError: It is not the model of its card.
            TeacherError: It does not answer, or refuses.
        """
        context = self.known.context
        if self._is_verified or not context.config.teacher.is_remote:
            return
        verify_remote(context, self.known.card)
        self._is_verified = True

    def compare_labels(self, views: ViewMask | None, source: PatchSource) -> None:
        """Logs, once a run, how far cached outputs agree with the site's labels.

        Nothing is queried, and nothing of it leaves.

        Args:
            views: What the round has of this teacher; None: nothing.
            source: Patches of the site.

        Raises:
            DataError: Patches cannot be read.
        """
        if self.is_compared or views is None:
            return
        self.is_compared = True
        for found in look_at_cached_labels(self.of_round(), views, source):
            level = logging.INFO if found.state == "ok" else logging.WARNING
            _logger.log(level, "%s: %s", found.check, found.text)

    def of_round(self) -> SiteTeacher:
        """Returns what a student's round must know of it."""
        (config, _, _), card, scenario = self.known
        return SiteTeacher(config, card, scenario, self._is_verified)


class RunTeachers:
    """All teachers of a site; each has its own budget, key, cache and terms.

    Args:
        context: Settings, stop and metrics of this process.
        teachers: In the config's order.
    """

    def __init__(self, context: RunContext, teachers: tuple[RunTeacher, ...]) -> None:
        self._context, self._teachers = context, teachers

    @classmethod
    def onboard(cls, context: RunContext, source: PatchSource) -> "RunTeachers":
        """Returns the site's teachers once every one has passed every check.

        Raises:
            MomaError: One has not, or two have one name.
        """
        configs = context.config.each_teacher
        found = [_onboarded(context._replace(config=each), source) for each in configs]
        names = [teacher.name for teacher in found]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"two of the teachers are called {name}")
        scenarios = [teacher.known.scenario for teacher in found]
        if len(found) > 1:  # of one it is said with its card
            heed(look_at_fallback(context.config, scenarios), _logger)
        return cls(context, tuple(found))

    def of_round(self) -> tuple[SiteTeacher, ...]:
        """Returns them as a round knows them before its views are there."""
        return tuple(teacher.of_round() for teacher in self._teachers)

    def prepare(
        self, task: RoundTask, folder: Path, progress: Progress | None
    ) -> tuple[SiteTeacher, ...]:
        """Returns a round's teachers, once the caches have what it requires.

        A teacher whose outputs are kept and that is away, or whose budget ended, is
        left out where it said nothing; one that is asked in each step is waited for.
        Where no student needs one, none is asked.

        Raises:
            MomaError: A teacher is away that the round needs, or is not who it was.
        """
        scenarios = [teacher.known.scenario for teacher in self._teachers]
        if not needs_teachers(self._context.config, scenarios):
            return self.of_round()
        if task.kind == "train":
            for teacher in self._teachers:
                if not teacher.known.caches:
                    teacher.verify()
        if len(self._teachers) == 1:
            return (self._prepared_alone(task, folder, progress),)
        source = open_source(self._context.config.data)
        if task.kind == "train":
            self._fix_views(task, folder, source, progress)
        found = [teacher.of_round() for teacher in self._teachers]
        views = {
            teacher.name: ViewSchedule(folder, teacher.name).of_round(task.round)
            for teacher in self._teachers
            if teacher.known.caches
        }
        for teacher in self._teachers:
            teacher.compare_labels(views.get(teacher.name), source)
        known = {name: mask for name, mask in views.items() if mask is not None}
        return with_weights(found, known, source, folder, task)

    def _prepared_alone(
        self, task: RoundTask, folder: Path, progress: Progress | None
    ) -> SiteTeacher:
        (teacher,) = self._teachers
        teacher.prefetch.prepare(task, folder, progress)
        is_wanted = teacher.known.caches and not teacher.is_compared
        if is_wanted and task.kind == "train":
            views = ViewSchedule(folder).of_round(task.round)
            teacher.compare_labels(views, open_source(self._context.config.data))
        return teacher.of_round()

    def _fix_views(
        self,
        task: RoundTask,
        folder: Path,
        source: PatchSource,
        progress: Progress | None,
    ) -> None:
        cached = [teacher for teacher in self._teachers if teacher.known.caches]
        if not cached:
            return
        ViewSchedule(folder).check_rows(len(source.index))
        gathered = {
            teacher.name: teacher.prefetch.gather(task, source, progress)
            for teacher in cached
        }
        others = len(cached) < len(self._teachers)
        fix_views(gathered, source, folder, task, others=others)


def _onboarded(context: RunContext, source: PatchSource) -> RunTeacher:
    config = context.config
    card, terms, is_verified = onboard(
        context, lambda card: check_students(config, card, source)
    )
    _logger.info("teacher %s (%s): %s", card.name, card.architecture, terms)
    _logger.info("its membership audit: %s", audit_sentence(card))
    scenario = scenario_of(config, card, source.class_names)
    _logger.info("scenario %s", scenario)
    for line in scenario.details:
        _logger.info("%s", line)
    heed(look_at_task(config, source, card), _logger)
    return RunTeacher(_Known(context, card, scenario), is_verified=is_verified)
