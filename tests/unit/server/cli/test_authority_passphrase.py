"""The commands that need the CA's key, where it is under a passphrase."""

from pathlib import Path

import pytest

from moma_client.cli.main import main as client
from moma_core.runtime.files import write_private
from moma_server.cli.main import main as server
from moma_server.config.server import read_yaml, write_yaml


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A coordinator whose keys are under a passphrase, and a site's request."""
    write_private(tmp_path / "passphrase", b"a passphrase\n")
    line = ["init", str(tmp_path / "server"), "--roles", "coordinator"]
    assert server([*line, "--passphrase-file", str(tmp_path / "passphrase")]) == 0
    assert client(["init", str(tmp_path / "site"), "--name", "site-a"]) == 0
    return tmp_path


def _commands(place: Path) -> list[list[str]]:
    config = ("--config", str(place / "server" / "server.yaml"))
    site = place / "site"
    request = ("--csr", str(site / "site.csr"), "--node-key", str(site / "node.pub"))
    out = ("--out", str(site / "site.pem"))
    return [
        ["token", "create", "site-b", *config],
        ["admit", "--site", "site-a", *request, *out, *config],
    ]


def test_the_authority_signs_with_its_passphrase(place: Path) -> None:
    assert b"ENCRYPTED" in (place / "server" / "ca.key").read_bytes()

    assert [server(line) for line in _commands(place)] == [0, 0]
    assert server(["revoke", "site-a", *_commands(place)[0][-2:]]) == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [(None, "is encrypted, name its passphrase"), ("other", "of another passphrase")],
)
def test_the_authority_signs_nothing_without(
    place: Path, given: str | None, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_private(place / "other", b"another passphrase\n")
    path = place / "server" / "server.yaml"
    values = read_yaml(path)
    assert isinstance(values, dict)
    values["authority"]["passphrase_file"] = given and str(place / given)
    write_yaml(path, values)

    assert [server(line) for line in _commands(place)] == [1, 1]

    assert caplog.text.count(said) == 2
