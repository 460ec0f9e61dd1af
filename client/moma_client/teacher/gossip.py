"""Compares a teacher's log with the states of it that other parties were shown."""

import logging
import threading
from collections.abc import Iterable

from moma_client.config.site import SiteConfig
from moma_client.config.teacher import LocalTeacherSection
from moma_client.metrics import ClientMetrics
from moma_client.teacher.connect import open_teacher
from moma_client.teacher.retry import FAIL_FAST
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
        config: Settings of this site.
        shown: States of logs that others say they were shown; of any teacher.
        stop: Set by the operator.
        metrics: Counts states that contradict each other.

    Raises:
        EquivocationError: The log forked.
        AuditError: What the teacher shows is no proof.
        TeacherError: It refuses; one that is away proves it before the next request.
        StoppedError: The operator stopped.
    """
    if isinstance(config.teacher, LocalTeacherSection):
        return
    with open_teacher(config, retries=FAIL_FAST, stop=stop, metrics=metrics) as remote:
        try:
            remote.compare_log(shown)
        except TeacherUnavailableError as error:
            _logger.warning("what others saw of the teacher's log waits: %s", error)
