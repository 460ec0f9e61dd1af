"""`moma-server audit rotate-key`, with keys that are encrypted."""

import logging
from pathlib import Path

import pytest

from moma_core.end_to_end.signatures import SigningKey
from moma_core.runtime.files import write_private
from moma_server.cli.main import main as server
from moma_server.config.server import read_yaml, write_yaml


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A teacher whose keys are under a passphrase."""
    write_private(tmp_path / "passphrase", b"a passphrase\n")
    line = ["init", str(tmp_path / "server"), "--roles", "teacher"]
    assert server([*line, "--passphrase-file", str(tmp_path / "passphrase")]) == 0
    return tmp_path


def _rotate(
    place: Path, new_key: SigningKey, encrypted: bytes | None, *more: str
) -> int:
    write_private(place / "new.key", new_key.to_pem(encrypted))
    config = ("--config", str(place / "server" / "server.yaml"))
    new = ("--new-key", str(place / "new.key"))
    return server(["audit", "rotate-key", *config, *new, *more])


def _verify(place: Path, *, signing_key: str, under: str) -> int:
    """Checks the log as a server of these keys would open it."""
    path = place / "server" / "server.yaml"
    values = read_yaml(path)
    assert isinstance(values, dict)
    values["teacher"]["signing_key"] = str(place / signing_key)
    values["teacher"]["identity"]["passphrase_file"] = str(place / under)
    write_yaml(path, values)
    return server(["audit", "verify", "--config", str(path)])


def test_the_new_key_is_under_the_passphrase_that_the_config_names(place: Path) -> None:
    new = SigningKey.create()

    assert _rotate(place, new, b"a passphrase") == 0

    assert _verify(place, signing_key="new.key", under="passphrase") == 0


def test_the_new_key_may_be_under_a_passphrase_of_its_own(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_private(place / "other", b"another passphrase\n")
    given = ("--passphrase-file", str(place / "other"))
    capsys.readouterr()

    assert _rotate(place, SigningKey.create(), b"another passphrase", *given) == 0

    said = capsys.readouterr().out
    assert f"teacher.identity.passphrase_file to {place / 'other'}" in said
    assert _verify(place, signing_key="new.key", under="other") == 0


@pytest.mark.parametrize("encrypted", [None, b"another passphrase"])
def test_a_new_key_that_the_server_could_not_open_changes_nothing(
    place: Path, encrypted: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert _rotate(place, SigningKey.create(), encrypted) == 1

    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert "passphrase" in errors[-1]
    signing_key = "server/signing.key"
    assert _verify(place, signing_key=signing_key, under="passphrase") == 0
