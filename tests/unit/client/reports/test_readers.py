"""Kappa where two pathologists labelled the same patches."""

from pathlib import Path

import pytest

from moma_client.cli.main import main
from moma_client.config.site import SiteConfig
from moma_client.reports.student_report.readers import reader_kappa
from moma_client.student.evaluate import evaluate_students
from moma_core.data.patch import UNSEEN
from moma_core.data.sources.paper_datasets import GLEASON_CLASSES
from tests.support.machine.pictures import write_picture
from tests.support.site.reported_site import reported_site, write_student
from tests.support.site.tiny_site import local_config

CORES = 6
FIRST = (0, 1, 2, 3, 3)  # of each core's patches, by the first reader
SECOND = (0, 1, 2, 3, 2)


def usz(root: Path) -> None:
    seed = 0
    for core in ("ZT111_4_A_1_1", "ZT76_39_A_1_1"):
        for label in range(4):
            folder = root / "train_validation_patches_750" / core
            for number in range(3):
                seed += 1
                name = f"{core}_patch_{4 * number + label}_class_{label}.png"
                write_picture(folder / name, seed)
    for number in range(CORES):
        core = f"ZT80_{number}_A_1_1"
        for reader, labels in ((1, FIRST), (2, SECOND)):
            folder = root / "test_patches_750" / f"patho_{reader}" / core
            for patch, label in enumerate(labels):
                name = f"{core}_patch_{patch}_class_{label}.png"
                write_picture(folder / name, 100 + 10 * number + patch)
    alone = root / "test_patches_750" / "patho_1" / "ZT80_9_A_1_1"
    write_picture(alone / "ZT80_9_A_1_1_patch_0_class_0.png", 999)


def usz_site(folder: Path, reader: int) -> SiteConfig:
    config = local_config(
        folder,
        data={"kind": "preset", "name": "usz", "root": "usz", "reader": reader},
        task={"ordered": True},
    )
    write_student(config, "moma", GLEASON_CLASSES, seed=0)
    return config


@pytest.mark.parametrize("reader", [1, 2])
def test_the_readers_are_held_against_each_other_on_what_both_labelled(
    tmp_path: Path, reader: int
) -> None:
    usz(tmp_path / "usz")
    config = usz_site(tmp_path, reader)
    (student,) = evaluate_students(config, run=None, method=None, split=None).values()

    found = reader_kappa(config, student.outputs[UNSEEN])

    assert found is not None
    assert found.name == "kappa_quadratic"
    assert found.patches == CORES * len(FIRST)
    # the fifth patch is one grade apart: 0.2; by chance 4.6 + 3.6 - 2 * 1.8 * 1.6
    assert found.between.value == pytest.approx(1 - 0.2 / 2.44, abs=1e-9)
    assert found.between.groups == CORES


def test_each_reader_is_the_other_where_the_config_takes_the_other(
    tmp_path: Path,
) -> None:
    usz(tmp_path / "usz")
    found = []
    for reader in (1, 2):
        config = usz_site(tmp_path, reader)
        (student,) = evaluate_students(
            config, run=None, method=None, split=None
        ).values()
        found.append(reader_kappa(config, student.outputs[UNSEEN]))

    first, second = found
    assert first is not None
    assert second is not None
    assert first.own.value == second.other.value
    assert first.other.value == second.own.value


def test_a_site_with_one_reader_has_no_such_section(tmp_path: Path) -> None:
    config = reported_site(tmp_path)
    found = evaluate_students(config, run=None, method="moma", split=None)

    assert reader_kappa(config, found["moma"].outputs[UNSEEN]) is None


def test_the_report_shows_all_three(tmp_path: Path) -> None:
    usz(tmp_path / "usz")
    usz_site(tmp_path, 1)
    out = tmp_path / "out"

    line = ["report", "--site", str(tmp_path / "config.yaml"), "--out", str(out)]
    assert main(line) == 0

    text = (out / "report.html").read_text("utf-8")
    for row in ("moma and reader 1", "moma and reader 2", "reader 1 and reader 2"):
        assert row in text
