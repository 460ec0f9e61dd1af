"""Finding slides in folders as they are on shares and disks."""

import os
from pathlib import Path

import pytest

from moma_core.errors import DataError
from moma_core.slides.dicom_series import files_of_slides
from moma_core.slides.open import is_slide, list_slides
from tests.support.slides.pictures import painted, write_dicom, write_ome

LOOKS = {
    "list": lambda root: list_slides(root),
    "one folder": lambda root: is_slide(root / "closed"),
    "files of a series": lambda root: files_of_slides([root / "closed" / "1.dcm"]),
}


def _close(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refusing(path: Path) -> object:  # root may list anything
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)


def test_a_link_in_a_circle_is_passed_over(tmp_path: Path) -> None:
    slide = write_ome(tmp_path / "a.ome.tif", painted())
    for name in ("loop", "loop.svs", "1.2.3"):
        (tmp_path / name).symlink_to(name)

    assert list_slides(tmp_path) == [slide]
    assert not is_slide(tmp_path / "1.2.3")
    assert files_of_slides([slide]) == {}


@pytest.mark.parametrize("look", LOOKS)
def test_a_folder_that_cannot_be_listed_stops_the_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    write_ome(tmp_path / "a.ome.tif", painted())
    (tmp_path / "closed").mkdir()
    write_dicom(tmp_path / "closed" / "1.dcm", painted(512, 512))
    _close(tmp_path / "closed", monkeypatch)

    with pytest.raises(DataError, match=r"/closed cannot be listed: Permission denied"):
        LOOKS[look](tmp_path)


@pytest.mark.parametrize("name", ["lost+found", "$RECYCLE.BIN", ".snapshot"])
def test_a_closed_folder_of_the_system_refuses_no_slide_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    slide = write_ome(tmp_path / "a.ome.tif", painted())
    (tmp_path / name).mkdir()
    _close(tmp_path / name, monkeypatch)

    assert list_slides(tmp_path) == [slide]


def test_folders_in_one_another_are_looked_into_to_a_depth(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*"a" * 100)
    folder.mkdir(parents=True)
    slide = write_ome(folder / "a.ome.tif", painted())

    assert list_slides(tmp_path) == [slide]
    (folder / "a").mkdir()
    with pytest.raises(DataError, match="more than 100 folders deep"):
        list_slides(tmp_path)
