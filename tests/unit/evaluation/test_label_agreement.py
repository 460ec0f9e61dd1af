"""Whether a teacher agrees with labels, or would with classes exchanged."""

import numpy as np
import pytest

from moma_core.evaluation.grouping import Grouping
from moma_core.evaluation.label_agreement import LabelAgreement, compare_with_labels
from moma_core.evaluation.statistics import Integers

CLASSES, PATCHES, PATIENTS = 4, 120, 20
LABELS = np.arange(PATCHES) % CLASSES


def _said(truth: Integers, share: float, seed: int = 0) -> Integers:
    """Right for this share of the patches, else any class."""
    random = np.random.default_rng(seed)
    other = random.integers(CLASSES, size=len(truth))
    return np.where(random.random(len(truth)) < share, truth, other)


def _found(said: Integers, labels: Integers = LABELS) -> LabelAgreement:
    patients = np.random.default_rng(7).integers(PATIENTS, size=len(labels))
    found = compare_with_labels(said, labels, Grouping(patients, "patients"))
    assert found is not None
    return found


def test_a_teacher_that_knows_the_classes_agrees() -> None:
    found = _found(_said(LABELS, 0.8))

    assert found.hits > 90
    assert found.interval[0] < found.hits / PATCHES < found.interval[1]
    assert found.is_above_chance
    assert found.cycles == ()
    assert found.exchanged_hits == found.hits


def test_labels_that_are_one_off_are_found_whole() -> None:
    found = _found(_said((LABELS + 1) % CLASSES, 0.6))

    assert found.cycles == ((0, 1, 2, 3),)
    assert found.hits < PATCHES / 4
    assert found.exchanged_hits > PATCHES / 2
    assert not found.is_above_chance


def test_two_classes_that_are_exchanged_are_found_alone() -> None:
    truth = np.array([0, 3, 2, 1])[LABELS]

    found = _found(_said(truth, 0.7))

    assert found.cycles == ((1, 3),)
    assert found.is_above_chance  # by the others
    assert found.exchanged_hits > found.hits


@pytest.mark.parametrize("seed", range(20))
def test_a_teacher_that_knows_nothing_makes_no_exchange_of_chance(seed: int) -> None:
    assert _found(_said(LABELS, 0.0, seed)).cycles == ()


@pytest.mark.parametrize("said", range(CLASSES))
def test_a_teacher_that_always_says_one_class_makes_none(said: int) -> None:
    labels = np.random.default_rng(1).choice(CLASSES, PATCHES, p=[0.7, 0.1, 0.1, 0.1])

    found = _found(np.full(PATCHES, said), labels)

    assert found.cycles == ()
    assert not found.is_above_chance


def test_patches_of_a_few_patients_exchange_nothing() -> None:
    truth = np.array([1, 0])[LABELS % 2]
    three = Grouping(np.arange(PATCHES) % 3, "patients")

    found = compare_with_labels(truth, LABELS % 2, three)

    assert found is not None
    assert found.cycles == ()


def test_of_few_patches_nothing_is_said() -> None:
    few = LABELS[:19]

    assert compare_with_labels(few, few, Grouping(np.arange(19), "patches")) is None
