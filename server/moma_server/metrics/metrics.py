"""What an operator of a server sees; the only place where its metrics are defined.

Names: moma_<part>_<noun>_<unit>, counters end in _total. Labels have few, known
values: a site is one; a patient, slide, file, patch or request id never is.
"""

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from moma_core.metrics_http.registry import Registry

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_ROUNDS = (1, 5, 15, 60, 300, 900, 3600, 14400)


class TeacherMetrics:
    """Queries: who asked, how much, what was denied, how long it took."""

    def __init__(self, registry: Registry) -> None:
        self._count_queries(registry)
        self._show_accounts(registry)
        self._show_coverage(registry)
        self._time_work(registry)

    def _count_queries(self, registry: Registry) -> None:
        self.requests = Counter(
            "moma_teacher_requests_total",
            "Queries that are in the log, by how they ended.",
            ["site", "teacher", "outcome"],
            registry=registry,
        )
        self.dropped = Counter(
            "moma_teacher_dropped_total",
            "Queries that ended without work: not charged, not logged, not restored.",
            ["site", "teacher", "outcome"],
            registry=registry,
        )
        self.patches = Counter(
            "moma_teacher_patches_total",
            "Patches charged to the budget.",
            ["site", "teacher"],
            registry=registry,
        )
        self.denied = Counter(
            "moma_teacher_denied_total",
            "Queries denied; no site is named before it is authenticated.",
            ["site", "teacher", "reason"],
            registry=registry,
        )

    def _show_accounts(self, registry: Registry) -> None:
        self.unique = Gauge(
            "moma_teacher_unique_patches",
            "Different patches that were asked.",
            ["site", "teacher"],
            registry=registry,
        )
        self.budget = Gauge(
            "moma_teacher_budget_patches",
            "Patches granted over the life of the agreement.",
            ["site", "teacher"],
            registry=registry,
        )
        self.budget_remaining = Gauge(
            "moma_teacher_budget_remaining_ratio",
            "Share of the budget that is left.",
            ["site", "teacher"],
            registry=registry,
        )

    def _show_coverage(self, registry: Registry) -> None:
        self.coverage = Gauge(
            "moma_teacher_embedding_coverage_ratio",
            "Share of the embedding space that a site has seen.",
            ["site", "teacher"],
            registry=registry,
        )
        self.coverage_limit = Gauge(
            "moma_teacher_embedding_coverage_limit_ratio",
            "Share that the policy lets a site see; none where it sets no limit.",
            ["teacher"],
            registry=registry,
        )

    def _time_work(self, registry: Registry) -> None:
        self.request_seconds = Histogram(
            "moma_teacher_request_duration_seconds",
            "From a query's arrival to its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "moma_teacher_queue_duration_seconds",
            "What a query waited for the model.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "moma_teacher_batch_size",
            "Patches in one pass of the model.",
            buckets=_BATCHES,
            registry=registry,
        )
        self.inflight = Gauge(
            "moma_teacher_inflight_requests",
            "Queries accepted and not yet answered.",
            registry=registry,
        )


class AuditMetrics:
    """The log of queries."""

    def __init__(self, registry: Registry) -> None:
        self.size = Gauge(
            "moma_audit_log_size", "Entries of the open log.", registry=registry
        )
        self.checkpoint_time = Gauge(
            "moma_audit_checkpoint_timestamp_seconds",
            "When the newest checkpoint was signed.",
            registry=registry,
        )
        self.mismatches = Counter(
            "moma_audit_reconcile_mismatch_total",
            "Receipts that the log contradicts.",
            registry=registry,
        )


class ServiceMetrics:
    """All that a teacher's service shows."""

    def __init__(self, registry: Registry) -> None:
        self.teacher = TeacherMetrics(registry)
        self.audit = AuditMetrics(registry)


class FederationMetrics:
    """Rounds and the sites that took part."""

    def __init__(self, registry: Registry) -> None:
        self.rounds = Counter(
            "moma_federation_rounds_total",
            "Rounds, by how they ended.",
            ["outcome"],
            registry=registry,
        )
        self.round_seconds = Histogram(
            "moma_federation_round_duration_seconds",
            "From asking the sites to the record of the round.",
            buckets=_ROUNDS,
            registry=registry,
        )
        self.sites = Gauge(
            "moma_federation_sites", "Sites, by state.", ["state"], registry=registry
        )
        self.site_metric = Gauge(
            "moma_site_metric",
            "The newest figures that a site's egress policy let out.",
            ["site", "metric"],
            registry=registry,
        )
        self.site_last_seen = Gauge(
            "moma_site_last_seen_timestamp_seconds",
            "When a site last answered.",
            ["site"],
            registry=registry,
        )
        self.edge = EdgeMetrics(registry)


class EdgeMetrics:
    """What passes the federation's edge, and what does not."""

    def __init__(self, registry: Registry) -> None:
        self.bytes = Counter(
            "moma_federation_edge_bytes_total",
            "Bytes of calls and answers, `received` from a site or `sent` to it.",
            ["site", "direction"],
            registry=registry,
        )
        self.refused = Counter(
            "moma_federation_edge_refused_total",
            "Calls that were passed on to nobody.",
            ["reason"],
            registry=registry,
        )


class RelayMetrics:
    """What passes through the relay; what is inside, nobody here can see."""

    def __init__(self, registry: Registry) -> None:
        self.bytes = Counter(
            "moma_relay_bytes_total",
            "Bytes of messages, to_teacher and to_site.",
            ["site", "teacher", "direction"],
            registry=registry,
        )
        self.denied = Counter(
            "moma_relay_denied_total",
            "Calls turned away; no site is named before it is authenticated.",
            ["site", "teacher", "reason"],
            registry=registry,
        )


SampleKey = tuple[str, frozenset[tuple[str, str]]]


def sample_key(name: str, **labels: str) -> SampleKey:
    """Returns how `read_samples` names one sample."""
    return name, frozenset(labels.items())


def read_samples(text: str) -> dict[SampleKey, float]:
    """Returns the samples of a `/metrics` page by name and labels."""
    return {
        sample_key(sample.name, **sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
