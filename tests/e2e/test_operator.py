"""What an operator sees of the installed programs when something is not right."""

import socket
import stat
from pathlib import Path

import pytest

from moma_server.config.server import read_yaml, write_yaml
from tests.support.e2e.programs import LOOPBACK, ended


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("operator") / "server"
    made = ended("moma-server", "init", folder, "--roles", "coordinator")
    assert made.returncode == 0
    assert made.stdout.splitlines()[0] == f"wrote {folder / 'ca.key'}"
    return folder


def test_a_fresh_folder_is_valid_and_its_keys_are_private(server: Path) -> None:
    checked = ended("moma-server", "--config", server / "server.yaml", "--check")

    assert (checked.returncode, checked.stderr) == (0, "")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in server.glob("*.key")}
    assert modes == {0o600}


def test_mistakes_in_a_file_are_named_without_a_traceback(
    server: Path, tmp_path: Path
) -> None:
    values = read_yaml(server / "server.yaml")
    assert isinstance(values, dict)
    values["coordinator"]["plan"] |= {"rounds": 0, "round": 3}
    config = tmp_path / "server.yaml"
    write_yaml(config, values)

    refused = ended("moma-server", "--config", config)

    assert refused.returncode == 1
    assert refused.stdout == ""
    head, *rules = refused.stderr.splitlines()
    assert head.endswith(f"{config} is not valid:")
    assert [rule.split(":")[0].strip() for rule in rules] == [
        "coordinator.plan.rounds is 0",
        "unknown key coordinator.plan.round; did you mean rounds?",
    ]


def test_a_port_that_is_taken_is_named_without_a_traceback(
    server: Path, tmp_path: Path
) -> None:
    values = read_yaml(server / "server.yaml")
    assert isinstance(values, dict)
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        values["metrics"] = {"host": LOOPBACK, "port": port}
        config = server / "taken.yaml"
        write_yaml(config, values)

        refused = ended("moma-server", "--config", config)

    (sentence,) = refused.stderr.splitlines()
    assert refused.returncode == 1
    assert f"{LOOPBACK}:{port}" in sentence


def test_an_edge_address_that_is_taken_ends_the_server_and_its_children(
    server: Path,
) -> None:
    values = read_yaml(server / "server.yaml")
    assert isinstance(values, dict)
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        values["metrics"] = {"host": LOOPBACK, "port": 0}
        values["coordinator"]["listen"] = {"host": LOOPBACK, "port": port}
        values["coordinator"]["enrolment"] = None  # its usual port may be taken as well
        config = server / "edge.yaml"
        write_yaml(config, values)

        refused = ended("moma-server", "--config", config, seconds=90)

    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert str(port) in refused.stderr.splitlines()[-1]


@pytest.mark.parametrize("program", ["moma-server", "moma-client"])
def test_wrong_usage_ends_with_status_2(program: str) -> None:
    refused = ended(program, "--nonsense")

    assert refused.returncode == 2
    assert refused.stderr.startswith(f"usage: {program}")
