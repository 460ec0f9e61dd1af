"""What a student's round is of, and how students are made.

All of them are made once before anything is charged, so that none fails later.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch

from moma_client.config.site import SiteConfig
from moma_core.data.patch import TRAIN, PatchSource
from moma_core.distillation.methods.context import DistillationContext
from moma_core.distillation.methods.names import (
    Method,
    check_disclosed,
    need_of,
    uses_outputs,
)
from moma_core.distillation.methods.registry import make_distiller
from moma_core.distillation.scenario import Scenario, SiteTask, choose_scenario
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.several import SeveralDistillers
from moma_core.distillation.step import Distiller
from moma_core.errors import ConfigError
from moma_core.federation.task import RoundTask
from moma_core.models.backbone import Backbone, create_backbone
from moma_core.models.ema import MomentumTerms
from moma_core.models.view_size import check_takes_views
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.local import load_network


@dataclass(frozen=True, slots=True, eq=False)
class SiteTeacher:
    """One of a site's teachers, as a round knows it.

    Args:
        config: Settings of this site, as if this were its only teacher.
        card: Card of the teacher.
        scenario: Which losses apply.
        is_verified: Whether it may be queried for what its cache lacks: it answered
            its reference patch in this run.
        weight: Of its terms, 1 over all teachers together.
    """

    config: SiteConfig
    card: TeacherCard
    scenario: Scenario
    is_verified: bool = True
    weight: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class StudentJob:
    """What one student does in one round.

    Args:
        config: Settings of this site.
        method: `moma`, or a baseline's name.
        teachers: One, or each of several, in the config's order.
        folder: Where this student's checkpoint and files lie.
        run_key: Secret of the run, from which request ids are made.
        task: The round.
    """

    config: SiteConfig
    method: Method
    teachers: tuple[SiteTeacher, ...]
    folder: Path
    run_key: bytes
    task: RoundTask

    @property
    def trained_as(self) -> Method:
        """The method that trains this student: its own, or `ce` as the fallback."""
        scenarios = [each.scenario for each in self.teachers]
        return trained_as(self.method, self.config, scenarios)

    @property
    def distils(self) -> bool:
        """Whether a teacher answers this student's batches."""
        return uses_outputs(self.trained_as)

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher has any part in this student."""
        return need_of(self.trained_as) != "nothing"

    @property
    def updates_teacher(self) -> bool:
        """Whether a teacher follows this student, as none does a baseline."""
        is_updated = any(each.config.teacher.is_updated for each in self.teachers)
        return is_updated and self.trained_as == "moma"


def trained_as(
    method: Method, config: SiteConfig, scenarios: Sequence[Scenario]
) -> Method:
    """Returns what trains a student: `ce` for moma where the config falls back."""
    names = {each.name for each in scenarios}
    is_irrelevant = names == {"irrelevant"}
    falls_back = config.distillation.fallback == "auto" and is_irrelevant
    return "ce" if falls_back and method == "moma" else method


def needs_teachers(config: SiteConfig, scenarios: Sequence[Scenario]) -> bool:
    """Whether any student of a site needs outputs of a teacher."""
    methods: tuple[Method, ...] = ("moma", *config.baselines)
    return any(
        uses_outputs(trained_as(method, config, scenarios)) for method in methods
    )


def make_student(
    method: Method,
    teachers: Sequence[SiteTeacher],
    student: Backbone,
    source: PatchSource,
) -> Distiller:
    """Returns a method's step around a student, as the site's config has it.

    Args:
        method: Name of the method.
        teachers: One, or each of several.
        student: Network whose parameters will learn.
        source: Patches of this site.

    Raises:
        ConfigError: Method, teacher and student do not fit each other.
    """
    if len(teachers) == 1 or not uses_outputs(method):
        return make_distiller(method, student, _context(method, teachers[0], source))
    made = {
        each.card.name: make_distiller(method, student, _context(method, each, source))
        for each in teachers
    }
    weights = {each.card.name: each.weight for each in teachers}
    return SeveralDistillers(student, made, weights)


def _context(
    method: Method, teacher: SiteTeacher, source: PatchSource
) -> DistillationContext:
    """Returns what a method must know of one teacher."""
    config, card = teacher.config, teacher.card
    encoder, section = None, config.teacher
    if need_of(method) in {"maps", "weights"} and not section.is_remote:
        encoder = load_network(card, section.weights_file)
    return DistillationContext(
        settings=_settings(config, card, teacher.scenario),
        baseline_settings=config.baseline_settings,
        teacher_length=card.embedding_length,
        teacher_classes=len(card.class_names),
        class_order=teacher.scenario.class_order,
        teacher=encoder,
        training_rows=torch.from_numpy(source.index.rows(TRAIN, labelled=None)),
        batch_size=config.training.batch_size // config.training.devices,
        view_size_px=config.view_size_px,
        seed=config.training.seed,
    )


def scenario_of(
    config: SiteConfig, card: TeacherCard, classes: tuple[str, ...]
) -> Scenario:
    """Returns which losses apply to a site's classes with this teacher.

    Raises:
        ConfigError: The scenario that the config wants does not apply.
    """
    section = config.task
    site = SiteTask(section.organ, section.task, classes, config.renamed_classes)
    asked = config.distillation.scenario
    return choose_scenario(site, card, None if asked == "auto" else asked)


def check_students(config: SiteConfig, card: TeacherCard, source: PatchSource) -> None:
    """Makes every student once, so that none fails after patches were charged.

    Weights that a hub delivers are on this disk from then on. Of several teachers each
    is looked at alone.

    Args:
        config: Settings of this site, with the one teacher.
        card: Card of the teacher.
        source: Patches of this site.

    Raises:
        ConfigError: Weights, architecture, view size, method and teacher do not fit
            each other, or the weights are out of reach.
    """
    check_architecture(config, card)
    scenario = scenario_of(config, card, source.class_names)
    teacher = SiteTeacher(config, card, scenario)
    backbone = make_backbone(config, len(source.class_names))
    methods: tuple[Method, ...] = ("moma", *config.baselines)
    for method in methods:
        check_disclosed(method, card)
        make_student(method, [teacher], deepcopy(backbone), source)


def ema_terms(config: SiteConfig, scenario: Scenario) -> MomentumTerms:
    """Returns how a teacher is updated from this site's student."""
    section, order = config.teacher, scenario.class_order
    return MomentumTerms(
        config.distillation.momentum,
        section.batch_norm if section.is_updated else "moving",
        None if order is None else tuple(order.tolist()),
    )


