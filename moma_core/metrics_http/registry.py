"""The registry of a program's metrics, and what every program shows in it."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, Info
from prometheus_client.exposition import choose_encoder

from moma_core.metrics_http.config import PageSection
from moma_core.pki.renewal import expiry_time, renewal_due

_logger = logging.getLogger(__name__)

Registry = CollectorRegistry
"""Where one program's metrics are kept; there is no global one."""


class Samples:
    """What a page of metrics shows, as numbers, for who shows them in another form.

    Args:
        registry: Is read once, now.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        for family in registry.collect():
            for one in family.samples:
                self._found.setdefault(one.name, []).append((one.labels, one.value))

    def rows(self, name: str) -> Sequence[tuple[Mapping[str, str], float]]:
        """Returns labels and value of each sample of a name."""
        return self._found.get(name, [])

    def value(self, name: str, **labels: str) -> float | None:
        """Returns the value of the sample with these labels and no others, if any."""
        found = [value for own, value in self.rows(name) if own == labels]
        return found[0] if found else None

    def total(self, name: str, **labels: str) -> float:
        """Returns the sum over the samples that have these labels, 0 without any."""
        return sum(
            value for own, value in self.rows(name) if labels.items() <= own.items()
        )


@contextmanager
def shown_registry(at: PageSection, *, version: str) -> Iterator[CollectorRegistry]:
    """Shows a new registry at `/metrics` while the block runs; port 0 shows none.

    Args:
        at: The address, and what it takes to be authorized.
        version: Version of the program.

    Raises:
        ConfigError: The address cannot be listened at, or certificate, key or token
            cannot be used.
    """
    registry = CollectorRegistry()
    register_build(registry, version)
    if at.port == 0:
        yield registry
        return
    # only a program that shows a page needs its HTTP server
    from moma_core.metrics_http.server import Page, PageServer

    def page(accept: str) -> Page:
        encode, content_type = choose_encoder(accept)
        return Page(content_type, encode(registry))

    with PageServer(at, page):
        _logger.info("metrics at %s/metrics", at.url)
        yield registry


def register_build(registry: CollectorRegistry, version: str) -> None:
    """Shows the running version as `moma_build_info`."""
    Info("moma_build", "The running version.", registry=registry).info(
        {"version": version}
    )


class ExpiryMetrics:
    """When the program's own certificates end, and when they are renewed."""

    def __init__(self, registry: CollectorRegistry) -> None:
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

    def watch(
        self, subject: str, certificate: Path, *, renews_itself: bool = False
    ) -> None:
        """Shows when a certificate ends, read from its file for each page.

        Args:
            subject: Whose it is, for example `teacher/teacher-a`.
            certificate: PEM; of a chain, the first one is read.
            renews_itself: Whether this program renews it.
        """
        self._expiry.labels(subject).set_function(lambda: expiry_time(certificate))
        if renews_itself:
            due = self._renewal.labels(subject)
            due.set_function(lambda: renewal_due(certificate))
