"""Who has not heard yet that a run is over."""

from collections import Counter
from collections.abc import Iterable

from moma_server.federation.run.records import RoundRecord

_MOST_FAILURES = 5


class FinalDelivery:
    """Follows a run's records, to find the sites that its closing task has missed.

    A site that was away when the run was closed would wait for a round for ever, and
    never get the final student.
    """

    def __init__(self) -> None:
        self._is_due = False
        self._told: set[str] = set()
        self._failures: Counter[str] = Counter()

    def take_note(self, record: RoundRecord) -> None:
        """Sees one more record of the run."""
        if record.kind == "run":
            self._is_due = record.outcome == "finished"
        if record.kind != "close":
            return
        for site, entry in record.sites.items():
            if entry.state in ("took_part", "refused"):
                self._told.add(site)
            self._failures[site] += entry.state == "failed"

    def untold(self, online: Iterable[str]) -> list[str]:
        """Returns who of the sites `online` is still to be asked to close the run."""
        if not self._is_due:
            return []
        return [
            site
            for site in online
            if site not in self._told and self._failures[site] < _MOST_FAILURES
        ]
