"""From the config's teacher section to a teacher that answers a student's batches."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from random import Random

from lightning_fabric import Fabric
from torch import Tensor

from moma_client.config import LocalTeacherSection, RemoteTeacherSection, SiteConfig
from moma_client.metrics import ClientMetrics
from moma_client.remote_teacher import RemoteTeacher, RemoteTeacherSettings
from moma_client.student_job import StudentJob
from moma_client.teacher_link import TeacherAddress
from moma_core.distill.methods import need_of
from moma_core.errors import ConfigError, RefusedError
from moma_core.models.backbone import Backbone, Normalise, file_digest, load_weights
from moma_core.models.encoder import Encoder
from moma_core.models.momentum import BatchNorm, MomentumTerms
from moma_core.teacher.card import TeacherCard
from moma_core.teacher.local import AbsentTeacher, FrozenTeacher, MomentumTeacher
from moma_core.teacher.protocol import Teacher

_logger = logging.getLogger(__name__)


def meet_teacher(
    config: SiteConfig, stop: threading.Event, metrics: ClientMetrics
) -> tuple[TeacherCard, str]:
    """Returns the teacher's card, and a sentence on what it still grants.

    Raises:
        TeacherError: A remote one cannot be reached, or is not who it should be.
        ConfigError: A local one's files do not fit each other.
        StoppedError: The operator stopped.
    """
    section = config.teacher
    if isinstance(section, LocalTeacherSection):
        return _local_card(section), "on this disk, without a budget"
    remote = _remote(config, section, b"", stop, metrics)
    try:
        card, budget = remote.describe(), remote.budget()
    finally:
        remote.close()
    left = budget.granted_patches - budget.charged_patches
    return card, f"{left} of {budget.granted_patches} patches left to ask"


@contextmanager
def open_teacher(
    job: StudentJob,
    student: Encoder,
    fabric: Fabric,
    stop: threading.Event,
    metrics: ClientMetrics,
) -> Iterator[Teacher]:
    """Yields the teacher of one student's round; a remote one is closed after it."""
    section = job.config.teacher
    is_closing = job.task.kind == "close" and section.mode == "frozen"
    if not job.distils or is_closing:
        yield AbsentTeacher()
    elif isinstance(section, LocalTeacherSection):
        yield _local(job, section, student, fabric)
    else:
        # Each rank has other patches in a step, so its request ids must differ.
        key = job.run_key + fabric.global_rank.to_bytes(2, "big")
        remote = _remote(job.config, section, key, stop, metrics)
        try:
            _check_same(remote.describe(), job.card)
            yield remote
        finally:
            remote.close()
            waited = remote.waited_seconds
            _logger.info("the loop waited %.1f s for the teacher's answers", waited)


def _check_same(card: TeacherCard, known: TeacherCard) -> None:
    """Keys of two models do not belong into one memory bank."""
    if card != known:
        raise RefusedError(
            f"teacher {known.name} changed from {known.digest[:12]} to "
            f"{card.digest[:12]} within the run; a new run is needed"
        )


def _remote(
    config: SiteConfig,
    section: RemoteTeacherSection,
    run_key: bytes,
    stop: threading.Event,
    metrics: ClientMetrics,
) -> RemoteTeacher:
    address = TeacherAddress(
        name=section.name,
        address=section.address,
        authority=config.identity.authority,
        certificate=config.identity.certificate,
        key=config.identity.key,
    )
    return RemoteTeacher(
        RemoteTeacherSettings(
            teacher=address,
            in_flight=section.in_flight,
            answer_deadline_seconds=section.answer_deadline_seconds,
        ),
        run_key=run_key,
        stop=stop,
        metrics=metrics,
        random=Random(),  # noqa: S311 - only spreads pauses
        now=lambda: datetime.now(UTC),
    )


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
    if card.architecture != job.config.student.architecture:
        raise ConfigError(
            f"teacher.schedule {section.schedule!r} needs one architecture on both "
            f"sides, not {card.architecture!r} and "
            f"{job.config.student.architecture!r}"
        )
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


def local_network(card: TeacherCard, section: LocalTeacherSection) -> Backbone:
    """Returns a teacher that lies on this disk.

    Raises:
        ConfigError: Its weights cannot be read.
    """
    network = Backbone(card.architecture, len(card.class_names))
    load_weights(network, section.weights_file)
    return network


def _local_card(section: LocalTeacherSection) -> TeacherCard:
    card = TeacherCard.load(section.card)
    try:
        digest = file_digest(section.weights_file)
    except OSError as error:
        message = f"cannot read weights {section.weights_file}: {error}"
        raise ConfigError(message) from error
    if digest != card.digest:
        raise ConfigError(
            f"{section.weights_file} has digest {digest}, its card says {card.digest}"
        )
    return card
