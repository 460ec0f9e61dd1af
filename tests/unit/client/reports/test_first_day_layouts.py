"""Tables that a spreadsheet changed, folders and keys that are not what they seem."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from moma_client.reports.doctor.run import examine
from moma_core.runtime.finding import Finding
from moma_core.teacher.card.card import TeacherCard
from tests.support.federation.pki import Pki
from tests.support.site.first_day import SPLITS, FirstDay

Mistake = Callable[[FirstDay], None]


@pytest.fixture
def site(tmp_path: Path, pki: Pki) -> FirstDay:
    return FirstDay(tmp_path, pki)


def _look(site: FirstDay) -> list[Finding]:
    found = list(examine(site.write(), ask=False, now=datetime.now(UTC)))
    return [each for each in found if each.check not in {"coordinator", "terms"}]


def _patients_are_rounded(site: FirstDay) -> None:
    site.manifest({p: {"patient_id": "2.30457E+11"} for p in site.pictures("train")})


def _patients_are_dates(site: FirstDay) -> None:
    spellings = {"train": "02.03.1950", "validation": "1950-03-02"}
    listed = {split: site.pictures(split)[0] for split in SPLITS}
    site.manifest(
        {
            path: {"patient_id": spellings.get(split, "3/2/1950")}
            for split, path in listed.items()
        }
    )


def _patients_have_a_gap(site: FirstDay) -> None:
    listed = enumerate(site.pictures("train"))
    names = {p: f"{n // 2}{'.0' if n % 2 else ''}" for n, p in listed}
    site.manifest({path: {"patient_id": name} for path, name in names.items()})


def _grades_are_dates(site: FirstDay) -> None:
    site.rename("strong", "04. Mrz")
    site.rename("weak", "4-Mar")


def _a_magnification_for_microns(site: FirstDay) -> None:
    site.manifest({path: {"mpp": "20"} for path in site.pictures()})


def _millimetres_for_microns(site: FirstDay) -> None:
    site.manifest({path: {"mpp": "0.0005"} for path in site.pictures()})


def _splits_under_other_names(site: FirstDay) -> None:
    for split, name in zip(SPLITS, ("Lernen", "Prüfung", "Abnahme"), strict=True):
        (site.root / split).rename(site.root / name)


def _centres(site: FirstDay) -> None:
    for split, name in zip(SPLITS, ("centre 1", "centre 2", "centre 3"), strict=True):
        (site.root / split).rename(site.root / name)


def _one_split_for_the_root(site: FirstDay) -> None:
    site.set("data", root=str(site.root / "train"))


def _a_kappa_of_grades(site: FirstDay) -> None:
    site.set("egress", metrics=["validation_accuracy", "ce_unseen_kappa_quadratic"])
    site.values["baselines"] = ["ce"]


def _a_kappa_without_grades(site: FirstDay) -> None:
    names = ["negative", "weak", "moderate", "strong"]
    site.set("data", class_names=names)
    site.set("task", ordered=True)
    site.set("egress", metrics=["validation_kappa_unweighted"])


def _mixup_for_nobody(site: FirstDay) -> None:
    site.set("training", mixup=0.2)


def _a_run_of_one_epoch(site: FirstDay) -> None:
    site.set("coordinator", max_epochs_per_run=1, max_epochs_per_round=1)


@pytest.mark.parametrize(
    ("mistake", "check", "said"),
    [
        (_mixup_for_nobody, "settings", "leave it out, or add ce to baselines"),
        (_a_run_of_one_epoch, "steps", "no run gets more than 3 steps here"),
        (_patients_are_rounded, "data", "1 patient name was rounded by a spreadsheet"),
        (_patients_are_dates, "data", "3 patient names look like a date"),
        (_patients_have_a_gap, "data", "write each patient in one way"),
        (_grades_are_dates, "classes", "a date that a spreadsheet made of a grade"),
        (_a_magnification_for_microns, "resolution", "0.5 is usual"),
        (_millimetres_for_microns, "resolution", "or another unit"),
        (_splits_under_other_names, "classes", "splits called train, validation and"),
        (_centres, "classes", "of centres, folds or scanners make a manifest"),
        (_one_split_for_the_root, "data", "data.root is the folder above: 2"),
        (_a_kappa_of_grades, "egress", "write ce_unseen_kappa_unweighted, or task.or"),
        (_a_kappa_without_grades, "egress", "write validation_kappa_quadratic"),
    ],
)
def test_it_is_a_warning_that_says_what_to_do(
    site: FirstDay, mistake: Mistake, check: str, said: str
) -> None:
    mistake(site)

    warned = [f for f in _look(site) if f.state == "warning"]

    assert any(f.check == check and said in f.text for f in warned), warned


def test_folders_of_patients_in_every_class_are_no_classes(site: FirstDay) -> None:
    for path in site.pictures():
        place = site.root / path.parent.name / f"case {int(path.stem[1:]) % 12}"
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / path.name)
    for split in SPLITS:
        for folder in (site.root / split).iterdir():
            folder.rmdir()
        (site.root / split).rmdir()
    site.set("data", patient_pattern="^([^/]+)/")

    assert not [f for f in _look(site) if "hold the same folders" in f.text]


def test_a_resolution_that_nothing_states_is_to_be_compared_by_eye(
    site: FirstDay,
) -> None:
    path = site.folder / "teacher" / "card.json"
    replace(TeacherCard.load(path), mpp=0.5).save(path)

    (found,) = (f for f in _look(site) if f.check == "resolution")

    assert found.text.startswith("the teacher was trained on 0.5 microns a pixel")
