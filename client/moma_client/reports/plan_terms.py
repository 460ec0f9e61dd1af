"""On which terms a plan is made: what a teacher says when it is asked nothing."""

import threading
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple

from moma_client.cache.folder import BankFolder
from moma_client.config.site import RemoteTeacherSection, SiteConfig
from moma_client.metrics import silent_metrics
from moma_client.teacher.connect import IMPATIENT, connect, remote_settings
from moma_client.teacher.remote_teacher import Budget
from moma_core.errors import CertificateError, RefusedError, TeacherUnavailableError
from moma_core.teacher.card.card import TeacherCard


class PlanTerms(NamedTuple):
    """What a teacher says when it is asked nothing.

    Args:
        card: Its card, or the one that the bank keeps, or None.
        budget: None if it is away.
        patches_per_request: Its bound, or else the site's.
        away: Why it could not be asked.
    """

    card: TeacherCard | None
    budget: Budget | None
    patches_per_request: int
    away: str


def asked_terms(config: SiteConfig, section: RemoteTeacherSection) -> PlanTerms:
    """Asks the teacher; if it is away, the kept card must do.

    Raises:
        RefusedError: The teacher does not admit this site.
    """
    settings = replace(remote_settings(config, section), retries=IMPATIENT)
    with closing(connect(settings, b"", threading.Event(), silent_metrics())) as remote:
        try:
            size = remote.patches_per_request()
            return PlanTerms(remote.describe(), remote.budget(), size, "")
        except (TeacherUnavailableError, CertificateError) as error:
            if isinstance(error, RefusedError):
                raise
            kept = BankFolder(config).kept_card()
            return PlanTerms(kept, None, settings.patches_per_request, str(error))


def kept_terms(config: SiteConfig, section: RemoteTeacherSection) -> PlanTerms:
    """Takes the kept card; nobody is asked."""
    size = remote_settings(config, section).patches_per_request
    return PlanTerms(BankFolder(config).kept_card(), None, size, "not asked")
