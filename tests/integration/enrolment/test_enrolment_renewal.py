"""Who gets the next certificate: a member with the key of the one that is in force."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from moma_client.config.site import SiteIdentity
from moma_core.errors import CertificateError, NotAuthorizedError
from moma_core.pki.certificates import Credential, create_key, life
from moma_core.pki.identity import PeerName
from moma_core.pki.key_files import open_key
from moma_server.membership import renewal
from moma_server.membership.members import revoke_member
from moma_server.membership.renewal import certificate_hosts
from tests.support.federation.enrolment_port import (
    LOOPBACK,
    OpenDesk,
    enrolled,
    link,
    make_coordinator,
    new_site,
    open_desk,
    refusals,
)
from tests.support.federation.pki import Pki

HOURS = 1.0


def let_pass(monkeypatch: pytest.MonkeyPatch, hours: float) -> Callable[[], datetime]:
    """Has a coordinator renew so much later; returns the clock of who asks it."""

    def later() -> datetime:
        return datetime.now(UTC) + timedelta(hours=hours)

    monkeypatch.setattr(renewal, "utc_now", later)
    return later


def credential(site: SiteIdentity) -> Credential:
    return Credential(
        site.identity.certificate.read_bytes(), open_key(site.identity.key)
    )


def filed(desk: OpenDesk) -> int:
    return len(list((desk.config.state_dir / "members").glob("site.*.pem")))


def test_a_member_gets_the_next_certificate_with_the_same_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_coordinator(tmp_path / "coordinator", hours=HOURS)
    with open_desk(config) as desk:
        token = desk.token("teacher-a", "teacher", hosts=("localhost", LOOPBACK))
        key, teacher = create_key(), link(desk, "teacher-a", "teacher")
        first = teacher.enrol(token, key, None)
        late = replace(teacher, clock=let_pass(monkeypatch, 0.6 * HOURS))

        second = late.renew(first, key)

    assert life(second)[1] > life(first)[1]
    assert (
        certificate_hosts(second) == certificate_hosts(first) == ("localhost", LOOPBACK)
    )
    assert '"renewed"' in desk.journal()


def test_a_member_that_asks_all_the_time_fills_no_disk(
    tmp_path: Path, desk: OpenDesk
) -> None:
    site = new_site(tmp_path / "site")
    enrolled(site, desk, desk.token())
    own = credential(site)

    answers = {link(desk).renew(*own) for _ in range(5)}

    assert answers == {own.certificate_pem}
    assert filed(desk) == 1


def test_an_expired_member_is_not_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_coordinator(tmp_path / "coordinator", hours=HOURS)
    with open_desk(config) as desk:
        site = new_site(tmp_path / "site")
        key, token = open_key(site.identity.key), desk.token("teacher-a", "teacher")
        certificate = link(desk, "teacher-a", "teacher").enrol(token, key, None)
        let_pass(monkeypatch, 1.1 * HOURS)

        with pytest.raises(NotAuthorizedError, match="expired at"):
            link(desk, "teacher-a", "teacher").renew(certificate, key)

        assert refusals(desk)[-1]["name"] == "teacher-a"


def test_a_revoked_member_is_not_renewed(tmp_path: Path, desk: OpenDesk) -> None:
    site = new_site(tmp_path / "site")
    enrolled(site, desk, desk.token())
    revoke_member(desk.config, PeerName("moma", "site", "site-a"))

    with pytest.raises(NotAuthorizedError, match="is revoked"):
        link(desk).renew(*credential(site))

    assert refusals(desk)[-1]["name"] == "site-a"


def test_a_certificate_is_not_renewed_for_who_lacks_its_key(
    tmp_path: Path, desk: OpenDesk
) -> None:
    """Certificates are no secret: every peer of the site has seen it."""
    site = new_site(tmp_path / "site")
    enrolled(site, desk, desk.token())
    seen, _ = credential(site)

    with pytest.raises(CertificateError, match="for the same key"):
        link(desk).renew(seen, create_key())

    assert filed(desk) == 1


def test_a_renewal_under_another_name_is_refused(
    tmp_path: Path, desk: OpenDesk
) -> None:
    site = new_site(tmp_path / "site")
    enrolled(site, desk, desk.token())

    with pytest.raises(CertificateError, match="is not for spiffe://moma/site/site-a"):
        link(desk, "site-b").renew(*credential(site))


def test_another_authoritys_certificate_is_not_renewed(desk: OpenDesk) -> None:
    forged = Pki("moma").site("site-a")

    with pytest.raises(NotAuthorizedError, match="not signed by the federation"):
        link(desk).renew(*forged)


def test_a_certificate_that_was_not_given_out_here_is_not_renewed(
    desk: OpenDesk,
) -> None:
    """Somebody has the authority's key, and not the coordinator's files."""
    authority = desk.config.authority
    assert authority.key is not None
    thief = Pki("moma")
    thief.authority = Credential(
        authority.certificate.read_bytes(), authority.key.read_bytes()
    )

    with pytest.raises(NotAuthorizedError, match="was not given out here"):
        link(desk).renew(*thief.site("site-a"))


def test_a_coordinators_certificate_is_not_renewed_over_the_wire(
    desk: OpenDesk,
) -> None:
    coordinator = desk.config.coordinator
    assert coordinator is not None
    identity = coordinator.identity
    own = identity.certificate.read_bytes(), open_key(identity.key)

    with pytest.raises(NotAuthorizedError, match="a coordinator never is"):
        link(desk, "coordinator", "coordinator").renew(*own)


def test_a_coordinator_that_expired_is_not_asked(desk: OpenDesk) -> None:
    later = replace(link(desk), clock=lambda: datetime.now(UTC) + timedelta(days=31))

    with pytest.raises(NotAuthorizedError, match="the certificate of coordinator"):
        later.revoked()
