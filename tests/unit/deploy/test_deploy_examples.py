import re
from pathlib import Path

import pytest

from moma_client.config.site import SiteConfig
from moma_client.config.teacher import FrozenTeacherSection
from moma_core.data.sources.factory import CsvManifestSection
from moma_server.config.recipe import TeacherRecipe
from moma_server.config.server import ServerConfig
from tests.deploy_examples import EXAMPLES, examples


def test_the_examples_are_what_init_writes() -> None:
    found = {path.name: path.read_text("utf-8") for path in EXAMPLES.iterdir()}

    assert found == examples(), "refresh them: make examples"


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("server.yaml", {"coordinator", "teacher"}),
        ("coordinator.yaml", {"coordinator"}),
        ("teacher.yaml", {"teacher"}),
    ],
)
def test_an_example_of_a_server_is_valid_and_has_its_roles(
    name: str, roles: set[str]
) -> None:
    config = ServerConfig.from_yaml(EXAMPLES / name)

    assert {role for role in ("coordinator", "teacher") if getattr(config, role)} == (
        roles
    )
    assert (config.authority.key is not None) == ("coordinator" in roles)


def test_the_lines_about_the_relay_hold_once_they_are_no_comments(
    tmp_path: Path,
) -> None:
    for name in ("coordinator.yaml", "teacher.yaml", "site.yaml"):
        text = (EXAMPLES / name).read_text("utf-8")
        opened = re.sub(r"^  # (relay|via): ", r"  \1: ", text, flags=re.MULTILINE)
        closed = re.sub(
            r"^  listen: .*port: 8444.*", "  listen: null", opened, flags=re.MULTILINE
        )
        assert opened != text
        (tmp_path / name).write_text(closed, "utf-8")

    coordinator = ServerConfig.from_yaml(tmp_path / "coordinator.yaml").coordinator
    teacher = ServerConfig.from_yaml(tmp_path / "teacher.yaml").own_teacher()
    site = SiteConfig.from_yaml(tmp_path / "site.yaml").teacher

    assert coordinator is not None
    assert coordinator.relay is not None
    assert teacher.listen is None
    assert teacher.relay is not None
    relay = f"coordinator.example:{coordinator.relay.listen.port}"
    assert teacher.relay.coordinator == relay
    assert isinstance(site, FrozenTeacherSection)
    assert site.via == "coordinator"


def test_the_example_of_a_recipe_is_valid() -> None:
    recipe = TeacherRecipe.from_yaml(EXAMPLES / "recipe.yaml")

    assert isinstance(recipe.data, CsvManifestSection)
    assert recipe.data.path == EXAMPLES / "patches" / "manifest.csv"


def test_the_example_of_a_site_lets_no_weights_leave() -> None:
    config = SiteConfig.from_yaml(EXAMPLES / "site.yaml")

    assert config.site == "site-a"
    assert not config.coordinator.weights_may_leave
