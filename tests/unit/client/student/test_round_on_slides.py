"""A student that is trained on whole slides, end to end, and then looks at one."""

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from moma_client.cli.main import main
from moma_client.context import RunContext
from moma_client.metrics import silent_metrics
from moma_client.reports.student_report.hardest import HardPatch, hardest_patches
from moma_client.student.checks import look_at_patches
from moma_client.student.evaluate import StudentEvaluation, evaluate_students
from moma_client.student.files import read_card
from moma_client.student.launch import run_student
from moma_client.student.round import SiteCallback
from moma_client.student.run_identity import training_run
from moma_core.data.patch import TRAIN, UNSEEN, VALIDATION
from moma_core.data.sources.factory import open_source
from moma_core.evaluation.calibration import probabilities
from tests.support.site.tiny_site import local_config, student_job, write_teacher
from tests.support.slides.annotated import annotated_slides, write_trident


@pytest.fixture
def section(tmp_path: Path) -> dict[str, Any]:
    """Four slides with coordinates of TRIDENT and annotations of QuPath."""
    return {
        **annotated_slides(tmp_path),
        "stain_normalisation": {"method": "macenko"},
    }


def test_a_student_learns_from_slides_and_looks_at_one_alike(
    tmp_path: Path, section: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    card = write_teacher(tmp_path / "teacher")
    config = local_config(tmp_path, data=section)
    source = open_source(config.data)
    counts = {s: len(source.index.rows(s)) for s in (TRAIN, VALIDATION, UNSEEN)}
    job = student_job(config, card)
    callback = SiteCallback(
        RunContext(config, threading.Event(), silent_metrics()), None, job.method
    )

    outcome = run_student(job, callback)

    assert counts == {TRAIN: 140, VALIDATION: 70, UNSEEN: 70}
    assert source.index.centres is not None
    assert sorted(set(source.index.centres.tolist())) == [0, 1]
    assert not [
        each for each in look_at_patches(config, source) if each.state == "problem"
    ]
    assert outcome.patches == 140
    assert outcome.figures["validation_accuracy"] >= 0
    trained = read_card(job.folder)
    assert trained.resolution_mpp == pytest.approx(2.0)  # 64 px at 1.0, shown as 32
    assert trained.patch_size_px == 64
    assert trained.stain_normalisation is not None
    assert trained.stain_normalisation.method == "macenko"
    slide = tmp_path / "slides" / "four.ome.tif"
    line = ["predict", "--student", job.folder, "--out", tmp_path / "out", slide]
    assert main([str(part) for part in line]) == 0
    assert (tmp_path / "out" / "four" / "heatmap.png").is_file()
    assert "does not state at how many pixels" not in caplog.text
    found = evaluate_students(config, run=None, method="moma", split=UNSEEN)["moma"]
    _check_same_outputs(
        found,
        tmp_path / "out" / "four" / "four.h5",
        tmp_path / "trident" / "patches" / "four_patches.h5",
    )
    _check_squares(hardest_patches(config, source, found.outputs[UNSEEN], None))


def _check_squares(wrong: Sequence[HardPatch]) -> None:
    """Holds that hard patches are named by where they lie on their slides."""
    assert wrong
    assert all(
        re.fullmatch(r"x \d+, y \d+, side 128 px of level 0", each.place)
        for each in wrong
    )


def _check_same_outputs(
    found: StudentEvaluation, predicted: Path, coordinates: Path
) -> None:
    """Holds what predict writes against what evaluate finds, patch by patch."""
    logits = found.outputs[UNSEEN].logits
    shares = probabilities(logits, found.card.temperature).numpy()
    with h5py.File(coordinates) as file:
        evaluated = dict(zip(map(tuple, file["coords"][:]), shares, strict=True))
    with h5py.File(predicted) as file:
        assert file["coords"].attrs["patch_size"] == 64
        corners = map(tuple, file["coords"][:])
        looked_at = dict(zip(corners, file["probabilities"][:], strict=True))
    assert len(evaluated) == 70
    for place, share in evaluated.items():
        assert looked_at[place] == pytest.approx(share, abs=1e-4)


def test_patches_that_lie_elsewhere_on_their_slides_are_another_run(
    tmp_path: Path, section: dict[str, Any]
) -> None:
    card = write_teacher(tmp_path / "teacher")
    config = local_config(tmp_path, data=section)
    job = student_job(config, card)
    before = open_source(config.data)
    write_trident(tmp_path / "trident/patches/one_patches.h5", "one", shift_px=1)

    after = open_source(config.data)

    assert (before.index.labels == after.index.labels).all()
    runs = [training_run(job, each).run for each in (before, after)]
    assert runs[0] != runs[1]
    assert runs[0] == training_run(job, before).run
