"""How much a run has asked of its teacher: a file in the run's folder."""

import json
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from moma_client.context import RunContext
from moma_client.teacher.connect import FAIL_FAST, connect, remote_settings
from moma_core.errors import MomaError
from moma_core.runtime.files import write_private

_logger = logging.getLogger(__name__)


class Queries(NamedTuple):
    """What a run has asked.

    Args:
        asked: Patches, repetitions counted; a killed program's last round is missing.
        charged: Patches, to the site over the life of the agreement; None: not known.
    """

    asked: int
    charged: int | None


def read_queries(run: Path) -> Queries | None:
    """Returns what stands in a run's folder, if anything does."""
    try:
        values = json.loads((run / "queries.json").read_text("utf-8"))
        charged = values["charged"]
        return Queries(int(values["asked"]), None if charged is None else int(charged))
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def recorded(context: RunContext, run: Path) -> Iterator[None]:
    """Adds what is asked while the block runs, whichever way it ends."""
    metrics = context.metrics
    before = metrics.counts().patches
    try:
        yield
    finally:
        asked = int(metrics.counts().patches - before)
        if asked:
            known = read_queries(run) or Queries(0, None)
            charged = _charged(context)
            total = Queries(known.asked + asked, charged or known.charged)
            run.mkdir(parents=True, exist_ok=True)
            content = json.dumps(total._asdict()).encode()
            write_private(run / "queries.json", content)


def _charged(context: RunContext) -> int | None:
    """Asks the teacher what it has charged; None where it does not say."""
    config, stop, metrics = context
    section = config.teacher
    if not section.is_remote or stop.is_set():
        return None
    settings = replace(remote_settings(config, section), retries=FAIL_FAST)
    try:
        with closing(connect(settings, b"", stop, metrics)) as remote:
            return remote.budget().charged_patches
    except MomaError as error:
        _logger.debug("what was charged is not known: %s", error)
        return None
