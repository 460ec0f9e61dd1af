"""Patients and centres that would be learned, or judged, in the place of classes."""

from collections.abc import Sequence

import numpy as np

from moma_core.data.checks.origins import look_at_origins
from moma_core.data.patch import UNKNOWN_CENTRE, UNKNOWN_PATIENT, PatchIndex

_TRAIN, _UNSEEN = 0, 2


def _warned(
    labels: Sequence[int],
    centres: Sequence[int] | None = None,
    patients: Sequence[int] | None = None,
    split: int = _TRAIN,
) -> str:
    index = PatchIndex(
        labels=np.array(labels, dtype=np.int16),
        splits=np.full(len(labels), split, dtype=np.uint8),
        patients=np.array(
            [n // 2 for n in range(len(labels))] if patients is None else patients,
            dtype=np.int32,
        ),
        centres=None if centres is None else np.array(centres, dtype=np.int32),
    )
    found = look_at_origins(index)
    return "; ".join(each.text for each in found if each.state == "warning")


def test_a_class_that_is_a_centre_is_a_warning() -> None:
    warned = _warned([0, 0, 1, 1, 2, 2], centres=[0, 0, 1, 1, 1, 1])

    assert "each of the 3 classes is from one centre alone, of 2" in warned
    assert "from each centre, or of one centre" in warned


def test_one_class_from_two_centres_is_enough_to_be_silent() -> None:
    assert _warned([0, 0, 1, 1, 2, 2], centres=[0, 1, 1, 1, 0, 0]) == ""


def test_one_centre_for_all_classes_tells_none() -> None:
    assert _warned([0, 0, 1, 1], centres=[0, 0, 0, 0]) == ""


def test_what_names_no_centre_is_not_compared() -> None:
    assert _warned([0, 0, 1, 1]) == ""
    assert _warned([0, 0, 1, 1], centres=[0, 0, UNKNOWN_CENTRE, 1]) == ""


def test_centres_of_what_is_not_trained_on_do_not_count() -> None:
    assert _warned([0, 0, 1, 1], centres=[0, 0, 1, 1], split=_UNSEEN) == ""


def test_one_patient_that_is_most_of_a_split_is_a_warning() -> None:
    patients = [0] * 8 + [1, 2]

    trained = _warned([0, 1] * 5, patients=patients)
    judged = _warned([0, 1] * 5, patients=patients, split=_UNSEEN)

    assert "8 of 10 train patches are of one patient: a student learns" in trained
    assert "8 of 10 unseen patches are of one patient: its figures say" in judged


def test_a_patient_with_many_patches_is_no_split() -> None:
    assert _warned([0, 1] * 5, patients=[0] * 7 + [1, 2, 2]) == ""
    assert _warned([0, 1, 0, 1], patients=[0] * 4) == ""


def test_patches_that_name_no_patient_are_not_one_patient() -> None:
    assert "of one patient" not in _warned([0, 1] * 5, patients=[UNKNOWN_PATIENT] * 10)
