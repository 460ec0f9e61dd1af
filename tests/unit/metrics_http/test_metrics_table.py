"""README's table of metrics, held against what the programs register."""

import re
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from moma_client import metrics as client
from moma_core.metrics_http.registry import ExpiryMetrics, register_build
from moma_server.metrics import certificates
from moma_server.metrics import metrics as server

_README = Path(__file__).resolve().parents[3] / "README.md"
_NAME = re.compile(r"`(moma_[a-z_]+)`")
_LABEL = re.compile(r"`([a-z]+)`")


def _registered() -> dict[str, frozenset[str]]:
    registries = server.Registry(), CollectorRegistry()
    server.ServiceMetrics(registries[0])
    server.FederationMetrics(registries[0])
    server.RelayMetrics(registries[0])
    certificates.CertificateMetrics(registries[0])
    register_build(registries[0], "0")
    client.ClientMetrics(registries[1])
    ExpiryMetrics(registries[1])
    return {
        _shown_name(family.name, family.type): frozenset(collector._labelnames)
        for registry in registries
        for collector in registry._collector_to_names
        if isinstance(collector, MetricWrapperBase)
        for family in collector.describe()
    }


def _shown_name(name: str, kind: str) -> str:
    return name + {"counter": "_total", "info": "_info"}.get(kind, "")


def _documented() -> dict[str, frozenset[str]]:
    section = _README.read_text().split("### Prometheus\n", 1)[1].split("\n## ", 1)[0]
    documented: dict[str, frozenset[str]] = {}
    for line in section.splitlines():
        if not line.startswith("| `moma_"):
            continue
        _, names, labels, _ = line.split("|")
        several = labels.split(";")
        for place, name in enumerate(_NAME.findall(names)):
            own = several[place] if len(several) > 1 else labels
            documented[name] = frozenset(_LABEL.findall(own))
    return documented


def test_the_readme_names_each_metric_with_its_labels() -> None:
    build = {"moma_build_info": frozenset({"version"})}
    registered = _registered() | build

    assert _documented() == registered
