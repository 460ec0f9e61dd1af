"""How a site meets its teacher, once a run: who it is, what it grants, what it is."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from moma_client.cache.folder import BankFolder, bank_section
from moma_client.config.site import (
    LocalTeacherSection,
    RemoteTeacherSection,
    SiteConfig,
)
from moma_client.metrics import ClientMetrics
from moma_client.teacher.connect import (
    IMPATIENT,
    connect,
    remote_settings,
)
from moma_client.teacher.onboarding import check_terms, vet_local, vet_remote
from moma_client.teacher.remote_teacher import Budget, RemoteTeacherSettings
from moma_core.errors import (
    BudgetSpentError,
    TeacherUnavailableError,
)
from moma_core.teacher.card.card import TeacherCard

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
