"""Who is counted behind a figure, and when two cohorts are the same."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from moma_core.data.patch import Patch, PatchIndex
from moma_core.evaluation.cohort import CountedSource
from moma_core.federation.disclosure import Cohort, UnknownPatients


@dataclass(frozen=True)
class Pictured:
    """A source of patches of one colour each."""

    patches: Sequence[Patch]
    class_names: tuple[str, ...] = ("Benign", "Low grade", "High grade")

    @property
    def index(self) -> PatchIndex:
        labels = [-1 if p.label is None else p.label for p in self.patches]
        none = np.zeros(len(labels), np.int32)
        return PatchIndex(np.array(labels, np.int16), none.astype(np.uint8), none)

    def read(self, row: int) -> Patch:
        return self.patches[row]


def _patch(
    colour: int, label: int, patient: str | None = None, slide: str | None = None
) -> Patch:
    return Patch(np.full((4, 4, 3), colour, np.uint8), label, patient, slide, None)


def _cohort(*patches: Patch, unknown: UnknownPatients = "one") -> Cohort:
    source = CountedSource(Pictured(patches), unknown)
    for row in range(len(patches)):
        source.read(row)
    return source.cohort()


OF_THREE = (
    _patch(0, 0, "p1"),
    _patch(1, 1, "p1"),
    _patch(2, 0, "p2"),
    _patch(3, 0, "p3"),
)


def test_patients_are_counted_and_not_patches() -> None:
    cohort = _cohort(*OF_THREE)

    assert cohort.people == 3
    assert cohort.by_class == {"benign": 3, "low_grade": 1}
    assert cohort.counted == "3 patients"


def test_a_slide_stands_for_a_patient_who_is_not_named() -> None:
    cohort = _cohort(*OF_THREE, _patch(4, 0, None, "s1"), _patch(5, 0, None, "s1"))

    assert cohort.people == 4
    assert cohort.counted == "3 patients, 1 slide that names no patient"


@pytest.mark.parametrize(
    ("unknown", "people", "said"), [("one", 1, "as one"), ("each", 3, "each as one")]
)
def test_patches_that_name_nobody_count_as_the_policy_says(
    unknown: UnknownPatients, people: int, said: str
) -> None:
    cohort = _cohort(*(_patch(c, 0) for c in range(3)), unknown=unknown)

    assert cohort.people == people
    assert cohort.by_class == {"benign": people}
    assert cohort.counted.endswith(f"that name no patient and no slide, {said}")


def test_two_classes_of_names_that_are_alike_are_counted_apart() -> None:
    source = CountedSource(
        Pictured(
            [_patch(0, 0, "p1"), _patch(1, 0, "p2"), _patch(2, 1, "p3")],
            ("grade 3", "Grade-3"),
        ),
        "one",
    )
    for row in range(3):
        source.read(row)

    assert source.cohort().by_class == {"class_1": 2, "class_2": 1}


def test_nobody_is_a_cohort_of_none() -> None:
    assert _cohort().people == 0
    assert _cohort().counted == "nobody"


def test_the_same_patches_are_the_same_cohort_in_any_order() -> None:
    assert _cohort(*OF_THREE).digest == _cohort(*reversed(OF_THREE)).digest


@pytest.mark.parametrize(
    "other",
    [
        OF_THREE[1:],
        (*OF_THREE[1:], _patch(0, 0, "p9")),
        (*OF_THREE[1:], _patch(0, 2, "p1")),
        (*OF_THREE[1:], _patch(9, 0, "p1")),
        (*OF_THREE, OF_THREE[0]),
    ],
    ids=["one less", "another patient", "another label", "other pixels", "one twice"],
)
def test_a_cohort_that_changed_in_anything_is_another(other: tuple[Patch, ...]) -> None:
    assert _cohort(*other).digest != _cohort(*OF_THREE).digest


def test_a_patch_that_stands_in_for_an_unreadable_one_is_not_counted() -> None:
    stand_in = replace(OF_THREE[0], is_stand_in=True)

    assert _cohort(*OF_THREE[1:], stand_in) == _cohort(*OF_THREE[1:])
