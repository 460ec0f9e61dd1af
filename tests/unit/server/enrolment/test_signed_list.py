"""How often the coordinator signs its list of revoked certificates, and of what."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from moma_core.errors import ConfigError
from moma_core.pki.revocations import Revocation, read_list, revoke, sign_list
from moma_server.enrolment import service as enrolment
from moma_server.enrolment.service import EnrolmentService
from tests.support.federation.enrolment_port import make_coordinator
from tests.support.federation.pki import Pki

NOW = datetime.now(UTC)


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(tmp_path: Path, clock: Clock) -> EnrolmentService:
    return EnrolmentService(make_coordinator(tmp_path / "coordinator"), clock)


def revoked_file(service: EnrolmentService) -> Path:
    return service._config.authority.revoked


def test_who_asks_again_within_seconds_gets_what_was_signed(
    service: EnrolmentService, clock: Clock
) -> None:
    first = service.revoked()

    clock.now = NOW + timedelta(seconds=8)
    second = service.revoked()
    clock.now = NOW + timedelta(seconds=11)
    third = service.revoked()

    assert first == second != third


def test_a_revocation_is_in_the_next_list_at_once(service: EnrolmentService) -> None:
    service.revoked()

    revoke(revoked_file(service), serial=7, name="site-a", now=NOW)

    listed = read_list(service.revoked(), service.authority(), now=NOW)
    assert listed.serials == {7}


def test_a_damaged_file_ends_a_list_that_is_young(service: EnrolmentService) -> None:
    service.revoked()

    revoked_file(service).write_bytes(b"damaged")

    with pytest.raises(ConfigError, match="are damaged"):
        service.revoked()


def test_of_many_who_ask_at_once_one_has_it_signed(
    service: EnrolmentService, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed: list[bytes] = []

    def counted(*values: object, **named: object) -> bytes:
        signed.append(sign_list(*values, **named))  # type: ignore[arg-type]
        return signed[-1]

    monkeypatch.setattr(enrolment, "sign_list", counted)
    with ThreadPoolExecutor(8) as callers:
        lists = set(callers.map(lambda _: service.revoked(), range(32)))

    assert lists == set(signed)
    assert len(signed) == 1


def test_a_long_list_is_built_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_more(*_: object) -> None:
        raise AssertionError("copies all that were added before")

    builder = x509.CertificateRevocationListBuilder
    monkeypatch.setattr(builder, "add_revoked_certificate", one_more)
    pki = Pki()
    entries = [Revocation(serial, "site-a", NOW) for serial in range(1, 1001)]

    der = sign_list(entries, pki.authority, now=NOW)

    assert read_list(der, pki.ca_pem, now=NOW).serials == set(range(1, 1001))
