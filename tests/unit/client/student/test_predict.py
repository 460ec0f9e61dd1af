"""An exported student, used where there is no site."""

import csv
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
        Image.fromarray(synthetic_patch(seed, 40)).save(folder / name)
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def _predict(tmp_path: Path, *options: str) -> int:
    places = ("student", "data", "out")
    line = [part for name in places for part in (f"--{name}", str(tmp_path / name))]
    return main(["predict", *line, *options])


def test_each_picture_gets_the_shares_that_the_student_gives_it(
    tmp_path: Path,
    data: Path,
    student: tuple[Backbone, StudentCard],
    caplog: pytest.LogCaptureFixture,
) -> None:
    network, card = student

    assert _predict(tmp_path) == 0

    with (tmp_path / "out").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["a.png", "slide/b.png"]
    for row in rows:
        view = plain_view(decode_rgb(data / row["path"]), 32)[None]
        with torch.inference_mode():
            shares = network(Normalise(card.mean, card.std)(view)).logits.softmax(1)[0]
        assert float(row["malignant"]) == pytest.approx(float(shares[1]), abs=1e-4)
        assert row["class"] == card.class_names[int(shares.argmax())]
    assert "1 pictures cannot be read" in caplog.text


def test_only_the_pinned_sites_student_is_used(
    tmp_path: Path, data: Path, student: tuple[Backbone, StudentCard]
) -> None:
    key = SigningKey.create()
    sign_file(tmp_path / "student" / "student.json", key, STUDENT_CARD)

    good = _predict(tmp_path, "--key", str(key.public))
    bad = _predict(tmp_path, "--key", str(SigningKey.create().public))

    assert (good, bad) == (0, 1)


@pytest.mark.parametrize("name", ["none", "student"])
def test_a_folder_without_pictures_is_refused(
    tmp_path: Path,
    student: tuple[Backbone, StudentCard],
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    assert _predict(tmp_path, "--data", str(tmp_path / name)) == 1
    assert "holds no picture" in caplog.text
