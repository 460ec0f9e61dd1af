import unicodedata
from dataclasses import replace
from typing import Any

import pytest
import torch

from moma_core.distillation.scenario import SiteTask, choose_scenario, class_order
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
    "change",
    [
        {"organ": "Colon"},
        {"organ": " colon\t"},
        {"task": "Tissue-Types"},
        {"task": "tissue_types "},
        {"class_names": ("Mucus", "STROMA ", "tumour")},
        {"class_names": ("mucus", "stroma", unicodedata.normalize("NFD", "tumour"))},
    ],
)
def test_case_blanks_and_hyphens_part_no_site_from_its_teacher(
    change: dict[str, Any],
) -> None:
    scenario = choose_scenario(replace(SITE, **change), CARD)

    assert scenario.name == "same"
    assert scenario.class_order is not None
    assert scenario.class_order.tolist() == [2, 0, 1]
    assert not scenario.near_miss


def test_renamed_classes_take_the_teachers_logits_whatever_their_order() -> None:
    own = ("Schleim", "Stroma", "TUM")
    site = SiteTask("colon", "tissue types", own, {"Schleim": "MUCUS", "tum": "tumour"})

    scenario = choose_scenario(site, CARD)

    assert scenario.name == "same"
    assert scenario.class_order is not None
    assert scenario.class_order.tolist() == [2, 0, 1]
    assert "Schleim = mucus" in scenario.details[0]


def test_a_renaming_may_cross_names_that_would_fit_by_themselves() -> None:
    renamed = {"mucus": "stroma", "stroma": "mucus"}

    order = class_order(SITE.class_names, CARD.class_names, renamed)

    assert order is not None
    assert order.tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("renamed", "said"),
    [
        ({"tumor": "tumour"}, "no class here .*; did you mean 'tumour'"),
        ({"tumour": "TUMR"}, "unknown to the teacher|does not know.*did you mean"),
        ({"tumour": "mucus", "mucus": "mucus"}, "to two classes"),
    ],
)
def test_a_renaming_of_what_is_not_there_names_the_nearest(
    renamed: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        choose_scenario(replace(SITE, renamed=renamed), CARD)


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


@pytest.mark.parametrize(
    ("change", "written"),
    [
        ({"class_names": ("mucus", "stroma", "TUM")}, "task.classes: {'TUM': 'tumour'"),
        ({"organ": "colom"}, "task.organ: colon"),
        ({"organ": "bowel"}, "task.organ: colon"),  # every class fits
        ({"task": "types of tissue"}, "task.task: tissue types"),
        (
            {"organ": "colom", "class_names": ("mucus", "stroma", "TUM")},
            "task.organ: colon and task.classes: {'TUM': 'tumour'",
        ),
    ],
)
def test_a_near_miss_that_changes_the_losses_is_told_with_what_to_write(
    change: dict[str, Any], written: str
) -> None:
    scenario = choose_scenario(replace(SITE, **change), CARD)
    states = [finding.state for finding in scenario.findings()]

    assert scenario.class_order is None
    assert written in scenario.near_miss
    assert states == ["ok", "warning"]


def test_numbers_for_the_teachers_names_are_told_with_what_to_write() -> None:
    numbered = replace(SITE, class_names=("0", "1", "2"))
    fewer = replace(SITE, class_names=("0", "1"))

    assert "{'0': ..., '2': ...}" in choose_scenario(numbered, CARD).near_miss
    assert not choose_scenario(fewer, CARD).near_miss
    both = replace(CARD, class_names=("3", "4", "5"))
    assert not choose_scenario(numbered, both).near_miss


def test_a_class_that_is_missing_here_is_told_with_what_it_costs() -> None:
    scenario = choose_scenario(replace(SITE, class_names=("stroma", "tumour")), CARD)

    assert scenario.name == "relevant"
    assert "which knows mucus as well" in scenario.near_miss
    assert "folder missing or empty" in scenario.near_miss


@pytest.mark.parametrize(
    "change",
    [
        {"class_names": ("benign", "grade 3", "grade 4")},
        {"organ": "prostate", "class_names": ("benign", "gleason3")},
    ],
)
def test_what_is_far_is_no_near_miss(change: dict[str, Any]) -> None:
    assert not choose_scenario(replace(SITE, **change), CARD).near_miss


def test_an_operator_who_has_decided_is_not_warned_again() -> None:
    site = replace(SITE, class_names=("mucus", "stroma", "TUM"))

    assert not choose_scenario(site, CARD, override="relevant").near_miss


def test_a_finding_names_what_fits_what_does_not_and_the_losses() -> None:
    site = replace(SITE, class_names=("mucus", "stroma", "TUM"))

    finding, _ = choose_scenario(site, CARD).findings()

    assert "no KL" in finding.text
    assert finding.more == (
        "classes that fit: mucus, stroma",
        "only here: TUM (there tumour?)",
        "only at the teacher: tumour",
    )


def test_a_config_value_overrides_and_the_reason_says_so() -> None:
    scenario = choose_scenario(SITE, CARD, override="irrelevant")

    assert scenario.name == "irrelevant"
    assert "the config says so" in scenario.reason


def test_the_same_task_cannot_be_asked_for_between_different_classes() -> None:
    with pytest.raises(ConfigError, match="'benign'"):
        choose_scenario(SITE, replace(CARD, class_names=("benign",)), override="same")


def test_the_same_task_asked_for_between_near_classes_is_told_what_to_write() -> None:
    site = replace(SITE, class_names=("mucus", "stroma", "TUM"))

    with pytest.raises(ConfigError, match=r"write task\.classes: \{'TUM': 'tumour'\}"):
        choose_scenario(site, CARD, override="same")


def test_a_teacher_without_classes_is_no_puzzle() -> None:
    scenario = choose_scenario(SITE, replace(CARD, class_names=()))

    assert (scenario.name, scenario.near_miss) == ("relevant", "")
