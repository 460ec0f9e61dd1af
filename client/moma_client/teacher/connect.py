"""From a site's config to its remote teacher."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from random import Random

from moma_client.audit.receipts import receipts_path
from moma_client.cache.folder import CacheFolder
from moma_client.config.site import SiteConfig
from moma_client.config.teacher import MomentumTeacherSection, RemoteTeacherSection
from moma_client.egress.log import log_path
from moma_client.egress.to_teacher import SendingPolicy
from moma_client.identity.pinned_teacher import PinnedTeacher
from moma_client.identity.revocations import site_revocations
from moma_client.metrics import ClientMetrics, silent_metrics
from moma_client.teacher.channel import TeacherAddress
from moma_client.teacher.remote_teacher import RemoteTeacher, RemoteTeacherSettings
from moma_client.teacher.retry import RetryLimits
from moma_core.end_to_end.signatures import VerifyingKey
from moma_core.errors import ConfigError, RefusedError, TermsError
from moma_core.runtime.clock import utc_now
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.pixel_encoding import PixelEncoding


@contextmanager
def open_teacher(
    config: SiteConfig,
    *,
    retries: RetryLimits | None = None,
    request_key: bytes | None = None,
    ids_by_content: bool = False,
    stop: threading.Event | None = None,
    metrics: ClientMetrics | None = None,
) -> Iterator[RemoteTeacher]:
    """Yields a site's remote teacher and closes it; it is reached at the first call.

    Args:
        config: Settings of this site.
        retries: When to give up; by default as late as a run does.
        request_key: Makes the ids of queries; by default that of the cache, or none
            where ids are made by step: then no patches can be sent.
        ids_by_content: Makes the ids from the patches, not from the step, so that the
            same patches are charged once, whoever requests them.
        stop: Set by the operator; ends any wait.
        metrics: Counts what is sent; None: nobody does.

    Raises:
        ConfigError: The teacher of this site is no remote one.
    """
    if request_key is None:
        request_key = CacheFolder(config).request_key() if ids_by_content else b""
    teacher = RemoteTeacher(
        replace(
            remote_settings(config),
            retries=retries or RetryLimits(),
            ids_by_content=ids_by_content,
        ),
        run_key=request_key,
        stop=stop or threading.Event(),
        metrics=metrics or silent_metrics(),
        random=Random(),  # noqa: S311 - only spreads pauses
        now=utc_now,
    )
    with closing(teacher):
        yield teacher


def remote_settings(config: SiteConfig) -> RemoteTeacherSettings:
    """Returns how a site reaches its remote teacher.

    Raises:
        ConfigError: The teacher of this site is no remote one.
    """
    section = config.teacher
    if not isinstance(section, RemoteTeacherSection):
        raise ConfigError("the teacher is on this disk: nothing is requested of it")
    return RemoteTeacherSettings(
        teacher=TeacherAddress(
            name=section.name,
            address=section.address,
            authority=config.identity.authority,
            certificate=config.identity.certificate,
            key=config.identity.key,
            passphrase_file=config.identity.passphrase_file,
            is_relayed=section.via == "coordinator",
            revocations=site_revocations(config),
            proxy=config.network.rule(),
        ),
        end_to_end=_pinned(config, section),
        in_flight=section.in_flight,
        answer_deadline_seconds=section.answer_deadline_seconds,
        egress=SendingPolicy(
            encoding=PixelEncoding.parse(section.encoding),
            weights_may_leave=isinstance(section, MomentumTeacherSection)
            and section.weights_may_leave,
            log=log_path(config.state_dir),
            teacher=section.name,
        ),
    )


def _pinned(config: SiteConfig, section: RemoteTeacherSection) -> PinnedTeacher:
    return PinnedTeacher(
        federation=config.federation,
        site=config.site,
        signing_key=config.identity.signing_key,
        teacher=section.name,
        teacher_key=VerifyingKey.parse(section.key),
        floor=section.sealing,
        card_memory=config.state_dir / "cards-seen" / f"{section.name}.json",
        passphrase_file=config.identity.passphrase_file,
        receipts=receipts_path(config.state_dir, section.name),
        former_keys=tuple(map(VerifyingKey.parse, section.former_keys)),
    )


def check_same(card: TeacherCard, known: TeacherCard) -> None:
    """Refuses another card: keys of two models do not belong into one memory bank.

    Raises:
        RefusedError: The teacher changed, or its terms did.
    """
    if not card.is_same_model(known):
        raise RefusedError(
            f"teacher {known.name} changed from {known.digest[:12]} to "
            f"{card.digest[:12]} within the run; a new run is needed"
        )
    if card.licence != known.licence:
        raise TermsError(
            f"teacher {known.name} changed its terms within the run; "
            f"moma-client doctor shows them"
        )
