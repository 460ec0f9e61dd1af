"""Keys of a site that enrols: encrypted, private, and new after a revocation."""

from pathlib import Path

import pytest

from moma_client.config import SiteIdentity
from moma_client.init import SitePlace, init_site
from moma_core.errors import CertificateError
from moma_core.trust.names import PeerName
from moma_server.config import read_yaml, write_yaml
from moma_server.members import revoke_member
from tests.enrolment_desk import OpenDesk, enrolled, new_site


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


def test_a_key_that_others_can_read_is_refused(tmp_path: Path, desk: OpenDesk) -> None:
    site = new_site(tmp_path / "site")
    site.identity.key.chmod(0o640)

    with pytest.raises(CertificateError, match="mode 0640, so others can read it"):
        enrolled(site, desk, desk.token())


def test_the_rest_of_the_config_may_be_unfinished(
    tmp_path: Path, desk: OpenDesk
) -> None:
    init_site(tmp_path / "site", SitePlace(site="site-a"))
    path = tmp_path / "site" / "config.yaml"
    values = read_yaml(path)
    assert isinstance(values, dict)
    write_yaml(path, {**values, "teacher": None, "data": None})

    assert enrolled(SiteIdentity.from_yaml(path), desk, desk.token())
