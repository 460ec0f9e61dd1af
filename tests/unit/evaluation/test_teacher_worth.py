"""Whether a probe tells a good teacher from a useless one, before anybody trains."""

import numpy as np
import pytest
import torch
from torch import Tensor

from moma_core.errors import DataError
from moma_core.evaluation.grouping import Grouping
from moma_core.evaluation.teacher_worth import LabelledPatches, teacher_worth

CLASSES, EACH, LENGTH = 3, 24, 6


def _patches(groups: int = 24) -> LabelledPatches:
    count = CLASSES * EACH
    labels = torch.arange(count) % CLASSES
    codes = np.arange(count) // CLASSES % groups
    grouping = Grouping(codes, "patients")
    return LabelledPatches(np.arange(count), labels, grouping, ("a", "b", "c"))


def _embeddings(labels: Tensor, signal: float, seed: int) -> Tensor:
    numbers = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(labels), LENGTH, generator=numbers)
    return noise + signal * torch.nn.functional.one_hot(labels, LENGTH)


def test_a_teacher_that_knows_the_classes_is_worth_it() -> None:
    patches = _patches()
    good, poor = (_embeddings(patches.labels, s, 1) for s in (5.0, 0.0))

    found = teacher_worth(good, poor, patches)

    assert found.outcome == "worth it"
    assert found.teacher > 0.9
    assert found.own < 0.6
    assert found.gain.value == pytest.approx(found.teacher - found.own)
    assert (found.patches, found.groups, found.counted) == (72, 24, "patients")


def test_a_teacher_that_knows_less_than_the_students_start_is_not() -> None:
    patches = _patches()
    good, poor = (_embeddings(patches.labels, s, 1) for s in (5.0, 0.0))

    assert teacher_worth(poor, good, patches).outcome == "not worth it"


def test_a_teacher_that_is_the_students_own_start_is_not_shown_to_be() -> None:
    patches = _patches()
    start = _embeddings(patches.labels, 2.0, 1)

    found = teacher_worth(start, start, patches)

    assert found.outcome == "not shown"
    assert found.gain.value == 0


def test_a_patient_that_gives_itself_away_does_not_help() -> None:
    """Each patient has one class and an embedding of its own: no other one tells it."""
    codes = np.repeat(np.arange(12), 6)
    labels = torch.from_numpy(codes % CLASSES)
    patches = LabelledPatches(
        np.arange(72), labels, Grouping(codes, "patients"), ("a", "b", "c")
    )
    itself = 10 * torch.nn.functional.one_hot(torch.from_numpy(codes), 12).float()

    found = teacher_worth(itself, torch.randn(72, 4), patches)

    assert found.teacher < 0.6


def test_of_two_patients_nothing_can_be_said() -> None:
    patches = _patches(groups=2)
    start = _embeddings(patches.labels, 2.0, 1)

    with pytest.raises(DataError, match="of 2 patients: a probe needs 3 at least"):
        teacher_worth(start, start, patches)
