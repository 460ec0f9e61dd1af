"""Keys of a site that enrols: encrypted, private, and new after a revocation."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from moma_client.cli.init import SiteSetup, init_site
from moma_client.config.site import SiteIdentity
from moma_core.errors import CertificateError
from moma_core.pki.crl import read_list
from moma_core.pki.identity import read_peer
from moma_core.pki.key_files import open_key
from moma_core.pki.names import PeerName
from moma_core.runtime.files import write_private
from moma_server.config.server import read_yaml, write_yaml
from moma_server.membership.members import revoke_member
from tests.support.federation.enrolment_port import (
    OpenDesk,
    enrolled,
    link,
    make_coordinator,
    new_site,
    open_desk,
)


def test_a_revoked_site_comes_back_with_new_keys_only(
    tmp_path: Path, desk: OpenDesk
) -> None:
    site = new_site(tmp_path / "site")
    enrolled(site, desk, desk.token())
    revoke_member(desk.config, PeerName("moma", "site", "site-a"))

    with pytest.raises(CertificateError, match="this key was revoked"):
        enrolled(site, desk, desk.token())
    for key in (site.identity.key, site.identity.node_key):
        key.unlink()

    assert enrolled(site, desk, desk.token())


def test_keys_that_are_encrypted_enrol_too(tmp_path: Path, desk: OpenDesk) -> None:
    secret = tmp_path / "passphrase"
    secret.touch(0o600)
    secret.write_text("four words of nonsense\n")
    site = new_site(tmp_path / "site", passphrase_file=secret)

    enrolled(site, desk, desk.token())

    assert all(
        b"ENCRYPTED" in key.read_bytes() for key in (tmp_path / "site").glob("*.key")
    )
    assert site.identity.certificate.exists()


def test_an_authority_whose_key_is_encrypted_enrols_renews_and_revokes(
    tmp_path: Path,
) -> None:
    secret = tmp_path / "passphrase"
    write_private(secret, b"four words of nonsense\n")
    config = make_coordinator(tmp_path / "server", passphrase_file=secret)
    site, other = (new_site(tmp_path / name, name) for name in ("site-a", "site-b"))

    with open_desk(config) as desk:
        for who in (site, other):
            enrolled(who, desk, desk.token(who.site))
        certificate = site.identity.certificate.read_bytes()
        renewed = link(desk).renew(certificate, open_key(site.identity.key))
        revoke_member(config, PeerName("moma", "site", "site-b"))
        signed = link(desk).revoked()

    assert b"ENCRYPTED" in (tmp_path / "server" / "ca.key").read_bytes()
    assert renewed == certificate  # a young one
    authority = config.authority.certificate.read_bytes()
    taken_back = read_list(signed, authority, now=datetime.now(UTC)).serials
    assert taken_back == {read_peer(other.identity.certificate.read_bytes()).serial}


def test_a_key_that_others_can_read_is_refused(tmp_path: Path, desk: OpenDesk) -> None:
    site = new_site(tmp_path / "site")
    site.identity.key.chmod(0o640)

    with pytest.raises(CertificateError, match="mode 0640, so others can read it"):
        enrolled(site, desk, desk.token())


def test_the_rest_of_the_config_may_be_unfinished(
    tmp_path: Path, desk: OpenDesk
) -> None:
    init_site(tmp_path / "site", SiteSetup(site="site-a"))
    path = tmp_path / "site" / "config.yaml"
    values = read_yaml(path)
    assert isinstance(values, dict)
    write_yaml(path, {**values, "teacher": None, "data": None})

    assert enrolled(SiteIdentity.from_yaml(path), desk, desk.token())
