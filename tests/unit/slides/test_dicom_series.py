"""Which files in DICOM are one slide, where several lie in one folder."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid

from moma_core.data.sources.factory import open_source
from moma_core.errors import DataError
from moma_core.slides import dicom_series
from moma_core.slides.open import is_slide, list_slides, open_slide, slide_name
from tests.support.slides.pictures import painted, write_dicom, write_ome

PIXELS = painted()
GRID = {"mpp": 1.0, "patch_size_px": 64, "min_tissue_area_um2": 1000}


def _series(folder: Path, *names: str, **values: Any) -> Path:
    """Writes the levels of one slide, each half as wide as the one before."""
    folder.mkdir(exist_ok=True)
    same = {
        key: generate_uid()
        for key in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    }
    for level, name in enumerate(names):
        step = 2**level
        write_dicom(
            folder / name, PIXELS[::step, ::step], 0.5 * step, **(same | values)
        )
    return folder


def _names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in list_slides(folder)]


def _train(root: Path, **keys: Any) -> set[str | None]:
    named = {"kind": "slides", "root": root, "class_names": ["a", "b"]}
    source = open_source({**named, "patches": GRID, **keys})
    return {source.read(row).slide for row in range(len(source.index))}


def test_three_series_in_a_folder_are_three_slides(tmp_path: Path) -> None:
    for name in ("a.dcm", "b.dcm", "c.dcm"):
        write_dicom(tmp_path / name, PIXELS, StudyInstanceUID="1.2.3")

    assert _names(tmp_path) == ["a.dcm", "b.dcm", "c.dcm"]
    assert [slide_name(each) for each in list_slides(tmp_path)] == ["a", "b", "c"]


def test_slides_in_a_folder_of_several_are_all_trained_on(tmp_path: Path) -> None:
    folder = tmp_path / "dicoms"
    folder.mkdir()
    for name in ("a.dcm", "b.dcm", "c.dcm"):
        write_dicom(folder / name, PIXELS)

    assert _train(tmp_path) == {"a", "b", "c"}


def test_a_root_that_is_one_series_is_one_slide(tmp_path: Path) -> None:
    root = _series(tmp_path / "case", "1.dcm", "2.dcm", "3.dcm")

    assert list_slides(root) == [root]
    assert _train(root) == {"case"}


def test_other_slides_beside_a_series_and_below_it_are_slides_too(
    tmp_path: Path,
) -> None:
    _series(tmp_path / "in", "1.dcm", "2.dcm")
    write_ome(tmp_path / "in" / "b.ome.tif", PIXELS)
    _series(tmp_path / "in" / "sub", "1.dcm", "2.dcm")
    (tmp_path / "in" / "more").mkdir()
    write_ome(tmp_path / "in" / "more" / "c.ome.tif", PIXELS)

    assert _names(tmp_path / "in") == ["sub", "1.dcm", "b.ome.tif", "more/c.ome.tif"]


def test_a_file_opens_all_of_its_slide_and_nothing_of_another(tmp_path: Path) -> None:
    _series(tmp_path / "two", "a1.dcm", "a2.dcm", StudyInstanceUID="1.2.3")
    write_dicom(tmp_path / "two" / "b.dcm", PIXELS[:600], StudyInstanceUID="1.2.3")

    for name, height, levels in (("a2.dcm", 1200, 2), ("b.dcm", 600, 1)):
        with open_slide(tmp_path / "two" / name) as slide:
            assert (slide.height_px, len(slide.levels)) == (height, levels)


def test_a_folder_of_several_slides_is_not_opened_as_one(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", PIXELS)
    write_dicom(tmp_path / "b.dcm", PIXELS)

    with pytest.raises(DataError, match=r"holds 2 slides, such as a.dcm and b.dcm"):
        open_slide(tmp_path)


@pytest.mark.parametrize("key", ["ContainerIdentifier", "FrameOfReferenceUID"])
def test_two_containers_or_frames_of_one_series_are_two_slides(
    tmp_path: Path, key: str
) -> None:
    uids = {"SeriesInstanceUID": "1.2.4", "StudyInstanceUID": "1.2.3"}
    for name, value in (("a.dcm", "1.5"), ("b.dcm", "1.6")):
        write_dicom(tmp_path / name, PIXELS, **(uids | {key: value}))

    assert _names(tmp_path) == ["a.dcm", "b.dcm"]


def test_one_container_is_one_slide_whatever_its_frames_of_reference(
    tmp_path: Path,
) -> None:
    for name in ("a.dcm", "b.dcm"):
        write_dicom(
            tmp_path / name, PIXELS, SeriesInstanceUID="1.2", ContainerIdentifier="S 1"
        )

    assert list_slides(tmp_path) == [tmp_path]


def test_labels_and_broken_files_beside_one_series_leave_it_one_slide(
    tmp_path: Path,
) -> None:
    folder = _series(tmp_path / "case", "1.dcm", "2.dcm")
    label = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]
    write_dicom(folder / "0.dcm", PIXELS[:256, :256], ImageType=label)
    (folder / "3.dcm").write_bytes(b"broken")
    (folder / "._1.dcm").write_bytes(b"of a Mac")

    assert list_slides(folder) == [folder]
    with open_slide(folder) as slide:
        assert len(slide.levels) == 2


def test_a_broken_file_among_several_slides_is_refused_by_name(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", PIXELS)
    write_dicom(tmp_path / "b.dcm", PIXELS)
    (tmp_path / "c.dcm").write_bytes(b"broken")

    assert _names(tmp_path) == ["a.dcm", "b.dcm", "c.dcm"]
    with pytest.raises(DataError, match=r"cannot open the slide .*c\.dcm"):
        _train(tmp_path)


@pytest.mark.parametrize("name", ["IM0001", "1.2.840.77"])
def test_dicom_without_an_ending_is_a_slide(tmp_path: Path, name: str) -> None:
    path = write_dicom(tmp_path / name, PIXELS)
    write_ome(tmp_path / "b.ome.tif", PIXELS)
    (tmp_path / "LICENSE").write_text("no slide\n" * 100)

    assert [slide_name(each) for each in list_slides(tmp_path)] == sorted([name, "b"])
    assert is_slide(path)
    assert not is_slide(tmp_path / "LICENSE")
    with open_slide(path) as slide:
        assert slide.width_px == 1600


def test_a_folder_of_a_disc_s_directory_alone_is_no_slide(tmp_path: Path) -> None:
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 100)
    _series(tmp_path / "series", "1.dcm")

    assert _names(tmp_path) == ["series"]


def test_a_header_is_read_once_and_no_further_than_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dicom(tmp_path / "a.dcm", PIXELS)
    monkeypatch.setattr(dicom_series, "_HEADER_BYTES", 2000)
    dicom_series._read_header.cache_clear()

    for _ in range(3):
        (found,) = dicom_series.dicom_files_in(tmp_path).slides

    assert found == [tmp_path / "a.dcm"]
    assert dicom_series._read_header.cache_info().misses == 1


def test_files_and_folders_of_slides_are_looked_up_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = _series(tmp_path / "one", "1.dcm", "2.dcm")
    two = tmp_path / "two"
    two.mkdir()
    for name in ("a.dcm", "b.dcm"):
        write_dicom(two / name, PIXELS)
    other = write_ome(two / "c.ome.tif", PIXELS)
    looked_at, really = [], dicom_series.dicom_files_in
    monkeypatch.setattr(
        dicom_series,
        "dicom_files_in",
        lambda folder: (looked_at.append(folder), really(folder))[1],
    )

    found = dicom_series.files_of_slides(
        [one, one / "2.dcm", two, two / "a.dcm", two / "b.dcm", other]
    )

    whole = [one / "1.dcm", one / "2.dcm"]
    a, b = two / "a.dcm", two / "b.dcm"
    assert found == {one: whole, one / "2.dcm": whole, a: [a], b: [b]}
    assert looked_at == [one, two]


def test_a_folder_is_not_looked_into_again_where_its_slides_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _series(tmp_path / "case", "1.dcm", "2.dcm")
    write_dicom(tmp_path / "case" / "b.dcm", PIXELS)
    named = {"kind": "slides", "root": tmp_path, "class_names": ["a", "b"]}
    source = open_source({**named, "patches": GRID})
    dicom_series._read_header.cache_clear()
    monkeypatch.delattr("moma_core.slides.dicom_folder.dicom_files_in")

    worker = pickle.loads(pickle.dumps(source))

    slides = {worker.read(row).slide for row in range(len(worker.index))}
    assert slides == {"1", "b"}
    assert dicom_series._read_header.cache_info().misses == 0


def test_two_rows_of_a_manifest_that_are_one_slide_are_refused(tmp_path: Path) -> None:
    _series(tmp_path / "case", "1.dcm", "2.dcm")
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,split\ncase/1.dcm,train\ncase/2.dcm,test\n")

    with pytest.raises(DataError, match=r"1\.dcm and .*2\.dcm are files of one slide"):
        _train(tmp_path, manifest=manifest)
