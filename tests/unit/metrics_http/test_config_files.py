from pathlib import Path

import pytest

from moma_client.config.site import SiteConfig
from moma_core.errors import ConfigError
from moma_server.config.server import ServerConfig, read_yaml, write_yaml
from tests.deploy_examples import EXAMPLES

_FILES = [("server.yaml", ServerConfig), ("site.yaml", SiteConfig)]


def _configured(folder: Path, name: str, **metrics: object) -> Path:
    values = read_yaml(EXAMPLES / name)
    assert isinstance(values, dict)
    path = folder / name
    write_yaml(path, {**values, "metrics": metrics})
    return path


@pytest.mark.parametrize(("name", "kind"), _FILES)
def test_a_config_that_shows_metrics_to_the_network_is_refused(
    name: str, kind: type[ServerConfig], tmp_path: Path
) -> None:
    path = _configured(tmp_path, name, host="0.0.0.0", port=9464)

    with pytest.raises(ConfigError, match="give certificate, key, token_file"):
        kind.from_yaml(path)


@pytest.mark.parametrize(("name", "kind"), _FILES)
def test_guarded_metrics_are_taken_and_paths_start_at_the_file(
    name: str, kind: type[ServerConfig], tmp_path: Path
) -> None:
    guard = {"certificate": "m.pem", "key": "m.key", "token_file": "m.token"}
    path = _configured(tmp_path, name, host="10.0.0.1", port=9464, **guard)

    assert kind.from_yaml(path).metrics.token_file == tmp_path / "m.token"
