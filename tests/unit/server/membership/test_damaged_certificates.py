"""A coordinator goes on, and can revoke, where a certificate's file is damaged."""

import logging
from pathlib import Path

import pytest

from moma_core.errors import CertificateError, ConfigError
from moma_core.pki.certificates import create_key, create_request
from moma_core.pki.identity import PeerName, read_peer
from moma_core.pki.key_files import create_node_key
from moma_server.cli.init import ServerSetup, init_server
from moma_server.config.server import ServerConfig
from moma_server.membership.members import (
    admit_member,
    member_folder,
    members,
    node_registry,
    read_sites,
    revoke_member,
    revoked_serials,
    sites_in_force,
)
from moma_server.membership.renewal import renew_member


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    init_server(tmp_path, ServerSetup(roles=("coordinator",)))
    return ServerConfig.from_yaml(tmp_path / "server.yaml")


def site(name: str) -> PeerName:
    return PeerName("moma", "site", name)


def admitted(config: ServerConfig, name: str, key: bytes | None = None) -> bytes:
    request = create_request(key or create_key(), str(site(name)))
    node_key = create_node_key().public
    return admit_member(config, site(name), request=request, node_key=node_key)


def only_file(config: ServerConfig) -> Path:
    (path,) = member_folder(config).glob("site.*.pem")
    return path


@pytest.mark.parametrize("damage", [b"", b"damaged"])
def test_a_site_whose_certificate_is_damaged_can_be_revoked(
    config: ServerConfig, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    serial = read_peer(admitted(config, "site-a")).serial
    path = only_file(config)
    path.write_bytes(damage)

    with caplog.at_level(logging.WARNING):
        count = revoke_member(config, site("site-a"))

    assert count == 1
    assert revoked_serials(config) == {serial}
    assert read_sites(node_registry(config)) == {}
    assert str(path) in caplog.text


def test_the_other_certificates_of_that_site_are_revoked_too(
    config: ServerConfig,
) -> None:
    serial = read_peer(admitted(config, "site-a")).serial
    whole = only_file(config)
    for name in ("0", "1", "fffffffffffffff"):  # in some order in the folder
        whole.with_name(f"site.site-a.{name}.pem").write_bytes(b"")

    revoke_member(config, site("site-a"))

    assert serial in revoked_serials(config)
    assert read_sites(node_registry(config)) == {}


def test_a_serial_that_a_bit_changed_in_the_file_is_revoked_by_the_files_name(
    config: ServerConfig,
) -> None:
    serial = read_peer(admitted(config, "site-a")).serial
    other = admitted(config, "site-b")
    (path,) = member_folder(config).glob("site.site-a.*.pem")
    path.write_bytes(other)  # it can be read, and is not what was there

    revoke_member(config, site("site-a"))

    assert serial in revoked_serials(config)


def test_damaged_tokens_keep_no_certificate_in_force(config: ServerConfig) -> None:
    serial = read_peer(admitted(config, "site-a")).serial
    (config.state_dir / "tokens.json").write_bytes(b"damaged")

    with pytest.raises(ConfigError, match=r"the tokens .* are damaged"):
        revoke_member(config, site("site-a"))

    assert revoked_serials(config) == {serial}


def test_nobody_else_notices_a_damaged_certificate(
    config: ServerConfig, caplog: pytest.LogCaptureFixture
) -> None:
    key = create_key()
    certificate = admitted(config, "site-a", key)
    damaged = member_folder(config) / "site.site-c.1.pem"
    damaged.write_bytes(b"")

    with caplog.at_level(logging.WARNING):
        newcomer = admitted(config, "site-b")
        renewed = renew_member(
            config,
            certificate,
            create_request(key, str(site("site-a"))),
            kinds=("site",),
        )

    assert {"site-a", "site-b"} <= {each.name for each in members(config)}
    assert sites_in_force(config).keys() == {"site-a", "site-b"}
    assert read_peer(newcomer).name == "site-b"
    assert renewed == certificate  # a young one
    assert str(damaged) in caplog.text


def test_a_revoked_key_does_not_come_back_where_its_certificate_is_damaged(
    config: ServerConfig,
) -> None:
    stolen = create_key()
    admitted(config, "site-a", stolen)
    path = only_file(config)
    whole = path.read_bytes()
    path.write_bytes(b"")
    revoke_member(config, site("site-a"))

    with pytest.raises(ConfigError, match=f"{path.name} is damaged, and revoked"):
        admitted(config, "site-z", stolen)
    path.write_bytes(whole)
    with pytest.raises(CertificateError, match="this key was revoked"):
        admitted(config, "site-z", stolen)
    assert admitted(config, "site-z")


def test_a_damaged_certificate_of_its_own_does_not_stop_a_renewal(
    config: ServerConfig,
) -> None:
    key = create_key()
    certificate = admitted(config, "site-a", key)
    (member_folder(config) / "site.site-a.1.pem").write_bytes(b"")

    renewed = renew_member(
        config, certificate, create_request(key, str(site("site-a"))), kinds=("site",)
    )

    assert renewed == certificate
