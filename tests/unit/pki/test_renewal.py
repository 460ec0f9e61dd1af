"""When a certificate is renewed, and what may take its place."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from moma_core.errors import FederationError
from moma_core.pki.names import PeerName
from moma_core.pki.renewal import CertificateRenewer
from moma_core.pki.validity import IdentityFiles
from tests.support.federation.pki import Pki

OWN = PeerName("test-federation", "site", "site-a")
ISSUED = datetime.now(UTC)


class Kept:
    """A certificate of 30 days in a folder, and what its keeper did."""

    def __init__(self, folder: Path, *, after_days: float) -> None:
        self.pki, self.asked = Pki(), 0
        self.credential = self.pki.site(now=ISSUED)
        files = self.pki.write(folder, self.credential)
        self.files = IdentityFiles(files.certificate, files.key, files.ca)
        self.now = ISSUED + timedelta(days=after_days)

    def next_certificate(self) -> bytes:
        return self.signed_by(self.pki)

    def signed_by(self, pki: Pki, name: str = "site-a") -> bytes:
        key = self.credential.key_pem
        return pki.issue("site", name, key_pem=key, now=self.now).certificate_pem

    def look(self, renew: Callable[[], bytes]) -> bytes:
        def asked(_certificate: bytes, _key: bytes) -> bytes:
            self.asked += 1
            return renew()

        renewer = CertificateRenewer(
            OWN,
            self.files,
            asked,
            clock=lambda: self.now,
        )
        renewer.look()
        return self.files.certificate.read_bytes()


def test_a_young_certificate_is_left_alone(tmp_path: Path) -> None:
    kept = Kept(tmp_path, after_days=19.9)

    after = kept.look(kept.next_certificate)

    assert (kept.asked, after) == (0, kept.credential.certificate_pem)


def test_a_certificate_is_renewed_when_two_thirds_of_its_life_are_over(
    tmp_path: Path,
) -> None:
    kept = Kept(tmp_path, after_days=20.1)
    renewed = kept.next_certificate()

    after = kept.look(lambda: renewed)

    assert after == renewed
    assert kept.asked == 1


@pytest.mark.parametrize("fault", ["authority", "name", "key", "damaged", "old"])
def test_what_was_not_asked_for_takes_no_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    kept = Kept(tmp_path, after_days=21)
    answers: dict[str, Callable[[], bytes]] = {
        "authority": lambda: kept.signed_by(Pki()),
        "name": lambda: kept.signed_by(kept.pki, "site-b"),
        "key": lambda: kept.pki.site(now=kept.now).certificate_pem,
        "damaged": lambda: b"no certificate",
        "old": lambda: kept.credential.certificate_pem,
    }

    after = kept.look(answers[fault])

    assert after == kept.credential.certificate_pem
    assert "was not renewed" in caplog.text


def test_a_renewal_that_fails_late_is_an_error_and_not_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def nobody_there() -> bytes:
        raise FederationError("cannot reach coordinator.example:8445")

    early, late = (
        Kept(tmp_path / "a", after_days=21),
        Kept(tmp_path / "b", after_days=28),
    )
    early.look(nobody_there)
    late.look(nobody_there)

    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.WARNING, logging.ERROR]
    assert "cannot reach" in caplog.text
