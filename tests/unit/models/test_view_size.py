import pytest

from moma_core.errors import ConfigError
from moma_core.models.backbone import create_backbone
from moma_core.models.settings import ModelSection
from moma_core.models.view_size import check_takes_views

VIT = ModelSection(architecture="vit_tiny_patch16_224", weights="random")


def test_an_architecture_of_another_size_is_one_sentence_that_names_the_key() -> None:
    network = create_backbone(VIT, 3)

    with pytest.raises(ConfigError, match=r"model\.architecture .* views of 32 px"):
        check_takes_views(network, 32, "model")


def test_one_that_fits_is_left_as_it_was() -> None:
    network = create_backbone(VIT, 3).train()

    check_takes_views(network, 224, "model")

    assert network.training
