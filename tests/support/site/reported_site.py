"""A site whose run is over: two students, what a run keeps, and names to look for."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from moma_client.config.site import SiteConfig
from moma_client.student.evaluate import evaluate_students
from moma_client.student.files import StudentCard, save_student
from moma_core.data.images import DECODING
from moma_core.models.backbone import create_backbone
from moma_core.models.settings import ModelSection
from moma_core.teacher.card.licence import Licence
from moma_core.training.record import COLUMNS, CSV_NAME
from tests.support.site.tiny_site import ARCHITECTURE, local_config

CLASSES = ("benign", "grade <3> & $4$", "grade 5")
NAMES = ("Meier", "Aperio", "secretfile", "Clinic")
"""Parts of the names of all patients, slides, files and centres."""

RUN = "run-1-0123456789ab"
_PATIENTS = {"train": 3, "validation": 6, "unseen": 7}
_PATCHES_OF_A_CLASS = 3
LICENCE = Licence("CC-BY-NC-4.0", "see <the> repository", "for research alone")


def reported_site(folder: Path, **sections: Any) -> SiteConfig:
    """Returns the config of a site with students of random weights, `moma` and `ce`."""
    write_patches(folder / "patches")
    wanted: dict[str, Any] = {
        "data": {
            "kind": "csv_manifest",
            "path": "patches/manifest.csv",
            "class_names": list(CLASSES),
        },
        "task": {"ordered": True},
        "baselines": ["ce"],
    }
    config = local_config(folder, **{**wanted, **sections})
    for number, method in enumerate(("moma", "ce")):
        write_student(config, method, CLASSES, seed=number)
    _write_record(config)
    return config


def write_student(
    config: SiteConfig, method: str, classes: tuple[str, ...], *, seed: int
) -> Path:
    """Writes a student of random weights, and returns its folder."""
    torch.manual_seed(seed)
    section = ModelSection(architecture=ARCHITECTURE, weights="random")
    network = create_backbone(section, len(classes))
    card = StudentCard(
        method=method,
        digest="",
        architecture=ARCHITECTURE,
        class_names=classes,
        view_size_px=32,
        mean=network.mean,
        std=network.std,
        teacher="teacher-a" if method == "moma" else "",
        teacher_digest="ab" * 32,
        scenario="same (all is equal)" if method == "moma" else "",
        steps=40,
        teacher_licence=LICENCE if method == "moma" else None,
        decoding=DECODING,
        temperature=1.5,
    )
    student = config.state_dir / "runs" / RUN / method
    save_student(student, network, card)
    with (student / CSV_NAME).open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for step in (10, 20, 30, 40):
            writer.writerow(
                {
                    "step": step,
                    "classification": 40 / step,
                    "contrastive": 5 / step if method == "moma" else 0.0,
                    "distillation": 0.0,
                    "total": 45 / step,
                }
            )
    return student


def write_patches(folder: Path) -> None:
    """Writes patches of three classes and some patients, with a manifest."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    lines = ["path,label,patient_id,slide_id,split,centre"]
    for split, patients in _PATIENTS.items():
        for patient in range(patients):
            for label, name in enumerate(CLASSES):
                for number in range(_PATCHES_OF_A_CLASS):
                    file = f"secretfile-{split}-{patient}-{label}-{number}.png"
                    pixels = random.integers(0, 90, (32, 32, 3), dtype=np.uint8)
                    pixels[..., label] += 90
                    Image.fromarray(pixels).save(folder / file)
                    who = f"Meier-{split}-{patient}"
                    centre = f"Clinic {patient % 2}"
                    cells = f'{file},"{name}",{who},Aperio-{who},{split},{centre}'
                    lines.append(cells)
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")


def _write_record(config: SiteConfig) -> None:
    run = config.state_dir / "runs" / RUN
    found = evaluate_students(config, run=None, method=None, split="validation")
    details = {
        method: {split: each.as_json() for split, each in student.splits.items()}
        for method, student in found.items()
    }
    lines = [
        {
            "round": number,
            "kind": kind,
            "figures": {},
            "told": {},
            "details": details,
            "asked": 100 * number,
        }
        for number, kind in ((1, "train"), (2, "train"), (3, "close"))
    ]
    (run / "figures.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (run / "queries.json").write_text(json.dumps({"asked": 200, "charged": 190}))
