"""Rounds of a student with what `training` may ask for: which is kept, what is told."""

import csv
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from moma_client.context import RunContext
from moma_client.egress.outcome import StudentOutcome
from moma_client.metrics import silent_metrics
from moma_client.student.factory import (
    StudentJob,
    make_backbone,
    needs_teachers,
    trained_as,
)
from moma_client.student.files import WEIGHTS, load_student, read_card
from moma_client.student.launch import run_student
from moma_client.student.round import SiteCallback
from moma_client.student.run_identity import training_run
from moma_core.data.sources.demo_tissue import CLASS_NAMES
from moma_core.data.sources.factory import open_source
from moma_core.distillation.methods.names import Method
from moma_core.distillation.settings import DistillationSettings
from moma_core.errors import ConfigError
from moma_core.federation.task import Masking
from moma_core.teacher.card.card import TeacherCard
from tests.support.site.tiny_site import FIRST, local_config, student_job, write_teacher

STEPS = 11  # of an epoch
LONG = replace(FIRST, local_epochs=2)


@pytest.fixture
def card(tmp_path: Path) -> TeacherCard:
    torch.manual_seed(0)
    return write_teacher(tmp_path / "teacher")


def _run(job: StudentJob) -> StudentOutcome:
    context = RunContext(job.config, threading.Event(), silent_metrics())
    return run_student(job, SiteCallback(context, None, job.method))


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_kept_student_is_in_the_folder_and_the_other_one_below_it(
    tmp_path: Path, card: TeacherCard, keep: str
) -> None:
    config = local_config(tmp_path, training={"keep": keep, "patience": 9})
    job = student_job(config, card, LONG)

    outcome = _run(job)

    other = "last" if keep == "best" else "best"
    kept, found = read_card(job.folder), read_card(job.folder / other)
    best = kept if keep == "best" else found
    assert (kept.kept, found.kept) == (keep, other)
    assert best.steps in {STEPS, 2 * STEPS}
    assert best.kept_by.startswith("validation_macro_f1 0.")
    for folder in (job.folder, job.folder / other):
        load_student(folder)
    weights = load_file(job.folder / WEIGHTS)
    assert all(
        np.array_equal(outcome.weights[name], weights[name].numpy())
        for name in outcome.weights
    )
    if keep == "best":
        value = float(best.kept_by.split()[1])
        assert outcome.figures["validation_macro_f1"] == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize(
    ("masking", "steps"), [(Masking(max_update_norm=1.0), STEPS), (None, 2 * STEPS)]
)
def test_a_late_site_makes_up_for_missed_rounds_but_not_below_a_mask(
    tmp_path: Path, card: TeacherCard, masking: Masking | None, steps: int
) -> None:
    """Else the sum with sites at the end of their schedule would be the late one."""
    second = replace(FIRST, round=2, mode="fedavg", masking=masking)
    job = student_job(local_config(tmp_path), card, second)

    _run(job)

    assert read_card(job.folder).steps == steps


def test_by_default_one_student_is_kept_and_nothing_is_measured_within_a_round(
    tmp_path: Path, card: TeacherCard
) -> None:
    job = student_job(local_config(tmp_path), card, LONG)

    _run(job)

    assert not (job.folder / "best").exists()
    assert read_card(job.folder).kept == "last"


def test_the_average_is_what_is_kept_reported_and_sent(
    tmp_path: Path, card: TeacherCard
) -> None:
    job = student_job(local_config(tmp_path, training={"ema_decay": 0.9}), card)

    outcome = _run(job)

    state = torch.load(job.folder / "checkpoint.pt", weights_only=True)
    for name, tensor in state["average"].items():
        assert np.array_equal(outcome.weights[name], tensor.numpy()), name
    assert any(
        not torch.equal(state["average"][name], state["distiller"][f"student.{name}"])
        for name in state["average"]
    )


def test_with_an_irrelevant_teacher_the_fallback_is_the_student_of_labels_alone(
    tmp_path: Path, card: TeacherCard
) -> None:
    card = replace(card, organ="prostate")
    falls_back = local_config(tmp_path, distillation={"fallback": "auto"})
    job, alone, asking = (
        student_job(config, card, method=method)
        for config, method in (
            (falls_back, "moma"),
            (falls_back, "ce"),
            (local_config(tmp_path), "moma"),
        )
    )
    assert (job.trained_as, asking.trained_as) == ("ce", "moma")
    assert (job.distils, asking.distils) == (False, True)

    outcome, expected = _run(job), _run(alone)

    assert outcome.weights.keys() == expected.weights.keys()
    for name, weights in outcome.weights.items():
        assert np.array_equal(weights, expected.weights[name]), name
    kept, baseline = read_card(job.folder), read_card(alone.folder)
    assert (kept.teacher, kept.teacher_digest, kept.teacher_licence) == ("", "", None)
    assert kept.scenario.startswith("irrelevant (")
    assert baseline.scenario == ""


_PLAIN = {"attention": "none", "bank_start": "empty"}


