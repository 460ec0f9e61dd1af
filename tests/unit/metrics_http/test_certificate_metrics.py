from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from moma_client import metrics as client_metrics
from moma_core.metrics_http.config import PageSection
from moma_core.metrics_http.registry import ExpiryMetrics, shown_registry
from moma_core.pki.identity import read_peer
from moma_server.metrics import metrics as server_metrics
from moma_server.metrics.certificates import CertificateMetrics
from tests.support.federation.pki import Pki
from tests.support.machine.metrics_page import asked, get
from tests.support.machine.ports import free_port

_NAME = "moma_certificate_expiry_timestamp_seconds"
_RENEWAL = "moma_certificate_renewal_timestamp_seconds"


@pytest.mark.parametrize("metrics", [CertificateMetrics, ExpiryMetrics])
def test_the_end_of_a_certificate_follows_its_renewal(
    metrics: type[ExpiryMetrics], tmp_path: Path
) -> None:
    pki, path = Pki(), tmp_path / "site.pem"
    registry = server_metrics.Registry()
    metrics(registry).watch("site/site-a", path)

    assert registry.get_sample_value(_NAME, {"subject": "site/site-a"}) == 0
    for days in (1, 30):
        now = datetime.now(UTC)
        credential = pki.site(lifetime=timedelta(days=days), now=now)
        path.write_bytes(credential.certificate_pem)

        end = read_peer(credential.certificate_pem).not_after.timestamp()
        assert registry.get_sample_value(_NAME, {"subject": "site/site-a"}) == end


@pytest.mark.parametrize("metrics", [CertificateMetrics, ExpiryMetrics])
def test_a_renewal_is_shown_of_certificates_that_renew_themselves(
    metrics: type[ExpiryMetrics], tmp_path: Path
) -> None:
    path = tmp_path / "site.pem"
    now = datetime.now(UTC).replace(microsecond=0)
    path.write_bytes(Pki().site(lifetime=timedelta(days=30), now=now).certificate_pem)
    registry = server_metrics.Registry()
    shown = metrics(registry)

    shown.watch("site/site-a", path, renews_itself=True)
    shown.watch("metrics", path)
    shown.watch("site/site-b", tmp_path / "missing.pem", renews_itself=True)

    read = registry.get_sample_value
    due = (now + timedelta(days=20)).timestamp()
    assert read(_RENEWAL, {"subject": "site/site-a"}) == due
    assert read(_RENEWAL, {"subject": "metrics"}) is None
    assert read(_RENEWAL, {"subject": "site/site-b"}) == 0


def test_a_member_is_shown_until_it_is_revoked() -> None:
    registry = server_metrics.Registry()
    shown = CertificateMetrics(registry)
    end = datetime(2030, 1, 31, tzinfo=UTC)
    renewal = end - timedelta(days=10)

    shown.show("site", "site-a", end, renewal)
    shown.show("site", "site-b", end, None)

    read, labels = registry.get_sample_value, {"subject": "site/site-a"}
    assert read(_NAME, labels) == end.timestamp()
    assert read(_RENEWAL, labels) == renewal.timestamp()
    assert read(_RENEWAL, {"subject": "site/site-b"}) is None

    shown.forget("site", "site-a")
    shown.forget("site", "site-a")

    assert read(_NAME, labels) is read(_RENEWAL, labels) is None
    assert read(_NAME, {"subject": "site/site-b"}) == end.timestamp()


def test_a_site_shows_its_own_certificates(tmp_path: Path) -> None:
    path = tmp_path / "site.pem"
    path.write_bytes(Pki().site().certificate_pem)
    port = free_port()

    with client_metrics.shown_metrics(
        PageSection(port=port), version="1", certificates={"site/site-a": path}
    ):
        page = asked(port, get()).body.decode()

    samples = server_metrics.read_samples(page)
    end = read_peer(path.read_bytes()).not_after.timestamp()
    assert samples[server_metrics.sample_key(_NAME, subject="site/site-a")] == end


def test_openmetrics_is_shown_to_who_asks_for_it() -> None:
    port = free_port()
    accept = b"Accept: application/openmetrics-text; version=1.0.0\r\n\r\n"

    with shown_registry(PageSection(port=port), version="1"):
        answer = asked(port, get()[:-2] + accept)

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")


def test_port_0_shows_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    listened = list[object]()
    monkeypatch.setattr("socket.socket.listen", lambda *each: listened.append(each))

    with shown_registry(PageSection(port=0), version="1") as registry:
        ExpiryMetrics(registry)

    assert not listened
