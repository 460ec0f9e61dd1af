"""An exported student, used where there is no site."""

import csv
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from moma_client.cli.main import main
from moma_client.student.files import StudentCard, save_student
from moma_core.data.augment.views import plain_view
from moma_core.data.images import decode_rgb
from moma_core.end_to_end.signatures import STUDENT_CARD, SigningKey, sign_file
from moma_core.models.backbone import Backbone, Normalise
from moma_core.teacher.card.reference_patch import synthetic_patch
from tests.unit.client.student.test_files import CARD


@pytest.fixture
def student(tmp_path: Path) -> tuple[Backbone, StudentCard]:
    torch.manual_seed(0)
    network = Backbone(CARD.architecture, 2)
    return network.eval(), save_student(tmp_path / "student", network, CARD)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "slide").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "slide/b.png")):
        _write(folder / name, seed)
    return folder


def _write(path: Path, seed: int) -> None:
    Image.fromarray(synthetic_patch(seed, 40)).save(path)


def _predict(tmp_path: Path, *options: str) -> int:
    places = ("student", "data", "out")
    line = [part for name in places for part in (f"--{name}", str(tmp_path / name))]
    return main(["predict", *line, *options])


def _rows(tmp_path: Path) -> list[dict[str, str]]:
    with (tmp_path / "out").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_picture_gets_the_shares_that_the_student_gives_it(
    tmp_path: Path,
    data: Path,
    student: tuple[Backbone, StudentCard],
    capsys: pytest.CaptureFixture[str],
) -> None:
    network, card = student

    assert _predict(tmp_path) == 0

    rows = _rows(tmp_path)
    assert [row["path"] for row in rows] == ["a.png", "slide/b.png"]
    for row in rows:
        view = plain_view(decode_rgb(data / row["path"]), 32)[None]
        with torch.inference_mode():
            shares = network(Normalise(card.mean, card.std)(view)).logits.softmax(1)[0]
        assert float(row["malignant"]) == pytest.approx(float(shares[1]), abs=1e-4)
        assert row["class"] == card.class_names[int(shares.argmax())]
        assert row["error"] == ""
    assert capsys.readouterr().out == f"wrote {tmp_path / 'out'}: 2 patches\n"


@pytest.mark.parametrize(
    ("trained_px", "said"), [(40, True), (200, False), (400, False), (None, False)]
)
def test_pictures_that_are_no_patches_are_counted_in_the_log(
    tmp_path: Path,
    data: Path,
    student: tuple[Backbone, StudentCard],
    caplog: pytest.LogCaptureFixture,
    trained_px: int | None,
    said: bool,
) -> None:
    card = replace(CARD, patch_size_px=trained_px)  # its views have 32 px
    save_student(tmp_path / "student", student[0], card)
    Image.new("RGB", (40, 40), (240, 238, 242)).save(data / "glass.png")
    Image.fromarray(synthetic_patch(3, 400)).save(data / "large.png")

    assert _predict(tmp_path) == 0

    assert len(_rows(tmp_path)) == 4
    assert "1 of 4 pictures show hardly any tissue" in caplog.text
    text = "1 of 4 pictures have at least twice the side of the patches"
    assert (text in caplog.text) is said


