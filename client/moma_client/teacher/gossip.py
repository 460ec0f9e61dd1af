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
    """Has remote teachers prove that others were shown the logs that this site was.

    Args:
        context: Settings, stop and metrics of this process.
        shown: States of logs that others say they were shown; of any teacher.

    Raises:
        LogForkError: A log forked.
        AuditError: What a teacher shows is no proof.
        TeacherError: One refuses; one that is away proves it before the next request.
        StoppedError: The operator stopped.
    """
    states = tuple(shown)
    for config in context.config.each_teacher:
        if config.teacher.is_remote:
            _compare(context._replace(config=config), states)


def _compare(context: RunContext, shown: Iterable[Checkpoint]) -> None:
    config, stop, metrics = context
    with open_teacher(config, retries=FAIL_FAST, stop=stop, metrics=metrics) as remote:
        try:
            remote.compare_log(shown)
        except TeacherUnavailableError as error:
            _logger.warning("what others saw of the teacher's log waits: %s", error)
