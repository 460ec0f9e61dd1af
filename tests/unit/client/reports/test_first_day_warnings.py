"""What a new user seldom means, and is warned of before a patch is sent."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moma_client.reports.doctor.run import examine
from moma_core.runtime.finding import Finding
from moma_core.teacher.card.card import TeacherCard
from tests.support.federation.pki import Pki
from tests.support.machine.pictures import noise
from tests.support.site.first_day import FirstDay, grey, picture, plain

Mistake = Callable[[FirstDay], None]


@pytest.fixture
def site(tmp_path: Path, pki: Pki) -> FirstDay:
    return FirstDay(tmp_path, pki)


def _look(site: FirstDay, **options: bool) -> list[Finding]:
    now = datetime.now(UTC)
    found = list(examine(site.write(), ask=False, now=now, **options))
    return [each for each in found if each.check not in {"coordinator", "terms"}]


def _change_card(site: FirstDay, **fields: Any) -> None:
    path = site.folder / "teacher" / "card.json"
    replace(TeacherCard.load(path), **fields).save(path)


def _near_class(site: FirstDay) -> None:
    site.rename("strong", "strongly stained")


def _misspelt_organ(site: FirstDay) -> None:
    site.set("task", organ="colom")


def _emptied_class(site: FirstDay) -> None:
    for path in site.pictures(label="strong"):
        path.unlink()


def _class_without_unseen(site: FirstDay) -> None:
    shutil.rmtree(site.root / "unseen" / "strong")


def _a_slide_among_patches(site: FirstDay) -> None:
    (site.root / "train" / "weak" / "slide.svs").write_bytes(b"II*\x00")


def _copy_in_its_class(site: FirstDay) -> None:
    first = site.pictures("train", "weak")[0]
    shutil.copy(first, site.root / "train" / "weak" / "p98.png")


def _divided_twice(site: FirstDay) -> None:
    site.set("data", fractions={"train": 0.8, "validation": 0.1, "unseen": 0.1})


def _slide_of_two_patients(site: FirstDay) -> None:
    one, other = site.pictures("train")[0], site.pictures("unseen")[0]
    site.manifest({path: {"slide_id": "S1"} for path in (one, other)})


def _slide_without_its_patient(site: FirstDay) -> None:
    one, other = site.pictures("train")[0], site.pictures("unseen")[0]
    rows = {path: {"slide_id": "S1"} for path in (one, other)}
    rows[other]["patient_id"] = ""
    site.manifest(rows)


def _masks_beside_patches(site: FirstDay) -> None:
    first = site.pictures("train", "weak")[0]
    picture(first.with_name("p0_mask.png"), 7)


def _listed_twice(site: FirstDay) -> None:
    manifest = site.manifest()
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([*lines, lines[1]]) + "\n")


def _whole_slides(site: FirstDay) -> None:
    for number, path in enumerate(site.pictures()):
        picture(path, number, height=256)


def _thumbnails(site: FirstDay) -> None:
    site.values["view_size_px"] = 64


def _black_class(site: FirstDay) -> None:
    for number, path in enumerate(site.pictures(label="strong")):
        plain(path, number % 2)


def _grey_pictures(site: FirstDay) -> None:
    for number, path in enumerate(site.pictures()):
        grey(path, number)


def _inverted(site: FirstDay) -> None:
    for number, path in enumerate(site.pictures()):
        pixels = noise(number, 32, 32) // 16 + np.array([60, 110, 70], np.uint8)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


def _strips(site: FirstDay) -> None:
    for number, path in enumerate(site.pictures()):
        picture(path, number, height=32, width=96)


def _class_written_twice(site: FirstDay) -> None:
    site.add("train", "strongs", 3, first=50)


def _unknown_class(site: FirstDay) -> None:
    for place, split in enumerate(("train", "validation", "unseen")):
        site.add(split, "Unknown", 12, first=100 * place)


def _mostly_other(site: FirstDay) -> None:
    site.add("train", "weak", 60, first=400)
    site.rename("weak", "other")


def _imbalance(site: FirstDay) -> None:
    site.add("train", "negative", 120, first=400)


def _few(site: FirstDay) -> None:
    for path in site.pictures("train", "weak")[3:]:
        path.unlink()


def _one_patient_for_a_class(site: FirstDay) -> None:
    for number, path in enumerate(site.pictures("train", "weak")):
        path.rename(path.with_name(f"p0-{number}.png"))


def _few_patients(site: FirstDay) -> None:
    for number, path in enumerate(site.pictures("unseen")):
        path.rename(path.with_name(f"p{200 + number % 3}-{number}.png"))


def _no_patients(site: FirstDay) -> None:
    site.set("data", patient_pattern=None)


def _a_patient_for_each_patch(site: FirstDay) -> None:
    site.set("data", patient_pattern="(.*)")
    for number, path in enumerate(site.pictures()):
        path.rename(path.with_name(f"q{number}.png"))


def _exchanged_splits(site: FirstDay) -> None:
    site.add("validation", "weak", 3, first=500)  # the two had as many


def _figure_of_no_baseline(site: FirstDay) -> None:
    site.set("egress", metrics=["validation_accuracy", "hint_validation_accuracy"])


def _figure_of_no_class(site: FirstDay) -> None:
    site.set("egress", metrics=["validation_recall_stong"])


def _some_unseen_without_label(site: FirstDay) -> None:
    site.manifest({path: {"label": ""} for path in site.pictures("unseen")[:5]})


def _other_magnification(site: FirstDay) -> None:
    site.manifest({path: {"mpp": "1.0"} for path in site.pictures()})
    _change_card(site, mpp=0.5)


def _magnification_on_the_card(site: FirstDay) -> None:
    _change_card(site, mpp=20.0)


def _colours_that_are_changed(site: FirstDay) -> None:
    _change_card(site, views="geometry_only")


def _small_views_of_large_patches(site: FirstDay) -> None:
    site.values["view_size_px"] = 16


def _class_without_a_patch(site: FirstDay) -> None:
    names = ["negative", "weak", "moderate", "strong", "very strong"]
    site.set("data", class_names=names)


@pytest.mark.parametrize(
    ("mistake", "check", "said"),
    [
        (_near_class, "scenario", "task.classes: {'strongly stained': 'strong'}"),
        (_misspelt_organ, "scenario", "task.organ: colon"),
        (_emptied_class, "scenario", "Is a class folder missing or empty"),
        (_emptied_class, "data", "class folders"),
        (_class_without_unseen, "classes", "class 'strong': no unseen patch"),
        (_a_slide_among_patches, "data", "(.svs)"),
        (_copy_in_its_class, "pictures", "under another name: they count twice"),
        (_divided_twice, "data", "data.fractions divides nothing"),
        (
            _slide_of_two_patients,
            "data",
            "1 slide is in two splits, since the patches name",
        ),
        (_slide_without_its_patient, "data", "several patients, or some of them none"),
        (_masks_beside_patches, "data", "1 picture is named as the mask"),
        (_listed_twice, "data", "listed again"),
        (_whole_slides, "pictures", "8 times smaller"),
        (_thumbnails, "pictures", "set view_size_px: 32"),
        (_black_class, "pictures", "of one colour, among them all of 'strong'"),
        (_grey_pictures, "pictures", "they are grey"),
        (_inverted, "pictures", "they look inverted (a negative)"),
        (_strips, "pictures", "twice as wide as high"),
        (_class_written_twice, "classes", "'strong' and 'strongs' look like one"),
        (_unknown_class, "classes", "class 'Unknown': looks like no class"),
        (_mostly_other, "classes", "72 of 108 training patches are of class 'other'"),
        (_imbalance, "classes", "strong imbalance: 132 training patches"),
        (_few, "classes", "few labelled patches to learn from (train): 'weak' 3"),
        (_one_patient_for_a_class, "classes", "'weak' are of one patient"),
        (_few_patients, "egress", "the unseen split counts as 3 patients"),
        (_no_patients, "egress", "data.patient_pattern"),
        (_a_patient_for_each_patch, "data", "names a patient of its own"),
        (_exchanged_splits, "data", "were the two splits exchanged"),
        (_figure_of_no_baseline, "egress", "baselines has no hint"),
        (_figure_of_no_class, "egress", "did you mean 'strong'"),
        (_some_unseen_without_label, "data", "5 unseen patches have no label"),
        (_other_magnification, "resolution", "cut patches at 0.5"),
        (_magnification_on_the_card, "resolution", "says 20 microns a pixel: is that"),
        (_colours_that_are_changed, "views", "set views: geometry_only"),
        (_small_views_of_large_patches, "view size", "view_size_px: 32 shows both"),
        (_class_without_a_patch, "classes", "class 'very strong': named, and without"),
    ],
)
def test_what_is_seldom_meant_is_a_warning_that_says_what_to_do(
    site: FirstDay, mistake: Mistake, check: str, said: str
) -> None:
    mistake(site)

    findings = _look(site)

    warned = [f for f in findings if f.state == "warning"]
    assert any(f.check == check and said in f.text for f in warned), warned
    assert all(f.state != "problem" for f in findings)


def test_the_advice_on_view_size_is_one_for_patches_that_the_teacher_takes_larger(
    site: FirstDay,
) -> None:
    for number, path in enumerate(site.pictures()):
        picture(path, number, height=24)
    site.values["view_size_px"] = 24

    assert not [f for f in _look(site) if "view_size_px" in f.text and f.state != "ok"]
