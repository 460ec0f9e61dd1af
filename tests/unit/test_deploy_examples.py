import pytest

from moma_client.config import SiteConfig
from moma_core.data.open import CsvManifestSection
from moma_server.config import ServerConfig
from moma_server.recipe import TeacherRecipe
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


def test_the_example_of_a_recipe_is_valid() -> None:
    recipe = TeacherRecipe.from_yaml(EXAMPLES / "recipe.yaml")

    assert isinstance(recipe.data, CsvManifestSection)
    assert recipe.data.path == EXAMPLES / "patches" / "manifest.csv"


def test_the_example_of_a_site_lets_no_weights_leave() -> None:
    config = SiteConfig.from_yaml(EXAMPLES / "site.yaml")

    assert config.site == "site-a"
    assert not config.coordinator.weights_may_leave
