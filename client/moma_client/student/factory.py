"""How a site's students are made, and that they can be before anything is charged."""

import logging
from copy import deepcopy

import torch

from moma_client.config.site import SiteConfig
from moma_client.config.teacher import LocalTeacherSection, MomentumTeacherSection
from moma_client.teacher.local_teacher import local_network
from moma_core.data.patch import TRAIN, PatchSource
from moma_core.distillation.methods.names import Method, check_disclosed, need_of
from moma_core.distillation.methods.registry import (
    DistillationContext,
    RunFacts,
    TeacherFacts,
    make_distiller,
)
from moma_core.distillation.scenario import Scenario, SiteTask, choose_scenario
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import Distiller
from moma_core.errors import ConfigError
from moma_core.models.backbone import Backbone, create_backbone
from moma_core.teacher.card.card import TeacherCard

_logger = logging.getLogger(__name__)


def make_student(
    config: SiteConfig,
    method: Method,
    card: TeacherCard,
    scenario: Scenario,
    student: Backbone,
    source: PatchSource,
) -> Distiller:
    """Returns a method's step around a student, as the site's config has it.

    Args:
        config: The site's.
        method: Its name.
        card: The teacher's.
        scenario: Which losses apply.
        student: Its parameters will learn.
        source: The site's patches.

    Raises:
        ConfigError: Method, teacher and student do not fit each other.
    """
    encoder = None
    needs_encoder = need_of(method) in {"maps", "weights"}
    if needs_encoder and isinstance(config.teacher, LocalTeacherSection):
        encoder = local_network(card, config.teacher)
    teacher = TeacherFacts(
        card.embedding_length, len(card.class_names), scenario.class_order, encoder
    )
    run = RunFacts(
        training_rows=torch.from_numpy(source.index.rows(TRAIN, labelled=None)),
        batch_size=config.training.batch_size // config.training.devices,
        view_size_px=config.view_size_px,
        seed=config.training.seed,
    )
    setup = DistillationContext(
        _settings(config, card), config.baseline_settings, teacher, run
    )
    return make_distiller(method, student, setup)


def scenario_of(
    config: SiteConfig, card: TeacherCard, classes: tuple[str, ...]
) -> Scenario:
    """Returns which losses apply to a site's classes with this teacher.

    Raises:
        ConfigError: The scenario that the config wants does not apply.
    """
    site = SiteTask(config.task.organ, config.task.task, classes)
    asked = config.distillation.scenario
    return choose_scenario(site, card, None if asked == "auto" else asked)


def check_students(config: SiteConfig, card: TeacherCard, source: PatchSource) -> None:
    """Makes every student once, so that none fails after patches were charged.

    Weights that a hub delivers are on this disk from then on.

    Args:
        config: The site's.
        card: The teacher's.
        source: The site's patches.

    Raises:
        ConfigError: Weights, architecture, view size, method and teacher do not fit
            each other, or the weights are out of reach.
    """
    note = view_size_note(config, card)
    if note is not None:
        _logger.warning("%s", note)
    section = config.teacher
    if isinstance(section, MomentumTeacherSection):
        check_architecture(config, card, "teacher.mode 'momentum'")
    elif isinstance(section, LocalTeacherSection) and section.schedule != "frozen":
        check_architecture(config, card, f"teacher.schedule {section.schedule!r}")
    scenario = scenario_of(config, card, source.class_names)
    backbone = make_backbone(config, len(source.class_names))
    methods: tuple[Method, ...] = ("moma", *config.baselines)
    for method in methods:
        check_disclosed(method, card)
        make_student(config, method, card, scenario, deepcopy(backbone), source)


def make_backbone(config: SiteConfig, classes: int) -> Backbone:
    """Returns what all students start from.

    Raises:
        ConfigError: Weights, architecture and view size do not fit each other, or the
            weights are out of reach.
    """
    backbone = create_backbone(config.student, classes)
    _check_takes_views(backbone, config.view_size_px)
    return backbone


def check_architecture(config: SiteConfig, card: TeacherCard, key: str) -> None:
    """Refuses a teacher that moves with a student of another architecture.

    Raises:
        ConfigError: It does; the message names `key`, which wants it to move.
    """
    own, theirs = config.student.architecture, card.architecture
    if own != theirs:
        raise ConfigError(
            f"{key} needs one architecture on both sides, not {theirs!r} and {own!r}"
        )


def view_size_note(config: SiteConfig, card: TeacherCard) -> str | None:
    """Returns what to tell of a view size that is not the teacher's; None: it is."""
    if config.view_size_px == card.input_size_px:
        return None
    return (
        f"view_size_px is {config.view_size_px}, teacher {card.name} takes "
        f"{card.input_size_px} px: each view is resized for it; view_size_px: "
        f"{card.input_size_px} shows both the same pixels"
    )


def _check_takes_views(backbone: Backbone, view_size_px: int) -> None:
    views = torch.zeros(1, 3, view_size_px, view_size_px)
    backbone.eval()
    try:
        with torch.no_grad():
            backbone(views)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"student.architecture {backbone.architecture!r} takes no views of "
            f"{view_size_px} px: {error}; change view_size_px or the architecture"
        ) from error
    backbone.train()


def _settings(config: SiteConfig, card: TeacherCard) -> DistillationSettings:
    """Returns the config's; zeros stand for what is withheld, and teach nothing."""
    told, changed = card.outputs, dict[str, object]()
    if "embedding" not in told:
        changed["contrastive_weight"] = 0.0
    if "logits" not in told:
        changed["other_classes"] = "ignored"
    return config.distillation.model_copy(update=changed)
