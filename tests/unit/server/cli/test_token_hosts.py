"""A host that no certificate can name is refused before a token hangs on it."""

import json
from pathlib import Path

import pytest

from moma_server.cli.main import main as server


@pytest.fixture
def config(tmp_path: Path) -> tuple[str, str]:
    assert server(["init", str(tmp_path / "server"), "--roles", "coordinator"]) == 0
    return "--config", str(tmp_path / "server" / "server.yaml")


@pytest.mark.parametrize("host", ["teacher.org:8444", "https://teacher.org", "a b"])
def test_no_token_is_made_for_a_host_without_the_form_of_one(
    config: tuple[str, str],
    host: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    line = ["token", "create", "teacher-a", "--teacher", *config, "--host", "localhost"]
    capsys.readouterr()

    assert server([*line, "--host", host]) == 1

    assert f"{host!r} is no host name and no IP address" in caplog.text
    assert server(["token", "list", "--json", *config]) == 0
    assert json.loads(capsys.readouterr().out) == []
