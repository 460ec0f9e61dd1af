"""What an operator of a server sees of certificates, by the rules of `metrics`."""

from datetime import datetime
from pathlib import Path

from prometheus_client import Gauge

from moma_core.metrics_http.registry import ExpiryMetrics, Registry


class CertificateMetrics(ExpiryMetrics):
    """Own and members' certificates, and how old the knowledge of revoked ones is."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry)
        self._own: set[str] = set()
        self.revocation_list = Gauge(
            "moma_revocation_list_timestamp_seconds",
            "Of when the newest list of the coordinator's revocations is.",
            registry=registry,
        )

    def watch(
        self, subject: str, certificate: Path, *, renews_itself: bool = False
    ) -> None:
        """Shows when a certificate of our own ends, whatever is known of members."""
        self._own.add(subject)
        super().watch(subject, certificate, renews_itself=renews_itself)

    def show(
        self, kind: str, name: str, end: datetime, renewal: datetime | None
    ) -> None:
        """Shows when a member's certificate ends, unless it is one of our own.

        Args:
            kind: `site`, `teacher` or `coordinator`.
            name: The member's name in the federation.
            end: When its newest certificate ends.
            renewal: When it should have the next one; None: it cannot ask for one.
        """
        subject = f"{kind}/{name}"
        if subject not in self._own:
            self._expiry.labels(subject).set(end.timestamp())
            if renewal is not None:
                self._renewal.labels(subject).set(renewal.timestamp())

    def forget(self, kind: str, name: str) -> None:
        """Shows no more of a member that was revoked."""
        subject = f"{kind}/{name}"
        if subject not in self._own:
            for gauge in (self._expiry, self._renewal):
                gauge.remove_by_labels({"subject": subject})
