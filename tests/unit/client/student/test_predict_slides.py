"""A student that looks at whole slides, and the files that are written of it."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import geojson
import h5py
import numpy as np
import pytest
import shapely
import torch
from PIL import Image

from moma_client.cli.main import main
from moma_client.student.files import StudentCard, save_student
from moma_client.student.slides import predict as slides
from moma_core.data.stain_normalisation import (
    StainNormalisationSection,
    stain_target,
)
from moma_core.models.backbone import Backbone
from moma_core.slides.coordinates import read_coordinates
from moma_core.slides.open import open_slide
from tests.support.slides.pictures import (
    TUMOUR_BOX,
    damage_level,
    painted,
    write_ome,
    write_tiff,
)
from tests.unit.client.student.test_files import CARD

pytestmark = pytest.mark.usefixtures("small_pictures")

MPP = 2.0  # of the views: a patch of 32 px is 64 microns wide


@pytest.fixture
def student(tmp_path: Path) -> StudentCard:
    return saved_student(tmp_path / "student")


def saved_student(folder: Path, **card: Any) -> StudentCard:
    """Writes a student whose first class is whatever is dark."""
    torch.manual_seed(0)
    network = Backbone(CARD.architecture, 2)
    return save_student(folder, network, replace(CARD, resolution_mpp=MPP, **card))


def _predict(tmp_path: Path, *options: object) -> int:
    line = ["predict", "--student", tmp_path / "student", "--out", tmp_path / "out"]
    return main([str(part) for part in [*line, *options]])


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_slide_gives_pictures_a_table_geojson_and_hdf5(
    tmp_path: Path, student: StudentCard, capsys: pytest.CaptureFixture[str]
) -> None:
    slide = write_ome(tmp_path / "case 1.ome.tif", painted(), 0.5)

    assert _predict(tmp_path, slide, "--embeddings") == 0

    out = tmp_path / "out" / "case 1"
    rows = _rows(out / "patches.csv")
    assert capsys.readouterr().out == f"wrote {out}: {len(rows)} patches\n"
    assert {row["side_px"] for row in rows} == {"128"}
    with h5py.File(out / "case 1.h5") as file, open_slide(slide) as opened:
        grid = read_coordinates(out / "case 1.h5", opened.levels)
        shares = file["probabilities"][:]
        assert file["features"].shape == (len(rows), 256)
        assert list(file["coords"].attrs["class_names"]) == ["benign", "malignant"]
    assert (grid.side_px, grid.size_px, len(grid)) == (128, 32, len(rows))
    for row, share, corner in zip(rows, shares, grid.corners.tolist(), strict=True):
        assert [int(row["x_px"]), int(row["y_px"])] == corner
        assert float(row["malignant"]) == pytest.approx(float(share[1]), abs=1e-4)
        assert row["class"] == CARD.class_names[int(share.argmax())]
    for name in ("heatmap.png", "classmap.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 150
    assert not (out / ".partial").exists()


def test_other_programs_read_the_geojson_where_the_patches_lie(
    tmp_path: Path, student: StudentCard
) -> None:
    slide = write_ome(tmp_path / "a.ome.tif", painted(), 0.5)

    _predict(tmp_path, slide)

    path = tmp_path / "out" / "a" / "patches.geojson"
    read = geojson.loads(path.read_text())
    assert read.is_valid
    rows = _rows(tmp_path / "out" / "a" / "patches.csv")
    assert len(read.features) == len(rows)
    for feature, row in zip(read.features, rows, strict=True):
        shape = shapely.from_geojson(geojson.dumps(feature.geometry))
        assert shape.bounds[:2] == (float(row["x_px"]), float(row["y_px"]))
        assert shape.area == 128**2
        said = feature.properties
        assert said["objectType"] == "tile"
        assert said["classification"]["name"] == row["class"]
        assert all(0 <= part <= 255 for part in said["classification"]["color"])
        shown = said["measurements"]["probability malignant"]
        assert shown == pytest.approx(float(row["malignant"]), abs=2e-4)


def test_a_view_has_the_pixels_that_training_would_show(
    tmp_path: Path, student: StudentCard
) -> None:
    """What is dark and what is pale get other outputs, and each alike."""
    slide = write_ome(tmp_path / "a.ome.tif", painted(), 0.5)
    _predict(tmp_path, slide)
    left, top, right, bottom = TUMOUR_BOX
    dark, pale = [], []
    for row in _rows(tmp_path / "out" / "a" / "patches.csv"):
        x, y = int(row["x_px"]), int(row["y_px"])
        if y < top or y + 128 > bottom:
            continue
        if x >= left and x + 128 <= right:
            dark.append(float(row["malignant"]))
        elif x >= 100 and x + 128 <= left:
            pale.append(float(row["malignant"]))

    assert len(dark) > 20
    assert np.std(dark) < abs(np.mean(dark) - np.mean(pale)) / 4


def test_what_is_done_is_left_alone_until_it_is_forced(
    tmp_path: Path,
    student: StudentCard,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    slide = write_ome(tmp_path / "a.ome.tif", painted(), 0.5)
    assert _predict(tmp_path, slide) == 0
    written = (tmp_path / "out" / "a" / "heatmap.png").stat().st_mtime_ns

    assert _predict(tmp_path, slide) == 0
    assert (tmp_path / "out" / "a" / "heatmap.png").stat().st_mtime_ns == written
    assert _predict(tmp_path, slide, "--min-tissue", "0.9") == 1
    assert "other options: name another folder, or add --force" in caplog.text
    assert _predict(tmp_path, slide, "--min-tissue", "0.9", "--force") == 0
    assert (tmp_path / "out" / "a" / "heatmap.png").stat().st_mtime_ns > written


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 2.0},
        {"class_names": ("malignant", "benign")},
        {"mean": (0.4, 0.5, 0.5)},
    ],
    ids=["temperature", "class names", "mean"],
)
def test_a_card_that_decides_otherwise_leaves_no_old_outputs(
    tmp_path: Path,
    student: StudentCard,
    change: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    slide = write_ome(tmp_path / "a.ome.tif", painted(600, 600), 0.5)
    assert _predict(tmp_path, slide) == 0
    before = (tmp_path / "out" / "a" / "patches.csv").read_text()
    changed = saved_student(tmp_path / "student", **change)

    assert changed.digest == student.digest
    assert _predict(tmp_path, slide) == 1
    assert "holds outputs of another student" in caplog.text
    assert _predict(tmp_path, slide, "--force") == 0
    assert (tmp_path / "out" / "a" / "patches.csv").read_text() != before


def test_where_a_student_comes_from_decides_no_output(
    tmp_path: Path, student: StudentCard
) -> None:
    slide = write_ome(tmp_path / "a.ome.tif", painted(600, 600), 0.5)
    assert _predict(tmp_path, slide) == 0
    saved_student(tmp_path / "student", steps=8, teacher="another name")

    assert _predict(tmp_path, slide) == 0


def test_a_program_that_stopped_goes_on_where_it_was(
    tmp_path: Path, student: StudentCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = write_ome(tmp_path / "a.ome.tif", painted(), 0.5)
    monkeypatch.setattr(slides, "CHUNK", 16)
    assert _predict(tmp_path, slide) == 0
    whole = (tmp_path / "out" / "a" / "patches.csv").read_text()
    shutil.rmtree(tmp_path / "out")
    computed = []
    outputs = slides._outputs

    def stop(views: Any, *rest: Any) -> Any:
        if len(computed) == 2:
            raise KeyboardInterrupt
        computed.append(len(views))
        return outputs(views, *rest)

    monkeypatch.setattr(slides, "_outputs", stop)
    _predict(tmp_path, slide)
    computed.clear()
    monkeypatch.setattr(
        slides,
        "_outputs",
        lambda views, *rest: computed.append(1) or outputs(views, *rest),
    )
    assert _predict(tmp_path, slide) == 0

    assert (tmp_path / "out" / "a" / "patches.csv").read_text() == whole
    assert len(computed) == -(-(len(whole.splitlines()) - 1) // 16) - 2


def test_a_slide_that_cannot_be_read_keeps_no_other_from_it(
    tmp_path: Path,
    student: StudentCard,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    (folder / "a.svs").write_bytes(b"no slide")
    write_ome(folder / "b.ome.tif", painted(), 0.5)
    write_ome(folder / "c.ome.tif", np.full((900, 900, 3), 244, np.uint8), 0.5)
    write_ome(folder / "d.ome.tif", painted(), None)

    assert _predict(tmp_path, folder) == 1

    said = capsys.readouterr().out
    assert "a: cannot open the slide" in said
    assert f"wrote {tmp_path / 'out' / 'b'}" in said
    assert "shows no tissue" in said
    assert "states no microns a pixel: add --slide-mpp" in said
    assert "there is no prediction of a, c, d" in caplog.text


def test_damaged_parts_of_a_slide_are_named_and_the_rest_is_predicted(
    tmp_path: Path,
    student: StudentCard,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slides, "THUMBNAIL_PX", 400)  # of the level that is whole
    path = write_tiff(tmp_path / "a.tif", painted(), 0.5)
    damage_level(path, 0, parts=12)

    assert _predict(tmp_path, path, "--mpp", "1") == 0

    rows = _rows(tmp_path / "out" / "a" / "patches.csv")
    broken = [row for row in rows if row["error"]]
    assert 0 < len(broken) < len(rows)
    assert all("damaged" in row["error"] and not row["class"] for row in broken)
    assert f"{len(broken)} could not be read" in capsys.readouterr().out


def test_tissue_that_damage_hides_counts_as_not_read_and_never_as_glass(
    tmp_path: Path, student: StudentCard, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = write_tiff(tmp_path / "whole.tif", painted(), 0.5)
    path = tmp_path / "a.tif"
    path.write_bytes(whole.read_bytes())
    damage_level(path, 0, parts=12)  # tiles of 256 px: a row of 7, and 5 of the next
    damage_level(path, 1)

    assert _predict(tmp_path, whole, path) == 0

    out = tmp_path / "out" / "a"
    expected = {
        (row["x_px"], row["y_px"])
        for row in _rows(tmp_path / "out" / "whole" / "patches.csv")
    }
    rows = {(row["x_px"], row["y_px"]): row for row in _rows(out / "patches.csv")}
    assert expected <= rows.keys()
    broken = {
        (x, y) for x, y in rows if int(y) < 256 or (int(y) < 512 and int(x) < 5 * 256)
    }
    assert {place for place, row in rows.items() if row["error"]} == broken
    said = json.loads((out / "summary.json").read_text())
    assert said["unread_patches"] == len(broken)
    assert said["unread_share"] == pytest.approx(len(broken) / len(rows), abs=1e-4)
    damaged = (1600 * 256 + 5 * 256 * 256) / (1600 * 1200)
    assert said["damaged_share"] == pytest.approx(damaged, abs=0.01)
    with h5py.File(out / "a.h5") as file:
        assert len(file["coords"]) == len(rows)
    assert f"{len(broken)} could not be read" in capsys.readouterr().out


def test_a_manifest_and_a_folder_may_hold_slides_and_patches(
    tmp_path: Path, student: StudentCard
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_ome(folder / "a.ome.tif", painted(), None)
    Image.fromarray(painted(64, 64)).save(folder / "b.png")
    (folder / "m.csv").write_text("path,mpp\na.ome.tif,0.5\nb.png,\n")

    assert _predict(tmp_path, folder / "m.csv") == 0
    assert (tmp_path / "out" / "a" / "heatmap.png").is_file()
    assert [row["path"] for row in _rows(tmp_path / "out" / "patches.csv")] == ["b.png"]


def test_a_student_that_states_no_resolution_needs_it_said(
    tmp_path: Path, student: StudentCard, caplog: pytest.LogCaptureFixture
) -> None:
    saved_student(tmp_path / "student")
    path = tmp_path / "student" / "student.json"
    path.write_text(path.read_text().replace(f'"resolution_mpp": {MPP}', '"x": 1'))
    text = json.loads(path.read_text())
    text.pop("x")
    path.write_text(json.dumps(text))
    slide = write_ome(tmp_path / "a.ome.tif", painted(), 0.5)

    assert _predict(tmp_path, slide) == 1
    assert "add --mpp" in caplog.text
    assert _predict(tmp_path, slide, "--mpp", "2") == 0


def test_a_card_without_the_size_of_its_patches_is_read_at_that_of_its_views(
    tmp_path: Path, student: StudentCard, caplog: pytest.LogCaptureFixture
) -> None:
    slide = write_ome(tmp_path / "a.ome.tif", painted(), 0.5)

    assert _predict(tmp_path, slide) == 0
    assert "slides are read at 32, the side of its views" in caplog.text
    saved_student(tmp_path / "student", patch_size_px=64)
    caplog.clear()
    assert _predict(tmp_path, slide, "--force") == 0

    assert "does not state" not in caplog.text
    with h5py.File(tmp_path / "out" / "a" / "a.h5") as file:
        said = dict(file["coords"].attrs)
    assert (said["patch_size"], said["patch_size_level0"]) == (64, 128)


def test_microns_a_pixel_that_are_given_are_of_patches_and_not_of_views(
    tmp_path: Path, student: StudentCard
) -> None:
    saved_student(tmp_path / "student", patch_size_px=64)  # its views have 32 px
    slide = write_ome(tmp_path / "a.ome.tif", painted(), 0.5)

    assert _predict(tmp_path, slide, "--mpp", "0.5") == 0

    with h5py.File(tmp_path / "out" / "a" / "a.h5") as file:
        said = dict(file["coords"].attrs)
    assert (said["patch_size"], said["patch_size_level0"]) == (64, 64)


def test_a_class_that_there_is_not_is_refused_before_the_work(
    tmp_path: Path, student: StudentCard, caplog: pytest.LogCaptureFixture
) -> None:
    slide = write_ome(tmp_path / "a.ome.tif", painted(), 0.5)

    assert _predict(tmp_path, slide, "--class", "lymph") == 1
    assert "--class lymph: the student has benign, malignant" in caplog.text
    assert not (tmp_path / "out" / "a").exists()


def test_the_stain_of_the_card_changes_what_the_student_is_shown(
    tmp_path: Path, student: StudentCard
) -> None:
    slide = write_ome(tmp_path / "a.ome.tif", painted(), 0.5)
    assert _predict(tmp_path, slide) == 0
    plain = _rows(tmp_path / "out" / "a" / "patches.csv")
    target = stain_target(StainNormalisationSection(method="macenko"))
    saved_student(tmp_path / "student", stain_normalisation=target)

    assert _predict(tmp_path, slide, "--force") == 0

    changed = _rows(tmp_path / "out" / "a" / "patches.csv")
    assert [row["malignant"] for row in plain] != [row["malignant"] for row in changed]


def test_the_files_say_which_student_looked_at_the_slide(tmp_path: Path) -> None:
    card = saved_student(tmp_path / "student", temperature=1.5, patch_size_px=64)
    slide = write_ome(tmp_path / "a.ome.tif", painted(600, 600), 0.5)

    assert _predict(tmp_path, slide) == 0

    out = tmp_path / "out" / "a"
    assert json.loads((out / "summary.json").read_text())["student"] == {
        "name": "student",
        "weights_sha256": card.digest,
        "temperature": 1.5,
        "patch_size_px": 64,
        "patch_mpp": 1.0,
    }
    with h5py.File(out / "a.h5") as file:
        said = file["coords"].attrs["student"]
    assert said == f"student student, SHA-256 {card.digest[:12]}"
