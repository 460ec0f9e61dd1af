import json
from pathlib import Path

import pytest
import torch

from moma_client.student.files import StudentCard, load_student, save_student
from moma_core.errors import ConfigError
from moma_core.models.backbone import Backbone

CARD = StudentCard(
    method="moma",
    digest="",
    architecture="test_efficientnet",
    class_names=("benign", "malignant"),
    view_size_px=32,
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    teacher="teacher-a",
    teacher_digest="0" * 64,
    scenario="same",
    steps=7,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_student(tmp_path, Backbone(CARD.architecture, 2), CARD)
    return tmp_path


def test_a_student_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    student = Backbone(CARD.architecture, 2)

    card = save_student(tmp_path, student, CARD)
    loaded, found = load_student(tmp_path)

    assert found == card
    assert len(card.digest) == 64
    for name, tensor in student.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_a_folder_without_a_student_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"no student in {tmp_path} yet"):
        load_student(tmp_path)


def test_weights_that_were_changed_are_refused(folder: Path) -> None:
    weights = folder / "student.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    with pytest.raises(ConfigError, match=r"has digest .*, its card says"):
        load_student(folder)


def test_a_card_that_is_none_is_refused(folder: Path) -> None:
    card = folder / "student.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "steps": "many"}))

    with pytest.raises(ConfigError, match="is no student card"):
        load_student(folder)
