"""Holds a teacher's log against what other parties were shown of it."""

import logging
import threading
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace

from moma_client.config.site import SiteConfig
from moma_client.config.teacher import LocalTeacherSection
from moma_client.metrics import ClientMetrics
from moma_client.teacher.connect import FAIL_FAST, connect, remote_settings
from moma_core.audit.checkpoint import Checkpoint
from moma_core.errors import TeacherUnavailableError

_logger = logging.getLogger(__name__)


def compare_with_others(
    config: SiteConfig,
    shown: Iterable[Checkpoint],
    stop: threading.Event,
    metrics: ClientMetrics,
) -> None:
    """Has a remote teacher prove that others were shown the log that this site was.

    Args:
        config: The site's.
        shown: As whoever hands them on says; of any teacher.
        stop: Set by the operator.
        metrics: Count what does not go together.

    Raises:
        LogForkError: The log shows two faces.
        AuditError: What the teacher shows is no proof.
        TeacherError: It refuses; one that is away proves it before it is asked again.
        StoppedError: The operator stopped.
    """
    section = config.teacher
    if isinstance(section, LocalTeacherSection):
        return
    settings = replace(remote_settings(config, section), retries=FAIL_FAST)
    with closing(connect(settings, b"", stop, metrics)) as remote:
        try:
            remote.compare_log(shown)
        except TeacherUnavailableError as error:
            _logger.warning("what others saw of the teacher's log waits: %s", error)
