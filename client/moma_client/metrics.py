"""What an operator of a site sees; the only place where its metrics are defined.

Names: moma_client_<noun>_<unit>, counters end in _total. Labels have few, known
values; a patient, slide, file, patch or request id never is one. The endpoint is
local: the coordinator sees a site's figures only through egress.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from moma_core.metrics_http.config import PageSection
from moma_core.metrics_http.registry import ExpiryMetrics, shown_registry

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Counts(NamedTuple):
    """What one process of several has counted."""

    patches: float
    cached_patches: float
    egress_bytes: float
    teacher_wait_seconds: float
    sent_patches: Mapping[str, float]  # by teacher


class ClientMetrics:
    """One site's run: its steps, its losses, and what left the site.

    Args:
        registry: Where they are kept.

    Attributes:
        registry: The same, for who shows them.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.step_seconds = Histogram(
            "moma_client_step_duration_seconds",
            "Time of one training step, by phase.",
            ["phase"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.loss = Gauge(
            "moma_client_loss",
            "The newest losses, by term.",
            ["term"],
            registry=registry,
        )
        self.patches = Counter(
            "moma_client_patches_total",
            "Patches that a teacher saw, by where its output came from.",
            ["source"],
            registry=registry,
        )
        self.teacher_patches = Counter(
            "moma_client_teacher_patches_total",
            "Patches that were sent, by the teacher that they were for.",
            ["teacher"],
            registry=registry,
        )
        self._show_budget(registry)
        self._count_what_leaves(registry)

    def _show_budget(self, registry: CollectorRegistry) -> None:
        self._granted = Gauge(
            "moma_client_budget_patches",
            "Patches that a teacher grants to this site, as it last said.",
            ["teacher"],
            registry=registry,
        )
        self._charged = Gauge(
            "moma_client_budget_charged_patches",
            "Patches that a teacher has charged to this site, as it last said.",
            ["teacher"],
            registry=registry,
        )

    def _count_what_leaves(self, registry: CollectorRegistry) -> None:
        self.egress_bytes = Counter(
            "moma_client_egress_bytes_total",
            "Bytes that left the site, by channel.",
            ["channel"],
            registry=registry,
        )
        self.egress_blocked = Counter(
            "moma_client_egress_blocked_total",
            "Items that the site's policy suppressed, by rule.",
            ["rule"],
            registry=registry,
        )
        self.audit_mismatch = Counter(
            "moma_client_audit_mismatch_total",
            "Signed states of a teacher's log that do not go together, by reason; "
            "signature: not signed by the teacher, and ignored.",
            ["reason"],
            registry=registry,
        )
        self.teacher_wait_seconds = Counter(
            "moma_client_teacher_wait_seconds_total",
            "What the training loop waited for the teacher.",
            registry=registry,
        )

    def count_mismatch(self, reason: str) -> None:
        """Counts what does not go together in a teacher's log."""
        self.audit_mismatch.labels(reason=reason).inc()

    def show_budget(self, teacher: str, *, granted: int, charged: int) -> None:
        """Shows what a teacher said of this site's budget."""
        self._granted.labels(teacher=teacher).set(granted)
        self._charged.labels(teacher=teacher).set(charged)

    def count_sent(self, teacher: str, patches: float) -> None:
        """Counts patches that were sent to a teacher."""
        self.patches.labels(source="teacher").inc(patches)
        self.teacher_patches.labels(teacher=teacher).inc(patches)

    def sent_to(self, teacher: str) -> int:
        """Returns how many patches were sent to a teacher so far."""
        name = "moma_client_teacher_patches_total"
        return int(self.registry.get_sample_value(name, {"teacher": teacher}) or 0)

    def counts(self) -> Counts:
        """Returns what was counted of the teacher so far."""
        read = self.registry.get_sample_value
        return Counts(
            read("moma_client_patches_total", {"source": "teacher"}) or 0,
            read("moma_client_patches_total", {"source": "bank"}) or 0,
            read("moma_client_egress_bytes_total", {"channel": "teacher"}) or 0,
            read("moma_client_teacher_wait_seconds_total") or 0,
            {
                sample.labels["teacher"]: sample.value
                for family in self.teacher_patches.collect()
                for sample in family.samples
                if sample.name.endswith("_total")
            },
        )

    def add(self, counts: Counts) -> None:
        """Adds what another process counted."""
        for teacher, patches in counts.sent_patches.items():
            self.count_sent(teacher, patches)
        self.patches.labels(source="bank").inc(counts.cached_patches)
        self.egress_bytes.labels(channel="teacher").inc(counts.egress_bytes)
        self.teacher_wait_seconds.inc(counts.teacher_wait_seconds)


def silent_metrics() -> ClientMetrics:
    """Returns metrics that nobody reads."""
    return ClientMetrics(CollectorRegistry())


@contextmanager
def shown_metrics(
    at: PageSection,
    *,
    version: str,
    certificates: Mapping[str, Path],
    renewed: Collection[str] = (),
) -> Iterator[ClientMetrics]:
    """Shows new metrics at `/metrics` while the block runs; port 0 shows none.

    Args:
        at: The address, and what it takes to be let in.
        version: Version of the program.
        certificates: Certificates of this site, by subject.
        renewed: Those that this program renews.

    Raises:
        ConfigError: The address cannot be listened at, or certificate, key or token
            cannot be used.
    """
    with shown_registry(at, version=version) as registry:
        own = ExpiryMetrics(registry)
        for subject, certificate in certificates.items():
            own.watch(subject, certificate, renews_itself=subject in renewed)
        yield ClientMetrics(registry)
