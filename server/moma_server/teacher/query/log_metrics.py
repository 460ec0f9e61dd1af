"""The log's numbers as Prometheus sees them: the same, also after a restart.

A counter is raised to what the log says and never counts by itself. So each of several
gateways on one database shows the numbers of all.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.ledger import Committed
from moma_core.audit.tables import Total, TotalKey
from moma_server.metrics.metrics import AuditMetrics, TeacherMetrics

_NOTHING = Total(0, 0)


class LogMetrics:
    """Raises the counters of queries to the totals of the log; for one thread.

    Args:
        metrics: The counters.
        audit: The log's own gauges.
        teacher: The label.
    """

    def __init__(
        self, metrics: TeacherMetrics, audit: AuditMetrics, teacher: str
    ) -> None:
        self._metrics = metrics
        self._audit = audit
        self._teacher = teacher
        self._shown: dict[TotalKey, Total] = {}
        self._mismatches = 0

    def show(self, committed: Committed[Any]) -> None:
        """Shows what a transaction has changed."""
        self._raise(committed.totals)
        self._show_checkpoint(committed.checkpoint)
        self._audit.mismatches.inc(committed.mismatches - self._mismatches)
        self._mismatches = committed.mismatches

    def _raise(self, totals: Mapping[TotalKey, Total]) -> None:
        """Raises each counter in one step: half of a sum looks like a reset."""
        requests = Counter[tuple[str, str]]()
        denied = Counter[tuple[str, str]]()
        patches = Counter[str]()
        for key, total in totals.items():
            shown = self._shown.get(key, _NOTHING)
            self._shown[key] = total
            queries = total.queries - shown.queries
            requests[key.site, key.outcome] += queries
            patches[key.site] += total.charged - shown.charged
            if key.reason:
                denied[key.site, key.reason] += queries
        for (site, outcome), count in requests.items():
            self._metrics.requests.labels(site, self._teacher, outcome).inc(count)
        for (site, reason), count in denied.items():
            self._metrics.denied.labels(site, self._teacher, reason).inc(count)
        for site, count in patches.items():
            self._metrics.patches.labels(site, self._teacher).inc(count)

    def _show_checkpoint(self, checkpoint: Checkpoint) -> None:
        self._audit.size.set(checkpoint.size)
        self._audit.checkpoint_time.set(checkpoint.time_ms / 1000)
