"""From the config's teacher section to a teacher that answers a student's batches."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from lightning_fabric import Fabric
from torch import Tensor, nn

from moma_client.bank_folder import BankFolder, bank_section
from moma_client.config import (
    LocalTeacherSection,
    MomentumTeacherSection,
    RemoteTeacherSection,
    SiteConfig,
)
from moma_client.connecting import (
    IMPATIENT,
    check_same,
    connect,
    connect_for_bank,
    measured,
    remote_settings,
)
from moma_client.metrics import ClientMetrics
from moma_client.momentum_teacher import MomentumPlan, RemoteMomentumTeacher
from moma_client.remote_teacher import Budget, RemoteTeacher, RemoteTeacherSettings
from moma_client.student_job import StudentJob
from moma_client.student_making import check_architecture
from moma_client.vetting import check_terms, local_network, vet_local, vet_remote
from moma_core.distill.method_names import need_of
from moma_core.errors import (
    BudgetSpentError,
    RefusedError,
    TeacherUnavailableError,
)
from moma_core.models.backbone import Normalise
from moma_core.models.encoder import Encoder
from moma_core.models.momentum import MomentumTerms
from moma_core.models.moving import BatchNorm
from moma_core.teacher.banked import BankedTeacher
from moma_core.teacher.card import TeacherCard
from moma_core.teacher.local import AbsentTeacher, FrozenTeacher, MomentumTeacher
from moma_core.teacher.protocol import Teacher

_logger = logging.getLogger(__name__)


class MetTeacher(NamedTuple):
    """A teacher as a run begins.

    Args:
        card: Its card.
        terms: A sentence on what it still grants.
        is_proved: Whether it answered its golden patch, if its card has one; until it
            does, nothing else may be asked of it.
    """

    card: TeacherCard
    terms: str
    is_proved: bool


def meet_teacher(
    config: SiteConfig,
    stop: threading.Event,
    metrics: ClientMetrics,
    suits: Callable[[TeacherCard], object] | None = None,
) -> MetTeacher:
    """Returns the teacher after every check that it allows.

    Args:
        config: The site's.
        stop: Set by the operator.
        metrics: The site's.
        suits: Is given the card before the first patch is charged, and raises where
            the site could not train with such a teacher.

    Raises:
        TeacherError: A remote one cannot be reached, or is not who it should be.
        TermsError: The operator has not accepted its terms; no patch was sent.
        MismatchError: What answers is not what its card describes.
        ConfigError: A local one's files do not fit each other.
        StoppedError: The operator stopped.
    """
    section = config.teacher
    if isinstance(section, LocalTeacherSection):
        card = vet_local(section)
        _ask(suits, card)
        return MetTeacher(card, "on this disk, without a budget", True)
    return _meet_remote(config, section, stop, metrics, suits)


def _meet_remote(
    config: SiteConfig,
    section: RemoteTeacherSection,
    stop: threading.Event,
    metrics: ClientMetrics,
    suits: Callable[[TeacherCard], object] | None,
) -> MetTeacher:
    folder = BankFolder(config)
    kept = folder.kept_card()
    settings = remote_settings(config, section)
    if kept is not None:
        settings = replace(settings, retries=IMPATIENT)
    remote = connect(settings, b"", stop, metrics)
    try:
        card, budget = remote.describe(), remote.budget()
        _ask(suits, card)
        is_proved = _has_proved(config, settings, card, stop, metrics)
    except TeacherUnavailableError as error:
        if kept is None:
            raise
        check_terms(kept, section)
        _ask(suits, kept)
        terms = f"away ({error}); going on with the card that the bank keeps"
        return MetTeacher(kept, terms, is_proved=False)
    finally:
        remote.close()
    if is_proved and bank_section(config) is not None:
        folder.keep_card(card)
    return MetTeacher(card, _terms(card, budget), is_proved)


def _terms(card: TeacherCard, budget: Budget) -> str:
    left = budget.granted_patches - budget.charged_patches
    terms = f"{left} of {budget.granted_patches} patches left to ask"
    if card.momentum_sessions:
        terms += "; momentum sessions are on, close to handing out the weights"
    return terms


def _has_proved(
    config: SiteConfig,
    settings: RemoteTeacherSettings,
    card: TeacherCard,
    stop: threading.Event,
    metrics: ClientMetrics,
) -> bool:
    try:
        vet_remote(config, settings, card, stop, metrics)
    except BudgetSpentError as error:
        _logger.warning("the golden patch was not asked, so nothing is: %s", error)
        return False
    return True


def _ask(suits: Callable[[TeacherCard], object] | None, card: TeacherCard) -> None:
    if suits is not None:
        suits(card)


def audit_sentence(card: TeacherCard) -> str:
    """Returns what a card says of its teacher's memory of single patches."""
    if card.membership_advantage is None:
        return "none on its card"
    return (
        "a threshold on the loss tells its training from its validation patches with "
        f"advantage {card.membership_advantage:.3f} (0 guesses, 1 is always right)"
    )


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
    elif bank_section(job.config) is not None:
        with _banked(job, section, rows, stop, metrics) as banked:
            yield banked
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
        if not job.is_proved:
            raise TeacherUnavailableError(
                "views are missing in the bank, and the teacher is not asked for them "
                "before it has answered its golden patch"
            )
        check_same(remote.describe(), job.card)
        return remote

    try:
        yield BankedTeacher(bank, meet, metrics.patches.labels(source="bank").inc)
    finally:
        remote.close()
        bank.close()


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
