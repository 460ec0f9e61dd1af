"""The tables of docs/metrics.md, held against what the programs register."""

import re
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from moma_client import metrics as client
from moma_server.metrics import certificates
from moma_server.metrics import metrics as server

_PAGE = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"
_ROW = re.compile(r"^\| `(moma_[a-z_]+)` \|([^|]*)\| *(\S[^|]*)\|$", re.MULTILINE)
_LABEL = re.compile(r"`([a-z]+)`")


def _registered() -> dict[str, frozenset[str]]:
    registries = server.Registry(), CollectorRegistry()
    server.ServiceMetrics(registries[0])
    server.FederationMetrics(registries[0])
    server.RelayMetrics(registries[0])
    certificates.CertificateMetrics(registries[0])
    server.register_build(registries[0], "0")
    client.ClientMetrics(registries[1])
    client.CertificateMetrics(registries[1])
    return {
        _shown_name(family.name, family.type): frozenset(collector._labelnames)
        for registry in registries
        for collector in registry._collector_to_names
        if isinstance(collector, MetricWrapperBase)
        for family in collector.describe()
    }


def _shown_name(name: str, kind: str) -> str:
    return name + {"counter": "_total", "info": "_info"}.get(kind, "")


def test_the_page_names_each_metric_once_with_its_labels() -> None:
    build = {"moma_build_info": frozenset({"version"})}
    rows = [
        (name, frozenset(_LABEL.findall(labels)))
        for name, labels, _ in _ROW.findall(_PAGE.read_text("utf-8"))
    ]

    assert dict(rows) == _registered() | build
    assert len(rows) == len(dict(rows))
