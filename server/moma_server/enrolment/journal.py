"""What happened at the enrolment desk: one line an event, in `enrolments.jsonl`.

Names, times and reasons; never a secret, a key or a certificate. Who floods the desk is
bounded in rate before it gets here, and a record is turned over when it is long.
Refusals have a file of their own, `enrolment-refusals.jsonl`: strangers write there,
and must not be able to turn over what was granted.
"""

import json
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal

from moma_core.runtime.files import append_private

_logger = logging.getLogger(__name__)

Event = Literal[
    "token-created", "token-revoked", "enrolled", "renewed", "refused", "revoked"
]

REFUSALS = "enrolment-refusals.jsonl"

_LONGEST_FIELD = 300
_LONGEST_BYTES = 16 << 20


class EnrolmentJournal:
    """Adds to the record; several processes may do so.

    Args:
        path: The file; its folder exists.
        clock: The present, with a time zone.
    """

    def __init__(self, path: Path, clock: Callable[[], datetime]) -> None:
        self._path, self._clock = path, clock

    def note(self, event: Event, **facts: str) -> None:
        """Writes one event down, in the record and in the server's log.

        Args:
            event: What happened.
            facts: For example who, from where, why; long ones are cut.
        """
        shown = {name: value[:_LONGEST_FIELD] for name, value in facts.items()}
        line = {"time": self._clock().isoformat(), "event": event, **shown}
        path = self._path
        if event == "refused":
            path = path.with_name(REFUSALS)
        if path.exists() and path.stat().st_size > _LONGEST_BYTES:
            path.replace(path.with_suffix(".jsonl.1"))
        append_private(path, json.dumps(line).encode())
        level = logging.WARNING if event == "refused" else logging.INFO
        said = ", ".join(f"{name} {value!r}" for name, value in shown.items())
        _logger.log(level, "enrolment: %s, %s", event, said)
