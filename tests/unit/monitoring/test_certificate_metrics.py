from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from moma_client import metrics as client_metrics
from moma_core.monitoring.page_section import PageSection
from moma_core.trust.identity import read_peer
from moma_server import metrics as server_metrics
from tests.metrics_page import asked, free_port, get
from tests.pki import Pki

_NAME = "moma_certificate_expiry_timestamp_seconds"


@pytest.mark.parametrize("program", [server_metrics, client_metrics])
def test_the_end_of_a_certificate_follows_its_renewal(
    program: Any, tmp_path: Path
) -> None:
    pki, path = Pki(), tmp_path / "site.pem"
    registry = server_metrics.Registry()
    program.CertificateMetrics(registry).follow("site/site-a", path)

    assert registry.get_sample_value(_NAME, {"subject": "site/site-a"}) == 0
    for days in (1, 30):
        now = datetime.now(UTC)
        credential = pki.site(lifetime=timedelta(days=days), now=now)
        path.write_bytes(credential.certificate_pem)

        end = read_peer(credential.certificate_pem).not_after.timestamp()
        assert registry.get_sample_value(_NAME, {"subject": "site/site-a"}) == end


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

    with server_metrics.shown_registry(PageSection(port=port), version="1"):
        answer = asked(port, get()[:-2] + accept)

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")
