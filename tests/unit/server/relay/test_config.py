from pathlib import Path

import pytest
import yaml

from moma_core.errors import ConfigError
from moma_server.cli.init import ServerSetup, render
from moma_server.config.server import ServerConfig


def test_a_teacher_needs_a_port_or_a_relay(tmp_path: Path) -> None:
    values = yaml.safe_load(render(["server", "teacher"], ServerSetup()))
    path = tmp_path / "server.yaml"
    values["teacher"]["listen"] = None
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match="name listen, relay, or both"):
        ServerConfig.from_yaml(path)

    values["teacher"]["relay"] = {"coordinator": "moma.example.org:8446"}
    path.write_text(yaml.safe_dump(values))
    config = ServerConfig.from_yaml(path)

    assert config.teacher is not None
    assert config.teacher.listen is None
