"""From the config's teacher section to a teacher that answers a student's batches."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_fabric import Fabric
from torch import Tensor, nn

from moma_client.cache.folder import CacheFolder, cached_section
from moma_client.config.teacher import (
    LocalTeacherSection,
    MomentumTeacherSection,
    RemoteTeacherSection,
)
from moma_client.metrics import ClientMetrics
from moma_client.student.factory import check_architecture
from moma_client.student.job import StudentJob
from moma_client.teacher.connect import (
    check_same,
    connect,
    connect_for_cache,
    measured,
    remote_settings,
)
from moma_client.teacher.local_teacher import local_network
from moma_client.teacher.momentum import MomentumPlan, RemoteMomentumTeacher
from moma_client.teacher.remote_teacher import RemoteTeacher
from moma_core.distillation.methods.names import need_of
from moma_core.errors import (
    RefusedError,
    TeacherUnavailableError,
)
from moma_core.models.backbone import Normalise
from moma_core.models.ema import MomentumTerms
from moma_core.models.encoder import Encoder
from moma_core.models.settings import BatchNorm
from moma_core.teacher.cache.cached_teacher import CachedTeacher
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.local import AbsentTeacher, FrozenTeacher, MomentumTeacher
from moma_core.teacher.protocol import Teacher

_logger = logging.getLogger(__name__)


@contextmanager
def open_teacher(
    job: StudentJob,
    student: Encoder,
    fabric: Fabric,
    rows: int,
    stop: threading.Event,
    metrics: ClientMetrics,
) -> Iterator[Teacher]:
    """Yields the teacher of one student's round; a remote one is closed after it."""
    section = job.config.teacher
    is_closing = job.task.kind == "close"
    if not job.distils:
        yield AbsentTeacher()
    elif isinstance(section, LocalTeacherSection):
        yield _local(job, section, student, fabric)
    elif is_closing and not _follows(job, section):
        yield AbsentTeacher()
    elif cached_section(job.config) is not None:
        with _cached(job, section, rows, stop, metrics) as cached:
            yield cached
    else:
        # Each rank has other patches in a step, so its request ids must differ.
        key = job.run_key + fabric.global_rank.to_bytes(2, "big")
        remote = connect(remote_settings(job.config, section), key, stop, metrics)
        try:
            if not is_closing:  # when nothing is asked any more
                _check_willing(remote.describe(), job, section)
            with measured(job.config, metrics, ranks=fabric.world_size):
                yield _following(job, section, remote, student)
        finally:
            remote.close()
            waited = remote.waited_seconds
            _logger.info("the loop waited %.1f s for the teacher's answers", waited)


@contextmanager
def _cached(
    job: StudentJob,
    section: RemoteTeacherSection,
    rows: int,
    stop: threading.Event,
    metrics: ClientMetrics,
) -> Iterator[CachedTeacher]:
    """Yields the cache's answers; without a view that is missing, nobody is asked."""
    folder = CacheFolder(job.config)
    cache = folder.open(job.card, rows)
    remote = connect_for_cache(job.config, section, stop, metrics)

    def verified() -> RemoteTeacher:
        if not job.is_verified:
            raise TeacherUnavailableError(
                "views are missing in the cache, and the teacher is not asked for them "
                "before it has answered its reference patch"
            )
        check_same(remote.describe(), job.card)
        return remote

    try:
        yield CachedTeacher(cache, verified, metrics.patches.labels(source="bank").inc)
    finally:
        remote.close()
        cache.close()


def moving_part(teacher: Teacher) -> nn.Module | None:
    """Returns what of a teacher moves with the student, for the run's checkpoint."""
    if isinstance(teacher, MomentumTeacher):
        return teacher.encoder
    if isinstance(teacher, RemoteMomentumTeacher):
        return teacher.momentum
    return None


def _follows(job: StudentJob, section: RemoteTeacherSection) -> bool:
    """Whether a copy of the teacher follows this student, as none does a baseline."""
    return isinstance(section, MomentumTeacherSection) and job.method == "moma"


def _following(
    job: StudentJob,
    section: RemoteTeacherSection,
    remote: RemoteTeacher,
    student: Encoder,
) -> Teacher:
    if not isinstance(section, MomentumTeacherSection) or not _follows(job, section):
        return remote
    check_architecture(job.config, job.card, "teacher.mode 'momentum'")
    plan = MomentumPlan(
        _momentum_terms(job, section.batch_norm),
        section.schedule,
        section.sync_every_steps,
        section.sync_deadline_seconds,
    )
    return RemoteMomentumTeacher(remote, student, plan)


def _check_willing(
    card: TeacherCard, job: StudentJob, section: RemoteTeacherSection
) -> None:
    """Refuses another teacher, and to ask one for what its owner does not allow."""
    if _follows(job, section) and not card.momentum_sessions:
        raise RefusedError(
            f"teacher {card.name} has no momentum sessions: its owner has not turned "
            f"them on; teacher.mode 'frozen' asks it as it is"
        )
    check_same(card, job.card)


def _local(
    job: StudentJob, section: LocalTeacherSection, student: Encoder, fabric: Fabric
) -> Teacher:
    card = job.card
    network = local_network(card, section).to(fabric.device)
    normalise = Normalise(card.mean, card.std).to(fabric.device)

    def prepare(views: Tensor) -> Tensor:
        images: Tensor = normalise(views.to(fabric.device, non_blocking=True))
        return images

    if section.schedule == "frozen" or job.method != "moma":
        return FrozenTeacher(network, prepare, maps=need_of(job.method) == "maps")
    check_architecture(job.config, card, f"teacher.schedule {section.schedule!r}")
    return MomentumTeacher(
        network,
        student,
        prepare,
        _momentum_terms(job, section.batch_norm),
        section.schedule,
    )


def _momentum_terms(job: StudentJob, batch_norm: BatchNorm) -> MomentumTerms:
    order = job.scenario.class_order
    return MomentumTerms(
        job.config.distillation.momentum,
        batch_norm,
        None if order is None else tuple(order.tolist()),
    )
