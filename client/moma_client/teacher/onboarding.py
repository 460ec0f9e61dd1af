"""What a teacher must pass before a site trains with it.

1. The operator has accepted its terms, by their digest; else nothing is sent.
2. What answers is the model of the card: sizes, digest, and the reference patch.

The reference patch is one patch of the budget. Its request id is made from a secret of
the site, so that a later start repeats it without charge for as long as the teacher
lets it.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from moma_client.cache.folder import CacheFolder
from moma_client.config.site import SiteConfig
from moma_client.config.teacher import LocalTeacherSection
from moma_client.context import RunContext
from moma_client.teacher.connect import check_same, open_teacher
from moma_client.teacher.local_teacher import local_teacher, read_local_card
from moma_client.teacher.remote_teacher import BudgetState
from moma_client.teacher.retry import FAIL_FAST, RetryLimits
from moma_client.teacher.terms import check_terms
from moma_core.data.batch import Batch
from moma_core.errors import (
    BudgetSpentError,
    DataError,
    MismatchError,
    ReplayError,
    TeacherUnavailableError,
)
from moma_core.pki.key_files import load_or_create_secret
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.card.reference_patch import ReferencePatch
from moma_core.teacher.protocol import Teacher

_logger = logging.getLogger(__name__)


def verify_remote(
    context: RunContext, card: TeacherCard, retries: RetryLimits | None = None
) -> None:
    """Checks the terms, then requests the reference patch from a teacher elsewhere.

    A teacher that did not answer its reference patch has not shown that it is the
    model of its card, whatever the reason: nothing else may be requested of it.

    Raises:
        TermsError: They are not accepted; no patch was sent.
        MismatchError: What answers is not the model of the card.
        BudgetSpentError: The teacher itself says that the budget does not cover it.
        TeacherError: It cannot be reached, or refuses.
        StoppedError: The operator stops the program.
    """
    check_terms(card, context.config.teacher)
    if card.golden is None:
        _logger.warning("teacher %s has no reference patch on its card", card.name)
        return
    verify_reference_patch(context, card, retries)


def verify_reference_patch(
    context: RunContext, card: TeacherCard, retries: RetryLimits | None = None
) -> None:
    """Requests the reference patch; a repetition keeps its request id.

    Raises:
        As `verify_remote`.
    """
    config, stop, metrics = context
    key_file = _reference_key(config, card)

    def verify() -> None:
        with open_teacher(
            config,
            retries=retries,
            request_key=load_or_create_secret(key_file),
            ids_by_content=True,
            stop=stop,
            metrics=metrics,
        ) as remote:
            check_same(remote.describe(), card)
            check_reference_patch(card, remote)

    try:
        verify()
    except ReplayError:  # too late or too often, it says: it is charged once more
        key_file.unlink()
        verify()


def _reference_key(config: SiteConfig, card: TeacherCard) -> Path:
    """Returns the file of the secret that makes the request's id, for each teacher."""
    path = config.state_dir / "reference-patch" / f"{card.name}.key"
    former = config.state_dir / "golden.key"  # of a site's one teacher
    if former.exists() and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        former.replace(path)
    return path


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
    """Compares a teacher's output for its reference patch with that of its card.

    Raises:
        MismatchError: The output is not as expected.
        TeacherError: The teacher cannot be reached, or refuses.
    """
    if card.golden is None:
        return
    for _, output in teacher.answer_batches([_batch_of(card, card.golden)]):
        if output is None:
            raise MismatchError(f"teacher {card.name} does not answer")
        card.golden.check(output.embedding[0].numpy(), output.logits[0].numpy())
    _logger.info("teacher %s answers its reference patch as expected", card.name)


def _batch_of(card: TeacherCard, reference: ReferencePatch) -> Batch:
    try:
        pixels = reference.pixels(card.input_size_px)
    except DataError as error:
        raise MismatchError(f"reference patch: {error}") from None
    view = torch.from_numpy(pixels.copy()).permute(2, 0, 1).unsqueeze(0)
    none = torch.zeros(1, dtype=torch.long)
    return Batch(view, view, none, 0, none, none)


class OnboardedTeacher(NamedTuple):
    """A teacher as a run begins.

    Args:
        card: The teacher's card.
        terms: A sentence on what the teacher still grants.
        is_verified: Whether it answered its reference patch, if its card has one;
            until it does, nothing else may be requested of it.
    """

    card: TeacherCard
    terms: str
    is_verified: bool


def onboard(
    context: RunContext,
    check_card: Callable[[TeacherCard], object] = lambda _: None,
) -> OnboardedTeacher:
    """Returns the teacher after every check that it allows.

    Args:
        context: Settings, stop and metrics of this process.
        check_card: Called before the first patch is charged; raises where the site
            could not train with such a teacher.

    Raises:
        TeacherError: A remote one cannot be reached, or is not who it should be.
        TermsError: The operator has not accepted its terms; no patch was sent.
        MismatchError: What answers is not what its card describes.
        ConfigError: A local one's files do not fit each other.
        StoppedError: The operator stopped.
    """
    config = context.config
    section = config.teacher
    if not section.is_remote:
        card = verify_local(section)
        check_card(card)
        return OnboardedTeacher(card, "on this disk, without a budget", True)
    kept = CacheFolder(config).kept_card()
    retries = FAIL_FAST if kept else None
    try:
        return _onboard_remote(context, check_card, retries)
    except TeacherUnavailableError as error:
        if kept is None:
            raise
        check_terms(kept, section)
        check_card(kept)
        terms = f"away ({error}); going on with the card that the cache keeps"
        return OnboardedTeacher(kept, terms, is_verified=False)


def _onboard_remote(
    context: RunContext,
    check_card: Callable[[TeacherCard], object],
    retries: RetryLimits | None,
) -> OnboardedTeacher:
    config, stop, metrics = context
    with open_teacher(config, retries=retries, stop=stop, metrics=metrics) as remote:
        card, budget = remote.describe(), remote.budget()
    check_card(card)
    is_verified = True
    try:
        verify_remote(context, card, retries)
    except BudgetSpentError as error:
        is_verified = False
        _logger.warning(
            "the reference patch was not sent, so no patch will be: %s", error
        )
    if is_verified and config.teacher.caches:
        CacheFolder(config).keep_card(card)
    return OnboardedTeacher(card, _terms(card, budget), is_verified)


def _terms(card: TeacherCard, budget: BudgetState) -> str:
    left = budget.granted_patches - budget.charged_patches
    terms = f"{left} of {budget.granted_patches} patches left"
    if card.momentum_sessions:
        terms += "; momentum sessions are on, close to handing out the weights"
    return terms


def audit_sentence(card: TeacherCard) -> str:
    """Returns what a card says of its teacher's memory of single patches."""
    if card.membership_advantage is None:
        return "none on its card"
    return (
        "a threshold on the loss tells its training from its validation patches with "
        f"advantage {card.membership_advantage:.3f} (0 guesses, 1 is always right)"
    )
