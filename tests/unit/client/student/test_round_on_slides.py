"""A student that is trained on whole slides, end to end, and then looks at one."""

import json
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from moma_client.cli.main import main
from moma_client.context import RunContext
from moma_client.metrics import silent_metrics
from moma_client.student.checks import look_at_patches
from moma_client.student.files import read_card
from moma_client.student.launch import run_student
from moma_client.student.round import SiteCallback
from moma_core.data.patch import TRAIN, UNSEEN, VALIDATION
from moma_core.data.sources.demo_tissue import CLASS_NAMES
from moma_core.data.sources.factory import open_source
from tests.support.site.tiny_site import local_config, student_job, write_teacher
from tests.support.slides.pictures import (
    STROMA_BOX,
    TUMOUR_BOX,
    painted,
    write_ome,
)

SLIDES = {"one": "train", "two": "train", "three": "validation", "four": "test"}


@pytest.fixture
def section(tmp_path: Path) -> dict[str, Any]:
    """Four slides with coordinates of TRIDENT and annotations of QuPath."""
    for name in ("slides", "trident/patches", "qupath"):
        (tmp_path / name).mkdir(parents=True)
    lines = ["path,patient_id,split"]
    for name, split in SLIDES.items():
        write_ome(tmp_path / "slides" / f"{name}.ome.tif", painted(), 0.5)
        lines.append(f"{name}.ome.tif,patient {name},{split}")
        with h5py.File(tmp_path / f"trident/patches/{name}_patches.h5", "w") as file:
            x, y = np.meshgrid(np.arange(128, 1400, 128), np.arange(128, 900, 128))
            corners = np.stack([x.ravel(), y.ravel()], axis=1)
            coords = file.create_dataset("coords", data=corners)
            coords.attrs.update(
                patch_size=64, patch_size_level0=128, overlap=0, name=name
            )
        features = [
            _feature(CLASS_NAMES[0], STROMA_BOX),
            _feature(CLASS_NAMES[1], TUMOUR_BOX),
        ]
        text = json.dumps({"type": "FeatureCollection", "features": features})
        (tmp_path / "qupath" / f"{name}.geojson").write_text(text)
    (tmp_path / "slides" / "slides.csv").write_text("\n".join(lines) + "\n")
    return {
        "kind": "slides",
        "manifest": "slides/slides.csv",
        "coordinates": "trident",
        "annotations": {"geojson": "qupath"},
        "class_names": list(CLASS_NAMES),
        "stain_normalisation": {"method": "macenko"},
    }


def _feature(label: str, box: tuple[int, int, int, int]) -> dict[str, Any]:
    left, top, right, bottom = box
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": label}},
    }


def test_a_student_learns_from_slides_and_looks_at_one_alike(
    tmp_path: Path, section: dict[str, Any], capsys: pytest.CaptureFixture[str]
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
    assert not [
        each for each in look_at_patches(config, source) if each.state == "problem"
    ]
    assert outcome.patches == 140
    assert outcome.figures["validation_accuracy"] >= 0
    trained = read_card(job.folder)
    assert trained.resolution_mpp == pytest.approx(2.0)  # 64 px at 1.0, shown as 32
    assert trained.stain_normalisation is not None
    assert trained.stain_normalisation.method == "macenko"
    slide = tmp_path / "slides" / "four.ome.tif"
    line = ["predict", "--student", job.folder, "--out", tmp_path / "out", slide]
    assert main([str(part) for part in line]) == 0
    assert (tmp_path / "out" / "four" / "heatmap.png").is_file()
