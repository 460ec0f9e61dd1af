"""Shows the records of rounds as Prometheus metrics, and what they contradict.

The counters are rebuilt from the records at every start, so a restart loses none.
"""

import logging
import re
from collections import Counter
from collections.abc import Collection
from typing import get_args

from moma_core.federation.messages import MAX_METRICS
from moma_core.federation.task import METRIC_PATTERN
from moma_server.federation.run.gossip import SeenCheckpoints
from moma_server.federation.run.records import (
    RecordFile,
    RoundRecord,
    SiteEntry,
    SiteState,
)
from moma_server.metrics.metrics import FederationMetrics

_logger = logging.getLogger(__name__)


class RoundMetrics:
    """Shows new records of a file, each once.

    Args:
        records: The record file, written by the run's process.
        metrics: The metrics that are updated.
    """

    def __init__(self, records: RecordFile, metrics: FederationMetrics) -> None:
        self._records = records
        self._metrics = metrics
        self._offset = 0
        self._names: dict[str, set[str]] = {}
        self._seen = SeenCheckpoints()

    def update(self) -> list[RoundRecord]:
        """Reads what is new, shows it, and returns it.

        Raises:
            CheckpointError: The record file is damaged.
        """
        records, self._offset = self._records.tail(self._offset)
        for record in records:
            self._show(record)
            for contradiction in self._seen.add(record):
                _logger.warning("%s", contradiction)
        return records

    def show_nodes(self, registered: Collection[str], online: Collection[str]) -> None:
        """Shows how many sites are registered, and how many are connected now."""
        self._metrics.sites.labels("registered").set(len(registered))
        self._metrics.sites.labels("online").set(len(online))

    def _show(self, record: RoundRecord) -> None:
        for site, entry in record.sites.items():
            self._show_site(site, entry)
        if record.kind != "train":
            return
        self._metrics.rounds.labels(record.outcome).inc()
        self._metrics.round_seconds.observe(record.seconds)
        states = Counter(entry.state for entry in record.sites.values())
        for state in get_args(SiteState):
            self._metrics.sites.labels(state).set(states[state])

    def _show_site(self, site: str, entry: SiteEntry) -> None:
        if entry.answered_at is not None:
            self._metrics.site_last_seen.labels(site).set(entry.answered_at)
        known = self._names.setdefault(site, set())
        for name, value in entry.metrics.items():
            if not re.fullmatch(METRIC_PATTERN, name):
                continue
            if name not in known and len(known) >= MAX_METRICS:
                _logger.warning("%s sends too many metrics, some are not shown", site)
                break
            known.add(name)
            self._metrics.site_metric.labels(site, name).set(value)
