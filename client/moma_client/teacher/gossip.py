"""Holds a teacher's log against what other parties were shown of it."""

import logging
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace

from moma_client.context import RunContext
from moma_client.teacher.connect import FAIL_FAST, connect, remote_settings
from moma_core.audit.checkpoint import Checkpoint
from moma_core.errors import TeacherUnavailableError

_logger = logging.getLogger(__name__)


def compare_with_others(context: RunContext, shown: Iterable[Checkpoint]) -> None:
    """Has a remote teacher prove that others were shown the log that this site was.

    Args:
        context: Settings, stop and metrics of this process.
        shown: States of logs of any teacher, as whoever hands them on says.

    Raises:
        EquivocationError: The log shows two faces.
        AuditError: What the teacher shows is no proof.
        TeacherError: It refuses; one that is away proves it before it is asked again.
        StoppedError: The operator stopped.
    """
    config, stop, metrics = context
    section = config.teacher
    if not section.is_remote:
        return
    settings = replace(remote_settings(config, section), retries=FAIL_FAST)
    with closing(connect(settings, b"", stop, metrics)) as remote:
        try:
            remote.compare_log(shown)
        except TeacherUnavailableError as error:
            _logger.warning("what others saw of the teacher's log waits: %s", error)
