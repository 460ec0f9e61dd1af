"""The log's numbers as Prometheus sees them: the same, also after a restart.

A counter is raised to what the log says and never counts by itself. So each of several
gateways on one database shows the numbers of all.
"""

from typing import Any

from moma_core.audit.books import Committed
from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.totals import Total, TotalKey
from moma_server.metrics import AuditMetrics, TeacherMetrics

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
        for key, total in committed.totals.items():
            self._raise(key, total)
        self._show_checkpoint(committed.checkpoint)
        self._audit.mismatches.inc(committed.mismatches - self._mismatches)
        self._mismatches = committed.mismatches

    def _raise(self, key: TotalKey, total: Total) -> None:
        shown = self._shown.get(key, _NOTHING)
        queries = total.queries - shown.queries
        site, teacher = key.site, self._teacher
        self._metrics.requests.labels(site, teacher, key.outcome).inc(queries)
        self._metrics.patches.labels(site, teacher).inc(total.charged - shown.charged)
        if key.reason:
            self._metrics.denied.labels(site, teacher, key.reason).inc(queries)
        self._shown[key] = total

    def _show_checkpoint(self, checkpoint: Checkpoint) -> None:
        self._audit.size.set(checkpoint.size)
        self._audit.checkpoint_time.set(checkpoint.time_ms / 1000)
