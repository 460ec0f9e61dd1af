"""The compared methods at a site, beside its own student."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from moma_client.config.site import SiteConfig
from moma_client.context import RunContext
from moma_client.egress.outcome import StudentOutcome
from moma_client.metrics import silent_metrics
from moma_client.student.evaluate import evaluate_students
from moma_client.student.factory import SiteTeacher, StudentJob
from moma_client.student.files import load_student
from moma_client.student.launch import run_student
from moma_client.student.round import SiteCallback
from moma_core.config import validated
from moma_core.data.sources.demo_tissue import CLASS_NAMES
from moma_core.distillation.methods.names import Method
from moma_core.distillation.scenario import SiteTask, choose_scenario
from moma_core.errors import ConfigError
from moma_core.federation.task import RoundTask
from moma_core.models.reused_classifier import ProjectedEncoder
from moma_core.teacher.card.card import TeacherCard
from tests.support.site.tiny_site import local_config, write_teacher
from tests.support.teacher.sealed import TEACHER_KEY

STEPS = 11  # of an epoch of 84 unlabelled patches, 8 a step
FIRST = RoundTask(
    kind="train", run="run", round=1, rounds=2, local_epochs=1, mode="independent"
)
REMOTE = {
    "mode": "frozen",
    "name": "teacher-a",
    "address": "a.org:443",
    "key": TEACHER_KEY,
}


@pytest.fixture
def card(tmp_path: Path) -> TeacherCard:
    torch.manual_seed(0)
    return write_teacher(tmp_path / "teacher")


def _remote_config(folder: Path, *baselines: Method) -> SiteConfig:
    values = local_config(folder).model_dump(mode="json")
    values |= {"teacher": REMOTE, "baselines": baselines}
    return validated(SiteConfig, values, folder / "config.yaml")


def _job(config: SiteConfig, card: TeacherCard, method: Method) -> StudentJob:
    site = SiteTask(config.task.organ, config.task.task, CLASS_NAMES)
    folder = config.state_dir / "runs" / FIRST.run / method
    scenario = choose_scenario(site, card, None)
    teacher = SiteTeacher(config, card, scenario)
    return StudentJob(config, method, (teacher,), folder, b"key", FIRST)


def _run(job: StudentJob) -> StudentOutcome:
    metrics = silent_metrics()
    return run_student(
        job,
        SiteCallback(
            RunContext(job.config, threading.Event(), metrics), None, job.method
        ),
    )


@pytest.mark.parametrize("method", ["kd", "at", "crd", "srrl"])
@pytest.mark.parametrize("schedule", ["published", "frozen"])
def test_a_baseline_learns_from_the_teacher_as_it_is_whatever_its_schedule(
    tmp_path: Path, card: TeacherCard, method: Method, schedule: str
) -> None:
    config = local_config(tmp_path, teacher={"schedule": schedule})

    outcome = _run(_job(config, card, method))

    folder = _job(config, card, method).folder
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    _, found = load_student(folder)
    assert (found.steps, found.method, found.teacher) == (STEPS, method, "teacher-a")
    assert outcome.patches == 108
    assert state["teacher"] == {}


def test_simkds_student_comes_back_with_its_projector_and_the_teachers_classifier(
    tmp_path: Path,
) -> None:
    card = write_teacher(tmp_path / "teacher", "test_resnet")
    config = local_config(tmp_path, baselines=["simkd"])

    outcome = _run(_job(config, card, "simkd"))

    student, found = load_student(_job(config, card, "simkd").folder)
    assert isinstance(student, ProjectedEncoder)
    assert found.projected_length == student.embedding_length == card.embedding_length
    figures = evaluate_students(config, run=None, method="simkd", split="validation")
    assert figures["simkd"].values() == pytest.approx(outcome.figures, abs=1e-6)


def test_ft_takes_the_labelled_patches_alone_and_names_its_teacher(
    tmp_path: Path, card: TeacherCard
) -> None:
    config = local_config(tmp_path, training={"learning_rate": 1e-9})

    outcome = _run(_job(config, card, "ft"))
    other = _run(_job(config, card, "ce"))

    _, found = load_student(_job(config, card, "ft").folder)
    weight = "model.conv_stem.weight"
    assert outcome.patches == 24
    assert found.teacher == "teacher-a"
    assert not np.allclose(outcome.weights[weight], other.weights[weight], atol=1e-3)


@pytest.mark.slow  # of moma's student it is tested beside the round
@pytest.mark.parametrize("method", ["crd", "simkd", "semckd"])
def test_two_devices_train_one_student(
    tmp_path: Path, card: TeacherCard, method: Method
) -> None:
    config = local_config(tmp_path, training={"devices": 2})

    outcome = _run(_job(config, card, method))

    _, found = load_student(_job(config, card, method).folder)
    assert found.steps == STEPS
    assert all(np.isfinite(array).all() for array in outcome.weights.values())


def test_a_remote_teacher_may_not_be_looked_into(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="vid needs feature maps: teacher"):
        _remote_config(tmp_path, "ce", "kd", "vid")
    with pytest.raises(ConfigError, match="ft needs the teacher's weights: teacher"):
        _remote_config(tmp_path, "ft")


def test_a_site_may_name_any_method_that_its_teacher_allows(tmp_path: Path) -> None:
    asked = ("ce", "kd", "hint", "sp", "cc", "rkd", "pkt", "crd")
    inside = ("at", "vid", "semckd", "simkd", "srrl", "ft")

    remote = _remote_config(tmp_path, *asked)
    local = local_config(tmp_path, baselines=[*asked, *inside])

    assert remote.baselines == asked
    assert local.baselines == (*asked, *inside)
