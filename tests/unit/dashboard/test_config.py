"""Where a dashboard may be shown, and what it takes there."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from moma_client.config.site import SiteConfig
from moma_core.dashboard.config import DashboardSection
from moma_core.errors import ConfigError
from moma_server.config.server import ServerConfig, read_yaml, write_yaml
from tests.deploy_examples import EXAMPLES

_TLS = {"certificate": Path("d.pem"), "key": Path("d.key")}
_TOKEN = {"token_file": Path("d.token")}
_CLIENTS = {"client_authority": Path("duty-ca.pem")}
_FILES = [("server.yaml", ServerConfig), ("site.yaml", SiteConfig)]


@pytest.mark.parametrize(("name", "kind"), _FILES)
def test_no_config_file_that_init_writes_shows_a_dashboard(
    name: str, kind: type[ServerConfig]
) -> None:
    assert kind.from_yaml(EXAMPLES / name).dashboard is None


@pytest.mark.parametrize(("name", "kind"), _FILES)
def test_one_that_the_network_could_read_is_refused(
    name: str, kind: type[ServerConfig], tmp_path: Path
) -> None:
    values = read_yaml(EXAMPLES / name)
    assert isinstance(values, dict)
    path = tmp_path / name
    write_yaml(path, {**values, "dashboard": {"host": "0.0.0.0"}})

    with pytest.raises(ConfigError) as caught:
        kind.from_yaml(path)

    assert (
        "give certificate, key, token_file or client_authority, or use 127.0.0.1"
        in str(caught.value)
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "duty.example"])
@pytest.mark.parametrize("guard", [_TOKEN, _CLIENTS, _TOKEN | _CLIENTS])
def test_another_address_takes_tls_and_one_guard(
    host: str, guard: dict[str, Path]
) -> None:
    assert not DashboardSection(host=host, **_TLS, **guard).loopback
    with pytest.raises(ValidationError, match="give certificate, key"):
        DashboardSection(host=host, **_TOKEN)
    with pytest.raises(ValidationError, match="token_file or client_authority"):
        DashboardSection(host=host, **_TLS)


def test_loopback_takes_nothing() -> None:
    assert DashboardSection().loopback


def test_client_certificates_without_tls_are_refused() -> None:
    with pytest.raises(ValidationError, match="client_authority is given without"):
        DashboardSection(**_CLIENTS)


@pytest.mark.parametrize("name", ["", "a b", "-x", "a/b", "x" * 300, "a:80"])
def test_what_is_no_host_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="names"):
        DashboardSection(names=(name,))


def test_the_federations_authority_lets_nobody_look(tmp_path: Path) -> None:
    own, federation = tmp_path / "own.pem", tmp_path / "ca.pem"
    federation.write_text("-----BEGIN CERTIFICATE-----\nAA\n")
    own.write_text("-----BEGIN CERTIFICATE-----\r\nAA\r\n\r\n")
    section = DashboardSection(**_TLS, client_authority=own)

    with pytest.raises(ConfigError, match="every member could look"):
        section.check_client_authority(federation)

    own.write_text("-----BEGIN CERTIFICATE-----\nBB\n")
    section.check_client_authority(federation)
