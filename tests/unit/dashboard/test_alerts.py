"""Certificates near their end, and that each alert is one of `deploy/prometheus`."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from moma_core.dashboard.certificates import certificate_alerts, certificate_panel
from moma_core.metrics_http.registry import Samples

_PROJECT = Path(__file__).resolve().parents[3]
_DAY = 86_400
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def samples(ends_in: float, renews_in: float | None = None) -> Samples:
    registry = CollectorRegistry()
    for name, value in (("expiry", ends_in), ("renewal", renews_in)):
        if value is not None:
            gauge = Gauge(
                f"moma_certificate_{name}_timestamp_seconds",
                "When.",
                ["subject"],
                registry=registry,
            )
            gauge.labels("site/site-a").set(NOW.timestamp() + value)
    return Samples(registry)


@pytest.mark.parametrize(
    ("ends_in", "renews_in", "expected"),
    [
        (20 * _DAY, None, []),
        (10 * _DAY, None, ["MomaCertificateEndsSoon"]),
        (4 * _DAY, None, ["MomaCertificateNotRenewed"]),
        (-1, None, ["MomaCertificateNotRenewed"]),
        (4 * _DAY, _DAY, []),
        (4 * _DAY, -5 * 3600, []),
        (4 * _DAY, -7 * 3600, ["MomaCertificateNotRenewed"]),
    ],
)
def test_a_certificate_near_its_end_is_an_alert_unless_it_renews_itself(
    ends_in: float, renews_in: float | None, expected: list[str]
) -> None:
    found = certificate_alerts(samples(ends_in, renews_in), NOW, prefix="Moma")

    assert [alert.name for alert in found] == expected


def test_the_panel_says_how_long_it_has() -> None:
    (table,) = certificate_panel(samples(10 * _DAY), NOW).tables

    ((subject, end, left, renewal),) = table.rows
    assert (subject.text, end.text) == ("site/site-a", "2026-03-11 12:00 UTC")
    assert (left.text, left.tone, renewal.text) == (
        "10 days",
        "bad",
        "nobody renews it",
    )


def test_every_alert_is_one_that_prometheus_has_and_the_docs_explain() -> None:
    known = set()
    for rules in (_PROJECT / "deploy" / "prometheus" / "rules").glob("*.yml"):
        known |= set(re.findall(r"alert: (\w+)", rules.read_text()))
    named = set()
    for folder in ("server/moma_server", "client/moma_client"):
        for path in (_PROJECT / folder / "dashboard").glob("*.py"):
            named |= set(re.findall(r'Alert\(\s*"(\w+)"', path.read_text()))
    kinds = {"CertificateEndsSoon", "CertificateNotRenewed"}
    named |= {f"{prefix}{kind}" for prefix in ("Moma", "MomaSite") for kind in kinds}

    assert named - known == set()
    assert len(named) > 10
