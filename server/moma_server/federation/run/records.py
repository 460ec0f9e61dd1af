"""What happened in each round: one JSON line a round, appended and never changed."""

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from moma_core.audit.checkpoint import Checkpoint
from moma_core.config import Section
from moma_core.errors import CheckpointError
from moma_core.runtime.files import append_line
from moma_core.runtime.json_lines import json_object

_logger = logging.getLogger(__name__)

SiteState = Literal["took_part", "away", "late", "failed", "refused"]
Outcome = Literal["completed", "missed_quorum", "finished", "stopped"]

_MOST_FAILURES = 5  # of one site at the closing task, after which it is left alone


class SiteEntry(Section):
    """One site in one round."""

    state: SiteState
    patches: int = 0
    metrics: dict[str, float] = Field(default_factory=dict)
    reason: str | None = None
    answered_at: float | None = Field(None, description="Seconds since 1970.")
    checkpoint: Checkpoint | None = Field(
        None, description="Of its teacher's log, as the site says."
    )


class RoundRecord(Section):
    """One round, one closing task, or (`kind: run`) the end of a run."""

    kind: Literal["train", "close", "run"]
    run: str
    round: int
    attempt: int = 1
    outcome: Outcome
    started_at: float = Field(description="Seconds since 1970.")
    seconds: float
    sites: dict[str, SiteEntry] = Field(default_factory=dict)

    @property
    def took_part(self) -> list[str]:
        """The sites whose work is in the round's result."""
        return sorted(
            name for name, entry in self.sites.items() if entry.state == "took_part"
        )


class RecordFile:
    """The records of a coordinator, oldest first.

    One process appends, any may read. A line that a crash left torn is no record: it is
    passed over, wherever it stands. What its round did is done again, and the sites
    have their reports ready.

    Args:
        path: Made by the first append.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, record: RoundRecord) -> None:
        """Adds one record; it is on the disk when this returns."""
        append_line(self._path, record.model_dump_json().encode())

    def read(self) -> list[RoundRecord]:
        """Returns all records.

        Raises:
            CheckpointError: A line is whole and no record.
        """
        return self.tail(0)[0]

    def tail(self, offset: int) -> tuple[list[RoundRecord], int]:
        """Returns the records behind `offset`, and where to go on.

        Raises:
            CheckpointError: A line is whole and no record.
        """
        if not self._path.exists():
            return [], 0
        with self._path.open("rb") as file:
            file.seek(offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        records = [self._parsed(line) for line in whole.split(b"\n") if line]
        return [r for r in records if r is not None], offset + len(whole)

    def _parsed(self, line: bytes) -> RoundRecord | None:
        if json_object(line) is None:
            _logger.warning("%s: a torn line is passed over", self._path)
            return None
        try:
            return RoundRecord.model_validate_json(line)
        except ValidationError as error:
            raise CheckpointError(f"{self._path} holds a damaged record") from error


class FinalDelivery:
    """Finds the sites that a run's closing task has missed, from the run's records.

    A site that was away when the run was closed would wait for a round for ever, and
    never get the final student.

    Args:
        reaches_newcomers: Whether sites are closed that no round has asked: they get a
            student only where one is made by all.
    """

    def __init__(self, *, reaches_newcomers: bool = True) -> None:
        self._reaches_newcomers = reaches_newcomers
        self._invited: set[str] = set()
        self._is_due = False
        self._reached: set[str] = set()
        self._failures: Counter[str] = Counter()

    def add(self, record: RoundRecord) -> None:
        """Takes one more record of the run into account."""
        if record.kind == "run":
            self._is_due = record.outcome == "finished"
        self._invited.update(
            site for site, entry in record.sites.items() if entry.state != "away"
        )
        if record.kind != "close":
            return
        for site, entry in record.sites.items():
            if entry.state in ("took_part", "refused"):
                self._reached.add(site)
            self._failures[site] += entry.state == "failed"

    def missed(self, online: Iterable[str]) -> list[str]:
        """Returns which of the sites `online` the closing task must still reach."""
        if not self._is_due:
            return []
        return [
            site
            for site in online
            if site not in self._reached
            and self._failures[site] < _MOST_FAILURES
            and (self._reaches_newcomers or site in self._invited)
        ]


def next_round(records: list[RoundRecord], run: str) -> int:
    """Returns the number of the first round of `run` that is not completed."""
    done = [r.round for r in records if _completed(r, run)]
    return max(done, default=0) + 1


def ending(records: list[RoundRecord], run: str) -> RoundRecord | None:
    """Returns the record that ended `run`, or None while it goes on."""
    ends = [r for r in records if r.kind == "run" and r.run == run]
    return ends[-1] if ends else None


def _completed(record: RoundRecord, run: str) -> bool:
    return (record.kind, record.run, record.outcome) == ("train", run, "completed")
