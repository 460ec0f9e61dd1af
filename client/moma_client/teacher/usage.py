"""How many patches a run has sent to its teacher, in a file of the run's folder."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from moma_client.context import RunContext
from moma_client.teacher.connect import open_teacher
from moma_client.teacher.retry import FAIL_FAST
from moma_core.errors import MomaError
from moma_core.runtime.files import make_folder, write_private

_logger = logging.getLogger(__name__)


class Queries(NamedTuple):
    """What a run has requested.

    Args:
        asked: Patches, repetitions counted; a killed program's last round is missing.
        charged: Patches, to the site over the life of the agreement; None: not known.
    """

    asked: int
    charged: int | None


def read_queries(run: Path) -> Queries | None:
    """Returns what is recorded in a run's folder, if anything is."""
    try:
        values = json.loads((run / "queries.json").read_text("utf-8"))
        charged = values["charged"]
        return Queries(int(values["asked"]), None if charged is None else int(charged))
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def recorded(context: RunContext, run: Path) -> Iterator[None]:
    """Adds the patches that are sent while the block runs, whichever way it ends."""
    metrics = context.metrics
    before = metrics.counts().patches
    try:
        yield
    finally:
        sent = int(metrics.counts().patches - before)
        if sent:
            known = read_queries(run) or Queries(0, None)
            charged = _charged(context)
            total = Queries(known.asked + sent, charged or known.charged)
            make_folder(run)
            content = json.dumps(total._asdict()).encode()
            write_private(run / "queries.json", content)


def _charged(context: RunContext) -> int | None:
    """Returns what the teacher has charged; None where it does not say."""
    config, stop, metrics = context
    if not config.teacher.is_remote or stop.is_set():
        return None
    try:
        with open_teacher(
            config, retries=FAIL_FAST, stop=stop, metrics=metrics
        ) as remote:
            return remote.budget().charged_patches
    except MomaError as error:
        _logger.debug("what was charged is not known: %s", error)
        return None
