"""Folders and files in DICOM, which a student looks at slide by slide."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from moma_client.cli.main import main
from moma_client.student.files import StudentCard
from tests.support.slides.pictures import painted, write_dicom, write_ome
from tests.unit.client.student.test_predict_slides import saved_student

pytestmark = pytest.mark.usefixtures("small_pictures")


@pytest.fixture
def student(tmp_path: Path) -> StudentCard:
    return saved_student(tmp_path / "student")


def _predict(tmp_path: Path, *paths: Path) -> int:
    line = ["predict", "--student", tmp_path / "student", "--out", tmp_path / "out"]
    return main([str(part) for part in [*line, *paths]])


def test_each_series_of_a_folder_and_each_slide_beside_it_is_predicted(
    tmp_path: Path, student: StudentCard
) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    for name in ("a.dcm", "b.dcm"):
        write_dicom(folder / name, painted(), StudyInstanceUID="1.2.3")
    write_ome(folder / "c.ome.tif", painted(), 0.5)
    Image.fromarray(painted(64, 64)).save(folder / "d.png")

    assert _predict(tmp_path, folder) == 0

    written = {path.parent.name for path in tmp_path.glob("out/*/summary.json")}
    assert written == {"a", "b", "c"}
    with (tmp_path / "out" / "patches.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["d.png"]


def test_files_of_one_series_are_predicted_as_one_slide(
    tmp_path: Path, student: StudentCard
) -> None:
    folder = tmp_path / "case"
    folder.mkdir()
    for name, step in (("1.dcm", 1), ("2.dcm", 2)):
        pixels = painted()[::step, ::step]
        write_dicom(
            folder / name,
            pixels,
            0.5 * step,
            StudyInstanceUID="1.2.3",
            SeriesInstanceUID="1.2.4",
            FrameOfReferenceUID="1.2.5",
        )

    assert _predict(tmp_path, folder / "1.dcm", folder / "2.dcm") == 0
    assert [path.parent.name for path in tmp_path.glob("out/*/summary.json")] == ["1"]
