"""Compares a teacher's log with the states of it that other parties were shown."""

import logging
from collections.abc import Iterable

from moma_client.context import RunContext
from moma_client.teacher.connect import open_teacher
from moma_client.teacher.retry import FAIL_FAST
from moma_core.audit.checkpoint import Checkpoint
from moma_core.errors import TeacherUnavailableError

_logger = logging.getLogger(__name__)


def compare_with_others(context: RunContext, shown: Iterable[Checkpoint]) -> None:
    """Has a remote teacher prove that others were shown the log that this site was.

    Args:
        context: Settings, stop and metrics of this process.
        shown: States of logs that others say they were shown; of any teacher.

    Raises:
        LogForkError: The log forked.
        AuditError: What the teacher shows is no proof.
        TeacherError: It refuses; one that is away proves it before the next request.
        StoppedError: The operator stopped.
    """
    config, stop, metrics = context
    if not config.teacher.is_remote:
        return
    with open_teacher(config, retries=FAIL_FAST, stop=stop, metrics=metrics) as remote:
        try:
            remote.compare_log(shown)
        except TeacherUnavailableError as error:
            _logger.warning("what others saw of the teacher's log waits: %s", error)
