"""The names of all samples that the programs can show."""

from moma_client import metrics as client
from moma_core.metrics_http.registry import ExpiryMetrics, register_build
from moma_server.metrics import metrics as server
from moma_server.metrics.certificates import CertificateMetrics

_ENDS = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_count", "_sum"),
    "info": ("_info",),
}


def of_the_server() -> set[str]:
    """Returns what `moma-server` shows in all its roles."""
    registry = server.Registry()
    for kind in (
        server.TeacherMetrics,
        server.AuditMetrics,
        server.RelayMetrics,
        CertificateMetrics,
        server.FederationMetrics,
    ):
        kind(registry)
    register_build(registry, "1")
    return _names(registry)


def of_the_client() -> set[str]:
    """Returns what `moma-client` shows, to its own hospital."""
    registry = server.Registry()
    client.ClientMetrics(registry)
    ExpiryMetrics(registry)
    register_build(registry, "1")
    return _names(registry)


def _names(registry: server.Registry) -> set[str]:
    return {
        family.name + end
        for family in registry.collect()
        for end in _ENDS.get(family.type, ("",))
    }
