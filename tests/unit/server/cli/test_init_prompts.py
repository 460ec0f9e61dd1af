"""On a terminal `init` wants what it was not given, and checks each value at once."""

import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from moma_client.cli.main import main as client
from moma_client.config.site import SiteConfig
from moma_server.config.server import ServerConfig


def _typed(module: str, arguments: Sequence[str], lines: Sequence[str]) -> str:
    """Returns what a program shows on a terminal where these lines are typed."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        os.write(ours, "".join(f"{line}\n" for line in lines).encode())
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # the program has closed its end
            pass
    os.close(ours)
    return shown.decode()


def test_a_site_is_made_of_what_is_typed(tmp_path: Path) -> None:
    key = "ed25519:" + "0" * 64
    lines = ["Site A", "site-b", "", "hub.example", "", "", "t.example:9444", key, "0"]

    shown = _typed("moma_client.cli.main", ["init", str(tmp_path / "site")], lines)

    config = SiteConfig.from_yaml(tmp_path / "site" / "config.yaml")
    assert "such as site-a" in shown
    assert (config.site, config.federation) == ("site-b", "moma")
    assert config.coordinator.address == "hub.example:8443"
    assert config.coordinator.enrolment == "hub.example:8445"
    assert config.teacher.is_remote
    assert config.teacher.address == "t.example:9444"
    assert config.metrics.port == 0


def test_a_server_is_made_of_what_is_typed(tmp_path: Path) -> None:
    lines = ["coordinator", "", "hub.example, 10.0.0.7", "", "ninety", "9443"]
    lines += ["", "9446", "3", "1", ""]

    shown = _typed("moma_server.cli.main", ["init", str(tmp_path / "hub")], lines)

    config = ServerConfig.from_yaml(tmp_path / "hub" / "server.yaml")
    assert "write a whole number" in shown
    assert config.teacher is None
    assert config.coordinator is not None
    assert config.coordinator.listen.port == 9443
    assert config.coordinator.relay is not None
    assert config.coordinator.relay.listen.port == 9446
    assert (config.coordinator.plan.rounds, config.coordinator.plan.quorum) == (3, 1)


def test_what_is_given_is_not_wanted_again_and_an_end_makes_nothing(
    tmp_path: Path,
) -> None:
    given = ["init", str(tmp_path / "site"), "--coordinator", "hub.example:8443"]

    shown = _typed("moma_client.cli.main", given, ["site-a", "", "", "\x04"])

    assert "rounds" not in shown
    assert "name of the teacher [teacher-a]" in shown
    assert "stopped; nothing was made" in shown
    assert not (tmp_path / "site").exists()


def test_nobody_is_waited_for_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        client(["init", str(tmp_path / "site")])

    assert ended.value.code == 2
    assert "--name" in capsys.readouterr().err
