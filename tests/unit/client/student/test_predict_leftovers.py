"""What a slide's outputs meet on a disk: others' files, damage, names that lead out."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moma_client.cli.main import main
from moma_client.student.slides import predict as slides
from moma_client.student.slides.chunks import ChunkFolder, ChunkOutputs
from moma_core.slides.grid import PatchGrid
from moma_core.slides.open import slide_name
from moma_core.slides.slide import Overview
from tests.support.slides.pictures import painted, write_ome
from tests.unit.client.student.test_predict_slides import saved_student

pytestmark = pytest.mark.usefixtures("small_pictures")


@pytest.fixture
def predict(tmp_path: Path) -> Callable[[], int]:
    saved_student(tmp_path / "student")
    slide = write_ome(tmp_path / "a.ome.tif", painted(600, 600), 0.5)
    line = ["predict", "--student", tmp_path / "student", "--out", tmp_path / "out"]
    return lambda: main([str(part) for part in [*line, slide]])


@pytest.mark.parametrize("content", ["", "[]", "5", "null", "[" * 100_000, '{"a": 1}'])
def test_a_summary_that_others_wrote_is_no_end_of_ours(
    tmp_path: Path,
    predict: Callable[[], int],
    content: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "summary.json").write_text(content)

    assert predict() == 1
    assert "holds outputs of another student, slide or other options" in caplog.text


def test_a_file_in_the_place_of_a_slides_folder_is_a_sentence(
    tmp_path: Path, predict: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("mine")

    assert predict() == 1
    assert "cannot use" in caplog.text
    assert (tmp_path / "out" / "a").read_text() == "mine"


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut", b"\xff" * 5000])
@pytest.mark.parametrize("name", ["plan.json", "grid.npz", "chunk-000000.npz"])
def test_what_a_disk_damaged_of_a_slide_is_done_again(
    tmp_path: Path,
    predict: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    damage: bytes,
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(slides, "_joined", stop)
        assert predict() == 130
    path = tmp_path / "out" / "a" / ".partial" / name
    assert path.is_file()
    path.write_bytes(damage)

    assert predict() == 0
    rows = (tmp_path / "out" / "a" / "patches.csv").read_text().splitlines()
    assert len(rows) > 1
    assert all(row.endswith(",") for row in rows[1:])  # no patch has an error


@pytest.fixture
def kept(tmp_path: Path) -> ChunkFolder:
    """A grid that is too large for its checksum to be looked at before its header."""
    chunks = ChunkFolder(tmp_path / "kept", "f" * 64)
    corners, damaged = np.zeros((5000, 2), np.int64), np.zeros(5000, np.bool_)
    picture = Overview(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.bool_))
    chunks.keep_grid(PatchGrid(corners, 64, 32, 0, damaged), picture)
    return chunks


def test_whatever_bit_of_what_was_kept_a_disk_turns_it_is_done_again_or_whole(
    tmp_path: Path, kept: ChunkFolder
) -> None:
    path = tmp_path / "kept" / "grid.npz"
    whole = path.read_bytes()
    places = (*range(180), *range(len(whole) - 500, len(whole)))

    found = []
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1
        path.write_bytes(content)
        found.append(kept.grid() is None)

    assert any(found)


def test_a_pipe_in_the_place_of_what_was_kept_is_not_waited_for(
    tmp_path: Path, kept: ChunkFolder
) -> None:
    nothing = ChunkOutputs(np.zeros((1, 2)), np.zeros((1, 0)), [""])
    os.mkfifo(tmp_path / "kept" / "chunk-000000.npz")

    assert not kept.is_done(0, nothing)
    kept.write(0, nothing)
    assert kept.is_done(0, nothing)


def test_no_name_of_a_slide_leads_out_of_the_folder_of_outputs(
    tmp_path: Path, predict: Callable[[], int]
) -> None:
    folder = tmp_path / "work" / "slides"
    folder.mkdir(parents=True)
    write_ome(folder / "...ome.tif", painted(600, 600), 0.5)
    (folder / "list.csv").write_text("path\n...ome.tif\n")
    out = tmp_path / "work" / "out"
    line = ["predict", "--student", tmp_path / "student", "--out", out]

    assert main([str(part) for part in [*line, folder / "list.csv"]]) == 0

    assert sorted(each.name for each in (tmp_path / "work").iterdir()) == [
        "out",
        "slides",
    ]
    assert (out / "...ome.tif" / "patches.csv").is_file()


def test_a_folder_is_called_by_its_name_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "case" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "case" / "inner")

    names = [slide_name(Path(path)) for path in (".", "..", "../../case", "a/..svs")]

    assert names == ["inner", "case", "case", "..svs"]
