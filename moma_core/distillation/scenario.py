"""Which of the paper's three scenarios a site and a teacher are in, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from moma_core.errors import ConfigError
from moma_core.teacher.card.card import TeacherCard

ScenarioName = Literal["same", "relevant", "irrelevant"]


@dataclass(frozen=True, slots=True)
class SiteTask:
    """What a site trains for: the counterpart of a teacher card.

    Args:
        organ: For example "colon".
        task: For example "tissue types".
        class_names: In the order of the site's labels.
    """

    organ: str
    task: str
    class_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario with the reason for it, to be shown to the operator.

    Args:
        name: Same: CE + InfoNCE + KL. Relevant and irrelevant: CE + InfoNCE.
        reason: One sentence.
        class_order: (C,) long, the teacher's logit of each of the site's classes, by
            name and never by position; None where the KL is off.
    """

    name: ScenarioName
    reason: str
    class_order: Tensor | None

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


def choose_scenario(
    site: SiteTask, card: TeacherCard, override: ScenarioName | None = None
) -> Scenario:
    """Compares organ, task and class names; a config value overrides.

    Raises:
        ConfigError: The override asks for the KL between different class sets.
    """
    found, reason = _compare(site, card)
    name = override or found
    if override and override != found:
        reason = f"the config says so ({reason}, which alone would be {found!r})"
    if name != "same":
        return Scenario(name, reason, None)
    if "logits" not in card.outputs:
        reason = f"{reason}; the teacher tells no logits: no KL"
        return Scenario(name, reason, None)
    if set(site.class_names) != set(card.class_names):
        raise ConfigError(
            "distillation.scenario is 'same', but the classes differ in "
            f"{sorted(set(site.class_names) ^ set(card.class_names))}"
        )
    return Scenario(name, reason, _class_order(site.class_names, card.class_names))


def _compare(site: SiteTask, card: TeacherCard) -> tuple[ScenarioName, str]:
    if site.organ != card.organ:
        return "irrelevant", f"organ {site.organ!r} here, {card.organ!r} there"
    if site.task != card.task:
        return "relevant", f"one organ, task {site.task!r} here, {card.task!r} there"
    if set(site.class_names) != set(card.class_names):
        return "relevant", f"organ {site.organ!r} on both sides, other classes"
    return "same", f"organ {site.organ!r}, task {site.task!r} and classes are equal"


def _class_order(own: Sequence[str], theirs: Sequence[str]) -> Tensor:
    place = {name: position for position, name in enumerate(theirs)}
    return torch.tensor([place[name] for name in own], dtype=torch.long)
