"""A site with a local teacher, small enough to train in a second."""

from pathlib import Path
from typing import Any, Literal

import yaml

from moma_client.cli.init import SiteSetup, render_config
from moma_client.config.site import SiteConfig
from moma_client.student.factory import SiteTeacher, StudentJob
from moma_core.data.sources.demo_tissue import CLASS_NAMES
from moma_core.distillation.scenario import SiteTask, choose_scenario
from moma_core.distillation.settings import DistillationSettings
from moma_core.federation.task import RoundTask
from moma_core.models.backbone import create_backbone
from moma_core.models.settings import ModelSection
from moma_core.models.weights import save_weights
from moma_core.teacher.card.card import TeacherCard
from tests.support.teacher.sealed import TEACHER_KEY

ARCHITECTURE = "test_efficientnet"


def write_teacher(folder: Path, architecture: str = ARCHITECTURE) -> TeacherCard:
    """Writes a teacher of random weights, and its card."""
    section = ModelSection(architecture=architecture, weights="random")
    network = create_backbone(section, len(CLASS_NAMES))
    folder.mkdir(parents=True, exist_ok=True)
    card = TeacherCard(
        name="teacher-a",
        digest=save_weights(network, folder / "weights.safetensors"),
        architecture=architecture,
        embedding_length=network.embedding_length,
        organ="colon",
        task="stain",
        class_names=CLASS_NAMES,
        input_size_px=32,
        mean=network.mean,
        std=network.std,
        precision="float32",
    )
    card.save(folder / "card.json")
    return card


# The shipped weights are three times as large, and blow a last digit up sooner.
_PUBLISHED = DistillationSettings.published().model_dump(mode="json")


def local_config(folder: Path, **sections: Any) -> SiteConfig:
    """Returns the config of a site whose teacher lies in `folder / "teacher"`."""
    values = yaml.safe_load(
        render_config(SiteSetup(site="site-a", teacher_key=TEACHER_KEY))
    )
    values |= {
        "teacher": {
            "mode": "local",
            "card": "teacher/card.json",
            "weights_file": "teacher/weights.safetensors",
        },
        "task": {"organ": "colon", "task": "stain"},
        "data": {"kind": "embedded", "part": "site-a", "keep_labelled": 24},
        "views": "geometry_only",
        "view_size_px": 32,
        "metrics": {"port": 0},  # the usual one may be taken
        "student": {"architecture": ARCHITECTURE, "weights": "random"},
        "distillation": _PUBLISHED | {"feature_length": 32, "bank_size": 256},
        "training": {
            "batch_size": 16,
            "threads": 1,
            "accelerator": "cpu",
            "balance": "none",  # as published
        },
    }
    for key, value in sections.items():
        merges = isinstance(values.get(key), dict) and "kind" not in value
        values[key] = {**values[key], **value} if merges else value
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return SiteConfig.from_yaml(path)


FIRST = RoundTask(
    kind="train", run="run", round=1, rounds=2, local_epochs=1, mode="independent"
)


def student_job(
    config: SiteConfig,
    card: TeacherCard,
    task: RoundTask = FIRST,
    method: Literal["moma", "ce"] = "moma",
) -> StudentJob:
    """Returns a student's share of a round."""
    site = SiteTask(config.task.organ, config.task.task, CLASS_NAMES)
    folder = config.state_dir / "runs" / task.run / method
    scenario = choose_scenario(site, card, None)
    teacher = SiteTeacher(config, card, scenario)
    return StudentJob(config, method, (teacher,), folder, b"key", task)
