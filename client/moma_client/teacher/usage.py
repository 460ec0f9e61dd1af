"""How many patches a run has sent to its teacher, in a file of the run's folder."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from moma_client.config.site import SiteConfig
from moma_client.context import RunContext
from moma_client.teacher.connect import open_teacher
from moma_client.teacher.retry import FAIL_FAST
from moma_core.errors import MomaError
from moma_core.runtime.canonical_json import parsed_json
from moma_core.runtime.files import make_folder, write_private

_logger = logging.getLogger(__name__)


class Queries(NamedTuple):
    """What a run has requested of one teacher.

    Args:
        asked: Patches, repetitions counted; a killed program's last round is missing.
        charged: Patches, to the site over the life of the agreement; None: not known.
    """

    asked: int
    charged: int | None


def read_queries(run: Path, teacher: str = "") -> Queries | None:
    """Returns what is recorded in a run's folder, if anything is.

    Args:
        run: Folder of the run.
        teacher: Name of one of several teachers; empty: the site's one teacher.
    """
    try:
        values = parsed_json(_file(run, teacher).read_text("utf-8"))
        charged = values["charged"]
        return Queries(int(values["asked"]), None if charged is None else int(charged))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def read_all_queries(config: SiteConfig, run: Path) -> dict[str, Queries]:
    """Returns what is recorded of each of a site's remote teachers, by its name."""
    is_one = not config.teachers
    names = [
        each.teacher.name for each in config.each_teacher if each.teacher.is_remote
    ]
    found = {name: read_queries(run, "" if is_one else name) for name in names}
    return {name: queries for name, queries in found.items() if queries is not None}


@contextmanager
def recorded(context: RunContext, run: Path) -> Iterator[None]:
    """Adds the patches that are sent while the block runs, whichever way it ends."""
    contexts = {
        config.teacher.name: context._replace(config=config)
        for config in context.config.each_teacher
        if config.teacher.is_remote
    }
    before = {name: context.metrics.sent_to(name) for name in contexts}
    is_one = not context.config.teachers
    try:
        yield
    finally:
        for name, own in contexts.items():
            sent = context.metrics.sent_to(name) - before[name]
            if sent:
                _add(own, run, "" if is_one else name, sent)


def _add(context: RunContext, run: Path, teacher: str, sent: int) -> None:
    known = read_queries(run, teacher) or Queries(0, None)
    charged = _charged(context)
    total = Queries(known.asked + sent, charged or known.charged)
    path = _file(run, teacher)
    make_folder(path.parent)
    write_private(path, json.dumps(total._asdict()).encode())


def _file(run: Path, teacher: str) -> Path:
    return run / "queries" / f"{teacher}.json" if teacher else run / "queries.json"


def _charged(context: RunContext) -> int | None:
    """Returns what the teacher has charged; None where it does not say."""
    config, stop, metrics = context
    if stop.is_set():
        return None
    try:
        with open_teacher(
            config, retries=FAIL_FAST, stop=stop, metrics=metrics
        ) as remote:
            return remote.budget().charged_patches
    except MomaError as error:
        _logger.debug("what was charged is not known: %s", error)
        return None
