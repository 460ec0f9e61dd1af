"""The teachers of a study: trained once a seed and kept, or read from a file."""

import os
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.quality.tissue import Relabelled
from benchmarks.quality.training import Course, Share, train
from benchmarks.study.patches import Division
from benchmarks.study.preset import Study, TeacherPlan
from moma_core.data.patch import PatchSource
from moma_core.distillation.scenario import class_order
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import Distiller
from moma_core.errors import ConfigError
from moma_core.models.backbone import (
    Backbone,
    create_backbone,
    lite0_state_dict,
)
from moma_core.models.weights import check_safetensors, load_weights, save_weights
from moma_core.teacher.local import AbsentTeacher

_IMAGENET_CLASSES = 1000


def order_of(plan: TeacherPlan, classes: tuple[str, ...]) -> Tensor | None:
    """Returns where each class stands in the teacher's logits; None: other classes."""
    if plan.kind == "imagenet" or plan.merged:
        return None
    if plan.kind == "file":
        return class_order(classes, plan.class_names, {})
    return torch.arange(len(classes))


def make_teacher(
    study: Study,
    scenario: str,
    division: Division,
    course: Course,
    work: Path,
) -> Backbone:
    """Returns a frozen teacher, trained when it is first asked for.

    Args:
        study: Says how.
        scenario: Whose teacher.
        division: Its patches.
        course: Of the students, with the seed; a teacher has its own steps and rate.
        work: Where teachers are kept.
    """
    plan = study.teachers[scenario]
    if plan.kind == "imagenet":
        teacher = _imagenet(plan)
    elif plan.kind == "file":
        teacher = _of_others(plan)
    else:
        teacher = _trained(study, scenario, division, course, work)
    return teacher.eval().requires_grad_(False)


def _imagenet(plan: TeacherPlan) -> Backbone:
    model = plan.model
    if model.weights == "timm":
        return Backbone(model.architecture, _IMAGENET_CLASSES, pretrained=True)
    teacher = Backbone(model.architecture, _IMAGENET_CLASSES)
    if model.weights == "packaged":
        weights = lite0_state_dict(teacher.model.state_dict())
        teacher.model.load_state_dict(weights)
    return teacher


def _of_others(plan: TeacherPlan) -> Backbone:
    if plan.model.weights_file is None:
        raise ConfigError("a teacher of kind file has no weights_file")
    teacher = Backbone(plan.model.architecture, len(plan.class_names))
    read_network(teacher, plan.model.weights_file)
    own = {"mean": plan.mean or teacher.mean, "std": plan.std or teacher.std}
    teacher.model.pretrained_cfg = {**teacher.model.pretrained_cfg, **own}
    return teacher


def read_network(network: Backbone, path: Path) -> None:
    """Reads weights by the names that timm gives them, or by this project's.

    Raises:
        ConfigError: The file is missing, damaged, no safetensors, or of another model.
    """
    check_safetensors(path)
    try:
        weights = load_file(path)
        is_ours = all(name.startswith("model.") for name in weights)
        (network if is_ours else network.model).load_state_dict(weights)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"cannot read weights {path}: {error}") from error
    except RuntimeError as error:  # names every tensor
        name = network.architecture
        raise ConfigError(f"weights {path} are not those of timm's {name}") from error


def _trained(
    study: Study,
    scenario: str,
    division: Division,
    course: Course,
    work: Path,
) -> Backbone:
    plan, seed = study.teachers[scenario], course.seed
    source: PatchSource = division.source
    if plan.merged:
        source = Relabelled(source, dict(plan.merged))
    torch.manual_seed(seed)
    teacher = create_backbone(plan.model, len(source.class_names))
    path = work / f"{study.name}-{scenario}-{seed}-{study.size_px}px.safetensors"
    if path.exists():
        load_weights(teacher, path)
        return teacher
    rows = division.teacher
    own = Course(
        steps=plan.steps,
        rate=plan.rate,
        seed=seed,
        recipe=course.recipe,
        views=0,
        batch_size=course.batch_size,
        size_px=course.size_px,
        device=course.device,
        workers=course.workers,
    )
    step = Distiller(teacher, DistillationSettings())
    train(step, AbsentTeacher(), source, Share(rows, np.empty(0, np.int64)), own)
    work.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    save_weights(teacher.cpu(), partial)
    partial.replace(path)
    return teacher
