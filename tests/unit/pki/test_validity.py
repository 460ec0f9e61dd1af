from pathlib import Path

from moma_core.pki.identity import read_peer
from moma_core.pki.validity import expiry_time
from tests.support.federation.pki import Pki


def test_the_end_of_a_certificate_is_read_from_its_file(tmp_path: Path) -> None:
    credential = Pki().site()
    path = tmp_path / "site.pem"
    path.write_bytes(credential.certificate_pem)

    end = read_peer(credential.certificate_pem).not_after
    assert expiry_time(path) == end.timestamp()


def test_a_certificate_that_is_missing_or_damaged_counts_as_over(
    tmp_path: Path,
) -> None:
    damaged = tmp_path / "site.pem"
    damaged.write_bytes(b"-----BEGIN CERTIFICATE-----\nx")

    assert expiry_time(damaged) == 0
    assert expiry_time(tmp_path / "missing.pem") == 0
