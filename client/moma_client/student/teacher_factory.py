"""From the config's teacher section to a teacher that answers a student's batches."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from lightning_fabric import Fabric
from torch import nn

from moma_client.cache.folder import CacheFolder
from moma_client.cache.views import ViewSchedule
from moma_client.config.teacher import (
    FrozenTeacherSection,
    LocalTeacherSection,
    MomentumTeacherSection,
)
from moma_client.context import RunContext
from moma_client.student.factory import (
    SiteTeacher,
    StudentJob,
    check_architecture,
    ema_terms,
)
from moma_client.teacher.connect import check_same, open_teacher
from moma_client.teacher.momentum import MomentumPlan, RemoteMomentumTeacher
from moma_client.teacher.remote_teacher import RemoteTeacher
from moma_core.data.view_mask import ViewMask
from moma_core.distillation.methods.names import need_of
from moma_core.errors import RefusedError, TeacherUnavailableError
from moma_core.models.backbone import Normalise
from moma_core.models.encoder import Encoder
from moma_core.teacher.cache.cached_teacher import CachedTeacher
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.local import (
    AbsentTeacher,
    FrozenTeacher,
    MomentumTeacher,
    load_network,
)
from moma_core.teacher.protocol import AnyOutput, OutputSource, Teacher
from moma_core.teacher.several import OneOfSeveral, SeveralTeachers

_logger = logging.getLogger(__name__)


@contextmanager
def student_teacher(
    job: StudentJob, student: Encoder, fabric: Fabric, rows: int, context: RunContext
) -> Iterator[OutputSource[AnyOutput]]:
    """Yields who answers in one student's round; a remote teacher is closed after it.

    Args:
        job: What the student does.
        student: Network that a teacher which is updated follows.
        fabric: Launched; this is one of its ranks.
        rows: Patches of the site's source.
        context: Settings, stop and metrics of this process.
    """
    is_several = len(job.teachers) > 1
    if not job.distils or (is_several and job.task.kind == "close"):
        yield AbsentTeacher()
        return
    with ExitStack() as opened:
        teachers = [
            opened.enter_context(_one(job, each, student, fabric, rows, context))
            for each in job.teachers
        ]
        if not is_several:
            yield teachers[0]
        else:
            views = [_views(job, each) for each in job.teachers]
            yield SeveralTeachers(list(map(OneOfSeveral, teachers, views)))


def _views(job: StudentJob, teacher: SiteTeacher) -> ViewMask | None:
    """Returns the views that one of several teachers answered, or answers, all."""
    if not teacher.config.teacher.caches:
        return None
    schedule = ViewSchedule(job.folder.parent, teacher.card.name)
    return schedule.of_round(job.task.round)


@contextmanager
def _one(
    job: StudentJob,
    teacher: SiteTeacher,
    student: Encoder,
    fabric: Fabric,
    rows: int,
    context: RunContext,
) -> Iterator[Teacher]:
    """Yields one teacher."""
    config, section = teacher.config, teacher.config.teacher
    is_closing = job.task.kind == "close"
    if not section.is_remote:
        yield _local(job, teacher, section, student, fabric)
    elif is_closing and not job.updates_teacher:
        yield AbsentTeacher()
    elif section.caches:
        with _cached(teacher, rows, context) as cached:
            yield cached
    else:
        # Each rank has other patches in a step, so its request ids must differ.
        key = job.run_key + fabric.global_rank.to_bytes(2, "big")
        _, stop, metrics = context
        with open_teacher(
            config, request_key=key, stop=stop, metrics=metrics
        ) as remote:
            if not is_closing:  # when nothing is requested any more
                _check_card(remote.describe(), job, teacher)
            timed = CacheFolder(config).measured(metrics, ranks=fabric.world_size)
            try:
                with timed:
                    yield _online(job, teacher, section, remote, student)
            finally:
                waited = remote.waited_seconds
                _logger.info("the loop waited %.1f s for the teacher's outputs", waited)


@contextmanager
def _cached(
    teacher: SiteTeacher, rows: int, context: RunContext
) -> Iterator[CachedTeacher]:
    """Yields the cache's outputs; the teacher is queried for a missing view only."""
    cache = CacheFolder(teacher.config).open(teacher.card, rows)
    _, stop, metrics = context

    def verified() -> RemoteTeacher:
        if not teacher.is_verified:
            raise TeacherUnavailableError(
                "views are missing in the cache, and the teacher is not asked for them "
                "before it has answered its reference patch"
            )
        check_same(remote.describe(), teacher.card)
        return remote

    with (
        closing(cache),
        open_teacher(
            teacher.config, ids_by_content=True, stop=stop, metrics=metrics
        ) as remote,
    ):
        yield CachedTeacher(cache, verified, metrics.patches.labels(source="bank").inc)


def moving_part(teacher: OutputSource[AnyOutput]) -> nn.Module | None:
    """Returns what of a teacher follows the student, for the run's checkpoint."""
    if isinstance(teacher, MomentumTeacher):
        return teacher.encoder
    if isinstance(teacher, RemoteMomentumTeacher):
        return teacher.momentum
    return None


def _online(
    job: StudentJob,
    teacher: SiteTeacher,
    section: FrozenTeacherSection | MomentumTeacherSection,
    remote: RemoteTeacher,
    student: Encoder,
) -> Teacher:
    if not (section.is_updated and job.updates_teacher):
        return remote
    check_architecture(teacher.config, teacher.card)
    plan = MomentumPlan(
        ema_terms(teacher.config, teacher.scenario),
        section.schedule,
        section.sync_every_steps,
        section.sync_deadline_seconds,
    )
    return RemoteMomentumTeacher(remote, student, plan)


def _check_card(card: TeacherCard, job: StudentJob, teacher: SiteTeacher) -> None:
    """Refuses another teacher, and updates of one whose owner does not allow them."""
    if job.updates_teacher and not card.momentum_sessions:
        raise RefusedError(
            f"teacher {card.name} has no momentum sessions: its owner has not turned "
            f"them on; teacher.mode 'frozen' asks it as it is"
        )
    check_same(card, teacher.card)


def _local(
    job: StudentJob,
    teacher: SiteTeacher,
    section: LocalTeacherSection,
    student: Encoder,
    fabric: Fabric,
) -> Teacher:
    card = teacher.card
    network = load_network(card, section.weights_file).to(fabric.device)
    normalise = Normalise(card.mean, card.std).to(fabric.device)
    if section.schedule == "frozen" or not job.updates_teacher:
        return FrozenTeacher(network, normalise, maps=need_of(job.method) == "maps")
    check_architecture(teacher.config, card)
    terms = ema_terms(teacher.config, teacher.scenario)
    return MomentumTeacher(network, student, normalise, terms, section.schedule)
