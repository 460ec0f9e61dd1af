"""Rounds of one student against a teacher on the site's own disk."""

import csv
import logging
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moma_client.context import RunContext
from moma_client.egress.outcome import StudentOutcome
from moma_client.metrics import silent_metrics
from moma_client.student.evaluate import evaluate_students
from moma_client.student.factory import StudentJob
from moma_client.student.files import load_student
from moma_client.student.launch import run_student
from moma_client.student.round import SiteCallback
from moma_client.teacher.onboarding import onboard
from moma_core.data.patch import SPLITS
from moma_core.data.sources.demo_tissue import CLASS_NAMES, EmbeddedSource
from moma_core.errors import ConfigError, DataError, StoppedError, TrainingError
from moma_core.evaluation.calibration import fit_temperature
from moma_core.teacher.card.card import TeacherCard
from tests.support.site.tiny_site import FIRST, local_config, student_job, write_teacher

STEPS = 11  # of an epoch of 84 unlabelled patches, 8 a step
CLOSE = replace(FIRST, kind="close", round=2)


@pytest.fixture
def card(tmp_path: Path) -> TeacherCard:
    torch.manual_seed(0)
    return write_teacher(tmp_path / "teacher")


def _run(job: StudentJob, stop: threading.Event | None = None) -> StudentOutcome:
    metrics = silent_metrics()
    watch = SiteCallback(
        RunContext(job.config, stop or threading.Event(), metrics), None, job.method
    )
    return run_student(job, watch)


@pytest.mark.parametrize("schedule", ["published", "single_pass", "frozen"])
def test_a_round_trains_against_a_teacher_on_the_disk(
    tmp_path: Path, card: TeacherCard, schedule: str
) -> None:
    config = local_config(tmp_path, teacher={"schedule": schedule})

    outcome = _run(student_job(config, card))

    state = torch.load(
        student_job(config, card).folder / "checkpoint.pt", weights_only=True
    )
    assert outcome.patches == 108
    assert 0 <= outcome.figures["validation_macro_f1"] <= 1
    assert not [name for name in outcome.figures if name.startswith("unseen")]
    assert state["step"] == STEPS
    assert bool(state["teacher"]) == (schedule != "frozen")


def test_a_moving_teacher_differs_from_a_frozen_one(
    tmp_path: Path, card: TeacherCard
) -> None:
    weights = []
    for schedule in ("published", "frozen"):
        folder = tmp_path / schedule
        folder.mkdir()
        config = local_config(
            folder,
            teacher={
                "schedule": schedule,
                "card": str(tmp_path / "teacher" / "card.json"),
                "weights_file": str(tmp_path / "teacher" / "weights.safetensors"),
            },
            distillation={"momentum": 0.5},
        )
        weights.append(_run(student_job(config, card)).weights)

    assert any(not np.array_equal(weights[0][n], weights[1][n]) for n in weights[0])


def test_two_rounds_in_two_programs_equal_two_rounds_in_one(
    tmp_path: Path, card: TeacherCard
) -> None:
    outcomes = []
    for name, interrupted in (("one", False), ("two", True)):
        folder = tmp_path / name
        folder.mkdir()
        config = local_config(
            folder,
            teacher={
                "card": str(tmp_path / "teacher" / "card.json"),
                "weights_file": str(tmp_path / "teacher" / "weights.safetensors"),
            },
        )
        if interrupted:
            _run(student_job(config, card))
            torch.manual_seed(99)  # another program's random state
        outcomes.append(_run(student_job(config, card, replace(FIRST, round=2))))

    one, two = outcomes
    assert all(np.array_equal(one.weights[n], two.weights[n]) for n in one.weights)


def test_a_stopped_round_goes_on_from_where_it_was(
    tmp_path: Path, card: TeacherCard, caplog: pytest.LogCaptureFixture
) -> None:
    config = local_config(tmp_path)
    job, stop = student_job(config, card), threading.Event()
    stop.set()

    with pytest.raises(StoppedError, match="after step 1"):
        _run(job, stop)
    with caplog.at_level(logging.INFO, "moma_core.training.trainer"):
        _run(job)

    assert f"going on after step 1 of {2 * STEPS}" in caplog.text


def test_the_closing_task_evaluates_the_unseen_split_and_trains_nothing(
    tmp_path: Path, card: TeacherCard
) -> None:
    config = local_config(tmp_path, baselines=[])
    trained = _run(student_job(config, card))

    closed = _run(student_job(config, card, CLOSE))

    assert "unseen_macro_f1" in closed.figures
    assert all(
        np.array_equal(closed.weights[n], trained.weights[n]) for n in closed.weights
    )
    found = evaluate_students(config, run=None, method=None, split=None)
    values = {n: v for n, v in found["moma"].values().items() if v is not None}
    assert values == pytest.approx(closed.figures, abs=1e-6)
    assert set(closed.evaluations) == {"validation", "unseen"}
    fitted = fit_temperature(found["moma"].outputs["validation"])
    assert fitted.value is not None
    assert found["moma"].card.temperature == pytest.approx(fitted.value, rel=1e-3)


