from dataclasses import replace

import pytest
import torch

from moma_core.distillation.scenario import SiteTask, choose_scenario
from moma_core.errors import ConfigError
from moma_core.teacher.card.card import TeacherCard

CARD = TeacherCard(
    name="teacher-a",
    digest="0" * 64,
    architecture="resnet18",
    embedding_length=512,
    organ="colon",
    task="tissue types",
    class_names=("stroma", "tumour", "mucus"),
    input_size_px=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    precision="float32",
)
SITE = SiteTask("colon", "tissue types", ("mucus", "stroma", "tumour"))


def test_equal_organ_task_and_classes_are_the_same_task_mapped_by_name() -> None:
    scenario = choose_scenario(SITE, CARD)

    assert scenario.name == "same"
    assert scenario.class_order is not None
    assert torch.equal(scenario.class_order, torch.tensor([2, 0, 1]))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"class_names": ("benign", "cancer")}, "relevant"),
        ({"task": "cancer grading"}, "relevant"),
        ({"organ": "prostate"}, "irrelevant"),
        ({"organ": "none", "task": "ImageNet"}, "irrelevant"),
    ],
)
def test_other_classes_or_organs_turn_the_kl_off(
    change: dict[str, object], name: str
) -> None:
    scenario = choose_scenario(SITE, replace(CARD, **change))

    assert scenario.name == name
    assert scenario.class_order is None


def test_a_config_value_overrides_and_the_reason_says_so() -> None:
    scenario = choose_scenario(SITE, CARD, override="irrelevant")

    assert scenario.name == "irrelevant"
    assert "the config says so" in scenario.reason


def test_the_same_task_cannot_be_asked_for_between_different_classes() -> None:
    with pytest.raises(ConfigError, match="'benign'"):
        choose_scenario(SITE, replace(CARD, class_names=("benign",)), override="same")
