"""What an operator of a site sees; the only place where its metrics are defined.

Names: moma_client_<noun>_<unit>, counters end in _total. Labels have few, known
values; a patient, slide, file, patch or request id never is one. The endpoint is
local: the coordinator sees a site's figures only through egress.
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
)
from prometheus_client.exposition import choose_encoder

from moma_core.metrics_http.config import PageSection
from moma_core.metrics_http.server import Page, PageServer
from moma_core.pki.renewal import expiry_time, renewal_due

_logger = logging.getLogger(__name__)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Counts(NamedTuple):
    """What one process of several has counted."""

    patches: float
    banked_patches: float
    egress_bytes: float
    teacher_wait_seconds: float


class ClientMetrics:
    """One site's run: its steps, its losses, and what left the house."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
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
            "Patches of which a teacher was asked, by where its answer is.",
            ["source"],
            registry=registry,
        )
        self._count_what_leaves(registry)

    def _count_what_leaves(self, registry: CollectorRegistry) -> None:
        self.egress_bytes = Counter(
            "moma_client_egress_bytes_total",
            "Bytes that left the site, by channel.",
            ["channel"],
            registry=registry,
        )
        self.egress_blocked = Counter(
            "moma_client_egress_blocked_total",
            "Items that the site's policy kept in, by rule.",
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

    def counts(self) -> Counts:
        """Returns what was counted of the teacher so far."""
        read = self._registry.get_sample_value
        return Counts(
            read("moma_client_patches_total", {"source": "teacher"}) or 0,
            read("moma_client_patches_total", {"source": "bank"}) or 0,
            read("moma_client_egress_bytes_total", {"channel": "teacher"}) or 0,
            read("moma_client_teacher_wait_seconds_total") or 0,
        )

    def add(self, counts: Counts) -> None:
        """Adds what another process counted."""
        self.patches.labels(source="teacher").inc(counts.patches)
        self.patches.labels(source="bank").inc(counts.banked_patches)
        self.egress_bytes.labels(channel="teacher").inc(counts.egress_bytes)
        self.teacher_wait_seconds.inc(counts.teacher_wait_seconds)


class CertificateMetrics:
    """How long the site's own certificates last."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._expiry = Gauge(
            "moma_certificate_expiry_timestamp_seconds",
            "When a certificate ends; 0 where it cannot be read.",
            ["subject"],
            registry=registry,
        )
        self._renewal = Gauge(
            "moma_certificate_renewal_timestamp_seconds",
            "When a certificate renews itself; none where nobody sees to that.",
            ["subject"],
            registry=registry,
        )

    def watch(
        self, subject: str, certificate: Path, *, renews_itself: bool = False
    ) -> None:
        """Shows when a certificate ends, read from its file at every look.

        Args:
            subject: For example `site/site-a`.
            certificate: PEM; of a chain, the first one is read.
            renews_itself: Whether this program renews it.
        """
        self._expiry.labels(subject).set_function(lambda: expiry_time(certificate))
        if renews_itself:
            due = self._renewal.labels(subject)
            due.set_function(lambda: renewal_due(certificate))


def silent_metrics() -> ClientMetrics:
    """Returns metrics that nobody reads: those of a helper process."""
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
        version: Of the program.
        certificates: The site's own, by subject.
        renewed: Those that this program renews.

    Raises:
        ConfigError: The address cannot be listened at, or certificate, key or token
            cannot be used.
    """
    registry = CollectorRegistry()
    register_build(registry, version)
    own = CertificateMetrics(registry)
    for subject, certificate in certificates.items():
        own.watch(subject, certificate, renews_itself=subject in renewed)
    if at.port == 0:
        yield ClientMetrics(registry)
        return
    with PageServer(at, lambda accept: _page(registry, accept)):
        _logger.info("metrics at %s/metrics", at.url)
        yield ClientMetrics(registry)


def _page(registry: CollectorRegistry, accept: str) -> Page:
    encode, content_type = choose_encoder(accept)
    return Page(content_type, encode(registry))


def register_build(registry: CollectorRegistry, version: str) -> None:
    """Shows the running version as `moma_build_info`."""
    Info("moma_build", "The running version.", registry=registry).info(
        {"version": version}
    )
