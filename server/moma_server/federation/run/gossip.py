"""Checkpoints of teachers' logs that sites were shown, passed on to the other sites.

A site compares them with its own, so that a forked log is found. The coordinator pins
no teacher's key: it checks the form, and passes on. A site believes what its teacher
signed, so the most that a coordinator can do is to suppress a checkpoint.
"""

from collections import Counter
from collections.abc import Iterator

from moma_core.audit.checkpoint import MOST_CHECKPOINTS, Checkpoint
from moma_core.end_to_end.signatures import VerifyingKey
from moma_core.errors import AuditError
from moma_server.federation.run.records import RoundRecord

MOST_OF_A_TEACHER = 8
"""Checkpoints passed on at once; one that differs is enough to show a fork."""


class SeenCheckpoints:
    """The newest checkpoint of each site."""

    def __init__(self) -> None:
        self._newest: dict[str, Checkpoint] = {}

    def add(self, record: RoundRecord) -> list[str]:
        """Adds the checkpoints of a round's reports.

        Returns:
            A sentence for each two of one size whose roots differ.
        """
        found: list[str] = []
        for site, entry in sorted(record.sites.items()):
            if entry.checkpoint is not None:
                found += self._contradictions(site, entry.checkpoint)
                self._newest[site] = entry.checkpoint
        return found

    def newest_checkpoints(self, round_: int) -> tuple[Checkpoint, ...]:
        """Returns the checkpoints that go out with a round's task.

        Where there are too many, each round begins with another site's.
        """
        sites = sorted(self._newest)
        start = round_ % max(1, len(sites))
        chosen: dict[tuple[str, int, str], Checkpoint] = {}
        of_operator: Counter[str] = Counter()
        for site in sites[start:] + sites[:start]:
            each = self._newest[site]
            state = (each.origin, each.size, each.root)
            if state not in chosen and of_operator[each.keeper] < MOST_OF_A_TEACHER:
                chosen[state] = each
                of_operator[each.keeper] += 1
        return tuple(chosen.values())[:MOST_CHECKPOINTS]

    def _contradictions(self, site: str, shown: Checkpoint) -> Iterator[str]:
        for other, known in sorted(self._newest.items()):
            alike = (known.origin, known.size, known.key)
            if alike != (shown.origin, shown.size, shown.key):
                continue
            if known.root != shown.root and _is_signed(known) and _is_signed(shown):
                yield (
                    f"{other} and {site} were shown two logs {shown.origin}: "
                    f"{shown.size} entries have two roots, both signed by {shown.key}; "
                    f"ask the teacher's owner whether this is its key"
                )


def _is_signed(checkpoint: Checkpoint) -> bool:
    """Says whether the key that a checkpoint names has signed it, whosever that is."""
    try:
        checkpoint.check(VerifyingKey.parse(checkpoint.key))
    except AuditError:
        return False
    return True