def test_a_folder_is_not_called_like_a_table(
    tmp_path: Path,
    data: Path,
    student: tuple[Backbone, StudentCard],
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "said.csv"

    student_folder = str(tmp_path / "student")
    code = main(["predict", "--student", student_folder, str(data), "--out", str(out)])

    assert code != 0
    assert "would be a folder: name one without .csv" in caplog.text
    assert not out.exists()


def test_the_temperature_of_the_card_softens_what_is_predicted(
    tmp_path: Path, data: Path, student: tuple[Backbone, StudentCard]
) -> None:
    assert _predict(tmp_path) == 0
    before = [float(row["malignant"]) for row in _rows(tmp_path)]
    network, card = student
    save_student(tmp_path / "student", network, replace(card, temperature=4.0))

    assert _predict(tmp_path, "--force") == 0

    after = [float(row["malignant"]) for row in _rows(tmp_path)]
    odds = [math.log(share / (1 - share)) for share in before]
    expected = [1 / (1 + math.exp(-each / 4)) for each in odds]
    assert after == pytest.approx(expected, abs=2e-4)
    assert after != pytest.approx(before, abs=2e-4)


def test_a_corrupt_picture_is_named_with_its_reason_and_the_rest_is_predicted(
    tmp_path: Path,
    data: Path,
    student: tuple[Backbone, StudentCard],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (data / "b.png").write_bytes(b"no picture")

    assert _predict(tmp_path) == 1

    a, broken, b = _rows(tmp_path)
    assert (broken["path"], broken["class"], broken["malignant"]) == ("b.png", "", "")
    assert broken["error"] == "a file is no image of a known format"
    assert a["class"]
    assert b["class"]
    assert "1 of 3 pictures have no prediction" in caplog.text


def test_a_manifest_names_the_patches(
    tmp_path: Path, data: Path, student: tuple[Backbone, StudentCard]
) -> None:
    manifest = data / "m.csv"
    manifest.write_text("path,label\nslide/b.png,TUM\nmissing.png,TUM\n")

    assert _predict(tmp_path, "--data", str(manifest)) == 1

    found, missing = _rows(tmp_path)
    assert (found["path"], found["error"]) == ("slide/b.png", "")
    assert (missing["path"], missing["error"]) == (
        "missing.png",
        "there is no such file",
    )


def test_a_manifest_that_cannot_be_read_is_a_sentence(
    tmp_path: Path,
    data: Path,
    student: tuple[Backbone, StudentCard],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (data / "m.csv").write_text("patch\na.png\n")

    assert _predict(tmp_path, "--data", str(data / "m.csv")) == 1
    assert "m.csv" in caplog.text
    assert not (tmp_path / "out").exists()


def test_one_picture_is_one_line(
    tmp_path: Path, data: Path, student: tuple[Backbone, StudentCard]
) -> None:
    assert _predict(tmp_path, "--data", str(data / "slide" / "b.png")) == 0

    assert [row["path"] for row in _rows(tmp_path)] == ["b.png"]


def test_an_earlier_result_is_replaced_only_by_force(
    tmp_path: Path,
    data: Path,
    student: tuple[Backbone, StudentCard],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "out").write_text("an earlier result")

    assert _predict(tmp_path) == 1
    assert "exists: name another file, or add --force" in caplog.text
    assert (tmp_path / "out").read_text() == "an earlier result"
    assert _predict(tmp_path, "--force") == 0
    assert len(_rows(tmp_path)) == 2


def test_the_data_is_never_overwritten(
    tmp_path: Path,
    data: Path,
    student: tuple[Backbone, StudentCard],
    caplog: pytest.LogCaptureFixture,
) -> None:
    manifest = data / "m.csv"
    manifest.write_text("path\na.png\n")
    places = ("--data", str(manifest), "--out", str(manifest), "--force")

    assert _predict(tmp_path, *places) == 1
    assert "is the data" in caplog.text
    assert manifest.read_text() == "path\na.png\n"


def test_a_file_name_that_is_no_utf_8_is_a_line_like_any_other(
    tmp_path: Path, data: Path, student: tuple[Backbone, StudentCard]
) -> None:
    (data / "a.png").rename(os.fsdecode(bytes(data) + b"/M\xfcller.png"))

    assert _predict(tmp_path) == 0

    assert [row["path"] for row in _rows(tmp_path)] == [r"M\xfcller.png", "slide/b.png"]


def test_outputs_that_are_not_finite_are_no_prediction(
    tmp_path: Path, data: Path, student: tuple[Backbone, StudentCard]
) -> None:
    network, card = student
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    save_student(tmp_path / "student", network, card)

    assert _predict(tmp_path) == 1

    assert {row["error"] for row in _rows(tmp_path)} == {"the outputs are not finite"}


@pytest.mark.parametrize("name", ["slide.svs", "slide.txt", "none"])
def test_data_of_another_kind_is_a_sentence(
    tmp_path: Path,
    student: tuple[Backbone, StudentCard],
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    (tmp_path / "slide.svs").touch()
    (tmp_path / "slide.txt").touch()

    assert _predict(tmp_path, "--data", str(tmp_path / name)) == 1
    assert re.search("is no folder|there is no|is a whole slide: name", caplog.text)


def test_only_the_pinned_sites_student_is_used(
    tmp_path: Path, data: Path, student: tuple[Backbone, StudentCard]
) -> None:
    key = SigningKey.create()
    sign_file(tmp_path / "student" / "student.json", key, STUDENT_CARD)

    good = _predict(tmp_path, "--key", str(key.public))
    other = str(SigningKey.create().public)
    bad = _predict(tmp_path, "--force", "--key", other)

    assert (good, bad) == (0, 1)


def test_a_folder_without_pictures_is_refused(
    tmp_path: Path,
    student: tuple[Backbone, StudentCard],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert _predict(tmp_path, "--data", str(tmp_path / "student")) == 1
    assert "holds no picture" in caplog.text