def make_backbone(config: SiteConfig, classes: int) -> Backbone:
    """Returns what all students start from.

    Raises:
        ConfigError: Weights, architecture, view size and frozen stages do not fit each
            other, or the weights are out of reach.
    """
    backbone = create_backbone(config.student, classes)
    check_takes_views(backbone, config.view_size_px, "student")
    backbone.freeze_stages(config.training.freeze_stages)
    return backbone


def check_architecture(config: SiteConfig, card: TeacherCard) -> None:
    """Refuses a teacher that is updated from a student of another architecture.

    Raises:
        ConfigError: It is; the message names the key that has it updated.
    """
    section = config.teacher
    own, theirs = config.student.architecture, card.architecture
    if section.is_updated and own != theirs:
        key = (
            "mode 'momentum'" if section.is_remote else f"schedule {section.schedule!r}"
        )
        raise ConfigError(
            f"teacher.{key} needs one architecture on both sides, not {theirs!r} "
            f"and {own!r}"
        )


def uses_prototypes(config: SiteConfig, card: TeacherCard, scenario: Scenario) -> bool:
    """Whether moma learns from class centres: of a near teacher's embeddings."""
    return (
        config.distillation.has_prototypes
        and scenario.class_order is None
        and scenario.name != "irrelevant"
        and "embedding" in card.outputs
    )


def _settings(
    config: SiteConfig, card: TeacherCard, scenario: Scenario
) -> DistillationSettings:
    """Returns the config's; zeros stand for outputs that the teacher withholds."""
    changed, kind = dict[str, object](), config.distillation.other_classes
    if kind == "prototypes" and not uses_prototypes(config, card, scenario):
        changed["other_classes"] = "ignored"
    if "embedding" not in card.outputs:
        changed["contrastive_weight"] = 0.0
    if "logits" not in card.outputs:
        if kind == "side_head":
            changed["other_classes"] = "ignored"
        if config.distillation.bank == "teacher_masked":
            changed["bank"] = "instance"
    return config.distillation.model_copy(update=changed)
