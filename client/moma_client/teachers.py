"""From the config's teacher section to a teacher that answers a student's batches."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from random import Random

from lightning_fabric import Fabric
from torch import Tensor

from moma_client.bank_folder import BankFolder, Rate, bank_section
from moma_client.config import LocalTeacherSection, RemoteTeacherSection, SiteConfig
from moma_client.metrics import ClientMetrics
from moma_client.remote_teacher import RemoteTeacher, RemoteTeacherSettings
from moma_client.student_job import StudentJob
from moma_client.teacher_failures import RetryLimits
from moma_client.teacher_link import TeacherAddress
from moma_core.distill.methods import need_of
from moma_core.errors import ConfigError, RefusedError, TeacherUnavailableError
from moma_core.models.backbone import Backbone, Normalise, file_digest, load_weights
from moma_core.models.encoder import Encoder
from moma_core.models.momentum import BatchNorm, MomentumTerms
from moma_core.teacher.banked import BankedTeacher
from moma_core.teacher.card import TeacherCard
from moma_core.teacher.local import AbsentTeacher, FrozenTeacher, MomentumTeacher
from moma_core.teacher.protocol import Teacher

_logger = logging.getLogger(__name__)

IMPATIENT = RetryLimits(failures=2)
"""Where the site can do without the teacher."""

_FEWEST_MEASURED = 16  # patches, below which a rate is chance


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
    folder = BankFolder(config)
    kept = folder.kept_card()
    settings = remote_settings(config, section)
    if kept is not None:
        settings = replace(settings, retries=IMPATIENT)
    remote = connect(settings, b"", stop, metrics)
    try:
        card, budget = remote.describe(), remote.budget()
    except TeacherUnavailableError as error:
        if kept is None:
            raise
        return kept, f"away ({error}); going on with the card that the bank keeps"
    finally:
        remote.close()
    if bank_section(config) is not None:
        folder.keep_card(card)
    left = budget.granted_patches - budget.charged_patches
    return card, f"{left} of {budget.granted_patches} patches left to ask"


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
    is_closing = job.task.kind == "close" and section.mode == "frozen"
    if not job.distils or is_closing:
        yield AbsentTeacher()
    elif isinstance(section, LocalTeacherSection):
        yield _local(job, section, student, fabric)
    elif bank_section(job.config) is not None:
        with _banked(job, section, rows, stop, metrics) as banked:
            yield banked
    else:
        # Each rank has other patches in a step, so its request ids must differ.
        key = job.run_key + fabric.global_rank.to_bytes(2, "big")
        remote = connect(remote_settings(job.config, section), key, stop, metrics)
        try:
            check_same(remote.describe(), job.card)
            with measured(job.config, metrics, ranks=fabric.world_size):
                yield remote
        finally:
            remote.close()
            waited = remote.waited_seconds
            _logger.info("the loop waited %.1f s for the teacher's answers", waited)


@contextmanager
def _banked(
    job: StudentJob,
    section: RemoteTeacherSection,
    rows: int,
    stop: threading.Event,
    metrics: ClientMetrics,
) -> Iterator[BankedTeacher]:
    """Yields the bank's answers; without a view that is missing, nobody is asked."""
    folder = BankFolder(job.config)
    bank = folder.open(job.card, rows)
    remote = connect_for_bank(job.config, section, stop, metrics)

    def meet() -> RemoteTeacher:
        check_same(remote.describe(), job.card)
        return remote

    try:
        yield BankedTeacher(bank, meet, metrics.patches.labels(source="bank").inc)
    finally:
        remote.close()
        bank.close()


def connect_for_bank(
    config: SiteConfig,
    section: RemoteTeacherSection,
    stop: threading.Event,
    metrics: ClientMetrics,
) -> RemoteTeacher:
    """Returns a teacher whose request ids say what is asked, whoever asks it."""
    settings = replace(remote_settings(config, section), ids_by_content=True)
    return connect(settings, BankFolder(config).request_key(), stop, metrics)


@contextmanager
def measured(
    config: SiteConfig, metrics: ClientMetrics, *, ranks: int = 1
) -> Iterator[None]:
    """Keeps how many patches a second were answered while the block ran, for `plan`.

    Args:
        config: The site's.
        metrics: Count what this process asks.
        ranks: Processes that ask alike.
    """
    asked, since = metrics.counts().patches, time.monotonic()
    yield
    patches = ranks * int(metrics.counts().patches - asked)
    if patches >= _FEWEST_MEASURED:
        BankFolder(config).keep_rate(Rate(patches, time.monotonic() - since))


def check_same(card: TeacherCard, known: TeacherCard) -> None:
    """Refuses another card: keys of two models do not belong into one memory bank.

    Raises:
        RefusedError: The teacher changed.
    """
    if card != known:
        raise RefusedError(
            f"teacher {known.name} changed from {known.digest[:12]} to "
            f"{card.digest[:12]} within the run; a new run is needed"
        )


def remote_settings(
    config: SiteConfig, section: RemoteTeacherSection
) -> RemoteTeacherSettings:
    """Returns how the config asks its teacher."""
    address = TeacherAddress(
        name=section.name,
        address=section.address,
        authority=config.identity.authority,
        certificate=config.identity.certificate,
        key=config.identity.key,
    )
    return RemoteTeacherSettings(
        teacher=address,
        in_flight=section.in_flight,
        answer_deadline_seconds=section.answer_deadline_seconds,
    )


def connect(
    settings: RemoteTeacherSettings,
    run_key: bytes,
    stop: threading.Event,
    metrics: ClientMetrics,
) -> RemoteTeacher:
    """Returns a remote teacher; it is reached when it is first asked."""
    return RemoteTeacher(
        settings,
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