@pytest.mark.parametrize(
    ("key", "values", "where_it_decides"),
    [
        ("fallback", ("auto", "none"), {"organ": "prostate"}),
        ("other_classes", ("ignored", "prototypes"), {"task": "another"}),
        ("prototype_weight", (1.0, 3.0), {"task": "another"}),
    ],
)
def test_a_key_makes_another_run_where_it_decides_what_is_trained(
    tmp_path: Path,
    card: TeacherCard,
    key: str,
    values: tuple[object, object],
    where_it_decides: dict[str, Any],
) -> None:
    source = open_source(local_config(tmp_path).data)
    configs = [
        local_config(
            tmp_path, distillation=_PLAIN | {"other_classes": "prototypes", key: value}
        )
        for value in values
    ]

    def digests(card: TeacherCard, method: Method = "moma") -> int:
        jobs = [student_job(config, card, FIRST, method=method) for config in configs]
        return len({training_run(job, source).run for job in jobs})

    elsewhere = replace(card, **where_it_decides)
    assert (digests(card), digests(elsewhere)) == (1, 2)
    assert digests(elsewhere, "ce") == 1


def test_a_release_that_adds_centres_leaves_the_digest_of_other_runs(
    tmp_path: Path, card: TeacherCard
) -> None:
    """What a site of the same classes trained on before, it trains on now."""
    source = open_source(local_config(tmp_path).data)

    def digest(other_classes: str) -> str:
        chosen = _PLAIN | {"other_classes": other_classes}
        config = local_config(tmp_path, distillation=chosen)
        return training_run(student_job(config, card, FIRST), source).run

    assert digest("prototypes") == digest("ignored")
    assert digest("side_head") != digest("ignored")


def test_moma_falls_back_unless_told_otherwise_and_the_published_method_does_not() -> (
    None
):
    assert DistillationSettings().fallback == "auto"
    assert DistillationSettings.published().fallback == "none"


def test_the_fallback_leaves_a_relevant_teacher_and_the_baselines_as_they_are(
    tmp_path: Path, card: TeacherCard
) -> None:
    config = local_config(tmp_path, distillation={"fallback": "auto"})
    (relevant,) = student_job(config, replace(card, task="other"), FIRST).teachers
    (other,) = student_job(config, replace(card, organ="prostate"), FIRST).teachers
    with_kd = config.model_copy(update={"baselines": ("kd",)})

    assert trained_as("moma", config, [relevant.scenario]) == "moma"
    assert trained_as("moma", config, [relevant.scenario, other.scenario]) == "moma"
    assert trained_as("kd", config, [other.scenario]) == "kd"
    assert not needs_teachers(config, [other.scenario])
    assert needs_teachers(with_kd, [other.scenario])


def test_a_round_can_be_followed_from_its_log_and_its_table(
    tmp_path: Path, card: TeacherCard, caplog: pytest.LogCaptureFixture
) -> None:
    watched = {"log_every_seconds": 0.001, "record_every_steps": 5}
    job = student_job(local_config(tmp_path, training=watched), card)

    with caplog.at_level(logging.INFO, "moma_core.training.record"):
        outcome = _run(job)
        _run(replace(job, task=replace(FIRST, round=2)))

    with (job.folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert f"moma: step 1 of {STEPS}, loss " in caplog.text
    assert f"moma: step 12 of {2 * STEPS}, loss " in caplog.text
    assert [row["step"] for row in rows] == ["5", "10", "11", "15", "20", "22"]
    assert float(rows[2]["validation_macro_f1"]) == pytest.approx(
        outcome.figures["validation_macro_f1"]
    )
    assert list((job.folder / "tensorboard").iterdir())


@pytest.mark.parametrize("method", ["moma", "ce"])
def test_balance_and_frozen_stages_train_every_kind_of_student(
    tmp_path: Path, card: TeacherCard, method: str
) -> None:
    options = {"balance": "sampler", "freeze_stages": 2, "micro_batch_size": 4}
    config = local_config(
        tmp_path,
        teacher={"schedule": "frozen"},
        training=options | {"head_learning_rate": 0.1, "mixup": 0.2},
    )
    start = make_backbone(config, len(CLASS_NAMES)).state_dict()
    job = student_job(config, card, method=method)  # type: ignore[arg-type]

    torch.manual_seed(config.training.seed)
    start = make_backbone(config, len(CLASS_NAMES)).state_dict()
    outcome = _run(job)

    stem = [name for name in start if name.startswith(("model.conv_stem", "model.bn1"))]
    assert stem
    for name in stem:
        assert np.array_equal(outcome.weights[name], start[name].numpy()), name
    assert not np.array_equal(
        outcome.weights["model.classifier.weight"],
        start["model.classifier.weight"].numpy(),
    )
    assert read_card(job.folder).micro_batch_size == 4


def test_more_stages_than_there_are_is_told_before_a_patch_is_sent(
    tmp_path: Path, card: TeacherCard
) -> None:
    config = local_config(tmp_path, training={"freeze_stages": 99})

    with pytest.raises(ConfigError, match=r"freeze_stages is 99, .* has \d stages"):
        make_backbone(config, len(CLASS_NAMES))


def test_a_student_goes_on_from_a_file_of_other_classes(
    tmp_path: Path, card: TeacherCard, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "teacher" / "weights.safetensors"
    config = local_config(tmp_path, student={"weights_file": str(path)})
    kept = load_file(path)

    with caplog.at_level(logging.INFO, "moma_core.models.weights"):
        same = make_backbone(config, len(CLASS_NAMES)).state_dict()
        fewer = make_backbone(config, 2).state_dict()

    assert all(torch.equal(same[name], kept[name]) for name in kept)
    assert fewer["model.classifier.weight"].shape[0] == 2
    assert torch.equal(fewer["model.conv_stem.weight"], kept["model.conv_stem.weight"])
    assert caplog.text.count("the classifier starts anew") == 1