def test_a_rounds_weights_are_adopted_by_the_student_and_not_by_the_baseline(
    tmp_path: Path, card: TeacherCard
) -> None:
    config = local_config(tmp_path)
    _run(student_job(config, card))
    own = _run(student_job(config, card, method="ce")).weights
    others = {n: np.zeros_like(array) for n, array in own.items()}
    close = replace(CLOSE, mode="fedavg", weights=others)

    student = _run(student_job(config, card, close)).weights
    baseline = _run(student_job(config, card, close, method="ce")).weights

    assert all(not array.any() for array in student.values())
    assert all(np.array_equal(baseline[n], own[n]) for n in own)


def test_weights_of_another_model_are_refused(
    tmp_path: Path, card: TeacherCard
) -> None:
    strange = {"weight": np.zeros(3, np.float32)}
    task = replace(FIRST, round=2, mode="fedavg", weights=strange)

    with pytest.raises(TrainingError, match="the round's weights do not fit"):
        _run(student_job(local_config(tmp_path), card, task))


def test_a_baseline_takes_as_many_steps_as_the_method(
    tmp_path: Path, card: TeacherCard
) -> None:
    config = local_config(tmp_path)

    outcome = _run(student_job(config, card, method="ce"))

    _, found = load_student(student_job(config, card, method="ce").folder)
    assert outcome.patches == 24
    assert (found.steps, found.teacher) == (STEPS, "")
    assert "transparency laid on white" in found.decoding


def test_a_moving_teacher_of_another_architecture_is_refused(tmp_path: Path) -> None:
    card = write_teacher(tmp_path / "teacher", "test_resnet")

    with pytest.raises(ConfigError, match="needs one architecture on both sides"):
        _run(student_job(local_config(tmp_path), card))


def test_a_frozen_teacher_may_have_another_architecture(tmp_path: Path) -> None:
    card = write_teacher(tmp_path / "teacher", "test_resnet")
    config = local_config(tmp_path, teacher={"schedule": "frozen"})

    assert _run(student_job(config, card)).patches == 108


def test_weights_that_do_not_fit_the_card_are_refused(
    tmp_path: Path, card: TeacherCard
) -> None:
    replace(card, digest="1" * 64).save(tmp_path / "teacher" / "card.json")

    with pytest.raises(ConfigError, match="its card says 1111"):
        onboard(RunContext(local_config(tmp_path), threading.Event(), silent_metrics()))


def test_a_local_teacher_has_no_budget(tmp_path: Path, card: TeacherCard) -> None:
    met, terms, _ = onboard(
        RunContext(local_config(tmp_path), threading.Event(), silent_metrics())
    )

    assert met == card
    assert terms == "on this disk, without a budget"


def test_a_site_without_a_label_cannot_train(tmp_path: Path, card: TeacherCard) -> None:
    config = local_config(tmp_path, data={"keep_labelled": 0})

    with pytest.raises(DataError, match="no labelled patch"):
        _run(student_job(config, card))


@pytest.mark.slow  # they also do in tests/integration/remote_teacher/test_teacher_cache
def test_two_devices_train_one_student(tmp_path: Path, card: TeacherCard) -> None:
    config = local_config(
        tmp_path, training={"devices": 2}, teacher={"schedule": "frozen"}
    )

    outcome = _run(student_job(config, card))

    _, found = load_student(student_job(config, card).folder)
    assert found.steps == STEPS
    assert all(np.isfinite(array).all() for array in outcome.weights.values())


def test_a_damaged_image_is_never_named_above_debug(
    tmp_path: Path, card: TeacherCard, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = _pictures(tmp_path / "patches")
    (tmp_path / "patches" / "mrs-smith-3.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    config = local_config(
        tmp_path,
        teacher={"schedule": "frozen"},
        data={
            "kind": "csv_manifest",
            "path": str(manifest),
            "class_names": list(CLASS_NAMES),
        },
    )

    with caplog.at_level(logging.INFO):
        _run(student_job(config, card))

    assert "unreadable patches: 1, tolerated: 10" in caplog.text
    assert "smith" not in caplog.text


def _pictures(folder: Path) -> Path:
    """Writes some patches of the embedded set under a name that must not leave."""
    source = EmbeddedSource("site-a")
    folder.mkdir()
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        for row in range(0, len(source.index), 3):
            name = f"mrs-smith-{row}.png"
            patch = source.read(row)
            Image.fromarray(patch.pixels).save(folder / name)
            split = SPLITS[source.index.splits[row]]
            writer.writerow((name, CLASS_NAMES[source.index.labels[row]], split))
    return folder / "manifest.csv"
