"""What an operator of a server sees of certificates, by the rules of `metrics`."""

from datetime import datetime
from pathlib import Path

from prometheus_client import Gauge

from moma_core.pki.renewal import expiry_time, renewal_due
from moma_server.metrics.metrics import Registry


class CertificateMetrics:
    """When certificates end, and how old the knowledge of revoked ones is."""

    def __init__(self, registry: Registry) -> None:
        self._expiry = Gauge(
            "moma_certificate_expiry_timestamp_seconds",
            "When a certificate ends; 0 where it cannot be read; a member's newest.",
            ["subject"],
            registry=registry,
        )
        self._renewal = Gauge(
            "moma_certificate_renewal_timestamp_seconds",
            "When a certificate renews itself; none where nobody sees to that.",
            ["subject"],
            registry=registry,
        )
        self.revocation_list = Gauge(
            "moma_revocation_list_timestamp_seconds",
            "Of when the newest list of the coordinator's revocations is.",
            registry=registry,
        )
        self._followed: set[str] = set()

    def watch(
        self, subject: str, certificate: Path, *, renews_itself: bool = False
    ) -> None:
        """Shows when a certificate of our own ends, read at every look.

        Args:
            subject: For example `teacher/teacher-a`.
            certificate: PEM; of a chain, the first one is read.
            renews_itself: Whether this program renews it.
        """
        self._followed.add(subject)
        self._expiry.labels(subject).set_function(lambda: expiry_time(certificate))
        if renews_itself:
            due = self._renewal.labels(subject)
            due.set_function(lambda: renewal_due(certificate))

    def show(
        self, kind: str, name: str, end: datetime, renewal: datetime | None
    ) -> None:
        """Shows when a member's certificate ends, unless it is one of our own.

        Args:
            kind: Of the member.
            name: In the federation.
            end: Of its newest certificate.
            renewal: When it should have the next one; None: it cannot ask for one.
        """
        subject = f"{kind}/{name}"
        if subject not in self._followed:
            self._expiry.labels(subject).set(end.timestamp())
            if renewal is not None:
                self._renewal.labels(subject).set(renewal.timestamp())

    def forget(self, kind: str, name: str) -> None:
        """Shows no more of a member that was revoked."""
        subject = f"{kind}/{name}"
        if subject not in self._followed:
            for gauge in (self._expiry, self._renewal):
                gauge.remove_by_labels({"subject": subject})
