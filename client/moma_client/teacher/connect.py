"""How a site reaches its teacher: settings, connection, and what is noted of both."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random

from moma_client.audit.receipts import receipts_path
from moma_client.cache.folder import CacheFolder, MeasuredRate
from moma_client.config.site import SiteConfig
from moma_client.config.teacher import MomentumTeacherSection, RemoteTeacherSection
from moma_client.egress.log import log_path
from moma_client.egress.to_teacher import SendingPolicy
from moma_client.identity.peers import PinnedTeacher, TeacherAddress
from moma_client.identity.revocations import site_revocations
from moma_client.metrics import ClientMetrics
from moma_client.teacher.remote_teacher import RemoteTeacher, RemoteTeacherSettings
from moma_client.teacher.retry import RetryLimits
from moma_core.end_to_end.signatures import VerifyingKey
from moma_core.errors import RefusedError, TermsError
from moma_core.runtime.clock import utc_now
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.pixel_encoding import PixelEncoding

FAIL_FAST = RetryLimits(failures=2)
"""Where the site can do without the teacher."""

_FEWEST_MEASURED = 16  # patches, below which a rate is chance


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
        passphrase_file=config.identity.passphrase_file,
        is_relayed=section.via == "coordinator",
        revocations=site_revocations(config),
    )
    return RemoteTeacherSettings(
        teacher=address,
        end_to_end=PinnedTeacher(
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
        ),
        in_flight=section.in_flight,
        answer_deadline_seconds=section.answer_deadline_seconds,
        egress=SendingPolicy(
            encoding=PixelEncoding.parse(section.encoding),
            weights_may_leave=isinstance(section, MomentumTeacherSection)
            and section.weights_may_leave,
            log=log_path(config.state_dir),
        ),
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
        now=utc_now,
    )


def connect_for_cache(
    config: SiteConfig,
    section: RemoteTeacherSection,
    stop: threading.Event,
    metrics: ClientMetrics,
) -> RemoteTeacher:
    """Returns a teacher whose request ids say what is asked, whoever asks it."""
    settings = replace(remote_settings(config, section), ids_by_content=True)
    return connect(settings, CacheFolder(config).request_key(), stop, metrics)


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
        CacheFolder(config).keep_rate(MeasuredRate(patches, time.monotonic() - since))


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
