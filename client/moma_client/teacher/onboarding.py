"""What a teacher must pass before a site trains with it.

1. The operator has accepted its terms, by their digest; else nothing is sent.
2. What answers is the model of the card: sizes, digest, and the reference patch.

The reference patch is one patch of the budget. Its request id is made from a secret of
the site, so that a later start repeats it without charge for as long as the teacher
lets it.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple

import torch

from moma_client.cache.folder import CacheFolder
from moma_client.config.site import SiteConfig
from moma_client.config.teacher import LocalTeacherSection, RemoteTeacherSection
from moma_client.context import RunContext
from moma_client.identity.keys import made_once
from moma_client.metrics import ClientMetrics
from moma_client.teacher.connect import (
    FAIL_FAST,
    check_same,
    connect,
    remote_settings,
)
from moma_client.teacher.local_teacher import local_teacher, read_local_card
from moma_client.teacher.remote_teacher import Budget, RemoteTeacherSettings
from moma_core.data.batch import Batch
from moma_core.errors import (
    BudgetSpentError,
    DataError,
    MismatchError,
    ReplayError,
    TeacherUnavailableError,
    TermsError,
)
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.card.licence import terms_digest, terms_lines
from moma_core.teacher.card.reference_patch import ReferencePatch
from moma_core.teacher.protocol import Teacher

_logger = logging.getLogger(__name__)


TeacherSection = LocalTeacherSection | RemoteTeacherSection


def check_terms(card: TeacherCard, section: TeacherSection) -> None:
    """Refuses terms that the operator has not accepted.

    Raises:
        TermsError: It holds the terms, and the line that accepts them.
    """
    if card.licence is None:
        return
    digest = terms_digest(card.name, card.licence)
    if section.accepted_terms == digest:
        return
    if section.accepted_terms is None:
        reason = f"the terms of teacher {card.name} are not accepted"
    else:
        reason = (
            f"the terms of teacher {card.name} are not those that were accepted "
            f"({section.accepted_terms[:12]})"
        )
    raise TermsError(
        "\n".join(
            [
                f"{reason}; nothing was sent",
                *terms_lines(card.name, card.licence),
                "to accept them, write into the config, below teacher:",
                f"  accepted_terms: {digest}",
            ]
        )
    )


def verify_remote(
    config: SiteConfig,
    settings: RemoteTeacherSettings,
    card: TeacherCard,
    stop: threading.Event,
    metrics: ClientMetrics,
) -> None:
    """Checks the terms, then asks a teacher elsewhere for its reference patch.

    A teacher that did not answer its reference patch has not shown that it is the
    model of its card, whatever the reason: nothing else may be asked of it.

    Raises:
        TermsError: They are not accepted; no patch was sent.
        MismatchError: What answers is not the model of the card.
        BudgetSpentError: The teacher itself says that the budget does not cover it.
        TeacherError: It cannot be reached, or refuses.
        StoppedError: The operator stops the program.
    """
    if isinstance(config.teacher, RemoteTeacherSection):
        check_terms(card, config.teacher)
    if card.golden is None:
        _logger.warning("teacher %s has no reference patch on its card", card.name)
        return
    verify_reference_patch(config, settings, card, stop, metrics)


def verify_reference_patch(
    config: SiteConfig,
    settings: RemoteTeacherSettings,
    card: TeacherCard,
    stop: threading.Event,
    metrics: ClientMetrics,
) -> None:
    """Asks for the reference patch; a repetition keeps its request id.

    Raises:
        As `verify_remote`.
    """
    path = config.state_dir / "golden.key"
    settings = replace(settings, ids_by_content=True, in_flight=1)
    try:
        _ask(settings, made_once(path), card, stop, metrics)
    except ReplayError:  # too late or too often, it says: it is charged once more
        path.unlink()
        _ask(settings, made_once(path), card, stop, metrics)


def _ask(
    settings: RemoteTeacherSettings,
    key: bytes,
    card: TeacherCard,
    stop: threading.Event,
    metrics: ClientMetrics,
) -> None:
    with closing(connect(settings, key, stop, metrics)) as remote:
        check_same(remote.describe(), card)
        check_reference_patch(card, remote)


def verify_local(section: LocalTeacherSection) -> TeacherCard:
    """Returns the card of a teacher on this disk, after all checks.

    Raises:
        ConfigError: Card and weights cannot be read, or do not fit each other.
        CertificateError: The key that is pinned did not sign the card.
        TermsError: The terms are not accepted.
        MismatchError: The weights do not say what the card says.
    """
    card = read_local_card(section)
    check_terms(card, section)
    if card.golden is None:
        _logger.warning("teacher %s has no reference patch on its card", card.name)
    check_reference_patch(card, local_teacher(card, section))
    return card


def check_reference_patch(card: TeacherCard, teacher: Teacher) -> None:
    """Asks a teacher for its reference patch.

    Raises:
        MismatchError: The answer is not as expected.
        TeacherError: It cannot be reached, or refuses.
    """
    golden = card.golden
    if golden is None:
        return
    for _, answer in teacher.answer_batches([_question(card, golden)]):
        if answer is None:
            raise MismatchError(f"teacher {card.name} does not answer")
        golden.check(answer.embedding[0].numpy(), answer.logits[0].numpy())
    _logger.info("teacher %s answers its reference patch as expected", card.name)


def _question(card: TeacherCard, golden: ReferencePatch) -> Batch:
    try:
        pixels = golden.pixels(card.input_size_px)
    except DataError as error:
        raise MismatchError(f"reference patch: {error}") from None
    view = torch.from_numpy(pixels.copy()).permute(2, 0, 1).unsqueeze(0)
    none = torch.zeros(1, dtype=torch.long)
    return Batch(view, view, none, 0, none, none)


class OnboardedTeacher(NamedTuple):
    """A teacher as a run begins.

    Args:
        card: Its card.
        terms: A sentence on what it still grants.
        is_verified: Whether it answered its reference patch, if its card has one;
            until it does, nothing else may be asked of it.
    """

    card: TeacherCard
    terms: str
    is_verified: bool


def onboard(
    context: RunContext, suits: Callable[[TeacherCard], object] | None = None
) -> OnboardedTeacher:
    """Returns the teacher after every check that it allows.

    Args:
        context: Settings, stop and metrics of this process.
        suits: Is given the card before the first patch is charged, and raises where
            the site could not train with such a teacher.

    Raises:
        TeacherError: A remote one cannot be reached, or is not who it should be.
        TermsError: The operator has not accepted its terms; no patch was sent.
        MismatchError: What answers is not what its card describes.
        ConfigError: A local one's files do not fit each other.
        StoppedError: The operator stopped.
    """
    config, stop, metrics = context
    section = config.teacher
    if not section.is_remote:
        card = verify_local(section)
        _look_at(suits, card)
        return OnboardedTeacher(card, "on this disk, without a budget", True)
    return _onboard_remote(config, section, stop, metrics, suits)


def _onboard_remote(
    config: SiteConfig,
    section: RemoteTeacherSection,
    stop: threading.Event,
    metrics: ClientMetrics,
    suits: Callable[[TeacherCard], object] | None,
) -> OnboardedTeacher:
    folder = CacheFolder(config)
    kept = folder.kept_card()
    settings = remote_settings(config, section)
    if kept is not None:
        settings = replace(settings, retries=FAIL_FAST)
    remote = connect(settings, b"", stop, metrics)
    try:
        card, budget = remote.describe(), remote.budget()
        _look_at(suits, card)
        is_verified = _is_verified(config, settings, card, stop, metrics)
    except TeacherUnavailableError as error:
        if kept is None:
            raise
        check_terms(kept, section)
        _look_at(suits, kept)
        terms = f"away ({error}); going on with the card that the cache keeps"
        return OnboardedTeacher(kept, terms, is_verified=False)
    finally:
        remote.close()
    if is_verified and config.teacher.caches:
        folder.keep_card(card)
    return OnboardedTeacher(card, _terms(card, budget), is_verified)


def _terms(card: TeacherCard, budget: Budget) -> str:
    left = budget.granted_patches - budget.charged_patches
    terms = f"{left} of {budget.granted_patches} patches left to ask"
    if card.momentum_sessions:
        terms += "; momentum sessions are on, close to handing out the weights"
    return terms


def _is_verified(
    config: SiteConfig,
    settings: RemoteTeacherSettings,
    card: TeacherCard,
    stop: threading.Event,
    metrics: ClientMetrics,
) -> bool:
    try:
        verify_remote(config, settings, card, stop, metrics)
    except BudgetSpentError as error:
        _logger.warning("the reference patch was not asked, so nothing is: %s", error)
        return False
    return True


def _look_at(suits: Callable[[TeacherCard], object] | None, card: TeacherCard) -> None:
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
